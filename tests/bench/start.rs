//! From the start of the process to its first poll, with an empty ledger and with a full one.

use std::time::Duration;

use serde_json::json;

use crate::account::Account;
use crate::ledger;
use crate::machine::Machine;
use crate::options::Options;
use crate::table::{self, Figures, median};
use crate::worker::{Ledger, Setup, Worker, folder};

/// In milliseconds.
const BUDGET: f64 = 150.0;

pub fn first_poll(machine: &Machine, options: &Options, figures: &mut Figures) {
    let folder = folder();
    let file = folder.path().join("filled.db");
    ledger::filled(&file, options.records);
    let name = format!("{} settled records", options.records);
    let ledgers = [("no ledger yet", Ledger::Sqlite), (name.as_str(), Ledger::Filled(file))];
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for ((_, ledger), took) in ledgers.iter().zip(&mut took) {
            let account = Account::open(machine, None);
            account.count_calls(Duration::ZERO);
            let mut worker =
                Worker::start(machine, &account, &Setup::new(ledger.clone(), 10, "nothing"));
            worker.wait_for_poll(&account);
            took.push((
                worker.begun.elapsed().as_secs_f64() * 1e3,
                worker.process.cpu().as_secs_f64() * 1e3,
            ));
        }
    }
    let line = |(name, took): (&str, &Vec<(f64, f64)>)| {
        let (wall, cpu) =
            (median(took.iter().map(|both| both.0)), median(took.iter().map(|both| both.1)));
        let over = if wall > BUDGET { " !" } else { "" };
        vec![
            name.to_owned(),
            format!("{wall:.0} ms"),
            format!("≤ {BUDGET} ms{over}"),
            format!("{cpu:.0} ms"),
        ]
    };
    let lines: Vec<_> = ledgers.iter().map(|(name, _)| *name).zip(&took).map(line).collect();
    table::print("From the start to the first poll", &["", "wall", "budget", "CPU"], &lines);
    for ((name, _), took) in ledgers.iter().zip(&took) {
        figures.add("start", name, json!({"wall_and_cpu_milliseconds": took}));
    }
}
