//! `callbackd steps`: what the ledger holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::place::Place;
use super::{Failure, complain, plain, say};
use crate::ledger::{self, Damaged};
use crate::lifecycle::{Ending, Record, Status};
use crate::outcome::Outcome;

#[derive(Args)]
pub(super) struct Arguments {
    /// Print an array of objects, with everything that the ledger knows about each step; of a
    /// DynamoDB table without arguments and checkpoints.
    #[arg(long)]
    json: bool,
    /// Show only the steps that wait for `callbackd complete`, or for another answer from outside.
    #[arg(long)]
    deferred: bool,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    match Place::find(arguments.ledger.as_deref(), file).await? {
        Place::File(path) => {
            let mut printer = Printer::new(arguments, Timestamp::now);
            ledger::read(&path, |record| printer.show(record)).map_err(Failure::runtime)?;
            printer.end();
        }
        // Without their arguments and checkpoints.
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => {
            let statuses: &[Status] = if arguments.deferred { &[Status::Deferred] } else { &[] };
            let mut printer = Printer::new(arguments, || table.now());
            let list = ledger::list(&*table, statuses, |record| printer.show(record));
            list.await.map_err(Failure::runtime)?;
            printer.end();
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each record as it is read: a whole ledger may not fit into memory.
struct Printer<N> {
    json: bool,
    /// Only deferred steps are shown.
    deferred: bool,
    /// The time by the clock that names the records' times.
    now: N,
    begun: bool,
}

impl<N: Fn() -> Timestamp> Printer<N> {
    fn new(arguments: &Arguments, now: N) -> Self {
        Self { json: arguments.json, deferred: arguments.deferred, now, begun: false }
    }

    fn show(&mut self, record: Result<Record, Damaged>) {
        let is_deferred = |record: &Record| record.status == Status::Deferred;
        // Whether a damaged one is deferred cannot be known.
        if self.deferred && !record.as_ref().map_or(true, is_deferred) {
            return;
        }
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
            (false, false) if self.deferred => say("the ledger holds no deferred steps"),
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
    let key = record.key.as_ref().map(|key| format!("key {key}"));
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
    let ending = record.ending.filter(|_| record.status == Status::Settled).map(|ending| {
        match (ending, &record.outcome) {
            (Ending::Success | Ending::Failure, None) => {
                format!("{}, closed at SageMaker", ending.as_str())
            }
            _ => ending.as_str().to_owned(),
        }
    });
    let stop = record
        .stop_requested
        .filter(|_| record.outcome.is_none())
        .map(|_| "stop requested".to_owned());
    let suspected = record
        .is_suspected()
        .then(|| format!("suspected of having killed its worker, in {} crashes", record.crashes));
    let error = record.last_error.clone().filter(|_| record.outcome.is_none());
    [key, ending, stop, suspected, outcome, error]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(": ")
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
