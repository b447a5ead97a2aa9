//! What can happen next.

use callbackd::lifecycle::{Activity, Status, WorkerId};

use crate::happening::{EndKind, Reply, Standing};
use crate::known::{Known, Limit, NOW};
use crate::setup::Setup;
use crate::turn::Mood;
use crate::world::{
    ANEW, Ask, Copy, DUPLICATE, Driver, FORGED, Phase, Report, STOP, WORK, Worker, World,
};

/// One thing that happens, and how the ledger takes what is written for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    pub what: What,
    pub mood: Mood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The user stops the execution; `told`: a Stopping message results.
    Stop {
        told: bool,
    },
    /// The execution is ended by other means.
    EndOtherwise,
    /// Someone else answers the step, which has begun, with success; or its handler does.
    Complete,
    /// Someone answers the step through a ledger.
    AnswerThrough {
        ledger: usize,
        success: bool,
    },
    /// The execution is deleted.
    Vanish,
    /// The token waits again, and says so.
    Return,
    Duplicate,
    /// Someone sends a Stopping message; `foreign`: it names another execution.
    Forge {
        foreign: bool,
    },
    /// A message is permanently gone: purged, or taken by the redrive policy.
    Lose {
        message: usize,
        redriven: bool,
    },
    /// SageMaker no longer permits reports.
    Revoke,
    /// It permits them again.
    Mend,
    Receive {
        worker: usize,
        message: usize,
    },
    /// A message's visibility timeout is over.
    Surface {
        message: usize,
    },
    /// A deletion arrives; one by an old receipt handle may have no effect.
    Delete {
        worker: usize,
        message: usize,
        effect: bool,
    },
    /// SageMaker answers a question, the oldest first.
    Answer {
        worker: usize,
        reply: Reply,
    },
    /// SageMaker answers, and the answer is delayed for long.
    AnswerLate {
        worker: usize,
    },
    Report {
        worker: usize,
        reply: Reported,
    },
    /// A dead worker's report arrives.
    ReportLate,
    Slot {
        worker: usize,
    },
    /// No slot is free for long.
    Crowd {
        worker: usize,
    },
    RunEnds {
        worker: usize,
        end: EndKind,
    },
    CleanupEnds {
        worker: usize,
        well: bool,
    },
    CleanupAborted {
        worker: usize,
    },
    GraceOver {
        worker: usize,
    },
    DeadlineReached {
        worker: usize,
    },
    Wake {
        worker: usize,
    },
    /// The worker renews its lease, and learns of something.
    Renew {
        worker: usize,
    },
    /// The worker's driver learns of its new phase.
    Hear {
        worker: usize,
    },
    /// The ledger accepts what is to be written along.
    Flush {
        worker: usize,
    },
    /// A stop has been unconfirmed for long.
    DoubtOver {
        worker: usize,
    },
    /// The worker's lease could not be renewed in time.
    LeaseOver {
        worker: usize,
    },
    /// The record of the worker that has the claim has been seen unchanged for a whole lease.
    SeeLapse {
        worker: usize,
    },
    /// The same for a worker that is alive, but was frozen for so long.
    SeeFrozen {
        worker: usize,
    },
    /// The worker stood still for so long, and is fenced as another of its steps is taken over.
    FenceForAnother {
        worker: usize,
    },
    /// The stop watch asks about the execution.
    Watch {
        worker: usize,
    },
    /// It asks, and SageMaker does not find the execution.
    WatchMisled {
        worker: usize,
    },
    /// The ledger is looked through.
    Sweep {
        worker: usize,
    },
    StopFound {
        worker: usize,
    },
    /// The ledger is tried again.
    Retry {
        worker: usize,
    },
    /// An operator wants the next attempt now.
    AskRetry {
        worker: usize,
    },
    /// The worker leaves while the ledger does not accept a record.
    Abandon {
        worker: usize,
    },
    /// `late`: the report that is under way arrives all the same.
    Crash {
        worker: usize,
        late: bool,
    },
    /// `beside`: the previous process had also claimed other steps when it died.
    Start {
        worker: usize,
        beside: bool,
    },
    /// The run has lasted long enough to be trusted.
    Trust {
        worker: usize,
    },
    /// The next phase of a shutdown.
    Leave {
        worker: usize,
    },
    Over {
        ledger: usize,
        limit: Limit,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reported {
    Accepted,
    /// It has happened, and the reply is lost.
    AcceptedUnheard,
    Refused,
    /// It did not arrive.
    Failed,
    Denied,
}

/// What to expect from the course of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// Everything that can happen.
    Anything,
    /// A handler that is to end does not until it is dropped, and the stop watch notices only a
    /// stop without a message.
    Little,
}

impl World {
    /// What happens by itself sooner or later, without any fault. What leads to the end comes
    /// first.
    pub fn course(&self, hope: Hope, setup: &Setup, put: &mut impl FnMut(What)) {
        for (index, worker) in self.workers.iter().enumerate() {
            self.deletions(index, worker, put);
            match &worker.driver {
                Some(driver) if driver.pending.is_some() => {
                    put(What::Retry { worker: index });
                    if worker.phase == Phase::Leaving {
                        put(What::Abandon { worker: index });
                    }
                    if self.may_see_lapse(index, driver) {
                        put(What::SeeLapse { worker: index });
                    }
                    self.course_meanwhile(index, driver, put);
                }
                Some(driver) => {
                    self.course_of(index, driver, (hope, setup), put);
                    if driver.awaits_slot && setup.policy.crowded_after.is_some() {
                        put(What::Crowd { worker: index });
                    }
                    self.course_meanwhile(index, driver, put);
                }
                None => self.course_without(index, worker, setup, put),
            }
            // A renewal of which nothing is learnt changes nothing that is part of this state.
            if worker.phase != Phase::Down
                && (worker.fenced || worker.frozen || worker.flagged || self.was_taken_over(index))
                && worker.driver.as_ref().is_none_or(|driver| driver.pending.is_none())
            {
                put(What::Renew { worker: index });
            }
            if self.is_watched(worker, index) && self.watch_may_notice(worker, hope) {
                put(What::Watch { worker: index });
            }
            match worker.phase {
                Phase::Running => {}
                Phase::Draining | Phase::Stopping => put(What::Leave { worker: index }),
                Phase::Leaving if worker.driver.is_none() => put(What::Leave { worker: index }),
                Phase::Leaving => {}
                Phase::Down => {
                    put(What::Start { worker: index, beside: false });
                    if self.is_left_behind(index) {
                        put(What::Start { worker: index, beside: true });
                    }
                }
            }
            let takes = match &worker.driver {
                // A poll that is open as the worker begins to leave is finished.
                Some(driver) => {
                    driver.pending.is_none()
                        && matches!(worker.phase, Phase::Running | Phase::Draining)
                }
                None => worker.phase == Phase::Running,
            };
            if takes {
                for (message, copy) in self.queue.iter().enumerate() {
                    if matches!(copy, Copy::Visible { .. }) {
                        put(What::Receive { worker: index, message });
                    }
                }
            }
        }
        for (ledger, known) in self.ledgers.iter().enumerate() {
            for limit in [Limit::Wait, Limit::Takeover, Limit::Gone] {
                // What exists is found at least once in this time.
                let may_be = limit != Limit::Gone || self.sagemaker == Standing::Gone;
                if may_be && known.as_ref().is_some_and(|known| known.is_ahead(limit)) {
                    put(What::Over { ledger, limit });
                }
            }
        }
        for (message, copy) in self.queue.iter().enumerate() {
            if matches!(copy, Copy::InFlight { receiver, .. } if self.workers[*receiver].held & (1 << message) == 0)
            {
                put(What::Surface { message });
            }
        }
        if matches!(self.queue[FORGED], Copy::Visible { receives: 1.. }) {
            put(What::Lose { message: FORGED, redriven: true });
        }
        // No one can report if that is not permitted, so someone has to fix it. A closed step must
        // do without.
        if self.denying && self.sagemaker.is_open() {
            put(What::Mend);
        }
        if self.wire.is_some() {
            put(What::ReportLate);
        }
    }

    fn deletions(&self, index: usize, worker: &Worker, put: &mut impl FnMut(What)) {
        for (message, copy) in
            self.queue.iter().enumerate().filter(|(number, _)| worker.deleting & (1 << number) != 0)
        {
            put(What::Delete { worker: index, message, effect: true });
            if *copy != Copy::Absent && !copy.is_held_by(index) {
                put(What::Delete { worker: index, message, effect: false });
            }
        }
    }

    fn course_of(
        &self,
        worker: usize,
        driver: &Driver,
        (hope, setup): (Hope, &Setup),
        put: &mut impl FnMut(What),
    ) {
        if let Some(report) = driver.report {
            self.replies(worker, report, put);
        }
        match driver.call {
            Some(call) if call.cleanup => {
                put(What::CleanupEnds { worker, well: true });
                put(What::CleanupEnds { worker, well: false });
                if call.aborted {
                    put(What::CleanupAborted { worker });
                }
            }
            Some(call) => {
                if call.aborted {
                    put(What::RunEnds { worker, end: EndKind::Aborted });
                }
                if hope == Hope::Anything || !self.is_to_end(worker, driver, setup) {
                    let run = self.judged(worker).process * 8 + driver.known.record().attempt;
                    let success = EndKind::Success { run };
                    let ends = [
                        success,
                        EndKind::Failure,
                        EndKind::Retry,
                        EndKind::Again,
                        EndKind::Deferred,
                    ];
                    let hindered = (self.budget.hindrances > 0).then_some(EndKind::Hindered);
                    for end in ends.into_iter().chain(hindered) {
                        put(What::RunEnds { worker, end });
                    }
                }
            }
            None => {}
        }
        match driver.asks.first() {
            Some(Ask::Answered(standing)) => {
                put(What::Answer { worker, reply: Reply::Standing(*standing) });
            }
            Some(Ask::Sent { confirm }) => {
                put(What::Answer { worker, reply: Reply::Standing(self.sagemaker) });
                if self.sagemaker == (Standing::Open { stopping: true }) && !confirm {
                    // The listing says only how the step itself stands.
                    put(What::Answer {
                        worker,
                        reply: Reply::Standing(Standing::Open { stopping: false }),
                    });
                }
            }
            None => {}
        }
        for (can, what) in [
            (driver.awaits_slot, What::Slot { worker }),
            (driver.wake, What::Wake { worker }),
            (
                driver.activity().is_running() && driver.known.record().suspicion > 0,
                What::Trust { worker },
            ),
            (driver.local.stop_in_doubt == Some(NOW), What::DoubtOver { worker }),
            (self.may_see_lapse(worker, driver), What::SeeLapse { worker }),
        ] {
            if can {
                put(what);
            }
        }
    }

    /// What does not wait for the ledger.
    fn course_meanwhile(&self, worker: usize, driver: &Driver, put: &mut impl FnMut(What)) {
        for (can, what) in [
            (driver.phase != self.workers[worker].phase, What::Hear { worker }),
            (driver.along, What::Flush { worker }),
            (driver.stop_found, What::StopFound { worker }),
            (driver.grace, What::GraceOver { worker }),
            (driver.is_overdue(), What::DeadlineReached { worker }),
        ] {
            if can {
                put(what);
            }
        }
    }

    fn course_without(
        &self,
        index: usize,
        worker: &Worker,
        setup: &Setup,
        put: &mut impl FnMut(What),
    ) {
        let Some(known) = self.stored(index).filter(|_| worker.phase == Phase::Running) else {
            return;
        };
        let status = known.record().status;
        let due = match status {
            Status::Concluded => true,
            Status::Deferred if !known.is_ahead(Limit::Deadline) => true,
            // As when a process starts.
            Status::Deferred => {
                setup.answers_itself() && (self.is_shared(index) || worker.life > 0)
            }
            Status::Owed => !known.is_ahead(Limit::Takeover),
            // If no other process writes the ledger, it is looked through for these when a process
            // starts.
            Status::Claimed | Status::Waiting if known.record().stop_requested.is_some() => {
                self.is_shared(index) || worker.life > 0
            }
            // Its message has not been seen for long; another worker may hold it, and if none can
            // be lost, one does.
            Status::Claimed | Status::Waiting => {
                let seen = [WORK, DUPLICATE, ANEW].map(|message| self.queue[message]);
                let lost = setup.budget.losses > 0 || setup.budget.redrives > 0;
                lost && setup.is_exclusive()
                    && !seen.iter().any(|copy| matches!(copy, Copy::Visible { .. }))
            }
            _ => false,
        };
        if due {
            put(What::Sweep { worker: index });
        }
    }

    fn replies(&self, worker: usize, report: Report, put: &mut impl FnMut(What)) {
        if self.denying {
            return put(What::Report { worker, reply: Reported::Denied });
        }
        let open = self.sagemaker.is_open();
        // Whether a request that was accepted before is accepted again or refused as closed is
        // unknown.
        if open || self.judge.answer(&crate::driver::TOKEN) == Some(&report.request) {
            put(What::Report { worker, reply: Reported::Accepted });
        }
        if !open {
            put(What::Report { worker, reply: Reported::Refused });
        }
    }

    /// A worker whose lease is over has ended its runs by then: it gives up after two thirds of a
    /// lease, and aborts within the rest; an observer has watched for a whole one. So a claim may
    /// lapse for the observer once its owner has gone as far as it ever will.
    fn may_see_lapse(&self, worker: usize, driver: &Driver) -> bool {
        let owner = driver.known.record().owner.as_ref();
        let Some(owner) = owner.filter(|_| !driver.lapsed && self.is_foreign(worker, driver))
        else {
            return false;
        };
        let Some(alive) = self.alive(owner) else { return true };
        let theirs = &self.workers[alive];
        if self.id(alive) == *owner {
            // It renews its lease as long as it has a record, whatever it is doing.
            return theirs.fenced;
        }
        // What was told to end ends in time.
        theirs
            .driver
            .as_ref()
            .is_none_or(|driver| !driver.call.is_some_and(|call| driver.grace || call.aborted))
    }

    /// Something, or someone, wants the run to end.
    fn is_to_end(&self, worker: usize, driver: &Driver, setup: &Setup) -> bool {
        let overdue =
            driver.known.record().deadline.is_some() && !driver.known.is_ahead(Limit::Deadline);
        let goes_on = match self.sagemaker {
            // No one is told of an execution that is not found.
            Standing::Open { stopping: false } | Standing::Gone => true,
            // What the run has answered itself does not end it.
            Standing::Succeeded | Standing::Failed => setup.answers_itself(),
            Standing::Open { stopping: true } | Standing::Stopped => false,
        };
        !goes_on
            || matches!(self.workers[worker].phase, Phase::Stopping | Phase::Leaving)
            || matches!(driver.activity(), Activity::Stopping(_))
            || overdue
    }

    /// The stop watch asks about the step's execution for this worker.
    pub fn is_watched(&self, worker: &Worker, index: usize) -> bool {
        match &worker.driver {
            Some(driver) => {
                let record = driver.known.record();
                matches!(
                    record.status,
                    Status::New | Status::Claimed | Status::Waiting | Status::Deferred
                ) && record.stop_requested.is_none()
            }
            None => {
                let deferred = |known: &Known| known.record().status == Status::Deferred;
                worker.phase == Phase::Running && self.stored(index).is_some_and(deferred)
            }
        }
    }

    fn watch_may_notice(&self, worker: &Worker, hope: Hope) -> bool {
        match self.sagemaker {
            Standing::Open { stopping } => {
                stopping && (hope == Hope::Anything || self.queue[STOP] == Copy::Absent)
            }
            // What has been asked already need not be asked again.
            _ => worker.driver.as_ref().is_none_or(|driver| driver.asks.is_empty()),
        }
    }

    /// The ledger is this worker's alone, and its next process finds that another has claimed the
    /// step.
    pub fn is_left_behind(&self, worker: usize) -> bool {
        let next = WorkerId("next".into());
        !self.is_shared(worker)
            && self.stored(worker).is_some_and(|known| known.record().is_left_behind(&next))
    }

    fn is_shared(&self, worker: usize) -> bool {
        self.workers.iter().filter(|other| other.ledger == self.workers[worker].ledger).count() > 1
    }

    /// The ledger is shared, and the claim another worker's.
    pub fn is_foreign(&self, worker: usize, driver: &Driver) -> bool {
        self.is_shared(worker)
            && driver
                .known
                .record()
                .owner
                .as_ref()
                .is_some_and(|owner| !self.is_of_process(worker, owner))
    }
}
