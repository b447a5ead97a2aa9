//! What can be observed of an engine, while it works and while it drains.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::budget::Spent;
use super::endings::Ended;
use super::impaired::Impairment;
use super::inbox::Face;
use super::lane::Lane;
use super::limits::Tripped;
use super::shared::Shared;
use crate::ledger::{Filter, LedgerError, Page};
use crate::lifecycle::{Phase, Record, WorkerId};
use crate::step::CallbackToken;

/// A view of a running engine; cheap to clone. It does not keep the engine alive.
#[derive(Clone)]
pub struct Monitor(Arc<Shared>);

/// The state of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    pub name: String,
    pub url: String,
    /// Slots that are taken.
    pub running: usize,
    pub concurrency: usize,
    /// Steps that wait for a slot: new ones, and those that resume after a wait.
    pub queued: [usize; 2],
    /// Steps that wait for a limit of their handler.
    pub limited: usize,
    /// Why it is not polled although it has free slots, if there is such a reason.
    pub unpolled: Option<Unpolled>,
    pub cleanups_waiting: usize,
    pub reports_waiting: usize,
    /// Messages that are kept invisible.
    pub held: usize,
    /// Steps in the ledger whose message should have come back and has not.
    pub without_message: usize,
    /// Outcomes that are not known to be accepted, and when the oldest was frozen.
    pub unreported: usize,
    pub oldest_unreported: Option<Timestamp>,
    /// Deferred steps: someone else will complete them.
    pub deferred: usize,
    /// Owed stops, of steps that this ledger has never run.
    pub stops_held: usize,
    /// When the oldest of them was first seen.
    pub oldest_stop: Option<Timestamp>,
    /// How long ago the last successful poll was.
    pub polled_ago: Option<Duration>,
    /// Its pollers make progress, whatever the queue answers.
    pub turning: bool,
    /// By handler, when the running step that has been silent for longest last made progress, or
    /// was started.
    pub progress: Vec<(String, Option<Timestamp>)>,
    /// It is not polled because the arguments of steps in hand use up the memory budget.
    pub bodies_spent: Option<Spent>,
}

/// What keeps a queue from being polled for steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpolled {
    /// It, or each of its handlers, is paused by [`Intake`](super::Intake).
    ByOrder,
    /// The steps of all its handlers failed.
    ByBreaker,
    /// No handler of it may start a step, or many of its steps wait for one that may not.
    ByLimits,
}

/// More than one round of a poll takes: a long poll, or a call that times out, with a margin.
const TURN: Duration = Duration::from_mins(2);

impl Monitor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// What is in progress for a step; `None` if the step is not in hand.
    #[must_use]
    pub fn face(&self, token: &CallbackToken) -> Option<Face> {
        self.0.steps.face(token)
    }

    /// How many steps are in hand, including parked ones.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.0.steps.len()
    }

    /// The steps in hand, in the order of their tokens.
    #[must_use]
    pub fn tokens(&self) -> Vec<CallbackToken> {
        self.0.steps.tokens()
    }

    /// How many slots are taken in all queues.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.lanes.iter().map(|lane| lane.slots.usage().busy).sum()
    }

    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        let (now, limits) = (self.0.clock.now(), &self.0.limits);
        let status = |lane: &Arc<Lane>| {
            let usage = lane.slots.usage();
            QueueStatus {
                name: lane.name.clone(),
                url: lane.config.url.as_str().to_owned(),
                running: usage.busy,
                concurrency: usage.limit,
                queued: [usage.waiting_new, usage.waiting_resumed],
                limited: limits.waiting(lane.index),
                unpolled: self.unpolled(lane),
                cleanups_waiting: lane.cleanups.waiting(),
                reports_waiting: lane.reports.waiting(),
                held: lane.messages.len(),
                without_message: self.0.orphans.count(lane.index, now),
                unreported: lane.unreported.len(),
                oldest_unreported: lane.unreported.first(),
                deferred: lane.deferred.len(),
                stops_held: lane.owed.len(),
                oldest_stop: lane.owed.first(),
                polled_ago: lane.polls.since_success(),
                turning: self.is_draining() || lane.polls.are_turning(TURN),
                progress: lane
                    .progress
                    .iter()
                    .map(|(handler, moments)| {
                        let is_there = |token: &CallbackToken| self.0.steps.contains(token);
                        (handler.clone(), moments.first_where(is_there))
                    })
                    .collect(),
                bodies_spent: self.0.bodies.spent(lane.index),
            }
        };
        self.0.lanes.iter().map(status).collect()
    }

    fn unpolled(&self, lane: &Lane) -> Option<Unpolled> {
        let limits = &self.0.limits;
        if lane.pause.is_on() || limits.are_held(lane.routes().handlers()) {
            Some(Unpolled::ByOrder)
        } else if limits.is_paused(lane.routes().handlers()) {
            Some(Unpolled::ByBreaker)
        } else {
            let full = limits.is_full(lane.index, lane.routes().handlers(), lane.many());
            full.then_some(Unpolled::ByLimits)
        }
    }

    /// A page of what the ledger holds, including the settled steps that it still keeps, without
    /// arguments and checkpoints.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub async fn page(&self, filter: Filter) -> Result<Page<Record>, LedgerError> {
        self.0.ledger.page(filter).await
    }

    /// Everything that the ledger holds about one step.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub async fn record(&self, token: &CallbackToken) -> Result<Option<Record>, LedgerError> {
        self.0.ledger.load(token).await
    }

    /// A record with its times by the wall clock.
    #[must_use]
    pub fn named(&self, record: &Record) -> Record {
        self.0.ledger.named(record)
    }

    /// What the wall clock calls a moment of a record that was read here.
    #[must_use]
    pub fn name(&self, moment: Timestamp) -> Timestamp {
        self.0.clock.name(moment)
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.phase() != Phase::Running
    }

    /// What is failing in the ledger, if anything.
    #[must_use]
    pub fn ledger_ailment(&self) -> Option<&'static str> {
        self.0.ledger.ailment()
    }

    /// The id of this worker in the ledger.
    #[must_use]
    pub fn me(&self) -> WorkerId {
        self.0.ledger.me()
    }

    /// The workers of a shared ledger that are alive, as far as this one has seen; `None` if the
    /// ledger is not shared.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub async fn workers(&self) -> Result<Option<BTreeSet<WorkerId>>, LedgerError> {
        if !self.0.ledger.is_shared() {
            return Ok(None);
        }
        let lives = self.0.ledger.fleet().await?;
        Ok(Some(lives.into_keys().collect()))
    }

    /// The steps that ended last, the newest first.
    #[must_use]
    pub fn endings(&self) -> Vec<Ended> {
        self.0.endings.list()
    }

    /// The handlers that this machine keeps from working, and why.
    #[must_use]
    pub fn impaired(&self) -> Vec<Impairment> {
        self.0.impaired.list()
    }

    /// The handlers that are left alone if their steps fail, each with its pause if it has one.
    #[must_use]
    pub fn breakers(&self) -> Vec<(String, Option<Tripped>)> {
        self.0.limits.breakers()
    }

    /// The handlers with limits or a pause so far, each with whether an order pauses it.
    #[must_use]
    pub fn held(&self) -> Vec<(String, bool)> {
        self.0.limits.held()
    }

    /// The handlers that unfinished steps wait for and that are not configured.
    #[must_use]
    pub fn missing(&self) -> Vec<Impairment> {
        self.0.missing.list()
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}
