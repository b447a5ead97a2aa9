//! What is to be done about a step.

use jiff::Timestamp;

use super::{Ending, Via};
use crate::step::StopReason;

/// Something to do, in the order given: once the transition's record is durable, or at once where
/// its write is [`Urgency::Along`](super::Urgency::Along).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask SageMaker where the step stands, then say [`Event::Answered`](super::Event::Answered).
    Ask {
        /// Ask also whether the execution is stopping.
        /// [`Standing::Open`](crate::seam::Standing::Open) is `stopping` then if either says so.
        confirm_stop: bool,
    },
    /// Get a work slot, then say [`Event::SlotFree`](super::Event::SlotFree).
    AwaitSlot,
    /// Start the handler's run.
    Run,
    /// Tell the run to end, and let its grace begin.
    Tell(StopReason),
    /// Drop the run or cleanup. Dropping what was dropped changes nothing.
    Abort,
    /// Start the handler's cleanup.
    CleanUp(StopReason),
    /// Send the frozen outcome once, then say what came of it.
    Report,
    /// Say [`Event::Woken`](super::Event::Woken) at this time, instead of at any earlier arranged
    /// one.
    Wake(Timestamp),
    /// Delete every message held for the step.
    Delete,
    /// Make every message held for the step visible at once, for another worker.
    Return,
    /// Hold the step's messages no longer and let them come back by themselves.
    LetGo,
    /// The step is not to be worked on: hide its messages for a while and let them go. The text
    /// says why.
    Refuse(String),
    /// The same for the one message that was just delivered; all others stay as they are.
    RefuseDelivery(String),
    /// The same for the Stopping messages held for the step; all others stay as they are.
    RefuseStop(String),
    /// Send fresh copies of those held messages that were received so often that the queue's
    /// redrive policy may take them soon, and delete the worn ones.
    Replace,
    /// SageMaker does not find the step of a report that it did not take: say it at error, and
    /// count it.
    Missing,
    /// Count a stop that was noticed.
    CountStop(Via),
    /// Count a step that is done with.
    Finish(Ending),
}
