//! The ledger alone, and filled ones for others: everything that this bench knows of the ledger's
//! own API.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use callbackd::clock::Clock;
use callbackd::ledger::{Commit, Config, Kind, Ledger, Progress, Written, open};
use callbackd::lifecycle::{Record, Status, WorkerId};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::machine::Machine;
use crate::options::Options;
use crate::table::{self, Figures, median};
use crate::worker::folder;

/// Steps per second at full durability, with many at once.
const BUDGET: f64 = 5_000.0;
/// Concurrent writes while a ledger is filled: as many as one transaction takes.
const TOGETHER: usize = 512;

/// Opened at full durability, as by a worker.
fn ledger(file: &Path) -> Ledger {
    let config = Config { kind: Kind::Sqlite, path: file.to_owned(), ..Config::default() };
    let store =
        open(&config, Arc::new(()), &Progress::default()).expect("the target folder is writable");
    let (me, lease) = (WorkerId("bench/0".into()), Duration::from_mins(1));
    Ledger::new(store, me, lease, Clock::of_this_machine(), Arc::new(()))
}

/// A step's record as it is in the file: that stays, while the type changes.
fn record(token: &str, status: &str, version: u64) -> Record {
    let now = Timestamp::now();
    let (settled, concluded) = (status == "settled", status != "claimed");
    let given = |when: bool, value: Value| if when { value } else { Value::Null };
    let record = json!({
        "token": token,
        "execution": format!("arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/{token}"),
        "queue": "https://sqs.us-east-1.amazonaws.com/123456789012/steps",
        "handler": "h",
        "arguments": {"dataset": "s3://features/penguins/2026-11-25/part-00000.parquet", "rows": 333, "target": "species"},
        "status": status,
        "owner": given(!settled, json!("bench/0")),
        "attempt": 1,
        "resume": false,
        "not_before": null,
        "deadline": now + Duration::from_hours(24),
        "checkpoint": null,
        "stop_requested": null,
        "outcome": given(concluded, json!({"success": {"rows": "333"}})),
        "client_request_token": given(concluded, json!("0".repeat(64))),
        "ending": given(settled, json!("success")),
        "last_error": null,
        "first_seen": now,
        "concluded_at": given(concluded, json!(now)),
        "settled_at": given(settled, json!(now)),
        "version": version,
    });
    serde_json::from_value(record).expect("a record as callbackd writes it")
}

async fn write(ledger: &Ledger, record: Record) -> u64 {
    // Like the engine: nothing waits for a step to be settled.
    let commit = if record.status == Status::Settled { Commit::Soon } else { Commit::Now };
    match ledger.write(record, commit).await.expect("the target folder is writable") {
        Written::Done(record) => record.version,
        Written::Changed => panic!("nobody else writes"),
    }
}

fn token(number: usize) -> String {
    format!("{number:010}")
}

/// A ledger file with settled records, made by another process of this binary, so that its memory
/// and threads are not counted.
pub fn filled(file: &Path, records: usize) {
    let this = std::env::current_exe().expect("this binary has a path");
    let mut command = std::process::Command::new(this);
    let made =
        command.arg("fill-ledger").arg(file).arg(records.to_string()).status().expect("it starts");
    assert!(made.success(), "the ledger was not filled");
}

/// The process of [`filled`].
pub fn fill(file: &Path, records: usize) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let ledger = ledger(file);
        let write = |number: usize| write(&ledger, record(&token(number), "settled", 0));
        for first in (0..records).step_by(TOGETHER) {
            join_all((first..records.min(first + TOGETHER)).map(write)).await;
        }
    });
}

/// Claims, concludes and settles steps, this many at once; prints the rate per second.
pub fn alone(file: &Path, concurrency: usize) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rate = runtime.block_on(async {
        let ledger = Arc::new(ledger(file));
        let each = (3_000 / concurrency).clamp(20, 300);
        let begun = Instant::now();
        let lanes = (0..concurrency).map(|lane| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for number in 0..each {
                    let token = token(lane * each + number);
                    let version = write(&ledger, record(&token, "claimed", 0)).await;
                    let version = write(&ledger, record(&token, "concluded", version)).await;
                    write(&ledger, record(&token, "settled", version)).await;
                }
            })
        });
        for lane in join_all(lanes).await {
            lane.expect("it writes");
        }
        (concurrency * each) as f64 / begun.elapsed().as_secs_f64()
    });
    println!("{rate}");
}

pub fn measure(_: &Machine, options: &Options, figures: &mut Figures) {
    let mut lines = Vec::new();
    for concurrency in [1, 10, 64, 256] {
        let rates: Vec<f64> = (0..options.rounds).map(|_| rate(concurrency)).collect();
        let rate = median(rates.iter().copied());
        let over = if rate < BUDGET { " !" } else { "" };
        let budget = if concurrency == 256 { format!("≥ {BUDGET}{over}") } else { String::new() };
        lines.push(vec![concurrency.to_string(), format!("{rate:.0}"), budget]);
        figures.add("ledger", &concurrency.to_string(), json!({"steps_per_second": rates}));
    }
    let title = "The ledger alone, SQLite: steps claimed, concluded and settled a second, each \
                 write flushed";
    table::print(title, &["at once", "steps/s", "budget"], &lines);
}

/// On all cores, because the writing thread runs beside those that ask.
fn rate(concurrency: usize) -> f64 {
    let folder = folder();
    let mut command = std::process::Command::new("taskset");
    command
        .args(["--cpu-list", "0-1023"])
        .arg(std::env::current_exe().expect("this binary has a path"));
    command.arg("ledger-alone").arg(folder.path().join("ledger.db")).arg(concurrency.to_string());
    let output = command.output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("it prints a number")
}
