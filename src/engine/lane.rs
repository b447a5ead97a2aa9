//! One queue, and everything that belongs to it alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::config::QueueConfig;
use super::gates::{Gate, Slots};
use super::inbox::Turn;
use super::messages::Messages;
use super::moments::Moments;
use super::pause::Pause;
use super::polls::Polls;
use super::route::Routes;
use super::said::Said;
use crate::lifecycle::{Record, Status};
use crate::seam::{Pipelines, Queue};
use crate::step::{CallbackToken, ExecutionArn};

/// One queue, as it is given to the engine.
pub struct QueueParts {
    pub config: QueueConfig,
    /// For logs and metrics: the last segment of the URL.
    pub name: String,
    /// The account and region that executions must belong to, unless `config.accounts` allows
    /// others.
    pub account: String,
    pub region: String,
    pub queue: Arc<dyn Queue>,
    pub pipelines: Arc<dyn Pipelines>,
    /// SageMaker in other accounts, by account, each with credentials of its own.
    pub elsewhere: BTreeMap<String, Arc<dyn Pipelines>>,
}

pub(crate) struct Lane {
    /// Its position among the lanes.
    pub(crate) index: usize,
    pub(crate) name: String,
    /// As at the start; what a reload changes is in `routes` and `slots`.
    pub(crate) config: QueueConfig,
    /// There is evidence that another consumer reads the queue, whatever the configuration says.
    shares: AtomicBool,
    pub(crate) account: String,
    pub(crate) region: String,
    routes: RwLock<Arc<Routes>>,
    /// The pollers have to look again at the slots and routes.
    pub(crate) reloaded: Notify,
    pub(crate) queue: Arc<dyn Queue>,
    pipelines: Arc<dyn Pipelines>,
    elsewhere: BTreeMap<String, Arc<dyn Pipelines>>,
    pub(crate) slots: Slots,
    pub(crate) asks: Gate,
    pub(crate) reports: Gate,
    pub(crate) cleanups: Gate,
    pub(crate) messages: Messages,
    pub(crate) polls: Polls,
    /// By order from outside.
    pub(crate) pause: Pause,
    pub(crate) complaints: Complaints,
    pub(crate) said: Said,
    /// When each unreported outcome was frozen.
    pub(crate) unreported: Moments,
    /// When the time of each deferred step is over.
    pub(crate) deferred: Moments,
    /// When each owed stop was first seen.
    pub(crate) owed: Moments,
    /// When each running step last made progress, by handler.
    pub(crate) progress: BTreeMap<String, Moments>,
}

/// SQS's limit for a receive.
pub(crate) const BATCH: usize = 10;
/// Concurrent reports: at 20 ms each they answer 3,000 steps a second, and leave sockets for the
/// heartbeats.
const REPORTS: usize = 64;
/// Concurrent questions: SageMaker's limits for listing steps are not published.
const ASKS: usize = 16;

/// The messages that were reported as unreadable or foreign.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<VecDeque<String>>);

impl Lane {
    /// The lane of a queue whose steps may get any of these handlers some time.
    pub(crate) fn new<'a>(
        index: usize,
        parts: QueueParts,
        handlers: impl Iterator<Item = &'a String>,
    ) -> Self {
        let progress = |name: &String| (name.clone(), Moments::default());
        Self {
            index,
            progress: handlers.map(progress).collect(),
            reloaded: Notify::new(),
            routes: RwLock::new(Routes::new(&parts.config).into()),
            slots: Slots::new(parts.config.concurrency),
            asks: Gate::new(ASKS),
            reports: Gate::new(REPORTS),
            // As many as may run: a thousand stops at once are cleaned up after in order.
            cleanups: Gate::new(parts.config.concurrency),
            messages: Messages::new(parts.config.visibility_timeout, parts.config.repost_after),
            polls: Polls::default(),
            pause: Pause::default(),
            complaints: Complaints::default(),
            said: Said::default(),
            unreported: Moments::default(),
            deferred: Moments::default(),
            owed: Moments::default(),
            shares: AtomicBool::new(false),
            name: parts.name,
            config: parts.config,
            account: parts.account,
            region: parts.region,
            queue: parts.queue,
            pipelines: parts.pipelines,
            elsewhere: parts.elsewhere,
        }
    }

    /// Whether no other worker receives its messages, as far as is known.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.config.exclusive && !self.shares.load(Ordering::SeqCst)
    }

    /// Another consumer reads the queue. True the first time.
    pub(crate) fn found_another_consumer(&self) -> bool {
        !self.shares.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn gate(&self, turn: Turn) -> &Gate {
        match turn {
            Turn::Ask => &self.asks,
            Turn::Report => &self.reports,
            Turn::CleanUp => &self.cleanups,
        }
    }

    /// Records whether the step has an unreported outcome, or is an owed stop.
    pub(crate) fn note(&self, record: &Record) {
        match record.concluded_at.filter(|_| record.status == Status::Concluded) {
            Some(at) => self.unreported.set(&record.token, at),
            None => self.unreported.remove(&record.token),
        }
        match record.status {
            Status::Owed => self.owed.set(&record.token, record.first_seen),
            _ => self.owed.remove(&record.token),
        }
    }

    /// The step is no longer this worker's concern.
    pub(crate) fn forget(&self, token: &CallbackToken) {
        self.unreported.remove(token);
        self.owed.remove(token);
        self.progress.values().for_each(|moments| moments.remove(token));
    }

    /// Which handlers its steps get.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of its steps may wait for some of its handlers while others work.
    pub(crate) fn many(&self) -> usize {
        self.slots.limit().max(BATCH)
    }

    /// Takes over what may change while it works: its slots, and the handlers of new steps.
    pub(crate) fn reload(&self, config: &QueueConfig) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Routes::new(config).into();
        self.slots.resize(config.concurrency);
        self.cleanups.resize(config.concurrency);
        self.reloaded.notify_one();
    }

    /// Whether its pipelines are asked with the credentials of this account.
    pub(crate) fn is_of_account(&self, account: &str) -> bool {
        self.account == account || self.elsewhere.contains_key(account)
    }

    /// SageMaker in the execution's account, if there are credentials for it.
    pub(crate) fn pipelines(&self, execution: &ExecutionArn) -> &dyn Pipelines {
        self.elsewhere.get(execution.account()).unwrap_or(&self.pipelines).as_ref()
    }

    /// Why executions like this one are not accepted from this queue, if they are not.
    pub(crate) fn foreign(&self, execution: &ExecutionArn) -> Option<String> {
        self.config.foreign(execution, &self.account, Some(&self.region))
    }
}

impl Complaints {
    /// More than a queue's redrive policy leaves around at once; beyond it a message is merely
    /// reported again.
    const MAX: usize = 1000;

    pub(crate) fn is_new(&self, id: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|other| other == id) {
            return false;
        }
        if known.len() == Self::MAX {
            known.pop_front();
        }
        known.push_back(id.to_owned());
        true
    }
}
