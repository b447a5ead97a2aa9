//! What the engine needs of the outside world, as traits: the queue, the pipelines, and who watches.
//!
//! Nothing behind these traits decides anything about a step, and nothing before them knows whether they are real.

use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::outcome::{ClientRequestToken, Outcome};
use crate::step::{CallbackToken, ExecutionArn};

/// One received copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The same for every copy that SQS itself makes of a message.
    pub id: String,
    /// Valid for this receive; the next receive of the same message brings a newer one.
    pub handle: String,
    pub body: String,
    /// How often the message has been received, this time included; at least 1.
    pub receives: u32,
    /// When the message was sent; it survives a move to a dead-letter queue.
    pub sent: Option<Timestamp>,
    /// SQS's `AWSTraceHeader`.
    pub trace: Option<String>,
}

/// Why a call did not do what it was asked to, sorted by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    pub kind: FaultKind,
    /// The service's code and message, or what broke on the way, in one line.
    pub detail: String,
}

/// What to do about a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Throttling, 5xx, time-outs, connections, credentials that are late: the same call may work soon.
    Transient,
    /// No permission: it works once somebody mends the policy.
    Denied,
    /// The receipt handle is no longer good: the message is not ours any more.
    Stale,
    /// The service understood the call and will not do it.
    Refused,
}

impl Fault {
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// What became of each entry of a batch, in the order of the entries.
pub type Entries = Vec<Result<(), Fault>>;

/// One SQS queue.
pub trait Queue: Send + Sync {
    /// Up to `most` (1 to 10) messages, waiting up to `wait` (at most 20 s) for the first; each stays invisible for `visibility`.
    ///
    /// The caller awaits the result whatever happens: a dropped receive strands what it brought.
    fn receive(&self, most: usize, wait: Duration, visibility: Duration)
    -> BoxFuture<'_, Result<Vec<Received>, Fault>>;

    /// Sets how long from now each message stays invisible; at most ten entries. Zero makes it visible.
    fn set_visibility<'a>(&'a self, entries: &'a [(String, Duration)]) -> BoxFuture<'a, Result<Entries, Fault>>;

    /// Deletes by receipt handle; at most ten.
    fn delete<'a>(&'a self, handles: &'a [String]) -> BoxFuture<'a, Result<Entries, Fault>>;

    /// Sends a message of this body, with the trace header where there is one.
    fn send<'a>(&'a self, body: &'a str, trace: Option<&'a str>) -> BoxFuture<'a, Result<(), Fault>>;
}

/// How SageMaker sees one callback step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for an answer.
    Open { stopping: bool, queue_url: Option<String> },
    /// It has ended.
    Closed(Ending),
    /// The execution has no step with this token, or there is no such execution.
    NotFound,
}

/// How a step ended at SageMaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Succeeded,
    Failed,
    Stopped,
}

/// How SageMaker sees one execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionStanding {
    Executing,
    Stopping,
    /// Succeeded, failed or stopped.
    Ended,
    NotFound,
}

/// SageMaker, as far as callback steps go.
pub trait Pipelines: Send + Sync {
    /// Sends the outcome of a step. [`FaultKind::Refused`] leaves open whether the step is closed: ask [`Pipelines::step`].
    fn report<'a>(
        &'a self,
        token: &'a CallbackToken,
        outcome: &'a Outcome,
        request: &'a ClientRequestToken,
    ) -> BoxFuture<'a, Result<(), Fault>>;

    /// Where the step with this token stands.
    fn step<'a>(
        &'a self,
        execution: &'a ExecutionArn,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Standing, Fault>>;

    /// Where the execution stands.
    fn execution<'a>(&'a self, execution: &'a ExecutionArn) -> BoxFuture<'a, Result<ExecutionStanding, Fault>>;
}

/// Something that metrics count.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation<'a> {
    AwsCall {
        service: &'static str,
        operation: &'static str,
        result: &'a str,
    },
    /// Our own bound on a call fired.
    AwsTimeout {
        operation: &'static str,
    },
    StepStarted {
        queue: &'a str,
        handler: &'a str,
        pickup: Option<Duration>,
    },
    /// A run or cleanup ended here, whatever came of it.
    StepIdle {
        queue: &'a str,
        handler: &'a str,
    },
    /// A step is done with: `success`, `failure`, `deferred`, `stopped` or `settled_elsewhere`.
    StepEnded {
        queue: &'a str,
        handler: &'a str,
        outcome: &'a str,
        took: Option<Duration>,
    },
    Unreadable {
        queue: &'a str,
    },
    HeartbeatFailed,
    /// A stop was noticed: by `message`, `watch` or `ledger`.
    Stop {
        via: &'static str,
    },
    LedgerCommit {
        took: Duration,
    },
    LedgerFailing(bool),
    StopWatchInterval(Duration),
}

/// Who is told of what metrics count. Called on the hot path: it must not block.
pub trait Observer: Send + Sync {
    fn observe(&self, observation: Observation<'_>);
}

/// Nobody.
impl Observer for () {
    fn observe(&self, _: Observation<'_>) {}
}
