//! What daemons and their programs logged, in the judge's terms.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::daemon;
use crate::judge::{Seen, Worker};

/// The account of one daemon after the other on one ledger.
#[derive(Default)]
pub struct Account {
    pub events: Vec<(Timestamp, Seen<String>)>,
    /// How often each step was started.
    pub started: BTreeMap<String, usize>,
    /// The steps that their programs deferred.
    pub deferred: BTreeSet<String>,
    ledger: u8,
    /// When each daemon began.
    lives: Vec<Timestamp>,
}

impl Account {
    pub fn of(ledger: u8) -> Self {
        Self { ledger, ..Self::default() }
    }

    /// Takes in the daemons' log, line by line.
    pub fn log(&mut self, line: &str) {
        // Programs' output is not part of it, although it is most of a log.
        if line.contains("\"callbackd::program\"") {
            return;
        }
        // A line that a kill cut short says nothing.
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        let Some(at) = line["timestamp"].as_str().and_then(|text| text.parse().ok()) else {
            return;
        };
        let token = line["token"].as_str().unwrap_or_default().to_owned();
        let (ledger, worker) = (self.ledger, self.worker(self.lives.len()));
        match line["message"].as_str().unwrap_or_default() {
            daemon::BEGINS => {
                self.events.push((at, Seen::Died { worker }));
                self.lives.push(at);
            }
            "the step is started" => {
                *self.started.entry(token.clone()).or_default() += 1;
                self.events.push((at, Seen::Started { worker, token }));
            }
            "cleaning up after the step" => {
                // By then the run is over, and it ended without an outcome of its own.
                self.events.push((at, Seen::Ended { worker, token: token.clone(), own: false }));
                // Its end is not logged; but nothing is reported before.
                self.events.push((at, Seen::CleanupBegan { worker, token: token.clone() }));
                self.events.push((at, Seen::CleanupEnded { worker, token }));
            }
            "the step has ended" if line["outcome"] == "deferred" => {
                self.deferred.insert(token.clone());
                self.events.push((at, Seen::Deferred { ledger, token }));
            }
            _ => {}
        }
    }

    /// Takes in, after the log, what a program left at its end: `TOKEN STATUS NANOSECONDS`.
    ///
    /// # Panics
    /// If it left anything else.
    pub fn program(&mut self, line: &str) {
        let [token, status, nanoseconds] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let at =
            Timestamp::from_nanosecond(nanoseconds.parse().expect("a number")).expect("a time");
        let worker = self.worker(self.lives.iter().filter(|began| **began <= at).count());
        let own = match status {
            "75" | "76" => false,
            // Such a program defers its step.
            "0" => !self.deferred.contains(token),
            _ => true,
        };
        self.events.push((at, Seen::Ended { worker, token: token.to_owned(), own }));
    }

    fn worker(&self, life: usize) -> Worker {
        Worker { ledger: self.ledger, process: u32::try_from(life).expect("few lives") }
    }
}
