//! What may fail, as long as the budget lasts.

use callbackd::lifecycle::{Status, Verify};

use crate::action::{Reported, What};
use crate::happening::{Reply, Standing};
use crate::known::{Known, Limit};
use crate::setup::Setup;
use crate::world::{Ask, Budget, Copy, Driver, FORGED, Phase, REDRIVE, STOP, World};

impl World {
    pub fn faults(&self, setup: &Setup, put: &mut impl FnMut(What)) {
        self.turns(setup, put);
        self.losses(setup, put);
        self.troubles(put);
        self.impatience(setup, put);
    }

    /// What a user, a pipeline or someone else may do.
    fn turns(&self, setup: &Setup, put: &mut impl FnMut(What)) {
        let Budget { stops, endings, duplicates, forgeries, denials, deletions, limits, .. } =
            self.budget;
        if let Standing::Open { stopping } = self.sagemaker {
            if !stopping && stops > 0 {
                // One that overtakes the Executing message of a token that comes back is deleted
                // with what is left of the token's first time: the stop watch notices such a stop.
                let settled = |known: &Known| known.record().status == Status::Settled;
                if !self.ledgers.iter().flatten().any(settled) {
                    put(What::Stop { told: true });
                }
                put(What::Stop { told: false });
            }
            if endings > 0 {
                put(What::EndOtherwise);
                let begun = |known: &Known| {
                    let status = known.record().status;
                    matches!(status, Status::Claimed | Status::Waiting | Status::Deferred)
                };
                if self.ledgers.iter().flatten().any(begun) {
                    put(What::Complete);
                }
            }
            if duplicates > 0 {
                put(What::Duplicate);
            }
            if deletions > 0 {
                put(What::Vanish);
            }
            if forgeries > 0 && self.queue[FORGED] == Copy::Absent {
                put(What::Forge { foreign: true });
                if setup.policy.verify == Verify::Always {
                    put(What::Forge { foreign: false });
                }
            }
        }
        if denials > 0 && !self.denying {
            put(What::Revoke);
        }
        if self.may_return() {
            put(What::Return);
        }
        for (ledger, known) in self.ledgers.iter().enumerate() {
            if self.budget.answers > 0 && known.is_some() {
                put(What::AnswerThrough { ledger, success: true });
                put(What::AnswerThrough { ledger, success: false });
            }
            if limits > 0 && known.as_ref().is_some_and(|known| known.is_ahead(Limit::Deadline)) {
                put(What::Over { ledger, limit: Limit::Deadline });
            }
        }
    }

    /// What SQS may do with messages beyond its regular work.
    fn losses(&self, setup: &Setup, put: &mut impl FnMut(What)) {
        let Budget { losses, redrives, visibility, .. } = self.budget;
        for (message, copy) in self.queue.iter().enumerate() {
            if losses > 0 && *copy != Copy::Absent && self.may_lose(message, setup) {
                put(What::Lose { message, redriven: false });
            }
            // What no ledger knows is lost where its workers die often enough before they claim it;
            // only that.
            let missed = setup.policy.verify == Verify::Always || self.is_known();
            if redrives > 0 && missed && matches!(copy, Copy::Visible { receives: REDRIVE.. }) {
                put(What::Lose { message, redriven: true });
            }
        }
        for (message, copy) in self.queue.iter().enumerate() {
            if visibility > 0
                && matches!(copy, Copy::InFlight { receiver, .. } if self.workers[*receiver].held & (1 << message) != 0)
            {
                put(What::Surface { message });
            }
        }
    }

    /// What may happen to a worker.
    fn troubles(&self, put: &mut impl FnMut(What)) {
        let Budget { crashes, replies, lies, leases, freezes, shutdowns, .. } = self.budget;
        for (index, worker) in
            self.workers.iter().enumerate().filter(|(_, worker)| worker.phase != Phase::Down)
        {
            let driver = worker.driver.as_ref();
            if crashes > 0 {
                put(What::Crash { worker: index, late: false });
                if driver.is_some_and(|driver| driver.report.is_some()) && self.wire.is_none() {
                    put(What::Crash { worker: index, late: true });
                }
            }
            if shutdowns > 0 && worker.phase == Phase::Running {
                put(What::Leave { worker: index });
            }
            if lies > 0
                && matches!(self.sagemaker, Standing::Open { .. })
                && self.is_watched(worker, index)
            {
                put(What::WatchMisled { worker: index });
            }
            let Some(driver) = driver else { continue };
            if freezes > 0 && !driver.lapsed && self.is_foreign(index, driver) {
                put(What::SeeFrozen { worker: index });
            }
            if freezes > 0 && driver.claims && !worker.fenced {
                put(What::FenceForAnother { worker: index });
            }
            if leases > 0 && driver.claims {
                put(What::LeaseOver { worker: index });
            }
            if lies > 0
                && driver.pending.is_none()
                && matches!(driver.asks.first(), Some(Ask::Sent { .. }))
            {
                put(What::Answer { worker: index, reply: Reply::NotFound });
            }
            if replies > 0 && driver.pending.is_none() {
                self.bad_replies(index, driver, put);
            }
        }
    }

    /// What an operator may ask a worker for. A step that is not in hand is begun only if no other
    /// worker can have its message, or the ledger tells which one runs it.
    fn impatience(&self, setup: &Setup, put: &mut impl FnMut(What)) {
        for (index, worker) in self.workers.iter().enumerate() {
            let may = match &worker.driver {
                Some(driver) => driver.pending.is_none(),
                None => setup.is_exclusive(),
            };
            let is_there = worker.phase == Phase::Running && self.stored(index).is_some();
            if self.budget.retries > 0 && may && is_there {
                put(What::AskRetry { worker: index });
            }
        }
    }

    fn bad_replies(&self, worker: usize, driver: &Driver, put: &mut impl FnMut(What)) {
        if driver.report.is_some() && !self.denying {
            put(What::Report { worker, reply: Reported::Failed });
            if self.sagemaker.is_open() {
                put(What::Report { worker, reply: Reported::AcceptedUnheard });
                put(What::Report { worker, reply: Reported::Refused });
            }
        }
        if matches!(driver.asks.first(), Some(Ask::Sent { .. })) {
            put(What::Answer { worker, reply: Reply::Unknown });
            put(What::AnswerLate { worker });
        }
    }

    /// A message that is gone is missed only if the ledger holds its content, and only by its own
    /// workers.
    fn may_lose(&self, message: usize, setup: &Setup) -> bool {
        message == STOP || message != FORGED && setup.is_exclusive() && self.is_known()
    }

    /// A ledger holds what the Executing message said, and its outcome is not known to be accepted.
    fn is_known(&self) -> bool {
        let known =
            |known: &Known| !matches!(known.record().status, Status::Settled | Status::Owed);
        self.ledgers.iter().flatten().any(known)
    }

    /// The step's first time is over for all, and nothing of it is left on the way.
    fn may_return(&self) -> bool {
        let settled = |known: &Known| known.record().status == Status::Settled;
        let closed = !self.sagemaker.is_open() && self.sagemaker != Standing::Gone;
        self.budget.returns > 0
            && closed
            && self.ledgers.iter().flatten().all(settled)
            && self.workers.iter().all(|worker| worker.driver.is_none())
            && self.wire.is_none()
            && self.queue[STOP] == Copy::Absent
    }
}
