//! What is known of a step: its durable record, and what this worker knows beside it.

use jiff::Timestamp;

use super::{Record, Status};
use crate::step::StopReason;

#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub record: Record,
    pub local: Local,
}

/// What this worker knows of a step beside its record; it dies with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    pub activity: Activity,
    /// An Executing message of the step is held here, or SageMaker has said in this life that the
    /// step waits.
    pub wanted: bool,
    /// Reports that were refused in a row.
    pub refusals: u32,
    /// Reports that failed, or questions whose answer decided nothing, in a row: they space the
    /// next.
    pub failures: u32,
    /// A Stopping message is held that is believed only once SageMaker confirms it; since when.
    pub stop_in_doubt: Option<Timestamp>,
    /// When the newest Executing message that was delivered here was sent, by SQS's clock. The next
    /// write takes it along.
    pub sent: Option<Timestamp>,
}

/// What is under way here for the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// Nothing: this worker holds no message of the step and need not keep it in mind.
    Idle,
    /// SageMaker is being asked before the step is started for the first time.
    Verifying,
    /// SageMaker did not say where a step stands that must be verified, and is asked again later.
    Unverified,
    /// SageMaker is being asked about a stop that is owed, or about a deferred or waiting step
    /// whose execution has ended.
    Asking,
    /// SageMaker is being asked, or asked again later, about nothing but a stop: the execution of a
    /// deferred step is stopping and somebody may have completed it, or a Stopping message is not
    /// believed yet.
    Confirming,
    /// The ledger held the step without its message, and SageMaker is being asked before it goes
    /// on.
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
    /// The report was refused, or is never allowed, and SageMaker is being asked where the step
    /// stands.
    CheckingRefusal,
    /// A wake is arranged.
    Sleeping,
}

/// How a claim stands, as whoever looks at it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    Over,
    /// It may be renewed; look again then.
    Until(Timestamp),
}

impl State {
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self { record, local: Local::NOTHING }
    }

    /// When [`Event::DeadlineReached`](super::Event::DeadlineReached) is to be said, if nothing
    /// else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let ends = match (self.local.activity, self.record.status) {
            (Activity::Running, _) => true,
            // One that nobody has said to wait is asked about before it is ended.
            (Activity::Sleeping | Activity::Queued, Status::Waiting) => self.local.wanted,
            _ => false,
        };
        self.record.deadline.filter(|_| ends)
    }
}

impl Local {
    /// Nothing is under way, and nothing known.
    pub const NOTHING: Self = Self {
        activity: Activity::Idle,
        wanted: false,
        refusals: 0,
        failures: 0,
        stop_in_doubt: None,
        sent: None,
    };

    /// Nothing is under way: whoever drives the step may forget it.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.activity == Activity::Idle
    }
}

impl Activity {
    /// A handler's run is under way, told to end or not.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Stopping(_))
    }

    /// The step is not started before SageMaker has said that it waits.
    #[must_use]
    pub fn is_verifying(self) -> bool {
        matches!(self, Self::Verifying | Self::Unverified)
    }

    /// For people.
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
