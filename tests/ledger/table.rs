//! Tables at moto's server, an independent DynamoDB.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use callbackd::aws::{Clients, Config, Created, DynamoDb, Outside};

use crate::moto::Moto;

/// A table that does not exist yet.
pub async fn planned() -> DynamoDb {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    static TABLES: AtomicUsize = AtomicUsize::new(0);
    let address = MOTO.get_or_init(|| Moto::start(&[], Stdio::inherit())).address;
    let keys = Credentials::new("test", "test", None, None, "test");
    let outside =
        Outside { credentials: Some(SharedCredentialsProvider::new(keys)), ..Outside::default() };
    let config = Config {
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(format!("http://{address}")),
        ..Config::default()
    };
    let clients = Clients::within(outside, config, "worker", Arc::new(()));
    let name = format!("steps-{}", TABLES.fetch_add(1, Ordering::SeqCst));
    clients.table(&name, Duration::from_hours(24)).await.expect("a region is named")
}

/// A table as `callbackd ledger create` creates it.
pub async fn created() -> DynamoDb {
    let table = planned().await;
    assert_eq!(table.create().await, Ok(Created::Table));
    table
}
