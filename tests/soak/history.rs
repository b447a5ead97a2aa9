//! Everything that the endpoint, the ledgers, the daemons and their programs reported, passed to
//! the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use callbackd::ledger::Damaged;
use callbackd::lifecycle::Record;
use callbackd::local::{Event, EventKind};
use jiff::Timestamp;

use crate::account::Account;
use crate::judge::{About, Judge, Seen, Worker};

/// All that happened so far.
#[derive(Default)]
pub struct History {
    /// Milliseconds since 1970; the endpoint knows no smaller times.
    events: Vec<(i64, Seen<String>)>,
    /// How each execution that was begun has ended.
    executions: BTreeMap<String, Option<&'static str>>,
    /// How often each step was answered, the same answer again not counted.
    answers: BTreeMap<String, u32>,
    /// Of which ledger each step is.
    ledgers: BTreeMap<String, u8>,
    /// What a ledger held of a step that has been purged since: whether a stop was known, whether
    /// an outcome was frozen.
    held: BTreeSet<(String, bool)>,
    /// The same answer again: its first reply was lost, or its daemon died.
    pub repeated: u64,
    pub refused: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// Messages that no worker can read, as the endpoint took them: replies are lost too.
    pub unreadable: u64,
    /// Events that arrived faster than they were read.
    pub missed: u64,
}

impl History {
    /// The endpoint told of something; `ledger_of` says which ledger a queue's steps are in.
    pub fn hear(&mut self, event: Event, ledger_of: impl Fn(&str) -> u8) {
        let at = i64::try_from(event.at.millis()).expect("not that far in the future");
        let mut see = |seen| self.events.push((at, seen));
        match event.kind {
            EventKind::ExecutionStarted { execution, .. } => {
                self.executions.insert(execution.to_string(), None);
            }
            EventKind::ExecutionEnded { execution, status, .. } => {
                self.executions.insert(execution.to_string(), Some(status));
            }
            EventKind::StepStarted { token, .. } => {
                self.answers.insert(token.clone(), 0);
                see(Seen::Opened { token });
            }
            EventKind::MessageSent { queue, id, body } => {
                let about = About::of(&body);
                match &about {
                    About::Work(token) | About::Stop(token) => {
                        self.ledgers.insert(token.clone(), ledger_of(&queue));
                    }
                    About::Unreadable => self.unreadable += 1,
                }
                see(Seen::Sent { message: id.to_string(), about });
            }
            EventKind::StepStopping { token, .. } => see(Seen::Stopping { token }),
            EventKind::StepEnded { token: Some(token), status, .. } => {
                see(Seen::Closed { token, succeeded: status == "Succeeded" });
            }
            EventKind::MessageDeleted { id, .. } => see(Seen::Deleted { message: id.to_string() }),
            EventKind::MessageExpired { id, .. } | EventKind::MessageDeadLettered { id, .. } => {
                see(Seen::Lost { message: id.to_string() });
            }
            EventKind::AnswerAccepted { token, operation, request_token, repeated } => {
                if repeated {
                    self.repeated += 1;
                } else {
                    *self.answers.entry(token.clone()).or_default() += 1;
                }
                self.reported(at, token, &operation, request_token, true);
            }
            EventKind::AnswerRefused { token, operation, request_token, .. } => {
                self.refused += 1;
                self.reported(at, token, &operation, request_token, false);
            }
            EventKind::FaultApplied { fault, .. } => *self.faults.entry(fault).or_default() += 1,
            _ => {}
        }
    }

    /// A client request token is a function of the whole outcome; so it names the report.
    fn reported(
        &mut self,
        at: i64,
        token: String,
        operation: &str,
        request_token: Option<String>,
        accepted: bool,
    ) {
        let ledger = self.ledgers.get(&token).copied().unwrap_or_default();
        let request = format!("{operation} {}", request_token.unwrap_or_default());
        // Which life of a worker sent it makes no difference.
        let worker = Worker { ledger, process: 0 };
        self.events.push((at, Seen::Reported { worker, token, request, accepted }));
    }

    /// What a ledger holds now. Call it more often than the ledger is purged.
    pub fn look(&mut self, ledger: u8, records: &[Result<Record, Damaged>]) {
        for record in records.iter().flatten() {
            let token = record.token.to_string();
            if let Some(stop) =
                record.stop_requested.filter(|_| self.held.insert((token.clone(), false)))
            {
                self.events.push((
                    stop.at.as_millisecond(),
                    Seen::StopKnown { ledger, token: token.clone() },
                ));
            }
            if let Some(at) =
                record.concluded_at.filter(|_| self.held.insert((token.clone(), true)))
            {
                self.events.push((at.as_millisecond(), Seen::Concluded { ledger, token }));
            }
        }
    }

    pub fn begun(&self) -> usize {
        self.executions.len()
    }

    pub fn steps(&self) -> usize {
        self.answers.len()
    }

    pub fn answers(&self) -> u32 {
        self.answers.values().sum()
    }

    pub fn all_ended(&self) -> bool {
        self.executions.values().all(Option::is_some)
    }

    /// How many executions ended how.
    pub fn endings(&self) -> BTreeMap<&'static str, usize> {
        let mut endings = BTreeMap::new();
        for ending in self.executions.values() {
            *endings.entry(ending.unwrap_or("never")).or_default() += 1;
        }
        endings
    }

    /// Everything that is wrong, for each execution and each token, and how many events were
    /// judged. `folders` are those of the daemons, by their ledgers' numbers.
    pub fn judge(&mut self, folders: &[&Path]) -> (Vec<String>, usize) {
        let never = self.executions.iter().filter(|(_, ending)| ending.is_none());
        let mut wrong: Vec<String> =
            never.map(|(execution, _)| format!("{execution} never ended")).collect();
        let unanswered = self.answers.iter().filter(|(_, answers)| **answers != 1);
        wrong.extend(
            unanswered.map(|(token, answers)| format!("{token} was answered {answers} times")),
        );

        for (ledger, folder) in (0..).zip(folders) {
            let mut account = Account::of(ledger);
            lines(&folder.join("daemon.log"), |line| account.log(line));
            lines(&folder.join("ends"), |line| account.program(line));
            self.events
                .extend(account.events.drain(..).map(|(at, seen)| (at.as_millisecond(), seen)));
        }
        self.events.sort_by_key(|(at, seen)| (*at, rank(seen)));
        let mut judge = Judge::default();
        for (at, seen) in &self.events {
            if let Err(broken) = judge.see(seen) {
                wrong.push(format!(
                    "{broken}, at {}",
                    Timestamp::from_millisecond(*at).unwrap_or_default()
                ));
            }
        }
        wrong.extend(judge.in_the_end().iter().map(ToString::to_string));
        (wrong, self.events.len())
    }
}

/// The order of events of the same millisecond: that of a step's progress.
fn rank(seen: &Seen<String>) -> u8 {
    match seen {
        Seen::Kills { .. } | Seen::Died { .. } => 0,
        Seen::Opened { .. } | Seen::Allowed { .. } | Seen::Draining { .. } => 1,
        Seen::Sent { .. }
        | Seen::Forged { .. }
        | Seen::Claiming { .. }
        | Seen::Recorded { .. }
        | Seen::Judged { .. }
        | Seen::Stopping { .. } => 2,
        Seen::Started { .. } => 3,
        Seen::StopKnown { .. }
        | Seen::StopTold { .. }
        | Seen::TakenUpAgain { .. }
        | Seen::Free { .. } => 4,
        Seen::Ended { .. } => 5,
        Seen::CleanupBegan { .. } | Seen::CleanupEnded { .. } => 6,
        Seen::Concluded { .. } | Seen::Deferred { .. } => 7,
        Seen::Reported { .. } => 8,
        Seen::Closed { .. } => 9,
        Seen::Deleted { .. }
        | Seen::Lost { .. }
        | Seen::Lapsed { .. }
        | Seen::SuccessTold { .. } => 10,
    }
}

/// The lines of a file, whatever bytes programs have put into it; none where it is not there.
fn lines(path: &Path, mut each: impl FnMut(&str)) {
    let Ok(file) = File::open(path) else { return };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).expect("it is readable") > 0 {
        each(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
