//! What is known about a step: its durable record, and this worker's local knowledge.

use jiff::Timestamp;

use super::{Record, Status};
use crate::step::StopReason;

#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub record: Record,
    pub local: Local,
}

/// What this worker knows about a step beside its record; lost with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    pub activity: Activity,
    /// An Executing message of the step is held, or SageMaker has said in this life that the step
    /// waits.
    pub wanted: bool,
    /// Consecutive refused reports.
    pub refusals: u32,
    /// Consecutive failed reports, or answers that decided nothing: they space the next attempt.
    pub failures: u32,
    /// Since when an unconfirmed Stopping message is held, if one is.
    pub stop_in_doubt: Option<Timestamp>,
    /// The stop watch saw that the execution is being stopped, or was, and that ends a run even if
    /// its step has been answered.
    pub stop_seen: bool,
    /// When the newest Executing message that was delivered here was sent, by SQS's clock. The next
    /// write includes it.
    pub sent: Option<Timestamp>,
}

/// What this worker is doing about the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// Nothing: it holds no message of the step and may forget it.
    Idle,
    /// SageMaker is being asked before the step is started for the first time.
    Verifying,
    /// SageMaker did not say where a step stands that must be verified, and is asked again later.
    Unverified,
    /// SageMaker is being asked about an owed stop, or about a deferred or waiting step whose
    /// execution has ended.
    Asking,
    /// SageMaker is being asked, or asked again later, only about a stop: the execution of a
    /// deferred step is stopping and someone may have completed the step, or a Stopping message is
    /// unconfirmed.
    Confirming,
    /// The ledger held the step without its message, and SageMaker is being asked before it is
    /// resumed.
    Resuming,
    /// A settled step seems to wait again, and SageMaker is being asked, or asked again later.
    Reopening,
    /// The step waits for a work slot.
    Queued,
    /// The handler runs.
    Running,
    /// The handler was told to end and has not yet.
    Stopping(StopReason),
    /// The handler's cleanup runs.
    Cleaning(StopReason),
    /// The outcome is being sent.
    Reporting,
    /// The report was refused, or denied repeatedly, and SageMaker is being asked where the step
    /// stands.
    CheckingRefusal,
    /// Nothing happens until the wake-up time, or until a message or a stop comes.
    Sleeping,
}

/// The state of a claim, as far as this process can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    Over,
    /// It may be renewed; look again at this time.
    Until(Timestamp),
}

impl State {
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self { record, local: Local::NOTHING }
    }

    /// When to send [`Event::DeadlineReached`](super::Event::DeadlineReached), if nothing else
    /// happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let ends = match (self.local.activity, self.record.status) {
            (Activity::Running, _) => true,
            // If it is not known to wait, SageMaker is asked before it is ended.
            (Activity::Sleeping | Activity::Queued, Status::Waiting) => self.local.wanted,
            _ => false,
        };
        self.record.deadline.filter(|_| ends)
    }
}

impl Local {
    /// No activity, no knowledge.
    pub const NOTHING: Self = Self {
        activity: Activity::Idle,
        wanted: false,
        refusals: 0,
        failures: 0,
        stop_in_doubt: None,
        stop_seen: false,
        sent: None,
    };

    /// No activity: the driver may forget the step.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.activity == Activity::Idle
    }
}

impl Activity {
    /// A handler's run is in progress, told to end or not.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Stopping(_))
    }

    /// The step is not started before SageMaker has said that it waits.
    #[must_use]
    pub fn is_verifying(self) -> bool {
        matches!(self, Self::Verifying | Self::Unverified)
    }

    /// A word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "none",
            Self::Verifying | Self::Unverified => "verifying",
            Self::Asking | Self::Confirming | Self::Resuming | Self::Reopening => {
                "asking SageMaker"
            }
            Self::Queued => "waiting for a slot",
            Self::Running => "running",
            Self::Stopping(_) => "stopping",
            Self::Cleaning(_) => "cleaning up",
            Self::Reporting => "reporting",
            Self::CheckingRefusal => "asking after a refusal",
            Self::Sleeping => "waiting",
        }
    }
}
