//! What is to be done about a step.

use jiff::Timestamp;

use super::{Ending, Via};
use crate::seam::StepResult;
use crate::step::StopReason;

/// Something to do, in the given order: once the transition's record is durable, or at once if its
/// write is [`Urgency::Along`](super::Urgency::Along).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask SageMaker where the step stands, then send [`Event::Answered`](super::Event::Answered).
    Ask {
        /// Ask also whether the execution is stopping.
        /// [`Standing::Open`](crate::seam::Standing::Open) is `stopping` then if either says so.
        confirm_stop: bool,
    },
    /// Get a work slot, then send [`Event::SlotFree`](super::Event::SlotFree).
    AwaitSlot,
    /// Start the handler's run.
    Run,
    /// Tell the run to end, and let its grace begin.
    Tell(StopReason),
    /// Drop the run or cleanup. Dropping it twice changes nothing.
    Abort,
    /// Start the handler's cleanup.
    CleanUp(StopReason),
    /// Send the frozen outcome once, then send the result as an event.
    Report,
    /// Send [`Event::Woken`](super::Event::Woken) at this time, replacing any earlier arrangement.
    Wake(Timestamp),
    /// Delete every message held for the step.
    Delete,
    /// Make every message held for the step visible at once, for another worker.
    Return,
    /// No longer hold the step's messages, and let them come back by themselves.
    LetGo,
    /// The step is not accepted: hide its messages for a while and let them go. The text says why.
    /// Messages from other queues than the one that it was asked for are not hidden.
    Refuse(String),
    /// The same for the one message that was just delivered; the others stay as they are.
    RefuseDelivery(String),
    /// The same for the Stopping messages held for the step; the others stay as they are.
    RefuseStop(String),
    /// Send fresh copies of those held messages that were received so often that the queue's
    /// redrive policy may take them soon, and delete the old ones.
    Replace,
    /// Send fresh copies of all messages held for the step, for another worker, and delete the old
    /// ones: given back, they would soon have been received too often.
    PassOn,
    /// SageMaker does not find the step whose report it refused: log it as an error, and count it.
    Missing,
    /// SageMaker shows a step answered that this ledger held and never answered, although no other
    /// worker should receive it.
    ///
    /// Expected: another consumer of the queue has received the message, answered and deleted it.
    /// The driver has to rule out the other explanations. If the message comes back, the handler,
    /// the job it started, or an operator has answered: they delete no message. If the execution is
    /// stopping, or [`shows_an_answer`](super::shows_an_answer) otherwise says no, it may not have
    /// been an answer at all.
    ///
    /// Caveat: a message that was redriven, purged or expired does not come back either. If such a
    /// step is answered by hand, it looks as if another consumer had answered.
    AnsweredElsewhere(StepResult),
    /// Count a stop that was noticed.
    CountStop(Via),
    /// Count a step that is finished.
    Finish(Ending),
}
