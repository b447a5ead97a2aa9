//! `callbackd ledger create`: the table of a shared ledger.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::{Failure, say};
use crate::aws::{Clients, Created};
use crate::config::Config;
use crate::ledger::Kind;
use crate::observe::events::coded;

pub(super) async fn run(file: Option<&Path>) -> Result<ExitCode, Failure> {
    let ledger = Config::section("ledger", file, std::env::vars_os())?.ledger;
    let aws = Config::section("aws", file, std::env::vars_os())?.aws;
    if ledger.kind != Kind::Dynamodb {
        let text =
            "ledger.type is not \"dynamodb\": other ledgers are created when the worker starts";
        return Err(Failure::Configuration(coded(text, "config_invalid")));
    }
    if let Some((key, what)) = ledger.mistakes().first() {
        let text = coded(format!("ledger.{key}: {what}"), "config_invalid");
        return Err(Failure::Configuration(text));
    }
    let clients = Clients::new(aws, "command", Arc::new(()));
    let table = clients.table(&ledger.table, ledger.retention).await?;
    let (name, region) = (table.name(), table.region());
    let created = Box::pin(table.create()).await?;
    say(match created {
        Created::Table => format!("created the table {name} in {region}"),
        Created::TimeToLive => {
            format!("the table {name} in {region} exists; switched its time to live on")
        }
        Created::Nothing => format!("the table {name} in {region} exists"),
    });
    Ok(ExitCode::SUCCESS)
}
