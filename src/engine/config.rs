//! The settings of the worker, a queue and a handler.

mod limits;
mod queue;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::accounts::{AccountRole, Accounts, RoleWithId};
use crate::duration::{Range, text};
pub use crate::lifecycle::{AnsweredBy, OnStop, Verify};
pub use limits::{BreakerConfig, Rate};
pub use queue::{QueueConfig, RouteConfig};

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
    /// Whether the EC2 instance's metadata is asked, every 5 s, if EC2 takes it back; then the
    /// worker drains within the time that is left.
    pub spot_notice: bool,
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
    /// Who answers a step whose run ends well: this worker, or the handler itself.
    #[serde(default)]
    pub answers: AnsweredBy,
    /// How a stopped step is answered.
    #[serde(default)]
    pub on_stop: OnStop,
    /// How long a cleanup may take.
    #[serde(with = "crate::duration", default = "defaults::cleanup_limit")]
    #[schemars(with = "String")]
    pub cleanup_limit: Duration,
    /// How long a deferred step, or one that its handler answers, waits for its answer before it
    /// fails; from the end of the run.
    #[serde(with = "crate::duration", default = "defaults::deferred_limit")]
    #[schemars(with = "String")]
    pub deferred_limit: Duration,
    /// How many runs of it there are at once on this worker, in all queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<usize>,
    /// How many attempts are started in which time, such as `10/1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub rate: Option<Rate>,
    /// How many steps in a row must fail until no more are started, and for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerConfig>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            id: None,
            drain_timeout: Duration::from_secs(100),
            work_dir: None,
            spot_notice: false,
        }
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
        let attempts = ("max_attempts", "at least 1".to_owned());
        durations.chain([attempts]).chain(limits::ranges()).collect()
    }

    /// Its mistakes; its `settings` are checked by its type.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut wrong = Wrong::default();
        if self.max_attempts == 0 {
            wrong.add("max_attempts", "0 is not allowed; at least 1 is");
        }
        wrong.unless_within(&Self::DURATIONS, self);
        limits::judge(self, &mut wrong);
        if self.retry_delay > self.retry_delay_max {
            let (delay, most) = (text(self.retry_delay), text(self.retry_delay_max));
            wrong.add("retry_delay", format!("{delay} is more than the retry_delay_max of {most}"));
        }
        wrong.0
    }
}

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

    pub(super) fn time_limit() -> Duration {
        Duration::from_hours(24)
    }

    pub(super) fn max_attempts() -> u32 {
        3
    }

    pub(super) fn retry_delay() -> Duration {
        Duration::from_secs(10)
    }

    pub(super) fn retry_delay_max() -> Duration {
        Duration::from_mins(15)
    }

    pub(super) fn stop_grace() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn cleanup_limit() -> Duration {
        Duration::from_mins(5)
    }

    pub(super) fn deferred_limit() -> Duration {
        Duration::from_hours(7 * 24)
    }
}
