//! The consequences of a stop, whether the step runs here, elsewhere, nowhere yet, or its execution
//! has ended.

use super::machine::{Decision, Transition, Write, later};
use super::{Activity, Answer, Effect, Record, Status, Stop, Urgency, Verify, Via};
use crate::seam::{Standing, StepResult};
use crate::step::StopReason;

impl Decision<'_> {
    /// A Stopping message is believed, confirmed first, or held with its step.
    pub(super) fn stop_delivered(&self) -> Transition {
        self.stop_delivered_of(self.view.policy.verify == Verify::Always)
    }

    /// The execution may have been stopped, and retried since.
    pub(super) fn earlier_stop_delivered(&self) -> Transition {
        self.stop_delivered_of(true)
    }

    fn stop_delivered_of(&self, doubtful: bool) -> Transition {
        let open = matches!(
            self.record.status,
            Status::New | Status::Claimed | Status::Waiting | Status::Deferred
        );
        match self.local.activity {
            // From the time before or after the step came back: the pending answer will tell.
            Activity::Reopening => {
                let since = self.local.stop_in_doubt.unwrap_or(self.view.now);
                self.knowing(|local| local.stop_in_doubt = Some(since)).nothing()
            }
            _ if open && self.record.stop_requested.is_none() && doubtful => self.doubt_stop(),
            _ => self.stop_seen(Via::Message),
        }
    }

    pub(super) fn stop_seen(&self, via: Via) -> Transition {
        let watch = via == Via::Watch;
        match (self.local.activity, self.record.status) {
            // That the execution is stopping does not mean that it has such a step.
            (Activity::Verifying | Activity::Unverified | Activity::Confirming, Status::New)
                if self.view.policy.verify == Verify::Always =>
            {
                self.nothing()
            }
            (Activity::Idle, Status::Settled | Status::Concluded | Status::Owed) => self.proceed(),
            (Activity::Idle, Status::New) => self
                .write(self.owed())
                .going(Activity::Asking, [Effect::CountStop(via), self.question()]),
            // A later step of the execution may be the one that is stopped.
            (Activity::Idle | Activity::Queued | Activity::Sleeping, Status::Deferred) if watch => {
                self.ask(Activity::Confirming)
            }
            (Activity::Asking | Activity::Confirming, Status::Deferred) if watch => {
                self.to(Activity::Confirming, [])
            }
            (Activity::Resuming, _) if watch => self.nothing(),
            (Activity::Idle | Activity::Sleeping, _) if watch && self.resumable() => {
                self.to(Activity::Resuming, [Effect::Ask { confirm_stop: true }])
            }
            // It may have been answered since its last run.
            (Activity::Sleeping, Status::Waiting) if watch && self.may_be_answered() => {
                self.ask(Activity::Confirming)
            }
            // By its run.
            (Activity::Running, Status::Claimed)
                if watch && self.is_left_to_its_handler() && self.may_be_answered() =>
            {
                self.knowing(|local| local.stop_seen = true)
                    .to(Activity::Running, [Effect::Ask { confirm_stop: true }])
            }
            _ => self.request_stop(via, None),
        }
    }

    /// The step has begun, and its pipeline may have gone on to a later one, which is stopped.
    fn may_be_answered(&self) -> bool {
        self.record.attempt > 0 && self.record.stop_requested.is_none()
    }

    /// Records that the step must end, and ends it as far as this worker can. `closed`: how
    /// SageMaker shows it closed, if it does.
    pub(super) fn request_stop(&self, via: Via, closed: Option<StepResult>) -> Transition {
        let record = self.record;
        let first = record.stop_requested.is_none();
        let stop = self.stop_of(closed);
        let closed_as = closed.or(record.closed_as);
        let flagged = Record { stop_requested: Some(stop), closed_as, ..record.clone() };
        // That it has succeeded is no stop.
        let count = (first && !stop.succeeded).then_some(Effect::CountStop(via));
        let transition = match (self.local.activity, record.status) {
            // Another worker of the ledger was faster while SageMaker was asked.
            (
                Activity::Verifying
                | Activity::Unverified
                | Activity::Asking
                | Activity::Confirming
                | Activity::Resuming,
                Status::Settled | Status::Concluded | Status::Owed,
            ) => {
                return self.proceed();
            }
            (_, Status::Settled | Status::Concluded | Status::Owed)
            | (Activity::Cleaning(_) | Activity::Stopping(StopReason::LeaseLost), _) => {
                return self.nothing();
            }
            // It was told already. If the ledger does not know, the record was changed before that
            // was written.
            (Activity::Stopping(StopReason::PipelineStopped | StopReason::SettledElsewhere), _) => {
                if !first {
                    return self.nothing();
                }
                return self.write(flagged).urgent(Urgency::Along);
            }
            (Activity::Running | Activity::Stopping(_), _) => {
                self.tell(Some(flagged), stop.reason())
            }
            // Only the stop is known, and SageMaker has just confirmed it.
            (Activity::Confirming, Status::New) if !self.local.wanted => {
                let owed = self.write(self.owed());
                owed.going(Activity::Sleeping, [Effect::Wake(self.owed_until())])
            }
            // Another live worker owns it, and learns of the flag with its next renewal.
            (_, Status::Claimed) if self.foreign_until().is_some() => {
                let sleep = self.sleep(self.foreign_until());
                Transition { write: self.write(flagged).write.filter(|_| first), ..sleep }
            }
            (_, Status::New | Status::Claimed | Status::Waiting | Status::Deferred) => {
                self.clean_up(flagged, stop.reason())
            }
        };
        transition.first(count)
    }

    /// The stop on record, with what is known now. A stop stays one if the step succeeds in it.
    fn stop_of(&self, closed: Option<StepResult>) -> Stop {
        let told = self.local.activity == Activity::Stopping(StopReason::SettledElsewhere);
        let known = self.record.stop_requested;
        let succeeded = told || known.is_none() && closed == Some(StepResult::Succeeded);
        let stop = known.unwrap_or(Stop::open(self.view.now));
        Stop {
            closed: stop.closed || succeeded || closed.is_some(),
            succeeded: stop.succeeded || succeeded,
            ..stop
        }
    }

    /// The answer about an owed stop of a step that is not known to run anywhere, or about a step
    /// whose execution has ended.
    pub(super) fn asked(&self, answer: &Answer) -> Transition {
        match (self.record.status, answer) {
            (
                Status::New | Status::Owed | Status::Claimed | Status::Waiting | Status::Deferred,
                Answer::Standing(Standing::Closed(how)),
            ) => self.closed(*how),
            (Status::Owed, _) if self.local.wanted || self.takeover_at() <= self.view.now => {
                self.take()
            }
            (Status::Owed, _) => self.sleep(Some(self.owed_until())),
            (Status::Deferred, _) if self.is_left_to_its_handler() => self.unanswered(answer),
            _ if self.resumable() => self.resumed(answer),
            _ => self.proceed(),
        }
    }

    /// The record of an owed stop, for a step that this ledger has never run.
    fn owed(&self) -> Record {
        let stop_requested = Some(Stop::open(self.view.now));
        Record { status: Status::Owed, stop_requested, ..self.record.clone() }
    }

    /// When to ask next about an owed stop.
    fn owed_until(&self) -> jiff::Timestamp {
        self.takeover_at().min(later(self.view.now, self.view.policy.ask_every))
    }

    fn question(&self) -> Effect {
        Effect::Ask { confirm_stop: self.local.stop_in_doubt.is_some() }
    }

    pub(super) fn seen_ended(&self) -> Transition {
        match (self.local.activity, self.record.status) {
            (_, Status::Owed | Status::Concluded | Status::Settled)
            | (
                Activity::Stopping(_)
                | Activity::Cleaning(_)
                | Activity::Verifying
                | Activity::Unverified
                | Activity::Asking
                | Activity::Confirming
                | Activity::Resuming
                | Activity::Reopening,
                _,
            ) => self.nothing(),
            // It is already asked about as often as makes sense.
            (Activity::Sleeping, _) if self.resumable() && self.local.failures > 0 => {
                self.nothing()
            }
            (Activity::Idle | Activity::Sleeping, _) if self.resumable() => {
                self.ask(Activity::Resuming)
            }
            (Activity::Idle | Activity::Sleeping, _) => self.ask(Activity::Asking),
            (
                activity @ (Activity::Running
                | Activity::Queued
                | Activity::Reporting
                | Activity::CheckingRefusal),
                _,
            ) => self.ask(activity),
        }
    }

    /// The execution of a deferred step is stopping. If this answer says nothing, the watch asks
    /// again.
    pub(super) fn stop_confirmed(&self, answer: &Answer) -> Transition {
        match answer {
            Answer::Standing(Standing::Open { .. }) => self.request_stop(Via::Watch, None),
            Answer::Standing(Standing::Closed(how)) => self.closed(*how),
            Answer::Standing(Standing::NotFound) | Answer::Unknown(_) => match self.record.status {
                Status::Deferred if self.is_left_to_its_handler() => self.unanswered(answer),
                // It is certain that its execution is being stopped.
                Status::Waiting => self.request_stop(Via::Watch, None),
                _ => self.proceed(),
            },
        }
    }

    pub(super) fn deadline_reached(&self) -> Transition {
        match (self.local.activity, self.record.status) {
            (Activity::Running, _) => self.tell(None, StopReason::TimeLimit),
            (Activity::Idle | Activity::Asking | Activity::Confirming, Status::Deferred)
                if self.overdue() =>
            {
                self.deferral_over()
            }
            // If it is not known to wait, SageMaker is asked first.
            (Activity::Sleeping | Activity::Queued, Status::Waiting | Status::Claimed)
                if self.overdue() && self.local.wanted && self.foreign_until().is_none() =>
            {
                self.take()
            }
            _ => self.nothing(),
        }
    }

    /// The time of a deferred step is over, and as far as is known no one has answered it.
    pub(super) fn deferral_over(&self) -> Transition {
        if self.view.policy.handler_is_gone {
            return self
                .fail(&format!("nobody completed the deferred step in time, and {}", self.gone()));
        }
        let limit = crate::duration::text(self.view.policy.deferred_limit);
        self.fail(&if self.is_left_to_its_handler() {
            format!("the handler ended well but did not answer the step within {limit}")
        } else {
            format!("nobody completed the deferred step within {limit}")
        })
    }

    /// Telling never waits for the ledger.
    pub(super) fn tell(&self, write: Option<Record>, reason: StopReason) -> Transition {
        let write = write.map(|record| Write { record, urgency: Urgency::Along });
        Transition { write, ..self.to(Activity::Stopping(reason), [Effect::Tell(reason)]) }
    }
}
