//! What can happen to a step.

use std::time::Duration;

use serde_json::Value;

use crate::outcome::Outputs;
use crate::seam::Standing;

/// Something that happened, told to [`decide`](super::decide).
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message of the step was received.
    Delivered(Arrival),
    /// The ledger was found to hold work for this step, with no message in hand.
    Found,
    /// SageMaker was asked about the step.
    Answered(Answer),
    /// A work slot is free for the step.
    SlotFree,
    /// The handler saves a checkpoint.
    Checkpoint(Value),
    /// The run ended, or was aborted.
    Ended(End),
    /// The cleanup ended; `Err` says why it failed.
    Cleaned(Result<(), String>),
    /// The cleanup was aborted by a shutdown.
    CleanupAborted,
    /// A run that was told to end has used up its grace.
    GraceOver,
    /// The record's deadline is reached.
    DeadlineReached,
    /// The time of the last [`Effect::Wake`](super::Effect::Wake) has come.
    Woken,
    /// The step is to be stopped: the execution is stopping.
    StopSeen(Via),
    /// The execution has ended, so the step may have too.
    ExecutionEnded,
    /// SageMaker accepted the report.
    ReportAccepted,
    /// SageMaker refused the report in a way that leaves open whether the step is closed.
    ReportRefused(String),
    /// The claim is to be renewed.
    Renew,
    /// The claim could not be renewed in time, or is another's.
    LeaseLost,
    /// The worker takes no new work.
    Drain,
    /// The worker has waited long enough: runs are to end and be released.
    Shutdown,
    /// The worker leaves now.
    Halt,
}

/// A message of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// `redelivered`: it was received before.
    Work {
        redelivered: bool,
    },
    Stop,
}

/// How a stop was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    Message,
    Watch,
    Ledger,
}

impl Via {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Watch => "watch",
            Self::Ledger => "ledger",
        }
    }
}

/// What came of asking SageMaker about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Standing(Standing),
    /// No permission, or no answer.
    Unknown(String),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Success(Outputs),
    /// The step fails, with this text as its reason.
    Failure(String),
    /// It may work another time.
    Retry {
        after: Option<Duration>,
        error: String,
    },
    Again(Duration),
    Deferred,
    /// It was dropped before it ended.
    Aborted,
}
