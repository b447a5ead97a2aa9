//! The durable part of a step's lifecycle, one record for each callback token.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as BadValue, StrDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::History;
use crate::outcome::{ClientRequestToken, Outcome};
use crate::seam::StepResult;
use crate::step::{
    CallbackToken, ExecutionArn, QueueUrl, Quoted, Step, StepKey, StopReason, TraceHeader,
};

/// What the ledger knows about a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub token: CallbackToken,
    pub execution: ExecutionArn,
    /// The queue that the step's message came from.
    pub queue: QueueUrl,
    /// The handler's name in the configuration; `None` if no route matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<Arc<str>>,
    /// Null once the step is settled: they are no longer needed.
    pub arguments: Arc<Value>,
    pub status: Status,
    /// The process that runs or reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<WorkerId>,
    /// How many attempts were started, counted when claimed. [`after_crash`](Self::after_crash)
    /// says how a crash changes that.
    pub attempt: u32,
    /// The next claim continues the last attempt instead of beginning one. Never true in a claim
    /// whose owner is alive.
    pub resume: bool,
    /// This machine prevented it from being started; `last_error` says how.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hindered: bool,
    /// How often a worker died while running this step, whether that counted as an attempt or not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// How many of the last crashes it may have caused, among others: since it last ended by
    /// itself, or ran long enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suspicion: u32,
    /// Not to be started before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When the time limit, or that of a deferral, is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Arc<Value>>,
    /// What the handler calls the step, for those who answer it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<StepKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_requested: Option<Stop>,
    /// The computed result; frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_request_token: Option<ClientRequestToken>,
    /// How the step ended, for the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// How SageMaker showed the step when it was found to be closed by someone else's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_as: Option<StepResult>,
    /// The last error, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub first_seen: Timestamp,
    /// When the outcome was frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concluded_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Timestamp>,
    /// When the newest accepted Executing message was sent, by SQS's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Timestamp>,
    /// Since when SageMaker has not found the step whose outcome it refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// When SageMaker last did not find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_at: Option<Timestamp>,
    /// What a newer Executing message says about a settled step, until SageMaker has said whether
    /// the step waits again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Returned>,
    /// How often the token has come back after it was settled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returns: u32,
    /// For people.
    #[serde(default, skip_serializing_if = "History::is_empty")]
    pub history: History,
    /// The trace of the first message that had one; no decision depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceHeader>,
    /// As stored; 0 if the step is known only from its message.
    pub version: u64,
}

/// The progress of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Known from its message, not in the ledger.
    New,
    /// A stop was seen for a step that this ledger has never run; it must still be answered.
    Owed,
    /// The owner runs it, or cleans up after it.
    Claimed,
    /// No worker runs it: it was released, or waits for its next attempt.
    Waiting,
    /// Someone else will complete it, or the handler itself.
    Deferred,
    /// The outcome is frozen and not yet known to be accepted.
    Concluded,
    /// Answered, or closed at SageMaker.
    Settled,
}

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stop {
    pub at: Timestamp,
    /// The step is closed at SageMaker: clean up, and report nothing.
    pub closed: bool,
    /// It is closed because it has succeeded by an answer of someone else's while its handler ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub succeeded: bool,
}

/// A token that may have come back: pipelines can be retried, and their steps then wait once more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Returned {
    /// When the message was sent, by SQS's clock.
    pub sent: Timestamp,
    pub arguments: Arc<Value>,
}

/// How a step ended; the `outcome` label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Success,
    Failure,
    Deferred,
    Stopped,
    SettledElsewhere,
    /// SageMaker shows it closed, and its handler was to answer it:
    /// [`AnsweredBy::Handler`](super::AnsweredBy::Handler).
    AnsweredByHandler,
}

/// One process of one worker; two processes never share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub Arc<str>);

impl Record {
    /// What a message says about a step that the ledger does not know.
    #[must_use]
    pub fn of_message(
        step: Step,
        queue: QueueUrl,
        handler: Option<Arc<str>>,
        now: Timestamp,
    ) -> Self {
        Self {
            token: step.token,
            execution: step.execution,
            queue,
            handler,
            arguments: step.arguments,
            status: Status::New,
            owner: None,
            attempt: 0,
            resume: false,
            hindered: false,
            crashes: 0,
            suspicion: 0,
            not_before: None,
            deadline: None,
            checkpoint: None,
            key: None,
            stop_requested: None,
            outcome: None,
            client_request_token: None,
            ending: None,
            closed_as: None,
            last_error: None,
            first_seen: now,
            concluded_at: None,
            settled_at: None,
            sent: None,
            missing_since: None,
            missing_at: None,
            returned: None,
            returns: 0,
            history: History::default(),
            trace: None,
            version: 0,
        }
    }

    /// The step as its message described it.
    #[must_use]
    pub fn step(&self) -> Step {
        let arguments = self.arguments.clone();
        Step { token: self.token.clone(), execution: self.execution.clone(), arguments }
    }
}

impl Stop {
    /// A stop of a step that SageMaker still waits for.
    #[must_use]
    pub fn open(at: Timestamp) -> Self {
        Self { at, closed: false, succeeded: false }
    }

    /// What the run and the cleanup are told.
    #[must_use]
    pub fn reason(self) -> StopReason {
        if self.succeeded { StopReason::SettledElsewhere } else { StopReason::PipelineStopped }
    }
}

impl Status {
    /// Its name in the ledger, `callbackd steps` and `/steps`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Owed => "owed",
            Self::Claimed => "claimed",
            Self::Waiting => "waiting",
            Self::Deferred => "deferred",
            Self::Concluded => "concluded",
            Self::Settled => "settled",
        }
    }
}

/// A status has another name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no status {0}; there are owed, claimed, waiting, deferred, concluded and settled"
)]
pub struct UnknownStatus(Quoted);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        let read: StrDeserializer<'_, BadValue> = name.into_deserializer();
        Self::deserialize(read).map_err(|_| UnknownStatus(Quoted::json(&name.into())))
    }
}

impl Ending {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Deferred => "deferred",
            Self::Stopped => "stopped",
            Self::SettledElsewhere => "settled_elsewhere",
            Self::AnsweredByHandler => "answered_by_handler",
        }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
