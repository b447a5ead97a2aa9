//! The settings of the worker, a queue and a handler.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use super::accounts::{AccountRole, Accounts, RoleWithId};
use crate::duration::{Range, text};
pub use crate::lifecycle::{OnStop, Verify};
use crate::seam::{ExternalId, Role};
use crate::step::QueueUrl;

/// SQS keeps no message invisible for longer.
const SQS_CEILING: Duration = Duration::from_hours(12);
/// Longer than any job; a larger value is a typing error, and close to an overflow.
const FAR: Duration = Duration::from_hours(365 * 24);

/// A mistake: the key within its section, and the reason.
pub type Mistake = (String, String);

/// `[worker]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// The name under which this worker claims steps; by default the host's name and a random
    /// suffix.
    pub id: Option<String>,
    /// How long a shutdown waits for running steps before it tells them to stop.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub drain_timeout: Duration,
    /// Where programs have their files while they run; by default `work` beside the ledger.
    pub work_dir: Option<PathBuf>,
}

/// One `[[queues]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`.
    #[schemars(with = "String")]
    pub url: QueueUrl,
    /// The handler of steps that no route matches; without it such a step fails.
    #[serde(default)]
    pub handler: Option<String>,
    /// The first match decides.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// How many steps of this queue this worker runs at once.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// How long a received message stays invisible without a heartbeat.
    #[serde(with = "crate::duration", default = "defaults::visibility_timeout")]
    #[schemars(with = "String")]
    pub visibility_timeout: Duration,
    /// When a held message is replaced by a fresh copy: at least a visibility timeout before SQS's
    /// limit of 12 h.
    #[serde(with = "crate::duration", default = "defaults::repost_after")]
    #[schemars(with = "String")]
    pub repost_after: Duration,
    /// How often SageMaker is asked whether the execution of a step held here is being stopped;
    /// zero means never.
    #[serde(with = "crate::duration", default = "defaults::stop_watch")]
    #[schemars(with = "String")]
    pub stop_watch: Duration,
    /// How long a stop is held for a step that no worker is known to run, before this worker
    /// answers it.
    #[serde(with = "crate::duration", default = "defaults::stop_takeover_after")]
    #[schemars(with = "String")]
    pub stop_takeover_after: Duration,
    /// Whether no other worker reads this queue, so that a step whose message does not come back is
    /// resumed from the ledger. Workers that share a ledger always resume such steps.
    #[serde(default = "defaults::exclusive")]
    pub exclusive: bool,
    /// How long SageMaker must keep answering "not found" for a step whose report it refuses,
    /// before the step counts as closed.
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
    /// What the trust policy of `role_arn` asks for: 2 to 1224 letters, digits and characters of
    /// `_+=,.@:/-`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub external_id: Option<ExternalId>,
    /// Accounts besides the queue's own whose executions are accepted: a table of accounts and the
    /// role to assume for each, or a list if the queue's own credentials are valid for them.
    #[serde(default)]
    pub accounts: Accounts,
}

/// One `[[queues.routes]]`: a step that matches all given conditions goes to `handler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// A glob (`*`, `?`) on the pipeline's name.
    #[serde(default)]
    pub pipeline: Option<String>,
    /// Arguments that the step must have, compared for equality.
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
    /// Settings of that type.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// The same as `settings.inherit`, for a type that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit: Option<String>,
    /// From the first claim to the end, waits included; then the step is stopped and fails.
    #[serde(with = "crate::duration", default = "defaults::time_limit")]
    #[schemars(with = "String")]
    pub time_limit: Duration,
    /// How often the handler is started at most; a crash counts if no other step can be its cause.
    #[serde(default = "defaults::max_attempts")]
    pub max_attempts: u32,
    /// The wait after the first failed attempt; it doubles each time, with jitter.
    #[serde(with = "crate::duration", default = "defaults::retry_delay")]
    #[schemars(with = "String")]
    pub retry_delay: Duration,
    /// The longest wait between two attempts.
    #[serde(with = "crate::duration", default = "defaults::retry_delay_max")]
    #[schemars(with = "String")]
    pub retry_delay_max: Duration,
    /// How long a run that is told to stop may continue.
    #[serde(with = "crate::duration", default = "defaults::stop_grace")]
    #[schemars(with = "String")]
    pub stop_grace: Duration,
    /// How a stopped step is answered.
    #[serde(default)]
    pub on_stop: OnStop,
    /// How long a cleanup may take.
    #[serde(with = "crate::duration", default = "defaults::cleanup_limit")]
    #[schemars(with = "String")]
    pub cleanup_limit: Duration,
    /// How long a deferred step waits for its answer before it fails.
    #[serde(with = "crate::duration", default = "defaults::deferred_limit")]
    #[schemars(with = "String")]
    pub deferred_limit: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { id: None, drain_timeout: Duration::from_secs(100), work_dir: None }
    }
}

impl WorkerConfig {
    const DRAIN_TIMEOUT: Range = Range::new(Duration::ZERO, Duration::from_hours(24));

    /// The ranges of its keys.
    #[must_use]
    pub fn ranges() -> Vec<(&'static str, String)> {
        vec![("drain_timeout", Self::DRAIN_TIMEOUT.to_string())]
    }

    /// Its mistakes.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut wrong = Wrong::default();
        wrong.unless("drain_timeout", Self::DRAIN_TIMEOUT, self.drain_timeout);
        if let Some(id) = &self.id
            && (id.is_empty()
                || id.len() > 64
                || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
        {
            wrong.add("id", "1 to 64 letters, digits, hyphens, dots and underscores are allowed");
        }
        if self.work_dir.as_ref().is_some_and(|directory| directory.as_os_str().is_empty()) {
            wrong.add(
                "work_dir",
                "is empty; name a directory, or leave it out for one beside the ledger",
            );
        }
        wrong.0
    }
}

impl QueueConfig {
    /// Each step uses memory, and SQS allows about 120,000 messages in flight.
    const CONCURRENCY: RangeInclusive<usize> = 1..=100_000;
    /// Its durations, each with its range. A `stop_watch` of zero is also allowed.
    const DURATIONS: [Bounded<Self>; 5] = [
        ("visibility_timeout", Range::new(Duration::from_secs(10), SQS_CEILING), |queue| {
            queue.visibility_timeout
        }),
        ("repost_after", Range::new(Duration::from_secs(10), SQS_CEILING), |queue| {
            queue.repost_after
        }),
        ("stop_watch", STOP_WATCH, |queue| {
            if queue.stop_watch.is_zero() { STOP_WATCH.least } else { queue.stop_watch }
        }),
        ("stop_takeover_after", Range::new(Duration::from_secs(5), SQS_CEILING), |queue| {
            queue.stop_takeover_after
        }),
        ("gone_after", Range::new(Duration::from_mins(1), FAR), |queue| queue.gone_after),
    ];

    /// The ranges of its keys.
    #[must_use]
    pub fn ranges() -> Vec<(&'static str, String)> {
        let durations = Self::DURATIONS.into_iter().map(|(key, range, _)| (key, range.to_string()));
        let concurrency = format!("{} to {}", Self::CONCURRENCY.start(), Self::CONCURRENCY.end());
        durations.chain([("concurrency", concurrency)]).collect()
    }

    /// The role to assume for this queue and its pipelines.
    #[must_use]
    pub fn role(&self) -> Option<Role<'_>> {
        let external_id = self.external_id.as_ref();
        self.role_arn.as_deref().map(|arn| Role { arn, external_id })
    }

    /// Its mistakes, independent of the other sections.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut wrong = Wrong::default();
        if self.url.is_fifo() {
            wrong.add(
                "url",
                "is a FIFO queue, which requires a message group that callback steps do not send; \
                 use a standard queue",
            );
        }
        if !Self::CONCURRENCY.contains(&self.concurrency) {
            let (least, most) = Self::CONCURRENCY.into_inner();
            wrong.add(
                "concurrency",
                format!("{} is not allowed; {least} to {most} are", self.concurrency),
            );
        }
        wrong.unless_within(&Self::DURATIONS, self);
        if self.visibility_timeout.subsec_nanos() != 0 {
            wrong.add("visibility_timeout", "only whole seconds are allowed, as in SQS");
        }
        if self.repost_after + self.visibility_timeout > SQS_CEILING {
            let (after, visibility) = (text(self.repost_after), text(self.visibility_timeout));
            let what = format!(
                "{after} and a visibility_timeout of {visibility} exceed the 12h that SQS allows a \
                 message to be invisible"
            );
            wrong.add("repost_after", what);
        }
        wrong.0.extend(self.accounts.mistakes(self.role_arn.as_deref()));
        if self.external_id.is_some() && self.role_arn.is_none() {
            wrong.add(
                "external_id",
                "is for `role_arn`, which is missing; for a role of `accounts` write accounts = { \
                 ACCOUNT = { role_arn = \"ROLE ARN\", external_id = \"ID\" } }",
            );
        }
        match (self.region.as_deref(), self.url.region()) {
            (Some(""), _) => {
                wrong.add("region", "is empty; leave it out to have it taken from the url");
            }
            (Some(region), Some(named)) if region != named => {
                wrong.add(
                    "region",
                    format!("contradicts the url, whose host is in {named}; leave it out"),
                );
            }
            (Some(region), _)
                if !region
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') =>
            {
                wrong.add("region", "is not a region; regions are written like \"us-east-1\"");
            }
            _ => {}
        }
        if self.handler.is_none() && self.routes.is_empty() {
            wrong.add("handler", "is missing, and there are no routes; every step would fail");
        }
        let matches_all = |pipeline: Option<&str>| {
            pipeline.is_none_or(|glob| !glob.is_empty() && glob.bytes().all(|b| b == b'*'))
        };
        for (index, route) in self.routes.iter().enumerate() {
            if route.arguments.is_empty()
                && matches_all(route.pipeline.as_deref())
                && index + 1 < self.routes.len()
            {
                let what =
                    "matches every step, so the routes after it are never used; move it to the end";
                wrong.add(format!("routes[{index}]"), what);
            }
        }
        wrong.0
    }
}

impl HandlerConfig {
    /// Its durations, each with its range.
    const DURATIONS: [Bounded<Self>; 6] = [
        ("time_limit", Range::new(Duration::from_secs(1), FAR), |handler| handler.time_limit),
        ("retry_delay", Range::new(MOMENT, SQS_CEILING), |handler| handler.retry_delay),
        ("retry_delay_max", Range::new(MOMENT, Duration::from_hours(24)), |handler| {
            handler.retry_delay_max
        }),
        ("stop_grace", Range::new(Duration::ZERO, Duration::from_hours(1)), |handler| {
            handler.stop_grace
        }),
        ("cleanup_limit", Range::new(MOMENT, SQS_CEILING), |handler| handler.cleanup_limit),
        ("deferred_limit", Range::new(Duration::from_secs(1), FAR), |handler| {
            handler.deferred_limit
        }),
    ];

    /// The ranges of its keys.
    #[must_use]
    pub fn ranges() -> Vec<(&'static str, String)> {
        let durations = Self::DURATIONS.into_iter().map(|(key, range, _)| (key, range.to_string()));
        durations.chain([("max_attempts", "at least 1".to_owned())]).collect()
    }

    /// Its mistakes; its `settings` are checked by its type.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut wrong = Wrong::default();
        if self.max_attempts == 0 {
            wrong.add("max_attempts", "0 is not allowed; at least 1 is");
        }
        wrong.unless_within(&Self::DURATIONS, self);
        if self.retry_delay > self.retry_delay_max {
            let (delay, most) = (text(self.retry_delay), text(self.retry_delay_max));
            wrong.add("retry_delay", format!("{delay} is more than the retry_delay_max of {most}"));
        }
        wrong.0
    }
}

/// Unless it is off.
const STOP_WATCH: Range = Range::new(Duration::from_secs(1), SQS_CEILING);
/// A zero delay would be a busy loop.
const MOMENT: Duration = Duration::from_millis(1);

/// A key, its range, and its value.
type Bounded<T> = (&'static str, Range, fn(&T) -> Duration);

#[derive(Default)]
struct Wrong(Vec<Mistake>);

impl Wrong {
    fn add(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.0.push((key.into(), what.into()));
    }

    fn unless(&mut self, key: &str, range: Range, value: Duration) {
        self.0.extend(range.refusal(value).map(|what| (key.to_owned(), what)));
    }

    fn unless_within<T>(&mut self, durations: &[Bounded<T>], config: &T) {
        for (key, range, value) in durations {
            self.unless(key, *range, value(config));
        }
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
