//! `callbackd steps`: what the ledger holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
#[cfg(feature = "dynamodb")]
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::{Failure, complain, pause, plain, say};
#[cfg(feature = "dynamodb")]
use crate::aws::Clients;
use crate::config::Config;
use crate::ledger::{self, Damaged, Kind};
use crate::lifecycle::{Record, Status};
use crate::orders::Orders;
use crate::outcome::Outcome;

#[derive(Args)]
pub(super) struct Arguments {
    /// Print an array of objects, with everything that the ledger knows about each step; of a
    /// DynamoDB table without arguments and checkpoints.
    #[arg(long)]
    json: bool,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let path = match &arguments.ledger {
        Some(path) => path.clone(),
        None => {
            let config = Config::section("ledger", file, std::env::vars_os())?.ledger;
            #[cfg(feature = "dynamodb")]
            if config.kind == Kind::Dynamodb {
                return of_table(arguments, &config, file).await;
            }
            if config.kind != Kind::Sqlite {
                return Err(Failure::Runtime(
                    "the ledger is in the worker's memory: ask its /steps over HTTP".to_owned(),
                ));
            }
            config.path
        }
    };
    pause::mention(Some(Orders::beside(&path)));
    let mut printer = Printer::new(arguments, Timestamp::now);
    ledger::read(&path, |record| printer.show(record)).map_err(Failure::runtime)?;
    printer.end();
    Ok(ExitCode::SUCCESS)
}

/// The steps of a table, without their arguments and checkpoints.
#[cfg(feature = "dynamodb")]
async fn of_table(
    arguments: &Arguments,
    config: &ledger::Config,
    file: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let aws = Config::section("aws", file, std::env::vars_os())?.aws;
    let worker = Config::section("worker", file, std::env::vars_os())?.worker;
    pause::mention(Config { worker, ledger: config.clone(), ..Config::default() }.orders());
    let clients = Clients::new(aws, "command", Arc::new(()));
    let table = clients.table(&config.table, config.retention).await.map_err(Failure::runtime)?;
    let mut printer = Printer::new(arguments, || table.now());
    let list = ledger::list(&table, &[], |record| printer.show(record));
    list.await.map_err(Failure::runtime)?;
    printer.end();
    Ok(ExitCode::SUCCESS)
}

/// Prints each record as it is read: a whole ledger may not fit into memory.
struct Printer<N> {
    json: bool,
    /// The time by the clock that names the records' times.
    now: N,
    begun: bool,
}

impl<N: Fn() -> Timestamp> Printer<N> {
    fn new(arguments: &Arguments, now: N) -> Self {
        Self { json: arguments.json, now, begun: false }
    }

    fn show(&mut self, record: Result<Record, Damaged>) {
        let first = !std::mem::replace(&mut self.begun, true);
        if self.json {
            let json = match record {
                Ok(record) => serde_json::to_string_pretty(&record),
                Err(Damaged { token, detail }) => {
                    serde_json::to_string_pretty(&json!({ "token": token, "error": detail }))
                }
            };
            return match json {
                Ok(json) => say(format_args!("{}\n{json}", if first { "[" } else { "," })),
                Err(error) => complain(error),
            };
        }
        if first {
            say(format_args!(
                "{:<11} {:<10} {:<20} {:>3} {:>9}  {:<28} DETAIL",
                "TOKEN", "STATUS", "HANDLER", "TRY", "AGE", "PIPELINE"
            ));
        }
        say(plain(&match record {
            Ok(record) => line(&record, (self.now)()),
            Err(Damaged { token, detail }) => format!(
                "{:<11} {:<10} {:<20} {:>3} {:>9}  {:<28} the record cannot be read: {detail}",
                token.as_deref().unwrap_or("-"),
                "damaged",
                "-",
                "-",
                "-",
                "-",
            ),
        }));
    }

    fn end(self) {
        match (self.json, self.begun) {
            (true, true) => say("]"),
            (true, false) => say("[]"),
            (false, true) => {}
            (false, false) => say("the ledger holds no steps"),
        }
    }
}

fn line(record: &Record, now: Timestamp) -> String {
    let age = Duration::try_from(now.duration_since(record.first_seen)).unwrap_or_default();
    format!(
        "{:<11} {:<10} {:<20} {:>3} {:>9}  {:<28} {}",
        record.token.as_str(),
        record.status.as_str(),
        record.handler.as_deref().unwrap_or("-"),
        record.attempt,
        coarse(age),
        record.execution.pipeline(),
        detail(record),
    )
}

fn detail(record: &Record) -> String {
    let outcome = match &record.outcome {
        Some(Outcome::Success(outputs)) => Some(
            outputs
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        Some(Outcome::Failure(reason)) => Some(reason.to_string()),
        None => None,
    };
    let ending = record
        .ending
        .filter(|_| record.status == Status::Settled)
        .map(|ending| ending.as_str().to_owned());
    let stop = record
        .stop_requested
        .filter(|_| record.outcome.is_none())
        .map(|_| "stop requested".to_owned());
    let suspected = record
        .is_suspected()
        .then(|| format!("suspected of having killed its worker, in {} crashes", record.crashes));
    let error = record.last_error.clone().filter(|_| record.outcome.is_none());
    [ending, stop, suspected, outcome, error].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// Two units are precise enough.
pub(super) fn coarse(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_two_units() {
        let ages = [5, 65, 3_700, 90_000].map(|seconds| coarse(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
