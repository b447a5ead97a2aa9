//! Tables at moto's server, an independent DynamoDB.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use callbackd::aws::{Clients, Config, Created, DynamoDb, Outside};
use serde_json::Value;

use crate::http;
use crate::moto::Moto;

fn address() -> SocketAddr {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(|| Moto::start(&[], Stdio::inherit())).address
}

/// A call as it is on the wire.
pub async fn call(operation: &str, request: &Value) -> Value {
    // It is not verified; its region selects the tables.
    let signed = "AWS4-HMAC-SHA256 Credential=test/20261127/us-east-1/dynamodb/aws4_request, \
                  SignedHeaders=host, Signature=0";
    let headers = format!(
        "X-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Type: \
         application/x-amz-json-1.0\r\nAuthorization: {signed}\r\n"
    );
    let answer = http::post(address(), &headers, &request.to_string()).await;
    let (status, body) = answer.expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// A table that does not exist yet.
pub async fn planned() -> DynamoDb {
    static TABLES: AtomicUsize = AtomicUsize::new(0);
    let address = address();
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
