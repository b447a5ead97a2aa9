//! Steps that SageMaker shows closed although this ledger has not answered them: their own handler
//! has, if it is to answer, or someone else. Also the evidence that another consumer reads a queue
//! which this worker should have to itself.

use super::machine::{Decision, Transition};
use super::{Activity, Answer, AnsweredBy, Effect, Ending, Record, Status, Via};
use crate::seam::{ExecutionStanding, Standing, StepResult};

impl Decision<'_> {
    /// The step has begun, and its handler is to answer SageMaker itself.
    pub(super) fn is_left_to_its_handler(&self) -> bool {
        self.view.policy.answers == AnsweredBy::Handler && self.record.attempt > 0
    }

    /// The step, whose handler was to answer it, has been answered through the ledger instead, and
    /// nothing was reported yet.
    pub(super) fn is_answered_here(&self) -> bool {
        self.record.status == Status::Concluded
            && self.record.owner.is_none()
            && self.local.refusals == 0
            && self.record.missing_since.is_none()
            && self.is_left_to_its_handler()
    }

    /// After a run that asks for another one: its handler may have answered all the same, so
    /// SageMaker is asked before it runs again.
    pub(super) fn may_have_answered(self) -> Self {
        let answers = self.is_left_to_its_handler();
        self.knowing(|local| local.wanted &= !answers)
    }

    /// Whether a step that is closed like this has been answered.
    ///
    /// One that has failed may have failed with its execution, which cannot be told apart: only if
    /// someone else was to answer it does it count as answered.
    pub(super) fn is_answered(&self, how: StepResult) -> bool {
        match how {
            StepResult::Succeeded => true,
            StepResult::Failed => {
                self.record.status == Status::Deferred || self.is_left_to_its_handler()
            }
            StepResult::Stopped => false,
        }
    }

    /// How a step ended that is closed like this.
    pub(super) fn ending_of(&self, how: StepResult) -> Ending {
        if self.is_left_to_its_handler() && self.is_answered(how) {
            Ending::AnsweredByHandler
        } else {
            Ending::SettledElsewhere
        }
    }

    /// SageMaker shows the step closed, and not by this worker. If it was answered, its job has
    /// done what it should, so there is nothing to clean up unless something runs. Otherwise what
    /// ran here is cleaned up after.
    pub(super) fn closed(&self, how: StepResult) -> Transition {
        let record = self.record;
        let answered = self.is_answered(how);
        let runs = self.local.activity.is_running() || self.foreign_until().is_some();
        let settles = match record.status {
            Status::New | Status::Owed => true,
            Status::Waiting if record.attempt == 0 => true,
            Status::Deferred => answered,
            Status::Claimed | Status::Waiting if runs && answered => {
                if self.is_left_to_its_handler() && !self.local.stop_seen {
                    return self.left_running();
                }
                false
            }
            Status::Claimed | Status::Waiting => answered && record.stop_requested.is_none(),
            Status::Concluded | Status::Settled => false,
        };
        if settles { self.settle_closed(how) } else { self.request_stop(Via::Watch, Some(how)) }
    }

    /// Settles a step that someone else has answered.
    pub(super) fn settle_closed(&self, how: StepResult) -> Transition {
        let record = Record { closed_as: Some(how), ..self.record.clone() };
        Decision { record: &record, ..*self }.settle(self.ending_of(how))
    }

    /// A run that has answered its step is not stopped for it: it ends by itself, unless its
    /// pipeline is stopped.
    fn left_running(&self) -> Transition {
        match self.local.activity {
            Activity::Running => self.nothing(),
            _ => self.leave_to_owner(),
        }
    }

    /// SageMaker is asked whether the handler, which has ended, has answered. No message is held
    /// meanwhile, unless the step has a stop, which may still have to be answered.
    pub(super) fn ask_for_its_answer(&self) -> Transition {
        let stopped = self.record.stop_requested.is_some() || self.doubt().is_some();
        self.ask(Activity::Asking).first((!stopped).then_some(Effect::Delete))
    }

    /// The handler has not answered yet. SageMaker is asked again ever more slowly, until the
    /// deferral's limit; a step that is to be stopped waits no longer.
    pub(super) fn unanswered(&self, answer: &Answer) -> Transition {
        if self.record.stop_requested.is_some() {
            return self.take();
        }
        if matches!(answer, Answer::Standing(Standing::Open { stopping: true, .. })) {
            return self.request_stop(Via::Watch, None);
        }
        if self.overdue() {
            return self.deferral_over();
        }
        let step = self.knowing(|local| local.failures += 1);
        let again = self.again_at(step.local.failures);
        step.sleep(Some(self.record.deadline.map_or(again, |deadline| deadline.min(again))))
    }

    /// SageMaker shows a step closed that the ledger held for its next owner.
    ///
    /// Such a record has no outcome, so no report of this ledger can have been accepted, and no run
    /// of it is under way. That is not yet evidence: see [`Effect::AnsweredElsewhere`].
    pub(super) fn answered_elsewhere(&self, how: StepResult) -> Option<Effect> {
        let ours = !self.view.policy.alone
            || self.record.outcome.is_some()
            || self.is_left_to_its_handler();
        let answered = matches!(how, StepResult::Succeeded | StepResult::Failed);
        (answered && !ours).then_some(Effect::AnsweredElsewhere(how))
    }
}

/// Whether a step that ended like this can only have ended by an answer, given where its execution
/// stands.
///
/// - A step *succeeds* only by an answer. While its execution is stopping, the answer may be to the
///   stop, which an operator may give for a job that is known to be gone.
/// - A step *fails* by an answer too, but how SageMaker shows the other steps of an execution that
///   has failed is not documented. Only while the execution goes on is it certain.
/// - A step that was *stopped*, or whose execution is not found, says nothing about consumers.
#[must_use]
pub fn shows_an_answer(step: StepResult, execution: ExecutionStanding) -> bool {
    use ExecutionStanding::{Ended, Executing};
    match (step, execution) {
        (StepResult::Succeeded, Executing | Ended(StepResult::Succeeded | StepResult::Failed))
        | (StepResult::Failed, Executing) => true,
        (
            StepResult::Succeeded | StepResult::Failed | StepResult::Stopped,
            ExecutionStanding::Stopping | ExecutionStanding::NotFound | Ended(_),
        )
        | (StepResult::Stopped, Executing) => false,
    }
}
