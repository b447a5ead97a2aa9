//! Evidence that another consumer reads a queue which this worker should have to itself.

use super::Effect;
use super::machine::Decision;
use crate::seam::{ExecutionStanding, StepResult};

impl Decision<'_> {
    /// SageMaker shows a step closed that the ledger held for its next owner.
    ///
    /// Such a record has no outcome, so no report of this ledger can have been accepted, and no run
    /// of it is under way. That is not yet evidence: see [`Effect::AnsweredElsewhere`].
    pub(super) fn answered_elsewhere(&self, how: StepResult) -> Option<Effect> {
        let ours = !self.view.policy.alone || self.record.outcome.is_some();
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
