//! State shared by all tasks of the engine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::config::{AnsweredBy, HandlerConfig};
use super::endings::Endings;
use super::gates::Trials;
use super::handlers::Handlers;
use super::impaired::Impaired;
use super::inbox::{Held, Input, Seat, Steps};
use super::lane::Lane;
use super::limits::Limits;
use super::missing::{self, Missing};
use super::orphans::{Fate, Orphan, Orphans};
use super::phase::Phases;
use super::printed::Printed;
use super::progress::Lines;
use super::said::Said;
use super::watch::{Kind, Watch};
use crate::backoff::Backoff;
use crate::clock::{Clock, after};
use crate::ledger::Ledger;
use crate::lifecycle::{Activity, Phase, Policy, State, Status};
use crate::seam::Observer;
use crate::step::{CallbackToken, ExecutionArn, QueueUrl};

/// How much longer than a visibility timeout a message may take to come back.
const MARGIN: Duration = Duration::from_secs(30);

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    pub(crate) handlers: Handlers,
    pub(crate) lanes: Vec<Arc<Lane>>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Where handlers keep files of runs.
    pub(crate) work_dir: Arc<Path>,
    pub(crate) steps: Steps,
    pub(crate) watch: Watch,
    pub(crate) orphans: Orphans,
    /// The whole ledger is to be looked through; of a shared one, a share is when a worker comes or
    /// goes.
    pub(crate) unseen: AtomicBool,
    pub(crate) said: Said,
    pub(crate) progress_lines: Lines,
    pub(crate) endings: Endings,
    pub(crate) printed: Printed,
    /// The handlers that this machine keeps from working.
    pub(crate) impaired: Impaired,
    /// What bounds the runs of each handler.
    pub(crate) limits: Limits,
    /// The steps that wait for a handler that is not configured.
    pub(crate) missing: Missing,
    pub(crate) bodies: Budget,
    pub(crate) phases: Phases,
    /// Which steps start beside which.
    pub(crate) trials: Trials,
    /// Permits to read the record of a step that is due.
    pub(crate) waking: Arc<Semaphore>,
    /// Cancelled once what the last process of this worker left running is killed, and recorded.
    pub(crate) reaped: CancellationToken,
    /// Steps were left whose records may still name this worker as their owner.
    pub(crate) owns: AtomicBool,
    /// Owns the drivers of steps and their handlers' tasks.
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    pub(crate) fn phase(&self) -> Phase {
        self.phases.now()
    }

    /// The lane of a queue, if this worker has one: with the same URL, or a URL of the same queue.
    pub(crate) fn lane(&self, queue: &QueueUrl) -> Option<&Arc<Lane>> {
        let same = |lane: &&Arc<Lane>| lane.config.url.is_same_queue(queue);
        self.lanes
            .iter()
            .find(|lane| lane.config.url == *queue)
            .or_else(|| self.lanes.iter().find(same))
    }

    /// Whether steps of `lane` are resumed without their messages: no other worker can have them,
    /// or the ledger says which one has.
    pub(crate) fn resumes(&self, lane: &Lane) -> bool {
        lane.is_exclusive() || self.ledger.is_shared()
    }

    /// Expects the message of an unfinished step that is in no one's hands.
    pub(crate) fn expect(&self, token: CallbackToken, lane: &Lane, execution: ExecutionArn) {
        if self.resumes(lane) {
            self.watch.enter(&execution, lane.index, &token, Kind::Active);
        }
        let overdue = after(self.clock.now(), lane.config.visibility_timeout + MARGIN);
        let orphan = Orphan { lane: lane.index, execution, overdue, fate: Fate::Waits };
        self.orphans.add(token, orphan);
    }

    /// The lane that holds a message.
    pub(crate) fn lane_at(&self, held: &Held) -> &Arc<Lane> {
        &self.lanes[held.lane]
    }

    /// Gives up the place of a step without a driver. Its inputs are dropped, and come back by
    /// themselves.
    pub(crate) fn strike(&self, token: &CallbackToken, seat: &Seat) {
        for input in std::iter::from_fn(|| seat.try_next()) {
            if let Input::Message(delivery) = input {
                self.lane_at(&delivery.held).messages.forget([&delivery.held.id]);
            }
        }
        self.steps.strike(token);
    }

    /// The settings that apply to a step of `lane` with the chosen `handler`.
    pub(crate) fn policy(&self, lane: &Lane, handler: Option<&str>) -> Policy {
        let handler_is_gone = handler.is_some_and(|name| !self.handlers.contains(name));
        let parts = handler.and_then(|name| self.handlers.get(name));
        let handler = parts.as_ref().map(|parts| &parts.config);
        let or = |get: fn(&HandlerConfig) -> Duration| handler.map_or(Duration::ZERO, get);
        Policy {
            alone: lane.is_exclusive() && !self.ledger.is_shared(),
            crowded_after: self.ledger.is_shared().then_some(lane.config.visibility_timeout),
            handler_is_gone,
            max_attempts: handler.map_or(1, |config| config.max_attempts),
            retry: Backoff::new(
                or(|config| config.retry_delay),
                or(|config| config.retry_delay_max),
            ),
            time_limit: or(|config| config.time_limit),
            deferred_limit: or(|config| config.deferred_limit),
            answers: handler.map(|config| config.answers).unwrap_or_default(),
            on_stop: handler.map(|config| config.on_stop).unwrap_or_default(),
            verify: lane.config.verify,
            stop_takeover_after: lane.config.stop_takeover_after,
            gone_after: lane.config.gone_after,
            ask_every: ask_every(lane.config.stop_watch),
        }
    }

    /// Whether SageMaker is asked for the answers of this handler's steps.
    pub(crate) fn answers_itself(&self, handler: Option<&str>) -> bool {
        let parts = handler.and_then(|name| self.handlers.get(name));
        parts.is_some_and(|parts| parts.config.answers == AnsweredBy::Handler)
    }

    /// Watches the step's execution as long as the step can be stopped. `leaves`: it has no driver
    /// any more.
    pub(crate) fn watch_for(&self, state: &State, watched: &mut Option<Kind>, leaves: bool) {
        let record = &state.record;
        match &record.handler {
            Some(name) if !self.handlers.contains(name) && missing::has_begun(record) => {
                self.missing.add(&record.token, name);
            }
            _ => self.missing.remove(&record.token),
        }
        let lane = self.lane(&record.queue);
        if let Some(lane) = lane {
            match record.status {
                Status::Deferred => {
                    lane.deferred.set(&record.token, record.deadline.unwrap_or(Timestamp::MAX));
                }
                _ => lane.deferred.remove(&record.token),
            }
        }
        let kind = match record.status {
            _ if record.stop_requested.is_some() => None,
            Status::Deferred => Some(Kind::Deferred),
            Status::New | Status::Claimed | Status::Waiting
                if !leaves && state.local.activity != Activity::Idle =>
            {
                Some(Kind::Active)
            }
            _ => None,
        };
        if *watched == kind && !leaves {
            return;
        }
        *watched = kind;
        match (kind, lane.map(|lane| lane.index)) {
            (Some(kind), Some(lane)) => {
                self.watch.enter(&record.execution, lane, &record.token, kind);
            }
            _ => self.watch.leave(&record.execution, &record.token),
        }
    }
}

/// As often as the stop watch asks, within what SageMaker's unpublished limits are likely to allow.
fn ask_every(stop_watch: Duration) -> Duration {
    if stop_watch.is_zero() { Duration::from_secs(30) } else { stop_watch }
}
