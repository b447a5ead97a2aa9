//! What can be set for the worker, a queue and a handler.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use super::accounts::Accounts;
pub use crate::lifecycle::{OnStop, Verify};
use crate::step::QueueUrl;

/// `[worker]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// The name under which this worker claims steps; by default the host's name and a random suffix.
    pub id: Option<String>,
    /// How long a shutdown waits for running steps before it tells them to stop.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub drain_timeout: Duration,
    /// Where programs have their files while they run, on a disk that outlives the process; by default `work` beside the ledger.
    pub work_dir: Option<PathBuf>,
}

/// One `[[queues]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`.
    #[schemars(with = "String")]
    pub url: QueueUrl,
    /// Which handler runs a step that no route matches; without it such a step fails.
    #[serde(default)]
    pub handler: Option<String>,
    /// The first that matches decides.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// How many steps of this queue run here at once.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// How long a received message stays invisible without a sign of life; 10 s to 12 h.
    #[serde(with = "crate::duration", default = "defaults::visibility_timeout")]
    #[schemars(with = "String")]
    pub visibility_timeout: Duration,
    /// When a held message is replaced by a fresh copy; at least 10 s, and a visibility timeout short of SQS's 12 h.
    #[serde(with = "crate::duration", default = "defaults::repost_after")]
    #[schemars(with = "String")]
    pub repost_after: Duration,
    /// How often SageMaker is asked whether an execution with a step here is being stopped; at least 1 s, zero for never.
    #[serde(with = "crate::duration", default = "defaults::stop_watch")]
    #[schemars(with = "String")]
    pub stop_watch: Duration,
    /// How long a stop is held for a step that nobody is known to run, before it is answered from here; at least 5 s.
    #[serde(with = "crate::duration", default = "defaults::stop_takeover_after")]
    #[schemars(with = "String")]
    pub stop_takeover_after: Duration,
    /// Whether no other worker reads this queue, so that a step whose message does not come back is taken up from the ledger;
    /// where workers share a ledger, they do so whatever this says.
    #[serde(default = "defaults::exclusive")]
    pub exclusive: bool,
    /// How long SageMaker must not have found a step whose report it refuses, before the step counts as closed; at least 1 min.
    #[serde(with = "crate::duration", default = "defaults::gone_after")]
    #[schemars(with = "String")]
    pub gone_after: Duration,
    /// Whether SageMaker is asked before a step is started.
    #[serde(default)]
    pub verify: Verify,
    /// The region of the queue and its pipelines; by default the one in `url`, then `aws.region`.
    #[serde(default)]
    pub region: Option<String>,
    /// A role to assume for this queue and its pipelines.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// Accounts besides the queue's own whose executions are worked on: a table of each and the role to assume for its pipelines, or
    /// a list, if the queue's own credentials are theirs.
    #[serde(default)]
    pub accounts: Accounts,
}

/// One `[[queues.routes]]`: a step that matches all that is given goes to `handler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// A glob (`*`, `?`) on the pipeline's name.
    #[serde(default)]
    pub pipeline: Option<String>,
    /// Arguments that the step must have, equal.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    pub handler: String,
}

/// One `[handlers.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HandlerConfig {
    /// A handler type of this binary.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the type makes of it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// From the first claim to the end, retries and waits included; then the step is stopped and fails.
    #[serde(with = "crate::duration", default = "defaults::time_limit")]
    #[schemars(with = "String")]
    pub time_limit: Duration,
    /// How often the handler is started at most, crashes of the worker included.
    #[serde(default = "defaults::max_attempts")]
    pub max_attempts: u32,
    /// The wait after the first failed attempt; it doubles, jittered.
    #[serde(with = "crate::duration", default = "defaults::retry_delay")]
    #[schemars(with = "String")]
    pub retry_delay: Duration,
    #[serde(with = "crate::duration", default = "defaults::retry_delay_max")]
    #[schemars(with = "String")]
    pub retry_delay_max: Duration,
    /// How long a run that is told to stop may go on.
    #[serde(with = "crate::duration", default = "defaults::stop_grace")]
    #[schemars(with = "String")]
    pub stop_grace: Duration,
    /// What a stopped step is answered with.
    #[serde(default)]
    pub on_stop: OnStop,
    /// How long a cleanup may take.
    #[serde(with = "crate::duration", default = "defaults::cleanup_limit")]
    #[schemars(with = "String")]
    pub cleanup_limit: Duration,
    /// How long a deferred step waits for its answer; then it fails.
    #[serde(with = "crate::duration", default = "defaults::deferred_limit")]
    #[schemars(with = "String")]
    pub deferred_limit: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { id: None, drain_timeout: Duration::from_secs(100), work_dir: None }
    }
}

mod defaults {
    use std::time::Duration;

    const fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    pub(super) fn concurrency() -> usize {
        16
    }

    pub(super) fn visibility_timeout() -> Duration {
        minutes(2)
    }

    pub(super) fn repost_after() -> Duration {
        minutes(11 * 60 + 30)
    }

    pub(super) fn stop_watch() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn stop_takeover_after() -> Duration {
        minutes(5)
    }

    pub(super) fn exclusive() -> bool {
        true
    }

    pub(super) fn gone_after() -> Duration {
        minutes(24 * 60)
    }

    pub(super) fn time_limit() -> Duration {
        minutes(24 * 60)
    }

    pub(super) fn max_attempts() -> u32 {
        3
    }

    pub(super) fn retry_delay() -> Duration {
        Duration::from_secs(10)
    }

    pub(super) fn retry_delay_max() -> Duration {
        minutes(15)
    }

    pub(super) fn stop_grace() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn cleanup_limit() -> Duration {
        minutes(5)
    }

    pub(super) fn deferred_limit() -> Duration {
        minutes(7 * 24 * 60)
    }
}
