//! What `engine/driver` does with the lifecycle's decisions: writes first, decides again on a
//! changed record, then performs the effects.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use callbackd::lifecycle::{
    self, Activity, Effect, Lease, Local, Record, Status, Transition, Urgency, Via, View, Write,
    decide,
};
use callbackd::outcome::{ClientRequestToken, Outcome};
use callbackd::step::StopReason;
use jiff::Timestamp;

use crate::happening::{Happening, Standing};
use crate::judge::Seen;
use crate::known::{Known, Limit, NOW};
use crate::mutant::Mutant;
use crate::turn::{Mood, Turn};
use crate::witness::Witness;
use crate::world::{Ask, Broken, Call, Copy, Driver, FORGED, Phase, Report, STOP, WORN};

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

    /// Passes an event to the lifecycle, and does what a driver does before it waits for the next.
    pub fn feed(&mut self, worker: usize, happening: Happening) {
        self.tell_lifecycle(worker, happening);
        self.go_on(worker);
    }

    /// The same for what a driver hears while another event waits for the ledger. What would have
    /// to wait too comes again by itself.
    pub fn feed_meanwhile(&mut self, worker: usize, happening: Happening) {
        if self.driver(worker).pending.is_none() {
            return self.feed(worker, happening);
        }
        if let Err(NotApplied::Illegal(text)) = self.apply(worker, happening) {
            self.broken(Broken::Illegal(text));
        }
    }

    fn tell_lifecycle(&mut self, worker: usize, happening: Happening) {
        let activity = self.driver(worker).activity();
        if self.setup.mutant.is_some_and(|mutant| mutant.ignores(happening, activity)) {
            return;
        }
        match self.apply(worker, happening) {
            Ok(()) => {}
            Err(NotApplied::Illegal(text)) => self.broken(Broken::Illegal(text)),
            // Who asked for it is told so, and may ask again.
            Err(NotApplied::Ledger) if happening == Happening::RetryAsked => {}
            Err(NotApplied::Ledger) => self.driver(worker).pending = Some(happening),
        }
    }

    /// Leaves the step once nothing is under way for it.
    pub fn go_on(&mut self, worker: usize) {
        loop {
            let Some(driver) = &mut self.world.workers[worker].driver else { return };
            if driver.pending.is_some() || self.world.broken.is_some() {
                return;
            }
            if !driver.local.idle() {
                let asleep = matches!(
                    driver.activity(),
                    Activity::Sleeping
                        | Activity::Unverified
                        | Activity::Reopening
                        | Activity::Confirming
                );
                if !self.setup.shared && !asleep && driver.local.stop_in_doubt.is_none() {
                    // A wake that finds the step in another state does nothing; with a shared
                    // ledger, it reads the record again.
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

    /// The worker claims under another id from now on, and what it runs must end.
    pub fn lease_is_out(&mut self, worker: usize) {
        let mutant = self.setup.mutant;
        self.world.workers[worker].losses +=
            u8::from(mutant != Some(Mutant::KeepTheIdOfALostLease));
        self.world.workers[worker].flagged = false;
        if self.world.workers[worker].driver.is_none() {
            return;
        }
        let taken = self.world.was_taken_over(worker);
        if mutant == Some(Mutant::KeepWhatIsNotTakenYet) && !taken {
            return;
        }
        self.driver(worker).claims = false;
        if self.setup.mutant == Some(Mutant::DropWhatTheLedgerDidNotTake) {
            self.driver(worker).pending = None;
        }
        // Writes nothing, so the ledger cannot be in its way.
        self.tell_lifecycle(worker, Happening::LeaseLost);
    }

    /// Abandons a step whose record the ledger does not accept.
    pub fn abandon(&mut self, worker: usize) {
        let run = self.driver(worker).call.take().is_some_and(|call| !call.cleanup);
        if run {
            let seen = Seen::Ended { worker: self.world.judged(worker), token: TOKEN, own: false };
            self.see(&seen);
        }
        self.witness(Witness::AbandonedAtHalt);
        self.let_go(worker, u8::MAX);
        self.world.workers[worker].driver = None;
    }

    fn apply(&mut self, worker: usize, happening: Happening) -> Result<(), NotApplied> {
        let mutant = self.setup.mutant;
        let event = mutant.map_or(happening, |mutant| mutant.mishear(happening)).event();
        let me = self.world.id(worker);
        loop {
            let driver = self.driver(worker);
            let record = driver.known.record();
            let mine = record.owner.as_ref() == Some(&me);
            // Elsewhere what its owner's death makes of it is decided as it is claimed.
            let spared = record.is_left_behind(&me) && !record.is_suspected();
            let resumed = record.resume || record.status == Status::Claimed && mine || spared;
            let crashed = record.status == Status::Claimed && !mine;
            let mut state = driver.state();
            let (lapsed, waiting) = (driver.lapsed, driver.pending.is_some());
            let nothing_runs =
                !state.local.activity.is_running() && state.record.stop_requested.is_none();
            let (blind, owed) = (is_anothers_to_answer(driver), record.status == Status::Owed);
            if mutant == Some(Mutant::AnswerStopBlindly) && blind {
                state.record.status = Status::Waiting;
            }
            if let Some(mutant) = mutant {
                mutant.misremember(&mut state, happening);
            }
            let foreign = self.foreign(&state.record, lapsed, worker);
            let policy = mutant
                .map_or(self.setup.policy, |mutant| mutant.misread(self.setup.policy, happening));
            let view = View {
                now: NOW,
                me: &me,
                policy: &policy,
                handlers: "handler",
                foreign,
                random: 0.5,
                phase: self.phase(worker),
                holds: self.holds(worker),
                own_account: true,
            };
            let mut transition = decide(&state, &event, &view)
                .map_err(|illegal| NotApplied::Illegal(illegal.to_string()))?;
            if let Some(mutant) = mutant {
                mutant.distort(&mut transition, &state, happening);
            }
            self.note(&state, happening, &transition);
            let begun = transition
                .write
                .as_ref()
                .is_some_and(|write| write.record.attempt > state.record.attempt);
            if crashed && resumed && begun {
                self.broken(Broken::Blamed);
            }
            let Transition { mut write, local, mut effects } = transition;
            if mutant == Some(Mutant::RunBeforeWrite) && effects.contains(&Effect::Run) {
                self.perform(worker, &Effect::Run, resumed);
                effects.clear();
            }
            match write.take() {
                None => {}
                Some(Write { record, urgency: Urgency::Along }) => {
                    let driver = self.driver(worker);
                    driver.known = Known::new(record);
                    driver.along = true;
                }
                // It comes again, and by then the ledger may have taken what the driver waits for.
                Some(_) if waiting => return Ok(()),
                Some(Write { record, .. }) => match self.write(worker, record) {
                    Written::Done => {}
                    Written::Failed => {
                        if effects.iter().any(|effect| matches!(effect, Effect::Tell(_))) {
                            self.broken(Broken::ToldTooLate);
                        }
                        return Err(NotApplied::Ledger);
                    }
                    Written::Changed => {
                        self.witness(Witness::DecidedAnew);
                        self.read_again(worker);
                        continue;
                    }
                },
            }
            let cleans = effects.iter().any(|effect| matches!(effect, Effect::CleanUp(_)));
            if blind && cleans {
                self.broken(Broken::AnsweredBlindly);
            }
            if nothing_runs && effects.contains(&Effect::CleanUp(StopReason::SettledElsewhere)) {
                self.broken(Broken::CleanedWhatSucceeded);
            }
            if cleans && owed && !matches!(happening, Happening::Answered(_)) {
                self.broken(Broken::AnsweredUnasked);
            }
            // Their number only spaces the next. One denial counts as enough for the next question.
            let failures = if local.failures == 0 { 0 } else { 4 };
            self.driver(worker).local =
                Local { refusals: local.refusals.min(1), failures, ..local };
            for effect in &effects {
                self.perform(worker, effect, resumed);
            }
            return Ok(());
        }
    }

    /// As the lifecycle sees it.
    fn phase(&self, worker: usize) -> lifecycle::Phase {
        if self.setup.mutant == Some(Mutant::ForgetThePhase) {
            return lifecycle::Phase::Running;
        }
        match self.world.workers[worker].phase {
            Phase::Running => lifecycle::Phase::Running,
            Phase::Draining => lifecycle::Phase::Draining,
            Phase::Stopping => lifecycle::Phase::Stopping,
            Phase::Leaving | Phase::Down => lifecycle::Phase::Leaving,
        }
    }

    /// Writes what was to be written along.
    pub fn flush(&mut self, worker: usize) {
        let record = self.driver(worker).known.record().clone();
        match self.write(worker, record) {
            Written::Done | Written::Failed => {}
            Written::Changed => {
                self.witness(Witness::DecidedAnew);
                self.read_again(worker);
            }
        }
    }

    /// In a ledger of its own every other owner is dead; elsewhere it is once its record has not
    /// changed for a lease.
    fn foreign(&self, record: &Record, lapsed: bool, worker: usize) -> Lease {
        let owner = record.owner.as_ref();
        let foreign = owner.is_some_and(|owner| !self.world.is_of_process(worker, owner));
        let blind = self.setup.mutant == Some(Mutant::IgnoreForeignLease);
        if foreign && self.setup.shared && !lapsed && !blind {
            Lease::Until(Timestamp::MAX)
        } else {
            Lease::Over
        }
    }

    fn write(&mut self, worker: usize, record: Record) -> Written {
        let mutant = self.setup.mutant;
        let before = self.driver(worker).known.record().clone();
        let owner = before.owner.clone().filter(|_| self.setup.shared);
        let alive = owner.as_ref().and_then(|owner| self.world.alive(owner));
        let alive = alive
            .filter(|alive| *alive != worker && owner.as_ref() == Some(&self.world.id(*alive)));
        let moves = before.owner != record.owner;
        if alive.is_some() && moves && self.driver(worker).renewed {
            self.witness(Witness::RenewedInTime);
            if mutant != Some(Mutant::FenceWhateverItsVersion) {
                return Written::Changed;
            }
        }
        // Before the record is written, which may fail.
        if let Some(alive) = alive.filter(|_| moves && self.driver(worker).lapsed)
            && mutant != Some(Mutant::TakeOverWithoutFencing)
        {
            self.world.workers[alive].fenced = true;
            self.witness(Witness::Fenced);
        }
        let mood = self.strike();
        if mood == Mood::Fails {
            return Written::Failed;
        }
        if !self.driver(worker).fresh && mutant != Some(Mutant::OverwriteBlindly) {
            return Written::Changed;
        }
        let known = Known::new(Record { version: 1, ..record });
        let lost = match known.record().status {
            Status::Claimed => {
                mutant == Some(Mutant::RunWithoutClaim) && known.record().stop_requested.is_none()
            }
            Status::Concluded => mutant == Some(Mutant::ForgetOutcome),
            Status::Deferred => mutant == Some(Mutant::ForgetDeferral),
            _ => false,
        };
        if !lost {
            self.store(worker, &known);
        }
        let news = before.stop_requested.is_none() && known.record().stop_requested.is_some();
        if let Some(alive) = alive.filter(|_| news && !moves)
            && mutant != Some(Mutant::ForgetTheStopSet)
        {
            self.world.workers[alive].flagged = true;
        }
        let mine = self.setup.shared && known.is_owned_by(&self.world.id(worker));
        let driver = self.driver(worker);
        if mood == Mood::FailsAfterEffect {
            driver.fresh = false;
            self.witness(Witness::WrittenWithoutAnAnswer);
            return Written::Failed;
        }
        driver.known = known;
        driver.along = false;
        driver.fresh = !lost;
        (driver.lapsed, driver.renewed) = (false, false);
        driver.claims = mine;
        Written::Done
    }

    fn store(&mut self, worker: usize, known: &Known) {
        let ledger = self.world.workers[worker].ledger;
        let record = known.record();
        // A settled record tells of a time that is over, while the token may have come back.
        let goes_on = record.status != Status::Settled;
        if goes_on && record.stop_requested.is_some() {
            self.see(&Seen::StopKnown { ledger, token: TOKEN });
        }
        if goes_on && record.outcome.is_some() {
            self.see(&Seen::Concluded { ledger, token: TOKEN });
        }
        if record.status == Status::Deferred {
            self.see(&Seen::Deferred { ledger, token: TOKEN });
        }
        self.world.ledgers[usize::from(ledger)] = Some(known.clone());
        for driver in self
            .world
            .workers
            .iter_mut()
            .filter(|w| w.ledger == ledger)
            .filter_map(|w| w.driver.as_mut())
        {
            driver.fresh = false;
        }
    }

    pub fn read_again(&mut self, worker: usize) {
        let known = self.world.stored(worker).cloned().unwrap_or_else(Known::of_message);
        let known = self.as_read(known);
        let driver = self.driver(worker);
        let stop = driver.known.record().stop_requested.is_some();
        let same = driver.known.record().owner == known.record().owner;
        driver.lapsed &= same && !driver.renewed;
        driver.renewed &= driver.lapsed;
        driver.fresh = true;
        driver.along = false;
        driver.known = known;
        if !stop
            && driver.known.record().stop_requested.is_some()
            && driver.activity() == Activity::Running
        {
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
            Effect::Ask { confirm_stop } => {
                // While the same question is pending, it is not asked again.
                let (ask, asks) =
                    (Ask::Sent { confirm: *confirm_stop }, &mut self.driver(worker).asks);
                if !asks.contains(&ask) {
                    asks.push(ask);
                }
            }
            Effect::AwaitSlot => {
                if self.world.workers[worker].phase != Phase::Running {
                    self.broken(Broken::StartedTooLate);
                }
                self.driver(worker).awaits_slot = true;
            }
            Effect::Run => {
                if self.world.workers[worker].phase != Phase::Running {
                    self.broken(Broken::StartedTooLate);
                }
                if !self.driver(worker).told_open {
                    self.broken(Broken::StartedUnasked);
                }
                self.driver(worker).call = Some(Call { cleanup: false, aborted: false });
                self.see(&Seen::Started { worker: judged, token: TOKEN });
                let attempts = &mut self.world.attempts[usize::from(judged.ledger)];
                *attempts += u32::from(!resumed);
                if *attempts > self.setup.policy.max_attempts {
                    self.broken(Broken::TooManyAttempts);
                }
            }
            Effect::Tell(reason) => {
                self.believe(*reason);
                let driver = self.driver(worker);
                driver.grace |= driver.call.is_some();
            }
            Effect::Abort => {
                if let Some(call) = &mut self.driver(worker).call {
                    call.aborted = true;
                }
            }
            Effect::CleanUp(reason) => {
                self.believe(*reason);
                if self.setup.mutant == Some(Mutant::AnswerStopWithoutCleanup) {
                    self.driver(worker).pending = Some(Happening::Cleaned { well: true });
                    return;
                }
                self.driver(worker).call = Some(Call { cleanup: true, aborted: false });
                self.see(&Seen::CleanupBegan { worker: judged, token: TOKEN });
            }
            Effect::Report => {
                let mut report = report_of(self.driver(worker).known.record());
                if report.success && self.setup.answers_itself() {
                    self.broken(Broken::AnsweredForItsHandler);
                }
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
                    if messages & (1 << number) != 0 && copy.is_held_by(worker) {
                        *copy = Copy::Visible { receives: copy.receives() };
                    }
                }
            }
            Effect::LetGo | Effect::Refuse(_) => self.let_go(worker, u8::MAX),
            Effect::RefuseDelivery(_) => self.let_go(worker, 1 << self.delivered),
            Effect::RefuseStop(_) => self.let_go(worker, 1 << STOP | 1 << FORGED),
            Effect::PassOn => {
                let messages = std::mem::take(&mut self.driver(worker).messages);
                self.world.workers[worker].held &= !messages;
                for (number, copy) in self.world.queue.iter_mut().enumerate() {
                    if messages & (1 << number) != 0 && copy.is_held_by(worker) {
                        *copy = Copy::Visible { receives: 0 };
                    }
                }
                self.witness(Witness::PassedOn);
            }
            Effect::Replace => self.replace(worker),
            Effect::Missing
            | Effect::AnsweredElsewhere(_)
            | Effect::CountStop(_)
            | Effect::Finish(_) => {}
        }
    }

    /// A stop that does not exist is never believed, and a success never called one.
    fn believe(&mut self, reason: StopReason) {
        let never_stopped = self.world.budget.stops == self.setup.budget.stops;
        let is_false = match (reason, self.world.sagemaker) {
            (StopReason::PipelineStopped, Standing::Open { stopping }) => !stopping,
            (StopReason::PipelineStopped, Standing::Succeeded) => never_stopped,
            (StopReason::SettledElsewhere, standing) => standing != Standing::Succeeded,
            _ => false,
        };
        if is_false {
            self.broken(Broken::StoppedForNothing);
        }
    }

    /// The fresh copy is on the queue before the worn one is deleted, and is received like any
    /// other.
    fn replace(&mut self, worker: usize) {
        let known = &self.driver(worker).known;
        let stored = known.is_stored() && known.record().status != Status::Settled;
        if !stored || self.driver(worker).local.stop_in_doubt.is_some() {
            self.broken(Broken::ReplacedTooEarly);
        }
        if self.setup.budget.redrives == 0 {
            return;
        }
        let messages = self.driver(worker).messages;
        for (number, copy) in self.world.queue.iter_mut().enumerate() {
            if messages & (1 << number) != 0 && copy.is_held_by(worker) && copy.receives() >= WORN {
                *copy = Copy::InFlight { receiver: worker, receives: 0 };
                self.setup.witnesses.note(Witness::Replaced);
            }
        }
    }

    /// Whether any message of the step is still kept for it.
    fn holds(&self, worker: usize) -> bool {
        let messages = self.world.workers[worker].driver.as_ref().map_or(0, |it| it.messages);
        let kept = |(number, copy): (usize, &Copy)| {
            messages & (1 << number) != 0 && copy.is_held_by(worker)
        };
        self.world.queue.iter().enumerate().any(kept)
    }

    /// The messages come back when their visibility timeout is over.
    fn let_go(&mut self, worker: usize, which: u8) {
        let messages = self.driver(worker).messages & which;
        self.driver(worker).messages &= !which;
        if self.setup.mutant != Some(Mutant::HoldMessagesForEver) {
            self.world.workers[worker].held &= !messages;
        }
    }

    pub fn driver(&mut self, worker: usize) -> &mut Driver {
        self.world.workers[worker].driver.as_mut().expect("the worker has a driver for the step")
    }
}

/// This ledger has never run the step, its work is not here, and any other worker that runs it
/// still has time to answer its stop.
fn is_anothers_to_answer(driver: &Driver) -> bool {
    let record = driver.known.record();
    let unknown = matches!(record.status, Status::New | Status::Owed);
    let waited = record.stop_requested.is_some() && !driver.known.is_ahead(Limit::Takeover);
    let work = driver.messages & !(1 << STOP | 1 << FORGED) != 0;
    unknown && !work && !waited
}

fn report_of(record: &Record) -> Report {
    let mut hasher = DefaultHasher::new();
    record.client_request_token.as_ref().map(ClientRequestToken::as_str).hash(&mut hasher);
    serde_json::to_string(&record.outcome).expect("an outcome is JSON").hash(&mut hasher);
    Report {
        request: hasher.finish(),
        success: matches!(record.outcome, Some(Outcome::Success(_))),
    }
}
