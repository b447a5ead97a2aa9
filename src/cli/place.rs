//! Where the ledger is that a command reads or changes.

use std::path::{Path, PathBuf};
#[cfg(feature = "dynamodb")]
use std::sync::Arc;

use super::Failure;
#[cfg(feature = "dynamodb")]
use crate::aws::{Clients, DynamoDb};
use crate::config::Config;
use crate::ledger::Kind;

pub(super) enum Place {
    File(PathBuf),
    #[cfg(feature = "dynamodb")]
    Table(Box<DynamoDb>),
}

impl Place {
    /// `named` on the command line, or as configured.
    pub(super) async fn find(named: Option<&Path>, file: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self::File(path.to_owned()));
        }
        let config = Config::section("ledger", file, std::env::vars_os())?.ledger;
        match config.kind {
            Kind::Sqlite => Ok(Self::File(config.path)),
            #[cfg(feature = "dynamodb")]
            Kind::Dynamodb => {
                let aws = Config::section("aws", file, std::env::vars_os())?.aws;
                let clients = Clients::new(aws, "command", Arc::new(()));
                let table = clients.table(&config.table, config.retention).await;
                Ok(Self::Table(Box::new(table?)))
            }
            _ => Err(Failure::Runtime(
                "the ledger is in the worker's memory: ask its /steps over HTTP; to answer steps \
                 from outside, use another ledger"
                    .to_owned(),
            )),
        }
    }
}
