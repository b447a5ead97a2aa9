//! One action, performed on a copy of the world.

use callbackd::lifecycle::{Activity, Beside, Via};

use crate::action::{Action, Reported, What};
use crate::driver::TOKEN;
use crate::happening::{EndKind, Happening, Post, Reply, Standing};
use crate::judge::{self, About, Seen};
use crate::known::{Known, LONG_AGO, Limit};
use crate::mutant::Mutant;
use crate::setup::Setup;
use crate::witness::Witness;
use crate::world::{
    ANEW, Ask, Broken, Copy, DUPLICATE, FORGED, Phase, REDRIVE, Report, STOP, World,
};

/// How the ledger handles the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mood {
    Well,
    /// It fails without an effect.
    Fails,
    /// It takes effect, and an error is returned.
    FailsAfterEffect,
}

pub struct Turn<'a> {
    pub setup: &'a Setup,
    pub world: World,
    /// The message that was just received.
    pub delivered: usize,
    mood: Mood,
    struck: bool,
}

impl<'a> Turn<'a> {
    /// The world after the action; `None` if the action's ledger fault had nothing to apply to.
    pub fn take(setup: &'a Setup, world: &World, action: Action) -> Option<World> {
        let mut turn =
            Self { setup, world: world.clone(), delivered: 0, mood: action.mood, struck: false };
        turn.carry_out(action.what);
        if action.mood != Mood::Well {
            if !turn.struck {
                return None;
            }
            turn.world.budget.writes -= 1;
        }
        Some(turn.world)
    }

    /// What the next write meets.
    pub fn strike(&mut self) -> Mood {
        self.struck |= self.mood != Mood::Well;
        std::mem::replace(&mut self.mood, Mood::Well)
    }

    pub fn see(&mut self, seen: &Seen<u64>) {
        if let Err(broken) = self.world.judge.see(seen) {
            let froze = self.world.budget.freezes < self.setup.budget.freezes;
            let excused = froze && self.world.may_overlap();
            if excused && matches!(broken, judge::Broken::Overlap(_)) {
                return;
            }
            self.broken(Broken::Promise(broken));
        }
    }

    pub fn broken(&mut self, broken: Broken) {
        self.world.broken.get_or_insert(broken);
    }

    pub fn witness(&self, witness: Witness) {
        self.setup.witnesses.note(witness);
    }

    fn carry_out(&mut self, what: What) {
        match what {
            What::Stop { told } => {
                self.world.budget.stops -= 1;
                self.world.sagemaker = Standing::Open { stopping: true };
                self.see(&Seen::Stopping { token: TOKEN });
                if told {
                    self.send(STOP, About::Stop(TOKEN));
                }
            }
            What::EndOtherwise => self.close(Standing::Stopped),
            What::Complete => self.close(Standing::Succeeded),
            What::AnswerThrough { ledger, success } => self.answer_through(ledger, success),
            What::Duplicate => {
                self.world.budget.duplicates -= 1;
                self.send(DUPLICATE, About::Work(TOKEN));
            }
            What::Vanish => {
                self.world.budget.deletions -= 1;
                self.world.sagemaker = Standing::Gone;
                self.see(&Seen::Closed { token: TOKEN, succeeded: false });
            }
            What::Return => {
                self.world.budget.returns -= 1;
                self.world.sagemaker = Standing::Open { stopping: false };
                self.world.attempts = [0; 2];
                self.see(&Seen::Opened { token: TOKEN });
                self.send(ANEW, About::Work(TOKEN));
            }
            What::Forge { foreign } => {
                self.world.budget.forgeries -= 1;
                self.world.foreign = foreign;
                // The judge need not know of it: nothing may come of it, and it may be deleted or
                // not.
                self.world.queue[FORGED] = Copy::Visible { receives: 0 };
            }
            What::Lose { message, redriven } => self.lose(message, redriven),
            What::Revoke => {
                self.world.budget.denials -= 1;
                self.world.denying = true;
            }
            What::Mend => self.world.denying = false,
            What::Receive { worker, message } => self.receive(worker, message),
            What::Surface { message } => self.surface(message),
            What::Delete { worker, message, effect } => self.delete(worker, message, effect),
            What::Answer { worker, reply } => self.answer(worker, reply),
            What::AnswerLate { worker } => {
                self.world.budget.replies -= 1;
                let standing = self.world.sagemaker;
                self.driver(worker).asks[0] = Ask::Answered(standing);
            }
            What::Report { worker, reply } => self.report(worker, reply),
            What::ReportLate => {
                if let Some((worker, report)) = self.world.wire.take() {
                    let open = self.world.sagemaker.is_open();
                    self.witness(Witness::ReportArrivedLate);
                    self.arrive(worker, report, open);
                }
            }
            What::Crash { worker, late } => self.crash(worker, late),
            What::Start { worker, beside } => self.start(worker, beside),
            What::Leave { worker } => self.leave(worker),
            What::Over { ledger, limit } => self.over(ledger, limit),
            _ => self.befall(what),
        }
    }

    /// What happens to one driver.
    fn befall(&mut self, what: What) {
        match what {
            What::Slot { worker } => {
                self.driver(worker).awaits_slot = false;
                self.feed(worker, Happening::SlotFree);
            }
            What::Crowd { worker } => {
                self.read_again(worker);
                self.feed(worker, Happening::Crowded);
                if let Some(driver) = &mut self.world.workers[worker].driver {
                    driver.awaits_slot &= driver.activity() == Activity::Queued;
                }
            }
            What::RunEnds { worker, end } => {
                self.world.budget.hindrances -= u8::from(end == EndKind::Hindered);
                self.run_ends(worker, end);
            }
            What::CleanupEnds { worker, well } => {
                self.cleanup_ends(worker, Happening::Cleaned { well });
            }
            What::CleanupAborted { worker } => self.cleanup_ends(worker, Happening::CleanupAborted),
            What::Trust { worker } => self.feed(worker, Happening::Trusted),
            What::GraceOver { worker } => {
                self.driver(worker).grace = false;
                self.feed_meanwhile(worker, Happening::GraceOver);
            }
            What::DeadlineReached { worker } => {
                self.feed_meanwhile(worker, Happening::DeadlineReached);
            }
            What::Wake { worker } => {
                self.driver(worker).wake = false;
                if self.setup.shared {
                    self.read_again(worker);
                }
                self.feed(worker, Happening::Woken);
            }
            What::Hear { worker } => {
                let phase = self.world.workers[worker].phase;
                self.driver(worker).phase = phase;
                self.feed_meanwhile(worker, Happening::Phase);
            }
            What::Flush { worker } => self.flush(worker),
            What::DoubtOver { worker } => self.driver(worker).local.stop_in_doubt = Some(LONG_AGO),
            What::Renew { worker } => self.renew(worker),
            What::LeaseOver { worker } => {
                self.world.budget.leases -= 1;
                let lost = &mut self.world.workers[worker];
                (lost.fenced, lost.frozen) = (false, false);
                self.lease_is_out(worker);
            }
            What::SeeLapse { worker } => self.driver(worker).lapsed = true,
            What::SeeFrozen { worker } => {
                self.world.budget.freezes -= 1;
                self.driver(worker).lapsed = true;
                if let Some(owner) = self.world.owner(worker) {
                    self.world.workers[owner].frozen = true;
                }
            }
            What::FenceForAnother { worker } => {
                self.world.budget.freezes -= 1;
                let worker = &mut self.world.workers[worker];
                (worker.fenced, worker.frozen) = (true, true);
            }
            What::Watch { worker } => {
                let stopping = self.world.sagemaker.is_open();
                self.watched(
                    worker,
                    if stopping {
                        Happening::StopSeen(Via::Watch)
                    } else {
                        Happening::ExecutionEnded
                    },
                );
            }
            What::WatchMisled { worker } => {
                self.world.budget.lies -= 1;
                self.watched(worker, Happening::ExecutionEnded);
            }
            What::Sweep { worker } => {
                self.spawn(worker);
                self.feed(worker, Happening::Found);
            }
            What::StopFound { worker } => {
                self.driver(worker).stop_found = false;
                self.feed_meanwhile(worker, Happening::StopSeen(Via::Ledger));
            }
            What::Retry { worker } => {
                if let Some(happening) = self.driver(worker).pending.take() {
                    self.feed(worker, happening);
                }
            }
            What::AskRetry { worker } => {
                self.world.budget.retries -= 1;
                if self.world.workers[worker].driver.is_none() {
                    self.spawn(worker);
                }
                self.feed(worker, Happening::RetryAsked);
            }
            What::Abandon { worker } => self.abandon(worker),
            _ => unreachable!("it happens to the world"),
        }
    }

    /// SageMaker waits no longer, and that is not this worker's doing.
    fn close(&mut self, standing: Standing) {
        self.world.budget.endings -= 1;
        self.world.sagemaker = standing;
        self.see(&Seen::Closed { token: TOKEN, succeeded: standing == Standing::Succeeded });
    }

    fn send(&mut self, message: usize, about: About<u64>) {
        self.world.queue[message] = Copy::Visible { receives: 0 };
        self.see(&Seen::Sent { message: message as u64, about });
    }

    fn receive(&mut self, worker: usize, message: usize) {
        let receives = self.world.queue[message].receives();
        let redelivered = receives > 0;
        if redelivered && self.world.workers[worker].life > 0 && self.world.stored(worker).is_some()
        {
            self.witness(Witness::RedeliveredAfterACrash);
        }
        let most = if self.setup.budget.redrives > 0 { REDRIVE } else { 1 };
        self.world.queue[message] =
            Copy::InFlight { receiver: worker, receives: most.min(receives + 1) };
        self.world.workers[worker].held |= 1 << message;
        if self.world.workers[worker].driver.is_none() {
            self.spawn(worker);
        }
        self.driver(worker).messages |= 1 << message;
        let post = match message {
            FORGED if self.world.foreign => Post::Foreign,
            FORGED | STOP => Post::Stop,
            _ => Post::Work { redelivered, anew: message == ANEW },
        };
        // A handler that has begun may have answered since.
        let answered = self.setup.answers_itself();
        let driver = self.driver(worker);
        let waits = !answered || driver.known.record().attempt == 0;
        driver.told_open |= matches!(post, Post::Work { .. }) && waits;
        self.delivered = message;
        self.feed(worker, Happening::Delivered(post));
    }

    fn lose(&mut self, message: usize, redriven: bool) {
        let budget = &mut self.world.budget;
        match (message, redriven) {
            (FORGED, _) => {}
            (_, true) => budget.redrives -= 1,
            (_, false) => budget.losses -= 1,
        }
        self.world.queue[message] = Copy::Absent;
        self.see(&Seen::Lost { message: message as u64 });
    }

    fn surface(&mut self, message: usize) {
        if let Copy::InFlight { receiver, receives } = self.world.queue[message] {
            let held = self.world.workers[receiver].held & (1 << message) != 0;
            self.world.budget.visibility -= u8::from(held);
            self.world.queue[message] = Copy::Visible { receives };
        }
    }

    fn delete(&mut self, worker: usize, message: usize, effect: bool) {
        self.world.workers[worker].deleting &= !(1 << message);
        self.world.workers[worker].held &= !(1 << message);
        if !self.world.queue[message].is_held_by(worker) {
            self.witness(Witness::StaleDelete);
        }
        if effect {
            self.world.queue[message] = Copy::Absent;
            self.see(&Seen::Deleted { message: message as u64 });
        }
    }

    fn report(&mut self, worker: usize, reply: Reported) {
        let Some(report) = self.driver(worker).report else { return };
        let open = self.world.sagemaker.is_open();
        if !matches!(reply, Reported::Failed | Reported::Denied) {
            self.arrive(self.world.judged(worker), report, reply != Reported::Refused);
        }
        self.driver(worker).report = None;
        match reply {
            Reported::Accepted => self.feed(worker, Happening::ReportAccepted),
            Reported::AcceptedUnheard | Reported::Failed => {
                self.world.budget.replies -= 1;
                if reply == Reported::AcceptedUnheard {
                    self.witness(Witness::ReplyLost);
                }
                if self.setup.mutant != Some(Mutant::GiveUpOnALostReply) {
                    self.feed(worker, Happening::ReportFailed { denied: false });
                }
            }
            Reported::Denied => self.feed(worker, Happening::ReportFailed { denied: true }),
            Reported::Refused => {
                self.world.budget.replies -= u8::from(open);
                self.feed(worker, Happening::ReportRefused);
            }
        }
    }

    fn answer(&mut self, worker: usize, reply: Reply) {
        self.driver(worker).asks.remove(0);
        match reply {
            Reply::Standing(standing) => self.driver(worker).told_open |= standing.is_open(),
            Reply::NotFound => self.world.budget.lies -= 1,
            Reply::Unknown => self.world.budget.replies -= 1,
        }
        self.feed(worker, Happening::Answered(reply));
    }

    /// A report reaches SageMaker.
    fn arrive(&mut self, worker: judge::Worker, report: Report, accepted: bool) {
        let Report { request, success } = report;
        if accepted && self.world.sagemaker.is_open() {
            self.world.sagemaker = if success { Standing::Succeeded } else { Standing::Failed };
        }
        self.see(&Seen::Reported { worker, token: TOKEN, request, accepted });
    }

    fn run_ends(&mut self, worker: usize, end: EndKind) {
        let answered = self.setup.answers_itself();
        let driver = self.driver(worker);
        driver.call = None;
        driver.grace = false;
        driver.told_open &= !answered || end == EndKind::Hindered;
        let seen =
            Seen::Ended { worker: self.world.judged(worker), token: TOKEN, own: end.is_own() };
        self.see(&seen);
        self.feed(worker, Happening::Ended(end));
    }

    fn cleanup_ends(&mut self, worker: usize, happening: Happening) {
        self.see(&Seen::CleanupEnded { worker: self.world.judged(worker), token: TOKEN });
        let driver = self.driver(worker);
        driver.call = None;
        driver.grace = false;
        self.feed(worker, happening);
    }

    fn renew(&mut self, worker: usize) {
        let mood = self.strike();
        if mood == Mood::Fails {
            return;
        }
        self.world.workers[worker].frozen = false;
        let fenced = std::mem::take(&mut self.world.workers[worker].fenced);
        if fenced && self.setup.mutant != Some(Mutant::RenewAfterAFence) {
            self.lease_is_out(worker);
            return self.go_on(worker);
        }
        if self.world.was_taken_over(worker) {
            return self.broken(Broken::RenewedTooLate);
        }
        self.seen_renewed(worker);
        if !self.world.workers[worker].flagged {
            return;
        }
        let unheard = mood == Mood::FailsAfterEffect;
        if unheard {
            self.witness(Witness::StopUnheard);
        }
        // What was read leaves the set with the next renewal.
        let dropped = self.setup.mutant == Some(Mutant::DropStopsAsTheyAreRead);
        self.world.workers[worker].flagged = unheard && !dropped;
        if !unheard {
            self.flagged(worker);
        }
    }

    /// Who has watched the worker's record finds another version of it.
    fn seen_renewed(&mut self, worker: usize) {
        for observer in 0..self.world.workers.len() {
            let watched = self.world.owner(observer) == Some(worker);
            if let Some(driver) = self.world.workers[observer].driver.as_mut().filter(|_| watched) {
                driver.renewed = driver.lapsed;
            }
        }
    }

    fn watched(&mut self, worker: usize, happening: Happening) {
        if self.world.workers[worker].driver.is_none() {
            self.spawn(worker);
        }
        match happening {
            Happening::StopSeen(_) => self.feed_meanwhile(worker, happening),
            _ if self.driver(worker).pending.is_some() => {}
            _ => self.feed(worker, happening),
        }
    }

    fn crash(&mut self, worker: usize, late: bool) {
        self.world.budget.crashes -= 1;
        let judged = self.world.judged(worker);
        if let Some(driver) = self.world.workers[worker].driver.take() {
            if driver.call.is_some_and(|call| call.cleanup) {
                self.witness(Witness::CleanupInterrupted);
            }
            self.world.wire = self
                .world
                .wire
                .take()
                .or(driver.report.filter(|_| late).map(|report| (judged, report)));
        }
        self.down(worker);
    }

    /// What the death of the process before makes of the step is on record before anything else
    /// happens.
    fn start(&mut self, worker: usize, beside: bool) {
        let left = self.world.is_left_behind(worker);
        let worker = &mut self.world.workers[worker];
        worker.life += 1;
        worker.losses = 0;
        worker.phase = Phase::Running;
        if let Some(known) =
            self.world.ledgers[usize::from(worker.ledger)].as_mut().filter(|_| left)
        {
            *known = Known::new(known.record().clone().after_crash(if beside {
                Beside::Others
            } else {
                Beside::Nothing
            }));
        }
    }

    fn down(&mut self, worker: usize) {
        let judged = self.world.judged(worker);
        let worker = &mut self.world.workers[worker];
        worker.phase = Phase::Down;
        worker.held = 0;
        worker.deleting = 0;
        (worker.fenced, worker.frozen, worker.flagged) = (false, false, false);
        self.see(&Seen::Died { worker: judged });
    }

    fn leave(&mut self, worker: usize) {
        let phase = &mut self.world.workers[worker].phase;
        *phase = match phase {
            Phase::Running => {
                self.world.budget.shutdowns -= 1;
                Phase::Draining
            }
            Phase::Draining => Phase::Stopping,
            Phase::Stopping => Phase::Leaving,
            Phase::Leaving | Phase::Down => return self.down(worker),
        };
    }

    fn over(&mut self, ledger: usize, limit: Limit) {
        self.world.budget.limits -= u8::from(limit == Limit::Deadline);
        if let Some(known) = &mut self.world.ledgers[ledger] {
            *known = known.once_over(limit);
        }
        for worker in
            self.world.workers.iter_mut().filter(|worker| usize::from(worker.ledger) == ledger)
        {
            if let Some(driver) = &mut worker.driver {
                driver.known = driver.known.once_over(limit);
            }
        }
    }
}
