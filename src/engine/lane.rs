//! One queue and all that belongs to it, and what the lanes share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::config::{HandlerConfig, QueueConfig};
use super::heartbeat::Held;
use super::phase::{Phase, Phases};
use super::route::Routes;
use super::settle::Deletes;
use super::slots::Slots;
use super::steps::Steps;
use crate::backoff::Backoff;
use crate::handler::DynHandler;
use crate::ledger::Ledger;
use crate::lifecycle::Policy;
use crate::seam::{Observer, Pipelines, Queue};
use crate::step::ExecutionArn;

/// One queue, as the engine is given it.
pub struct QueueParts {
    pub config: QueueConfig,
    /// For logs and metrics: the last segment of the URL.
    pub name: String,
    /// The account and region that executions must be of, unless `config.accounts` allows others.
    pub account: String,
    pub region: String,
    pub queue: Arc<dyn Queue>,
    pub pipelines: Arc<dyn Pipelines>,
}

/// One configured handler.
#[derive(Clone, Debug)]
pub struct HandlerParts {
    pub config: HandlerConfig,
    pub handler: DynHandler,
}

/// What all tasks of the engine share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    pub(crate) handlers: BTreeMap<String, HandlerParts>,
    pub(crate) lanes: Vec<Arc<Lane>>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) steps: Steps,
    pub(crate) phases: Phases,
    /// As of the last look through the ledger.
    pub(crate) deferred: AtomicUsize,
    /// Owns the drivers of steps and their handlers' tasks.
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) config: QueueConfig,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) routes: Routes,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) pipelines: Arc<dyn Pipelines>,
    pub(crate) slots: Slots,
    pub(crate) held: Held,
    pub(crate) deletes: Deletes,
    pub(crate) polls: super::poll::Polls,
    pub(crate) unreadable: super::delivery::Complaints,
}

impl Shared {
    pub(crate) fn phase(&self) -> Phase {
        self.phases.now()
    }

    /// The lane of a queue, if this worker still has it.
    pub(crate) fn lane(&self, queue_url: &str) -> Option<&Arc<Lane>> {
        self.lanes.iter().find(|lane| lane.config.url.as_str() == queue_url)
    }

    /// The settings that apply to a step of `lane` for which `handler` is chosen.
    pub(crate) fn policy(&self, lane: &Lane, handler: Option<&str>) -> Policy {
        let handler = handler.and_then(|name| self.handlers.get(name)).map(|parts| &parts.config);
        let or = |get: fn(&HandlerConfig) -> Duration| handler.map_or(Duration::ZERO, get);
        Policy {
            max_attempts: handler.map_or(1, |config| config.max_attempts),
            retry: Backoff::new(or(|config| config.retry_delay), or(|config| config.retry_delay_max)),
            time_limit: or(|config| config.time_limit),
            deferred_limit: or(|config| config.deferred_limit),
            on_stop: handler.map(|config| config.on_stop).unwrap_or_default(),
            verify: lane.config.verify,
            stop_takeover_after: lane.config.stop_takeover_after,
            ask_every: ask_every(lane.config.stop_watch),
            lease: self.ledger.lease(),
        }
    }
}

impl Lane {
    pub(crate) fn new(parts: QueueParts) -> Self {
        Self {
            routes: Routes::new(&parts.config),
            slots: Slots::new(parts.config.concurrency),
            held: Held::new(parts.config.visibility_timeout, parts.config.repost_after),
            deletes: Deletes::new(),
            polls: super::poll::Polls::default(),
            unreadable: super::delivery::Complaints::default(),
            name: parts.name,
            config: parts.config,
            account: parts.account,
            region: parts.region,
            queue: parts.queue,
            pipelines: parts.pipelines,
        }
    }

    /// Why executions like this one are not worked on from this queue, if so.
    pub(crate) fn foreign(&self, execution: &ExecutionArn) -> Option<String> {
        if execution.region() != self.region {
            return Some(format!(
                "its execution is in the region {}, the queue in {}",
                execution.region(),
                self.region
            ));
        }
        let account = execution.account();
        if account != self.account && !self.config.accounts.iter().any(|allowed| allowed == account) {
            return Some(format!(
                "its execution is of the account {account}, which `accounts` of this queue does not allow"
            ));
        }
        None
    }
}

/// A count that goes up and down with what it counts.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(crate) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// As often as the stop watch would ask, within what SageMaker's unpublished limits bear.
fn ask_every(stop_watch: Duration) -> Duration {
    if stop_watch.is_zero() { Duration::from_secs(30) } else { stop_watch }
}
