//! What is to be done about a step.

use jiff::Timestamp;

use super::{Ending, Via};
use crate::step::StopReason;

/// Something to do, in the order given, once the transition's record is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask SageMaker where the step stands.
    Ask,
    /// Get a work slot, then say [`Event::SlotFree`](super::Event::SlotFree).
    AwaitSlot,
    /// Start the handler's run.
    Run,
    /// Tell the run to end, and let its grace begin.
    Tell(StopReason),
    /// Drop the run or cleanup.
    Abort,
    /// Start the handler's cleanup.
    CleanUp(StopReason),
    /// Send the frozen outcome, for as long as it takes.
    Report,
    /// Say [`Event::Woken`](super::Event::Woken) at this time, instead of at any earlier arranged one.
    Wake(Timestamp),
    /// Delete every message held for the step.
    Delete,
    /// Make every message held for the step visible at once, for another worker.
    Return,
    /// Hold the step's messages no longer and let them come back by themselves.
    LetGo,
    /// The step is not to be worked on: hide its messages for a while and let them go. The text says why.
    Refuse(String),
    /// Count a stop that was noticed.
    CountStop(Via),
    /// Count a step that is done with.
    Finish(Ending),
}
