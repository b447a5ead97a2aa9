//! The settings of a queue.

use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::accounts::Accounts;
use super::{Bounded, FAR, Mistake, SQS_CEILING, Wrong};
use crate::duration::{Range, text};
use crate::lifecycle::Verify;
use crate::seam::{ExternalId, Role};
use crate::step::{ExecutionArn, QueueUrl};

/// SQS's limit for a long poll.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Unless it is off.
const STOP_WATCH: Range = Range::new(Duration::from_secs(1), SQS_CEILING);

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
    /// How long a poll waits for messages, in whole seconds; a shutdown waits for it.
    #[serde(with = "crate::duration", default = "defaults::poll_wait")]
    #[schemars(with = "String")]
    pub poll_wait: Duration,
    /// When a held message is replaced by a fresh copy: at least a visibility timeout before SQS's
    /// limit of 12 h.
    #[serde(with = "crate::duration", default = "defaults::repost_after")]
    #[schemars(with = "String")]
    pub repost_after: Duration,
    /// How often SageMaker is asked whether the execution of a step held here is being stopped, and
    /// every tenth time whether someone else has answered a deferred step; zero means never. Of the
    /// workers of a shared ledger that have steps of one execution one asks.
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
impl QueueConfig {
    /// Each step uses memory, and SQS allows about 120,000 messages in flight.
    const CONCURRENCY: RangeInclusive<usize> = 1..=100_000;
    /// Its durations, each with its range. A `stop_watch` of zero is also allowed.
    const DURATIONS: [Bounded<Self>; 6] = [
        ("visibility_timeout", Range::new(Duration::from_secs(10), SQS_CEILING), |queue| {
            queue.visibility_timeout
        }),
        ("poll_wait", Range::new(Duration::from_secs(1), LONG_POLL), |queue| queue.poll_wait),
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

    /// The handlers that its steps may get; one may come more than once.
    pub fn handlers(&self) -> impl Iterator<Item = &str> + Clone {
        self.handler
            .iter()
            .chain(self.routes.iter().map(|route| &route.handler))
            .map(String::as_str)
    }

    /// Why executions like this one are not accepted from the queue, which is of this account and
    /// region, if they are not.
    #[must_use]
    pub fn foreign(
        &self,
        execution: &ExecutionArn,
        account: &str,
        region: Option<&str>,
    ) -> Option<String> {
        if let Some(region) = region.filter(|region| *region != execution.region()) {
            return Some(format!(
                "its execution is in the region {}, the queue in {region}",
                execution.region(),
            ));
        }
        let other = execution.account();
        (other != account && !self.accounts.allow(other)).then(|| {
            format!(
                "its execution is in the account {other}, which `accounts` of this queue does not \
                 allow"
            )
        })
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
        for (key, value) in
            [("visibility_timeout", self.visibility_timeout), ("poll_wait", self.poll_wait)]
        {
            if value.subsec_nanos() != 0 {
                wrong.add(key, "only whole seconds are allowed, as in SQS");
            }
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

mod defaults {
    use std::time::Duration;

    pub(super) fn concurrency() -> usize {
        16
    }

    pub(super) fn visibility_timeout() -> Duration {
        Duration::from_mins(2)
    }

    pub(super) fn poll_wait() -> Duration {
        super::LONG_POLL
    }

    pub(super) fn repost_after() -> Duration {
        Duration::from_mins(11 * 60 + 30)
    }

    pub(super) fn stop_watch() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn stop_takeover_after() -> Duration {
        Duration::from_mins(5)
    }

    pub(super) fn exclusive() -> bool {
        true
    }

    pub(super) fn gone_after() -> Duration {
        Duration::from_hours(24)
    }
}
