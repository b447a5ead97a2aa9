//! What the configuration decides about a step.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;

/// The settings that apply to one step: its handler's, its queue's and its ledger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The step's handler is not configured, so the step can be neither run nor cleaned up after.
    pub handler_is_gone: bool,
    pub max_attempts: u32,
    /// No other worker can receive the step from its queue.
    pub alone: bool,
    /// For how long a step waits here for a slot before it is passed on, if its ledger is shared:
    /// other workers may have one.
    pub crowded_after: Option<Duration>,
    pub retry: Backoff,
    pub time_limit: Duration,
    pub deferred_limit: Duration,
    pub answers: AnsweredBy,
    pub on_stop: OnStop,
    pub verify: Verify,
    pub stop_takeover_after: Duration,
    /// How long SageMaker must keep answering "not found" for the step of a refused report, until
    /// the step counts as closed.
    pub gone_after: Duration,
    /// How often SageMaker is asked about an owed stop.
    pub ask_every: Duration,
}

/// How a stopped step is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    #[default]
    Failure,
    Success,
}

/// Who answers a step whose run ends well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AnsweredBy {
    /// This worker, with the run's outputs.
    #[default]
    Callbackd,
    /// The handler, or something that it has started: SageMaker is asked until it shows the step
    /// closed. What ends without an outcome of its own (a failure, a stop, a limit) is answered by
    /// this worker all the same.
    Handler,
}

/// Which steps SageMaker is asked about before they are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Those whose message was received before. If SageMaker does not know the step or may not be
    /// asked, the step is run.
    #[default]
    Redelivered,
    /// All steps, and stops before they are believed. A step that SageMaker does not know is
    /// refused, and its message kept; if SageMaker may not be asked or does not answer, the message
    /// is held and SageMaker is asked again.
    Always,
    Never,
}
