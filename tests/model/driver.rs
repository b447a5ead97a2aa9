//! What `engine/driver` does with the lifecycle's decisions: writes first, decides anew on a changed record, then performs the effects.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use callbackd::lifecycle::{Effect, Here, Lease, Record, State, Status, Transition, Via, View, decide};
use callbackd::outcome::{ClientRequestToken, Outcome};
use callbackd::step::StopReason;
use jiff::Timestamp;

use crate::happening::{Happening, RunEnd};
use crate::judge::Seen;
use crate::known::{Known, Limit, NOW, POLICY};
use crate::mutant::Mutant;
use crate::turn::{Mood, Turn};
use crate::witness::Witness;
use crate::world::{Ask, Broken, Call, Copy, Driver, Phase, Report};

/// The token of the one step.
pub const TOKEN: u64 = 1;

/// Why an event had no consequences yet.
enum NotApplied {
    Illegal(String),
    Ledger,
}

enum Written {
    Done,
    Changed,
    Failed,
}

impl Turn<'_> {
    /// Starts a driver, which reads the record before anything is decided.
    pub fn spawn(&mut self, worker: usize) {
        let known = self.world.stored(worker).cloned().unwrap_or_else(Known::of_message);
        self.world.workers[worker].driver = Some(Driver::new(self.as_read(known)));
    }

    /// Tells the lifecycle of an event, and does what a driver does before it waits for the next.
    pub fn feed(&mut self, worker: usize, happening: Happening) {
        self.tell_lifecycle(worker, happening);
        self.go_on(worker);
    }

    fn tell_lifecycle(&mut self, worker: usize, happening: Happening) {
        let here = self.driver(worker).here;
        if self.setup.mutant.is_some_and(|mutant| mutant.ignores(happening, here)) {
            return;
        }
        match self.apply(worker, happening) {
            Ok(()) => {}
            Err(NotApplied::Illegal(text)) => self.broken(Broken::Illegal(text)),
            // A renewal comes again by itself.
            Err(NotApplied::Ledger) if happening == Happening::Renew => {}
            Err(NotApplied::Ledger) => self.driver(worker).pending = Some(happening),
        }
    }

    /// Hears of a new phase, and leaves the step once nothing is under way for it.
    pub fn go_on(&mut self, worker: usize) {
        loop {
            let now = self.world.workers[worker].phase;
            let Some(driver) = &mut self.world.workers[worker].driver else { return };
            if driver.pending.is_some() || self.world.broken.is_some() {
                return;
            }
            if driver.phase != now {
                driver.phase = now;
                self.tell_lifecycle(
                    worker,
                    match now {
                        Phase::Running | Phase::Draining => Happening::Drain,
                        Phase::Stopping => Happening::Shutdown,
                        Phase::Leaving | Phase::Down => Happening::Halt,
                    },
                );
                continue;
            }
            if driver.here != Here::Nothing {
                if !self.setup.shared && driver.here != Here::Sleeping {
                    // A wake that finds the step elsewhere does nothing; where the ledger is shared, it reads the record anew.
                    driver.wake = false;
                }
                return;
            }
            if !std::mem::take(&mut driver.stop_found) {
                let orphaned = driver.call.is_some();
                self.world.workers[worker].driver = None;
                if orphaned {
                    self.broken(Broken::Orphaned);
                }
                return;
            }
            self.tell_lifecycle(worker, Happening::StopSeen(Via::Ledger));
        }
    }

    /// The ledger has not taken the record of a pending event until the claim was out.
    pub fn lease_is_out(&mut self, worker: usize) {
        self.driver(worker).renew = false;
        if self.setup.mutant == Some(Mutant::DropWhatTheLedgerDidNotTake) {
            self.driver(worker).pending = None;
        }
        // Writes nothing, so the ledger cannot be in its way.
        self.tell_lifecycle(worker, Happening::LeaseLost);
    }

    /// Leaves a step behind whose record the ledger does not take.
    pub fn abandon(&mut self, worker: usize) {
        let run = self.driver(worker).call.take().is_some_and(|call| !call.cleanup);
        if run {
            let seen = Seen::Ended { worker: self.world.judged(worker), token: TOKEN, own: false };
            self.see(&seen);
        }
        self.witness(Witness::AbandonedAtHalt);
        self.let_go(worker);
        self.world.workers[worker].driver = None;
    }

    fn apply(&mut self, worker: usize, happening: Happening) -> Result<(), NotApplied> {
        let event = self.setup.mutant.map_or(happening, |mutant| mutant.mishear(happening)).event();
        let me = self.world.id(worker);
        loop {
            let driver = self.driver(worker);
            let record = driver.known.record();
            let resumed = record.resume || record.status == Status::Claimed && record.owner.as_ref() == Some(&me);
            let mut state = driver.state();
            let lapsed = driver.lapsed;
            let blind = is_anothers_to_answer(driver);
            if self.setup.mutant == Some(Mutant::AnswerStopBlindly) && blind {
                state.record.status = Status::Waiting;
            }
            let foreign = self.foreign(&state.record, lapsed, worker);
            let view = View { now: NOW, me: &me, policy: &POLICY, foreign, random: 0.5 };
            let mut transition =
                decide(&state, &event, &view).map_err(|illegal| NotApplied::Illegal(illegal.to_string()))?;
            if let Some(mutant) = self.setup.mutant {
                mutant.distort(&mut transition, &state, happening);
            }
            self.note(&state, happening, &transition);
            let Transition { mut write, here, work_seen, refusals, not_found, mut effects } = transition;
            if self.setup.mutant == Some(Mutant::RunBeforeWrite) && effects.contains(&Effect::Run) {
                self.perform(worker, &Effect::Run, resumed);
                effects.clear();
            }
            if let Some(record) = write.take() {
                match self.write(worker, record) {
                    Written::Done => {}
                    Written::Failed => return Err(NotApplied::Ledger),
                    Written::Changed => {
                        self.witness(Witness::DecidedAnew);
                        self.read_again(worker);
                        continue;
                    }
                }
            }
            if blind && effects.iter().any(|effect| matches!(effect, Effect::CleanUp(_))) {
                self.broken(Broken::AnsweredBlindly);
            }
            let driver = self.driver(worker);
            driver.here = here;
            driver.work_seen = work_seen;
            // More than enough counts as enough.
            driver.refusals = refusals.min(3);
            driver.not_found = not_found;
            for effect in &effects {
                self.perform(worker, effect, resumed);
            }
            return Ok(());
        }
    }

    /// In a ledger of its own every other owner is dead; elsewhere it is once its claim has not changed for a lease.
    fn foreign(&self, record: &Record, lapsed: bool, worker: usize) -> Lease {
        let foreign = record.owner.as_ref().is_some_and(|owner| *owner != self.world.id(worker));
        let blind = self.setup.mutant == Some(Mutant::IgnoreForeignLease);
        if foreign && self.setup.shared && !lapsed && !blind { Lease::Until(Timestamp::MAX) } else { Lease::Over }
    }

    fn write(&mut self, worker: usize, record: Record) -> Written {
        let mutant = self.setup.mutant;
        let mood = self.strike();
        if mood == Mood::Fails {
            return Written::Failed;
        }
        if !self.driver(worker).fresh && mutant != Some(Mutant::OverwriteBlindly) {
            return Written::Changed;
        }
        let known = Known::new(Record { version: 1, ..record });
        let lost = match known.record().status {
            Status::Claimed => mutant == Some(Mutant::RunWithoutClaim) && known.record().stop_requested.is_none(),
            Status::Concluded => mutant == Some(Mutant::ForgetOutcome),
            Status::Deferred => mutant == Some(Mutant::ForgetDeferral),
            _ => false,
        };
        if !lost {
            self.store(worker, &known);
        }
        let mine = self.setup.shared && known.is_owned_by(&self.world.id(worker));
        let driver = self.driver(worker);
        if mood == Mood::FailsAfterEffect {
            driver.fresh = false;
            self.witness(Witness::WrittenWithoutAnAnswer);
            return Written::Failed;
        }
        driver.known = known;
        driver.fresh = !lost;
        driver.lapsed = false;
        driver.renew = mine;
        Written::Done
    }

    fn store(&mut self, worker: usize, known: &Known) {
        let ledger = self.world.workers[worker].ledger;
        let record = known.record();
        if record.stop_requested.is_some() {
            self.see(&Seen::StopKnown { ledger, token: TOKEN });
        }
        if record.outcome.is_some() {
            self.see(&Seen::Concluded { ledger, token: TOKEN });
        }
        if record.status == Status::Deferred {
            self.see(&Seen::Deferred { ledger, token: TOKEN });
        }
        self.world.ledgers[usize::from(ledger)] = Some(known.clone());
        for driver in self.world.workers.iter_mut().filter(|w| w.ledger == ledger).filter_map(|w| w.driver.as_mut()) {
            driver.fresh = false;
        }
    }

    pub fn read_again(&mut self, worker: usize) {
        let known = self.world.stored(worker).cloned().unwrap_or_else(Known::of_message);
        let known = self.as_read(known);
        let driver = self.driver(worker);
        let stop = driver.known.record().stop_requested.is_some();
        driver.lapsed &= driver.fresh;
        driver.fresh = true;
        driver.known = known;
        if !stop && driver.known.record().stop_requested.is_some() && driver.here == Here::Running {
            driver.stop_found = true;
            self.witness(Witness::StopFoundInLedger);
        }
    }

    fn as_read(&self, known: Known) -> Known {
        if self.setup.mutant == Some(Mutant::ForgetStop) && known.is_stored() {
            return Known::new(Record { stop_requested: None, ..known.record().clone() });
        }
        known
    }

    fn perform(&mut self, worker: usize, effect: &Effect, resumed: bool) {
        let judged = self.world.judged(worker);
        match effect {
            Effect::Ask => self.driver(worker).asks.push(Ask::Sent),
            Effect::AwaitSlot => self.driver(worker).awaits_slot = true,
            Effect::Run => {
                self.driver(worker).call = Some(Call { cleanup: false, aborted: false });
                self.see(&Seen::Started { worker: judged, token: TOKEN });
                let attempts = &mut self.world.attempts[usize::from(judged.ledger)];
                *attempts += u32::from(!resumed);
                if *attempts > POLICY.max_attempts {
                    self.broken(Broken::TooManyAttempts);
                }
            }
            Effect::Tell(_) => {
                let driver = self.driver(worker);
                driver.grace |= driver.call.is_some();
            }
            Effect::Abort => {
                if let Some(call) = &mut self.driver(worker).call {
                    call.aborted = true;
                }
            }
            Effect::CleanUp(_) => {
                if self.setup.mutant == Some(Mutant::AnswerStopWithoutCleanup) {
                    self.driver(worker).pending = Some(Happening::Cleaned { well: true });
                    return;
                }
                self.driver(worker).call = Some(Call { cleanup: true, aborted: false });
                self.see(&Seen::CleanupBegan { worker: judged, token: TOKEN });
            }
            Effect::Report => {
                let mut report = report_of(self.driver(worker).known.record());
                if self.setup.mutant == Some(Mutant::RandomRequest) {
                    report.request ^= u64::from(judged.process) + 1;
                }
                self.driver(worker).report = Some(report);
            }
            Effect::Wake(_) => self.driver(worker).wake = true,
            Effect::Delete => {
                let messages = std::mem::take(&mut self.driver(worker).messages);
                self.world.workers[worker].deleting |= messages;
            }
            Effect::Return => {
                let messages = std::mem::take(&mut self.driver(worker).messages);
                self.world.workers[worker].held &= !messages;
                for (number, copy) in self.world.queue.iter_mut().enumerate() {
                    if messages & (1 << number) != 0 && *copy == (Copy::InFlight { receiver: worker }) {
                        *copy = Copy::Visible { received: true };
                    }
                }
            }
            Effect::LetGo | Effect::Refuse(_) => self.let_go(worker),
            Effect::CountStop(_) | Effect::Finish(_) => {}
        }
    }

    /// The messages come back when their visibility timeout is over.
    fn let_go(&mut self, worker: usize) {
        let messages = std::mem::take(&mut self.driver(worker).messages);
        if self.setup.mutant != Some(Mutant::HoldMessagesForEver) {
            self.world.workers[worker].held &= !messages;
        }
    }

    fn note(&self, state: &State, happening: Happening, transition: &Transition) {
        let Transition { here, effects, .. } = transition;
        let status = state.record.status;
        match (happening, state.here) {
            (Happening::LeaseLost, Here::Running) => self.witness(Witness::LeaseLostWhileRunning),
            (Happening::LeaseLost, Here::Cleaning(_)) => self.witness(Witness::LeaseLostWhileCleaning),
            (Happening::StopSeen(_) | Happening::Delivered(callbackd::lifecycle::Arrival::Stop), _) => match status {
                Status::New => self.witness(Witness::StopBeforeWork),
                Status::Concluded => self.witness(Witness::StopAfterConclusion),
                Status::Settled => self.witness(Witness::StopAfterSettlement),
                Status::Deferred => self.witness(Witness::StopWhileDeferred),
                Status::Claimed if *here == Here::Sleeping => self.witness(Witness::StopOfAForeignRun),
                _ => {}
            },
            (Happening::Ended(end), Here::Winding(StopReason::PipelineStopped)) if end.is_own() => {
                self.witness(Witness::OutcomeKeptWithinGrace);
            }
            (Happening::Ended(RunEnd::Retry), _) if effects.contains(&Effect::Report) => {
                self.witness(Witness::GaveUpAfterItsAttempts);
            }
            (Happening::SlotFree | Happening::Woken, Here::Queued | Here::Sleeping) if status == Status::Deferred => {
                self.witness(Witness::DeferredMeanwhile);
            }
            (Happening::SlotFree, Here::Queued) if status == Status::Settled => self.witness(Witness::EndedMeanwhile),
            (Happening::Answered(_), Here::Verifying) => self.witness(Witness::Verified),
            (Happening::Answered(_), Here::Doubting) if effects.contains(&Effect::Delete) => {
                self.witness(Witness::RefusedBecauseClosed);
            }
            _ => {}
        }
        let cleans = effects.iter().any(|effect| matches!(effect, Effect::CleanUp(_)));
        let foreign =
            state.record.owner.is_some() && transition.write.as_ref().is_some_and(|to| to.owner != state.record.owner);
        match status {
            Status::Claimed if foreign && cleans => self.witness(Witness::CleanupTakenOver),
            Status::Claimed if foreign && effects.contains(&Effect::Run) => self.witness(Witness::RunTakenOver),
            Status::Owed if cleans => self.witness(Witness::DebtPaidHere),
            Status::Waiting if state.record.resume && effects.contains(&Effect::Run) => self.witness(Witness::Resumed),
            Status::Deferred if effects.contains(&Effect::Report) => self.witness(Witness::DeferredTooLong),
            Status::Deferred if transition.write.as_ref().is_some_and(|to| to.status == Status::Settled) => {
                self.witness(Witness::CompletedElsewhere);
            }
            _ => {}
        }
        if effects.contains(&Effect::CleanUp(StopReason::TimeLimit)) {
            self.witness(Witness::TimeLimitReached);
        }
    }

    pub fn driver(&mut self, worker: usize) -> &mut Driver {
        self.world.workers[worker].driver.as_mut().expect("the worker has a driver for the step")
    }
}

/// This ledger has never run the step, its work is not here, and whoever else runs it has time left to answer its stop.
fn is_anothers_to_answer(driver: &Driver) -> bool {
    let record = driver.known.record();
    let unknown = matches!(record.status, Status::New | Status::Owed);
    let waited = record.stop_requested.is_some() && !driver.known.is_ahead(Limit::Takeover);
    let work = driver.messages & !(1 << 1) != 0;
    unknown && !work && !waited
}

fn report_of(record: &Record) -> Report {
    let mut hasher = DefaultHasher::new();
    record.client_request_token.as_ref().map(ClientRequestToken::as_str).hash(&mut hasher);
    serde_json::to_string(&record.outcome).expect("an outcome is JSON").hash(&mut hasher);
    Report { request: hasher.finish(), success: matches!(record.outcome, Some(Outcome::Success(_))) }
}
