//! `callbackd steps`: what the ledger holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::place::Place;
use super::selection::{Selected, Selection};
use super::status::{self, InHand};
use super::{Failure, complain, pause, plain, say};
use crate::config::Config;
use crate::engine::config::AnsweredBy;
use crate::ledger::{self, Damaged};
use crate::lifecycle::{Ending, History, Record, Status, Told};
use crate::observe::server::Listen;
use crate::orders::Orders;
use crate::outcome::Outcome;
use crate::step::Quoted;

#[derive(Args)]
pub(super) struct Arguments {
    /// Print an array of objects, with everything that the ledger knows about each step; of a
    /// DynamoDB table without arguments and checkpoints.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    selection: Selection,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let place = Place::find(arguments.ledger.as_deref(), file).await?;
    pause::mention(orders(&place, file)?);
    let surroundings = match &arguments.ledger {
        None => Surroundings::of(file).await,
        Some(_) => Surroundings::default(),
    };
    for ailment in &surroundings.ailments {
        complain(plain(&format!("the daemon is not ready: {ailment}")));
    }
    match place {
        Place::File(path) => {
            let mut printer = Printer::new(arguments, surroundings, Timestamp::now)?;
            ledger::read(&path, |record| printer.show(record))?;
            printer.end();
        }
        // Without their arguments and checkpoints.
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => {
            let statuses = arguments.selection.statuses();
            let mut printer = Printer::new(arguments, surroundings, || table.now())?;
            let list = ledger::list(&*table, statuses, |record| printer.show(record));
            list.await?;
            printer.end();
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the orders to the worker of this machine are.
#[cfg_attr(
    not(feature = "dynamodb"),
    expect(unused_variables, reason = "a file has its own place")
)]
fn orders(place: &Place, file: Option<&Path>) -> Result<Option<Orders>, Failure> {
    match place {
        Place::File(path) => Ok(Some(Orders::beside(path))),
        #[cfg(feature = "dynamodb")]
        Place::Table(_) => {
            let worker = Config::section("worker", file, std::env::vars_os())?.worker;
            let ledger = Config::section("ledger", file, std::env::vars_os())?.ledger;
            Ok(Config { worker, ledger, ..Config::default() }.orders())
        }
    }
}

/// What the daemon on this machine and its configuration say beyond the ledger.
#[derive(Default)]
struct Surroundings {
    /// What it has in progress, by token.
    in_hand: BTreeMap<String, InHand>,
    /// What keeps it from being ready.
    ailments: Vec<String>,
    /// The handlers that answer their steps themselves.
    answering: BTreeSet<String>,
}

impl Surroundings {
    /// A mistake in the configuration is for the daemon to tell.
    async fn of(file: Option<&Path>) -> Self {
        let section = |name| Config::section(name, file, std::env::vars_os()).unwrap_or_default();
        let handlers = section("handlers").handlers.into_iter();
        let answering = handlers.filter(|(_, handler)| handler.answers == AnsweredBy::Handler);
        let http = Config::section("http", file, std::env::vars_os());
        let listen = http.map_or(Listen::Off, |config| config.http.listen);
        let (in_hand, ailments) = tokio::join!(status::in_hand(listen), status::ailments(listen));
        Self { in_hand, ailments, answering: answering.map(|(name, _)| name).collect() }
    }
}

/// Prints each record as it is read: a whole ledger may not fit into memory.
struct Printer<'a, N> {
    json: bool,
    selection: &'a Selection,
    selected: Selected<'a>,
    surroundings: Surroundings,
    /// The time by the clock that names the records' times.
    now: N,
    /// How many are printed.
    shown: u64,
    /// How many more there are than the limit.
    beyond: u64,
}

impl<'a, N: Fn() -> Timestamp> Printer<'a, N> {
    fn new(arguments: &'a Arguments, surroundings: Surroundings, now: N) -> Result<Self, Failure> {
        let selection = &arguments.selection;
        let selected = selection.at(now())?;
        let json = arguments.json;
        Ok(Self { json, selection, selected, surroundings, now, shown: 0, beyond: 0 })
    }

    fn show(&mut self, record: Result<Record, Damaged>) {
        if !self.selected.takes(&record) {
            return;
        }
        if self.selection.limit.is_some_and(|limit| self.shown >= limit) {
            self.beyond += 1;
            return;
        }
        let first = self.shown == 0;
        self.shown += 1;
        if self.json {
            let json = match record {
                Ok(record) => {
                    // `show` has it; of many steps it would be long.
                    let record = Record { history: History::default(), ..record };
                    let in_hand = self.surroundings.in_hand.get(record.token.as_str());
                    serde_json::to_string_pretty(&Row { record: &record, in_hand })
                }
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
            Ok(record) => line(&record, &self.surroundings, (self.now)()),
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
        match (self.json, self.shown > 0) {
            (true, true) => say("]"),
            (true, false) => say("[]"),
            (false, true) => {}
            (false, false) if self.selection.statuses() == [Status::Deferred] => {
                say("the ledger holds no deferred steps");
            }
            (false, false) if self.selection.narrows() => say("the ledger holds no such steps"),
            (false, false) => say("the ledger holds no steps"),
        }
        if self.beyond > 0 {
            complain(format_args!("{} more are not shown: raise --limit", self.beyond));
        }
    }
}

/// A record, and what is in progress.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    #[serde(flatten)]
    pub(super) record: &'a Record,
    #[serde(flatten)]
    pub(super) in_hand: Option<&'a InHand>,
}

fn line(record: &Record, surroundings: &Surroundings, now: Timestamp) -> String {
    let in_hand = surroundings.in_hand.get(record.token.as_str());
    let under_way = in_hand.map(|step| under_way(step, now));
    let answers = record.handler.as_ref().is_some_and(|it| surroundings.answering.contains(&**it));
    let awaited = (answers && record.status == Status::Deferred)
        .then(|| "its handler is to answer it at SageMaker".to_owned());
    let parts = [under_way, awaited, Some(detail(record))].into_iter().flatten();
    let detail = parts.filter(|text| !text.is_empty());
    format!(
        "{:<11} {:<10} {:<20} {:>3} {:>9}  {:<28} {}",
        record.token.as_str(),
        record.status.as_str(),
        record.handler.as_deref().unwrap_or("-"),
        record.attempt,
        coarse(since(record.first_seen, now)),
        record.execution.pipeline(),
        detail.collect::<Vec<_>>().join(": "),
    )
}

pub(super) fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// For how long a step has been running, and how far it is.
pub(super) fn under_way(step: &InHand, now: Timestamp) -> String {
    let is_running = matches!(step.activity.as_deref(), Some("running" | "stopping"));
    let runs = step
        .started_at
        .filter(|_| is_running)
        .map(|at| format!("running for {}", coarse(since(at, now))));
    let progress = step.progress.as_ref().map(|progress| {
        let percent = |fraction: f64| format!("{:.0} %", fraction.clamp(0.0, 1.0) * 100.0);
        let percent = progress.fraction.map(percent);
        let text = Some(Quoted::within(200, &progress.text).to_string());
        let text = text.filter(|text| !text.is_empty());
        let ago = step.progressed_at.map(|at| format!("({} ago)", coarse(since(at, now))));
        [percent, text, ago].into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    runs.into_iter().chain(progress).collect::<Vec<_>>().join(", ")
}

fn detail(record: &Record) -> String {
    let key = record.key.as_ref().map(|key| format!("key {key}"));
    // SageMaker has another one.
    let elsewhere =
        matches!(record.ending, Some(Ending::SettledElsewhere | Ending::AnsweredByHandler));
    let outcome = match &record.outcome {
        Some(outcome) if elsewhere => Some(format!("not accepted: {}", Told(outcome.clone()))),
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
    let has_ended = matches!(record.status, Status::Concluded | Status::Settled);
    let ending = record.ending.filter(|_| has_ended).map(|ending| {
        let how = record.closed_as.map(|how| format!(" ({})", how.as_str()));
        format!("{}{}", ending.as_str(), how.unwrap_or_default())
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
        .filter(|text| !text.is_empty())
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
    use crate::cli::status::Progress;

    #[test]
    fn an_age_is_told_in_two_units() {
        let ages = [5, 65, 3_700, 90_000].map(|seconds| coarse(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "1m5s", "1h1m", "1d1h"]);
    }

    #[test]
    fn a_step_under_way_is_told_with_its_age_and_its_progress() {
        let at = |second| Some(Timestamp::from_second(second).expect("in range"));
        let progress = |fraction, text: &str| Some(Progress { fraction, text: text.to_owned() });
        let now = at(3_000).expect("a time");
        for (activity, started_at, progress, progressed_at, says) in [
            (
                "running",
                at(1_000),
                progress(Some(0.4), "epoch 4 of 10"),
                at(2_990),
                "running for 33m20s, 40 % epoch 4 of 10 (10s ago)",
            ),
            ("stopping", at(1_000), None, None, "running for 33m20s"),
            // A job that is polled, between two looks.
            ("waiting", at(1_000), progress(Some(1.0), ""), at(2_000), "100 % (16m40s ago)"),
            ("waiting", None, progress(None, "a\u{202e}b"), at(2_999), "a\\u{202e}b (1s ago)"),
        ] {
            let activity = Some(activity.to_owned());
            let step = InHand { activity, started_at, progress, progressed_at };
            assert_eq!(under_way(&step, now), says);
        }
    }
}
