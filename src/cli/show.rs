//! `callbackd show`: everything that is known of one step, and what has happened to it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::admin::Socket;
use super::place::Place;
use super::status::{self, InHand};
use super::steps::{Row, coarse, since, under_way};
use super::{Failure, plain, say};
use crate::config::Config;
use crate::ledger;
use crate::lifecycle::{Happened, Record, Told};
use crate::observe::admin::{Log, LogLine};
use crate::observe::events::coded;
use crate::step::{CallbackToken, Quoted};

#[derive(Args)]
pub(super) struct Arguments {
    /// The callback token of the step.
    token: CallbackToken,
    /// Print an object, with arguments and checkpoint.
    #[arg(long)]
    json: bool,
    /// Print what the step's program printed last, as the worker on this machine has it.
    #[arg(long, conflicts_with_all = ["json", "ledger"])]
    log: bool,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    socket: Socket,
}

/// As much of a text as is shown; `--json` has all of it.
const SHOWN: usize = 1024;

pub(super) async fn run(arguments: &Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let token = &arguments.token;
    if arguments.log {
        return print_log(&arguments.socket, token, file).await;
    }
    let (found, now) = match Place::find(arguments.ledger.as_deref(), file).await? {
        Place::File(path) => (ledger::find_in(&path, token)?, Timestamp::now()),
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => (ledger::find(&*table, token).await?, table.now()),
    };
    let Some(found) = found else {
        return Err(Failure::Runtime(format!(
            "the ledger has no step {token}: check the token, and that this is the ledger of its \
             worker; settled steps are removed after `ledger.retention`"
        )));
    };
    let record = found.map_err(|damaged| {
        let text = plain(&format!("{token}: {}", damaged.detail));
        Failure::Runtime(coded(text, "record_unreadable"))
    })?;
    let in_hand = if arguments.ledger.is_none() { in_hand(file, token).await } else { None };
    if arguments.json {
        let mut step = serde_json::to_value(Row { record: &record, in_hand: in_hand.as_ref() })
            .map_err(Failure::runtime)?;
        step["history"] = json!(record.history);
        say(format_args!("{step:#}"));
    } else {
        lines(&record, in_hand.as_ref(), now).iter().for_each(say);
    }
    Ok(ExitCode::SUCCESS)
}

/// The worker keeps the lines in memory, so no ledger has them.
async fn print_log(
    socket: &Socket,
    token: &CallbackToken,
    file: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let asked = socket.get(&format!("/steps/{token}/log"), file).await?;
    if asked.status() != 200 {
        return Err(Failure::Runtime(asked.refusal().await?));
    }
    let log: Log = asked.answer().await?;
    if log.lines.is_empty() {
        return Err(Failure::Runtime(format!(
            "this worker has no output of the step {token}: its program has printed nothing yet, \
             or ran on another worker, before its last start, or long ago"
        )));
    }
    log.lines.iter().map(printed).for_each(say);
    Ok(ExitCode::SUCCESS)
}

fn printed(line: &LogLine) -> String {
    let text = Quoted::within(SHOWN, &line.text);
    format!("{} {} {} | {text}", plain(&line.at), line.attempt, plain(&line.stream))
}

/// What the daemon on this machine has in progress. A mistake in its address is for the daemon to
/// tell.
async fn in_hand(file: Option<&Path>, token: &CallbackToken) -> Option<InHand> {
    let config = Config::section("http", file, std::env::vars_os()).ok()?;
    status::one(config.http.listen, token).await
}

/// The step as a person reads it. All text that is not ours is escaped.
fn lines(record: &Record, in_hand: Option<&InHand>, now: Timestamp) -> Vec<String> {
    let facts = facts(record, in_hand, now).into_iter().filter_map(|(name, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some(format!("{name:<13} {}", Quoted::within(SHOWN, &value)))
    });
    let history = match record.history.events() {
        [] => vec!["history       none: no change since callbackd keeps one".to_owned()],
        events => {
            let head = "history".to_owned();
            std::iter::once(head).chain(events.iter().map(|it| event(it, now))).collect()
        }
    };
    facts.chain(history).collect()
}

fn facts(
    record: &Record,
    in_hand: Option<&InHand>,
    now: Timestamp,
) -> [(&'static str, Option<String>); 20] {
    let text = |text: &dyn ToString| Some(text.to_string());
    let ago = |at: Timestamp| format!("{at} ({} ago)", coarse(since(at, now)));
    let size = |json: &serde_json::Value| format!("{} bytes", json.to_string().len());
    let stop = record.stop_requested.map(|stop| {
        let closed = if stop.closed { ", closed at SageMaker" } else { "" };
        format!("{}{closed}", ago(stop.at))
    });
    [
        ("token", text(&record.token)),
        ("key", record.key.as_ref().map(|key| key.as_str().to_owned())),
        ("status", text(&record.status.as_str())),
        ("in progress", in_hand.map(|step| under_way(step, now))),
        ("pipeline", text(&record.execution.pipeline())),
        ("execution", text(&record.execution)),
        ("queue", text(&record.queue.as_str())),
        ("handler", record.handler.as_deref().map(str::to_owned)),
        ("attempt", text(&record.attempt)),
        ("crashes", (record.crashes > 0).then(|| record.crashes.to_string())),
        ("owner", record.owner.as_ref().map(ToString::to_string)),
        ("first seen", Some(ago(record.first_seen))),
        ("not before", record.not_before.as_ref().map(ToString::to_string)),
        ("limit", record.deadline.as_ref().map(ToString::to_string)),
        ("checkpoint", record.checkpoint.as_deref().map(size)),
        ("stop", stop),
        ("ending", record.ending.map(|ending| ending.as_str().to_owned())),
        ("at SageMaker", record.closed_as.map(|how| how.as_str().to_owned())),
        ("outcome", record.outcome.clone().map(|outcome| Told(outcome).to_string())),
        ("last error", record.last_error.clone()),
    ]
}

fn event(it: &Happened, now: Timestamp) -> String {
    let name = it.event.as_str().replace('_', " ");
    let times = if it.times > 1 {
        format!(" {} times, the last time then", it.times)
    } else {
        String::new()
    };
    let detail = it.detail.as_deref().map(|text| format!(": {}", Quoted::within(SHOWN, text)));
    let ago = coarse(since(it.at, now));
    let (at, detail) = (it.at.to_string(), detail.unwrap_or_default());
    format!("  {at:<24} {ago:>7} ago  {name}{times}{detail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Happening, Status};
    use crate::step::Message;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn record() -> Record {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        Record::of_message(step, queue, Some("h".into()), at(1_000))
    }

    #[test]
    fn events_are_told_with_their_time_and_count_and_untrusted_text_is_escaped() {
        let polled = Happened { times: 412, ..Happened::new(at(1_100), Happening::Polled, None) };
        let failed =
            Happened::new(at(1_130), Happening::AttemptFailed, Some("\u{1b}[2J a\u{202e}b"));
        let history = [polled, failed].into_iter().collect();
        let last_error = Some("\u{1b}[31mred\nline".to_owned());
        let record = Record { status: Status::Waiting, history, last_error, ..record() };
        let lines = lines(&record, None, at(1_160));
        let text = lines.join("\n");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
        assert!(lines.iter().any(|line| line.starts_with("last error    \\u{1b}[31mred\\nline")));
        let told: Vec<&str> = lines.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(
            told,
            [
                "  1970-01-01T00:18:50Z         30s ago  attempt failed:  [2J a\\u{202e}b",
                "  1970-01-01T00:18:20Z        1m0s ago  polled 412 times, the last time then",
            ]
        );
    }

    #[test]
    fn a_record_without_a_history_says_so() {
        let lines = lines(&record(), None, at(1_000));
        assert!(lines.last().is_some_and(|line| line.contains("none")), "{lines:?}");
    }
}
