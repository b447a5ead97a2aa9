//! One worker of the model: what of a driver is not the lifecycle, in so far as it decides what the world sees.
//!
//! As in `engine/driver`, an event is decided upon by the shipped [`decide`], the record is written under the condition that nobody
//! wrote it since, a write that finds it changed reads it again and has the same event decided upon anew, and the effects follow the
//! write. What the effects start (a question, a slot, a call of the handler, a report, deletions) is under way until the world says how it
//! ended, and dies with the process.

use callbackd::lifecycle::{Arrival, Effect, End, Event, Here, Status};
use callbackd::step::StopReason;

use crate::record::{self, Kept, Owner};
use crate::world::World;

/// What is under way for the step in one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Driver {
    pub record: Kept,
    /// Nobody has written the record since it was read or written here.
    pub fresh: bool,
    pub here: Here,
    pub work_seen: bool,
    pub refusals: u8,
    pub asking: bool,
    pub awaits_slot: bool,
    pub call: Option<Call>,
    pub reporting: bool,
    /// In how many ticks.
    pub wake: Option<u8>,
    pub renewal_failed: bool,
}

/// A handler's run or cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub cleanup: bool,
    pub aborted: bool,
    /// Which run of all it is; no two compute the same.
    pub number: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub owner: Owner,
    pub up: bool,
    /// It was told to stop: it receives nothing more.
    pub leaving: bool,
    pub driver: Option<Driver>,
}

impl Process {
    pub fn receives(&self) -> bool {
        self.up && !self.leaving
    }
}

impl Driver {
    pub fn new(record: Kept) -> Self {
        Self {
            record,
            fresh: true,
            here: Here::Nothing,
            work_seen: false,
            refusals: 0,
            asking: false,
            awaits_slot: false,
            call: None,
            reporting: false,
            wake: None,
            renewal_failed: false,
        }
    }
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    DeleteBeforeReport,
    SettleBeforeReport,
    StopAnsweredWithoutCleanup,
    StopFlagForgotten,
    StopMessageDeletedAtOnce,
    OwedStopNeverLookedAtAgain,
    RandomClientToken,
    LostReplyForgotten,
    RefusalTakenForAnEnd,
    RefusalComputedAgain,
    ConclusionNotWritten,
    ClaimNotWritten,
    AttemptNotCounted,
    ForeignLeaseIgnored,
    LostLeaseIgnored,
    WritesUnconditional,
}

impl World {
    /// Tells the step's driver in process `w` of an event, with a new driver if it has none.
    pub fn feed(&mut self, w: usize, event: &Event) {
        if self.processes[w].driver.is_none() {
            let record = self.ledgers[self.ledger_of(w)].clone().unwrap_or_else(Kept::of_message);
            self.processes[w].driver = Some(Driver::new(record));
        }
        if self.mutant == Some(Mutant::LostLeaseIgnored) && *event == Event::LeaseLost {
            return;
        }
        while matches!(self.apply(w, event), Applied::Again) {}
        if self.processes[w].driver.as_ref().is_some_and(|driver| driver.here == Here::Nothing && driver.call.is_none())
        {
            self.processes[w].driver = None;
        }
    }

    fn apply(&mut self, w: usize, event: &Event) -> Applied {
        let ledger = self.ledger_of(w);
        let foreign_over = !self.shared || self.lease_over || self.mutant == Some(Mutant::ForeignLeaseIgnored);
        let me = self.processes[w].owner;
        let Some(driver) = &self.processes[w].driver else { return Applied::Done };
        let decided = match record::decided(driver, event, me, foreign_over) {
            Ok(decided) => decided,
            Err(illegal) => {
                self.illegal = Some(illegal.to_string());
                return Applied::Done;
            }
        };
        let record::Decided { mut write, here, work_seen, refusals, mut effects } = decided;
        self.mutate(w, event, &mut write, &mut effects);
        if let Some(record) = write {
            let known = self.mutant == Some(Mutant::StopFlagForgotten) && record.stop.is_some();
            let stored = Kept { stop: if known { None } else { record.stop }, ..record.clone() };
            let skipped = match self.mutant {
                Some(Mutant::ConclusionNotWritten) => record.status == Status::Concluded,
                Some(Mutant::ClaimNotWritten) => effects.contains(&Effect::Run),
                _ => false,
            };
            let driver = self.driver(w);
            if !driver.fresh && self.mutant != Some(Mutant::WritesUnconditional) {
                return self.read_again(w);
            }
            if !skipped {
                self.ledgers[ledger] = Some(stored.clone());
                self.lease_over = false;
                for (other, process) in self.processes.iter_mut().enumerate() {
                    if let Some(driver) = process.driver.as_mut().filter(|_| other != w && self.shared) {
                        driver.fresh = false;
                    }
                }
                self.recorded(ledger, &record);
                if std::mem::take(&mut self.acknowledgement_lost) {
                    // Durable, and the worker is told that it failed: what it tries again finds the record changed.
                    self.driver(w).fresh = false;
                    return Applied::Again;
                }
            }
            self.driver(w).record = stored;
            self.driver(w).renewal_failed = false;
        }
        let driver = self.driver(w);
        (driver.here, driver.work_seen, driver.refusals) = (here, work_seen, refusals);
        for effect in &effects {
            self.perform(w, effect);
        }
        Applied::Done
    }

    fn read_again(&mut self, w: usize) -> Applied {
        let record = self.ledgers[self.ledger_of(w)].clone().unwrap_or_else(Kept::of_message);
        let driver = self.driver(w);
        let stopped = driver.record.stop.is_none() && record.stop.is_some();
        let notice = stopped && driver.here == Here::Running;
        (driver.record, driver.fresh) = (record, true);
        self.notice |= notice;
        Applied::Again
    }

    fn perform(&mut self, w: usize, effect: &Effect) {
        let number = self.runs;
        match effect {
            Effect::Ask => self.driver(w).asking = true,
            Effect::AwaitSlot => self.driver(w).awaits_slot = true,
            Effect::Run => {
                self.runs += 1;
                self.driver(w).call = Some(Call { cleanup: false, aborted: false, number });
                self.started(w);
            }
            Effect::CleanUp(_) => {
                self.driver(w).call = Some(Call { cleanup: true, aborted: false, number });
                if self.mutant != Some(Mutant::StopAnsweredWithoutCleanup) {
                    self.cleaned(w);
                }
            }
            Effect::Abort => {
                if let Some(call) = &mut self.driver(w).call {
                    call.aborted = true;
                }
            }
            Effect::Report => self.driver(w).reporting = true,
            Effect::Wake(at) => self.driver(w).wake = Some(record::ticks_until(*at)),
            Effect::Delete => self.queue.delete_held(w),
            Effect::Return => self.queue.give_back(w),
            Effect::LetGo | Effect::Refuse(_) => self.queue.let_go(w),
            Effect::Tell(_) | Effect::CountStop(_) | Effect::Finish(_) => {}
        }
    }

    /// Breaks one rule in what was decided.
    fn mutate(&mut self, w: usize, event: &Event, write: &mut Option<Kept>, effects: &mut Vec<Effect>) {
        let concludes = write.as_ref().is_some_and(|record| record.status == Status::Concluded);
        match self.mutant {
            Some(Mutant::DeleteBeforeReport) if concludes => effects.insert(0, Effect::Delete),
            Some(Mutant::SettleBeforeReport) if concludes => {
                if let Some(record) = write {
                    record.status = Status::Settled;
                }
                effects.push(Effect::Delete);
            }
            Some(Mutant::StopMessageDeletedAtOnce) if *event == Event::Delivered(Arrival::Stop) => {
                effects.push(Effect::Delete);
            }
            Some(Mutant::OwedStopNeverLookedAtAgain) => {
                let owed = self.driver(w).record.status == Status::Owed;
                effects.retain(|effect| !(owed && matches!(effect, Effect::Wake(_))));
            }
            Some(Mutant::RefusalTakenForAnEnd) if matches!(event, Event::ReportRefused(_)) => {
                *effects = vec![Effect::Delete];
            }
            Some(Mutant::RefusalComputedAgain) if matches!(event, Event::ReportRefused(_)) => {
                *effects = vec![Effect::Run];
            }
            Some(Mutant::AttemptNotCounted) if effects.contains(&Effect::Run) => {
                if let Some(record) = write {
                    record.attempt = 1;
                }
            }
            _ => {}
        }
    }

    pub fn driver(&mut self, w: usize) -> &mut Driver {
        self.processes[w].driver.as_mut().expect("a driver that is fed")
    }

    /// The handler's call has ended, as the driver tells it.
    pub fn call_ended(&mut self, w: usize, end: &Event) {
        self.driver(w).call = None;
        self.feed(w, end);
    }

    pub fn stop_reason(&self, w: usize) -> Option<StopReason> {
        match self.processes[w].driver.as_ref()?.here {
            Here::Winding(reason) | Here::Cleaning(reason) => Some(reason),
            _ => None,
        }
    }
}

/// What an aborted call ends with.
pub fn aborted(call: Call) -> Event {
    if call.cleanup { Event::CleanupAborted } else { Event::Ended(End::Aborted) }
}

enum Applied {
    Done,
    /// The record was read again: the same event anew.
    Again,
}
