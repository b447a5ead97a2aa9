//! The lifecycle's events, in a form that can be part of a state.

use std::sync::Arc;
use std::time::Duration;

use callbackd::lifecycle::{Answer, Arrival, Event, RunEnd, Via};
use callbackd::outcome::Outputs;
use callbackd::seam;
use jiff::Timestamp;
use serde_json::json;

/// By SQS's clock.
const SENT: Timestamp = Timestamp::UNIX_EPOCH;
const SENT_ANEW: Timestamp = Timestamp::MAX;

/// An [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happening {
    Delivered(Post),
    Found,
    Answered(Reply),
    SlotFree,
    Crowded,
    Ended(EndKind),
    Cleaned { well: bool },
    CleanupAborted,
    Trusted,
    GraceOver,
    DeadlineReached,
    Woken,
    StopSeen(Via),
    ExecutionEnded,
    ReportAccepted,
    ReportRefused,
    ReportFailed { denied: bool },
    RetryAsked,
    LeaseLost,
    Phase,
}

/// What a message is, as the driver hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Post {
    /// `anew`: sent when the token came back.
    Work {
        redelivered: bool,
        anew: bool,
    },
    Stop,
    /// It names another execution.
    Foreign,
}

/// How SageMaker sees the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    Open {
        stopping: bool,
    },
    Succeeded,
    Failed,
    Stopped,
    /// Deleted, so that no one will ever be told of it again.
    Gone,
}

impl Standing {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    Standing(Standing),
    NotFound,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndKind {
    /// Of this run: no two attempts compute the same.
    Success {
        run: u32,
    },
    Failure,
    Retry,
    Again,
    Deferred,
    /// The machine prevented it from working.
    Hindered,
    Aborted,
}

impl Happening {
    pub fn event(self) -> Event {
        match self {
            Self::Delivered(post) => Event::Delivered(post.arrival()),
            Self::Found => Event::Found,
            Self::Answered(reply) => Event::Answered(reply.answer()),
            Self::SlotFree => Event::SlotFree,
            Self::Crowded => Event::Crowded,
            Self::Ended(end) => Event::Ended(match end {
                EndKind::Success { run } => RunEnd::Success(outputs(run)),
                EndKind::Failure => RunEnd::Failure("the handler says no".to_owned()),
                EndKind::Retry => RunEnd::Retry { after: None, error: "no route".to_owned() },
                EndKind::Again => RunEnd::Again(Duration::from_mins(1)),
                EndKind::Deferred => RunEnd::Deferred,
                EndKind::Hindered => RunEnd::Hindered {
                    what: "space",
                    after: Duration::from_secs(1),
                    error: "no space".to_owned(),
                },
                EndKind::Aborted => RunEnd::Aborted,
            }),
            Self::Cleaned { well: true } => Event::Cleaned(Ok(())),
            Self::Cleaned { well: false } => Event::Cleaned(Err("no permission".to_owned())),
            Self::CleanupAborted => Event::CleanupAborted,
            Self::Trusted => Event::Trusted,
            Self::GraceOver => Event::GraceOver,
            Self::DeadlineReached => Event::DeadlineReached,
            Self::Woken => Event::Woken,
            Self::StopSeen(via) => Event::StopSeen(via),
            Self::ExecutionEnded => Event::SeenEnded { stopped: false },
            Self::ReportAccepted => Event::ReportAccepted,
            Self::ReportRefused => Event::ReportRefused("refused".to_owned()),
            Self::ReportFailed { denied } => {
                Event::ReportFailed { denied, detail: "failed".to_owned() }
            }
            Self::RetryAsked => Event::RetryAsked,
            Self::LeaseLost => Event::LeaseLost,
            Self::Phase => Event::Phase,
        }
    }
}

impl Post {
    fn arrival(self) -> Arrival {
        match self {
            Self::Work { redelivered, anew } => Arrival::Work {
                receives: 1 + u32::from(redelivered),
                sent: Some(if anew { SENT_ANEW } else { SENT }),
                arguments: Arc::new(json!({})),
            },
            Self::Stop => Arrival::Stop,
            Self::Foreign => Arrival::Foreign,
        }
    }
}

impl Reply {
    fn answer(self) -> Answer {
        Answer::Standing(match self {
            Self::Standing(Standing::Open { stopping }) => {
                seam::Standing::Open { stopping, queue_url: None }
            }
            Self::Standing(Standing::Succeeded) => {
                seam::Standing::Closed(seam::StepResult::Succeeded)
            }
            Self::Standing(Standing::Failed) => seam::Standing::Closed(seam::StepResult::Failed),
            Self::Standing(Standing::Stopped) => seam::Standing::Closed(seam::StepResult::Stopped),
            Self::Standing(Standing::Gone) | Self::NotFound => seam::Standing::NotFound,
            Self::Unknown => return Answer::Unknown("throttled".to_owned()),
        })
    }
}

impl EndKind {
    /// The handler produced an outcome of its own.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Success { .. } | Self::Failure)
    }
}

fn outputs(run: u32) -> Outputs {
    let mut outputs = Outputs::new();
    outputs.insert("run", run).expect("a number is an output");
    outputs
}
