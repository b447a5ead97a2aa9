//! How long it takes from a message's receive to its handler: until a run is started, until it is
//! told to stop.
//!
//! How long the endpoint takes to hand a message to an open poll is shown too: it reveals the other
//! load of the machine. Endpoint and handler record the time on the one clock that all processes
//! share. The endpoint records a receive before it answers: its answer, and the way over loopback,
//! are part of the measurement.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::account::Account;
use crate::machine::Machine;
use crate::options::Options;
use crate::table::{self, Figures, percentile};
use crate::worker::{Ledger, Setup, Worker, folder};

/// Each step meets an idle worker: the question is how long one takes, not a queue of them.
const PACE: Duration = Duration::from_millis(25);
/// In milliseconds, the 99th percentile.
const BUDGET: f64 = 5.0;

pub fn measure(machine: &Machine, options: &Options, figures: &mut Figures) {
    let steps = (options.steps / 5).clamp(10, 600);
    let mut lines = Vec::new();
    for (ledger, name) in [(Ledger::Memory, "memory"), (Ledger::Sqlite, "SQLite")] {
        let folder = folder();
        let [sent, run] = ["sent", "run"].map(|name| folder.path().join(name));
        let account = Account::open(machine, Some(&sent));
        account.count_calls(Duration::ZERO);
        // More room than is used, so that a poll is always open.
        let mut worker = Worker::start(
            machine,
            &account,
            &Setup::new(ledger, steps + 100, "wait").telling(&run),
        );
        worker.wait_for_poll(&account);
        let executions: Vec<String> = (0..steps)
            .flat_map(|_| {
                std::thread::sleep(PACE);
                account.start(1)
            })
            .collect();
        worker.wait_for("callbackd_steps_running", steps as f64);
        for execution in &executions {
            std::thread::sleep(PACE);
            account.stop(execution);
        }
        worker.wait_for("callbackd_steps_running", 0.0);
        let commit = worker
            .metric("callbackd_ledger_commit_seconds_sum")
            .zip(worker.metric("callbackd_ledger_commit_seconds_count"));
        let commit = commit.map_or(0.0, |(sum, count)| sum / count.max(1.0) * 1e3);
        let (sent, run) = (times(&sent), times(&run));
        for (what, from, to, ours) in [
            (
                "received after it was sent",
                &sent["sent Executing"],
                &sent["received Executing"],
                false,
            ),
            ("started after it was received", &sent["received Executing"], &run["started"], true),
            (
                "told after the stop was received",
                &sent["received Stopping"],
                &run["stopping"],
                true,
            ),
        ] {
            let mut took = between(from, to);
            assert_eq!(took.len(), steps, "every step is noted");
            let (half, most) = (percentile(&mut took, 50), percentile(&mut took, 99));
            let over = if most > BUDGET + commit { " !" } else { "" };
            lines.push(vec![
                format!("{what}, {name}"),
                format!("{half:.2} ms"),
                format!("{most:.2} ms"),
                if ours { format!("≤ {BUDGET} ms{over}") } else { String::new() },
                if commit > 0.0 { format!("{commit:.2} ms") } else { String::new() },
            ]);
            figures.add(
                "latency",
                &format!("{what}, {name}"),
                json!({"p50": half, "p99": most, "commit": commit}),
            );
        }
    }
    let title = format!(
        "From the message to the handler ({steps} steps, one each {} ms)",
        PACE.as_millis()
    );
    table::print(&title, &["", "p50", "p99", "budget, p99", "one commit"], &lines);
}

/// When each event happened: by all words except the last two, then by token.
fn times(file: &Path) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut times: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for line in fs::read_to_string(file).expect("it was written").lines() {
        let (rest, at) = line.rsplit_once(' ').expect("a time");
        let (what, token) = rest.rsplit_once(' ').expect("a token");
        // Only the first time: a message that is received again is no news.
        let first = times.entry(what.to_owned()).or_default().entry(token.to_owned());
        first.or_insert_with(|| at.parse::<f64>().expect("nanoseconds") / 1e6);
    }
    times
}

fn between(from: &BTreeMap<String, f64>, to: &BTreeMap<String, f64>) -> Vec<f64> {
    to.iter().filter_map(|(token, at)| Some(at - from.get(token)?)).collect()
}
