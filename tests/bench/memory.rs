//! Resident memory: of an idle worker, and of each step that waits, is deferred, or runs.

use std::time::Duration;

use serde_json::json;

use crate::account::Account;
use crate::machine::Machine;
use crate::options::Options;
use crate::table::{self, Figures, mib};
use crate::worker::{Ledger, Setup, Worker};

/// For what a worker does once after its first poll.
const SETTLE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(10);
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(machine: &Machine, options: &Options, figures: &mut Figures) {
    let mut lines = vec![idle(machine, figures)];
    let steps = |what: &str, does: &str, steps: usize, concurrency: usize, budget: f64| {
        let setup = Setup::new(Ledger::Sqlite, concurrency, does);
        (format!("{steps} {what}"), steps, setup, budget)
    };
    for (name, steps, setup, budget) in [
        steps("waiting to be called again", "again", options.parked, 64, 2048.0),
        steps("deferred", "defer", options.parked, 64, 0.0),
        steps("running", "wait", options.running, options.running, 8192.0),
    ] {
        let account = Account::open(machine, None);
        account.count_calls(Duration::ZERO);
        let mut worker = Worker::start(machine, &account, &setup);
        worker.wait_for_poll(&account);
        std::thread::sleep(SETTLE);
        let before = worker.process.resident();
        account.start(steps);
        worker.wait_for("callbackd_pickup_seconds_count", steps as f64);
        let running = if setup.concurrency == steps { steps as f64 } else { 0.0 };
        worker.wait_for("callbackd_steps_running", running);
        std::thread::sleep(SETTLE);
        let after = worker.process.resident();
        let each = (after - before) / steps as f64;
        // One-time growth of a process is not attributed to the steps.
        let over = if after - before > budget * steps as f64 + 4.0 * MIB { " !" } else { "" };
        lines.push(vec![
            name.clone(),
            mib(after),
            format!("{each:.0}"),
            format!("≤ {budget}{over}"),
        ]);
        figures.add("memory", &name, json!({"before": before, "after": after, "bytes_each": each}));
    }
    let title = "Resident memory (SQLite; in all, and what it grew by for each step)";
    table::print(title, &["", "in all", "bytes each", "budget"], &lines);
}

fn idle(machine: &Machine, figures: &mut Figures) -> Vec<String> {
    let account = Account::open(machine, None);
    account.count_calls(Duration::ZERO);
    let mut worker = Worker::start(machine, &account, &Setup::new(Ledger::Sqlite, 64, "nothing"));
    worker.wait_for_poll(&account);
    std::thread::sleep(SETTLE);
    let (cpu, sleeps) = (worker.process.cpu(), worker.process.sleeps());
    std::thread::sleep(IDLE);
    let cpu = worker.process.cpu().saturating_sub(cpu).as_secs_f64() / IDLE.as_secs_f64();
    let wakes = worker.process.sleeps().saturating_sub(sleeps) as f64 / IDLE.as_secs_f64();
    let resident = worker.process.resident();
    println!(
        "\nAn idle worker wakes {wakes:.1} times a second and uses {:.3} % of a core",
        cpu * 100.0
    );
    figures.add(
        "memory",
        "idle",
        json!({"resident": resident, "wakes_per_second": wakes, "cpu": cpu}),
    );
    let over = if resident > 30.0 * MIB { " !" } else { "" };
    vec!["idle".to_owned(), mib(resident), String::new(), format!("≤ 30 MiB{over}")]
}
