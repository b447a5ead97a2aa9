//! What can happen to a step.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::outcome::Outputs;
use crate::seam::Standing;
use crate::step::StepKey;

/// Something that happened, passed to [`decide`](super::decide).
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message of the step was received.
    Delivered(Arrival),
    /// The ledger was found to hold work for this step, without a message.
    Found,
    /// SageMaker answered a question about the step.
    Answered(Answer),
    /// A work slot is free for the step.
    SlotFree,
    /// The step has waited for a slot for as long as
    /// [`Policy::crowded_after`](super::Policy::crowded_after) says.
    Crowded,
    /// The handler saves a checkpoint.
    Checkpoint(Value),
    /// The handler names the step.
    Key(StepKey),
    /// The run ended, or was aborted.
    Ended(RunEnd),
    /// The cleanup ended; `Err` says why it failed.
    Cleaned(Result<(), String>),
    /// The cleanup was aborted by a shutdown.
    CleanupAborted,
    /// The run has lasted long enough to be trusted.
    Trusted,
    /// A run that was told to end has used up its grace.
    GraceOver,
    /// The time of [`State::deadline`](super::State::deadline) is reached.
    DeadlineReached,
    /// The time of the last [`Effect::Wake`](super::Effect::Wake) has come.
    Woken,
    /// The step is to be stopped: the execution is stopping.
    StopSeen(Via),
    /// The execution was seen to have ended, so the step may have too; or the step itself was.
    SeenEnded {
        /// The execution was stopped.
        stopped: bool,
    },
    /// SageMaker accepted the report.
    ReportAccepted,
    /// SageMaker refused the report in a way that leaves open whether the step is closed.
    ReportRefused(String),
    /// The report did not arrive, or was not allowed: the same may work later.
    ReportFailed {
        /// There is no permission to report.
        denied: bool,
        detail: String,
    },
    /// An operator wants the next attempt now. [`may_retry`](super::may_retry) says whether that
    /// changes anything.
    RetryAsked,
    /// The worker's lease could not be renewed in time, or another worker has taken over: all its
    /// claims are lost.
    LeaseLost,
    /// [`View::phase`](super::View::phase) has changed.
    Phase,
}

/// A message of the step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// The step waits for its outcome.
    Work {
        /// How often the message has been received, including this time.
        receives: u32,
        /// By SQS's clock.
        sent: Option<Timestamp>,
        /// As in this message: those of the record may be from an earlier time that the token
        /// waited.
        arguments: Arc<Value>,
    },
    /// The pipeline is being stopped.
    Stop,
    /// The same, sent before the newest accepted Executing message: it may be from an earlier time
    /// that the token waited.
    EarlierStop,
    /// The message has this step's token but names another execution.
    Foreign,
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

/// The result of asking SageMaker about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Standing(Standing),
    /// No permission, or no answer.
    Unknown(String),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
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
    /// The machine prevented it from working: not the step's fault.
    Hindered {
        what: &'static str,
        /// How long the handler is left alone now.
        after: Duration,
        error: String,
    },
    /// It was dropped before it ended.
    Aborted,
}
