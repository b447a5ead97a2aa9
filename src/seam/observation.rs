//! Events that metrics count, and the receiver of them.

use std::time::Duration;

use super::Tracer;

/// An event that metrics count.
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
    /// A run or cleanup ended here, whatever its result.
    StepIdle {
        queue: &'a str,
        handler: &'a str,
    },
    /// A step is finished: `success`, `failure`, `deferred`, `stopped`, `settled_elsewhere` or
    /// `answered_by_handler`.
    StepEnded {
        queue: &'a str,
        handler: &'a str,
        outcome: &'a str,
        took: Option<Duration>,
    },
    Unreadable {
        queue: &'a str,
    },
    /// A report was refused, and SageMaker does not find its step.
    ReportNotFound {
        queue: &'a str,
    },
    /// A call could not keep this many messages invisible.
    HeartbeatFailed {
        queue: &'a str,
        messages: usize,
    },
    /// An attempt of a step begins: its claim is durable.
    Attempt {
        queue: &'a str,
        handler: &'a str,
        first: bool,
    },
    /// A step or a stop is refused, after SageMaker was asked about it.
    Refused {
        queue: &'a str,
    },
    /// A stop was noticed: by `message`, `watch` or `ledger`.
    Stop {
        queue: &'a str,
        via: &'static str,
    },
    LedgerCommit {
        took: Duration,
    },
    LedgerFailing(bool),
    StopWatchInterval(Duration),
    /// Something keeps handlers of this machine from working, or no longer does.
    Impaired {
        what: &'a str,
        impaired: bool,
    },
    /// The wall clock was set while the process ran.
    ClockSet,
}

/// Receives the events. Called on the hot path: it must not block.
pub trait Observer: Send + Sync {
    fn observe(&self, observation: Observation<'_>);

    /// Who traces the steps besides.
    fn tracer(&self) -> &dyn Tracer {
        &()
    }
}

/// Ignores all events.
impl Observer for () {
    fn observe(&self, _: Observation<'_>) {}
}
