//! Long polls of one queue: room is reserved first, then the queue is polled, and what it returns
//! is never dropped.
//!
//! One loop owns all polls of its queue. There is always one pending or about to start; more join
//! while receives come back full, and they leave when one comes back empty.
//!
//! If there is no room for as long as the stop watch would take, a poll looks ahead: a step that
//! waits for a slot can be stopped too, and otherwise neither its Stopping message nor its
//! execution would be seen.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::delivery::deliver;
use super::gates::{AHEAD, Reservation};
use super::lane::{BATCH, Lane};
use super::shared::Shared;
use crate::backoff::{Backoff, Failures};
use crate::lifecycle::Phase;
use crate::seam::{Fault, FaultKind, Received};

/// The maximum number of polls of one queue: at 10 ms a receive they bring 8,000 messages a second.
const MAX_POLLS: usize = 8;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// How often the worker's lease is looked at while it has none.
const LEASE_LOOK: Duration = Duration::from_millis(50);
/// How often a failing ledger is tried, so that the worker recovers by itself.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long a queue without a stop watch may go unseen while its slots are taken.
const UNWATCHED: Duration = Duration::from_secs(30);
/// How long a poll of a busy queue waits for a whole batch of free slots, so that a receive brings
/// more than one message.
const GATHER: Duration = Duration::from_millis(5);

type Poll<'a> = BoxFuture<'a, (Vec<Reservation>, Result<Vec<Received>, Fault>)>;

struct Pollers<'a> {
    shared: &'a Arc<Shared>,
    lane: &'a Arc<Lane>,
    wanted: usize,
    busy: bool,
    failures: Failures,
    pause: Option<Instant>,
    /// When to look ahead if there is no room.
    look_ahead: Instant,
}

/// Polls until the worker drains, and delivers what the polls pending then still bring.
pub(crate) async fn poll(shared: Arc<Shared>, lane: Arc<Lane>) {
    let mut pollers = Pollers {
        shared: &shared,
        lane: &lane,
        wanted: 1,
        busy: false,
        failures: Failures::default(),
        pause: None,
        look_ahead: Instant::now(),
    };
    pollers.look_ahead += pollers.unseen();
    let mut polls: FuturesUnordered<Poll<'_>> = FuturesUnordered::new();
    while shared.phase() == Phase::Running {
        let alone = polls.is_empty();
        tokio::select! {
            biased;
            () = shared.phases.beyond(Phase::Running) => break,
            Some((reserved, received)) = polls.next(), if !polls.is_empty() => pollers.came_back(reserved, received),
            reserved = pollers.room(alone), if polls.len() < pollers.wanted => polls.push(receive(&lane, reserved)),
        }
    }
    // Each is bounded by one long poll.
    while let Some((reserved, received)) = polls.next().await {
        pollers.came_back(reserved, received);
    }
}

fn receive(lane: &Lane, reserved: Vec<Reservation>) -> Poll<'_> {
    Box::pin(async move {
        let _open = lane.polls.begin();
        let (wait, hidden) = (lane.config.poll_wait, lane.config.visibility_timeout);
        let received = lane.queue.receive(reserved.len(), wait, hidden).await;
        (reserved, received)
    })
}

impl Pollers<'_> {
    /// Room for what a receive may bring; beyond the slots and limits too if no other poll is
    /// pending. Cancel safe.
    async fn room(&self, alone: bool) -> Vec<Reservation> {
        loop {
            self.may_poll().await;
            let reserved = tokio::select! {
                biased;
                reserved = self.reserve(alone) => reserved,
                // What it waits for may not be what speaks against a poll now.
                () = self.lane.reloaded.notified() => continue,
            };
            // It may have taken long.
            let is_paused = self.lane.pause.is_on()
                || self.shared.limits.is_paused(self.lane.routes().handlers());
            if !reserved.is_empty() && !is_paused {
                return reserved;
            }
        }
    }

    /// Waits until nothing speaks against a poll.
    async fn may_poll(&self) {
        if let Some(until) = self.pause {
            sleep_until(until).await;
        }
        while self.shared.ledger.is_failing() {
            sleep(PROBE_EVERY).await;
            self.shared.ledger.probe().await;
        }
        // Before its first lease in a shared ledger a worker claims nothing.
        while !self.shared.ledger.claims_hold() {
            sleep(LEASE_LOOK).await;
        }
        self.memory().await;
        self.lane.pause.over().await;
    }

    async fn reserve(&self, alone: bool) -> Vec<Reservation> {
        let Shared { impaired, limits, .. } = &**self.shared;
        let (lane, many, routes) = (self.lane, self.lane.many(), self.lane.routes());
        let rarely = impaired.may_poll(lane.index, routes.handlers(), many).await;
        let most = if rarely { 1 } else { BATCH };
        let patience = if self.busy && !rarely { GATHER } else { Duration::ZERO };
        let within = async {
            if limits.room(lane.index, routes.handlers(), many).await < most {
                sleep(patience).await;
            }
            lane.slots.reserve_up_to(most, patience).await
        };
        let ahead = async {
            sleep_until(self.look_ahead).await;
            let room = limits.room_ahead(lane.index, routes.handlers(), AHEAD).await;
            lane.slots.reserve_ahead(most.min(room)).await
        };
        tokio::select! {
            biased;
            reserved = within => self.within_limits(reserved),
            reserved = ahead, if alone => reserved,
        }
    }

    /// As many of them as the handlers' limits allow by now.
    fn within_limits(&self, mut reserved: Vec<Reservation>) -> Vec<Reservation> {
        let (lane, most, routes) = (self.lane, reserved.len(), self.lane.routes());
        let limits = &self.shared.limits;
        let limits = limits.reserve(lane.index, routes.handlers(), lane.many(), most);
        reserved.truncate(limits.messages);
        let mut rooms = limits.rooms.into_iter();
        reserved.into_iter().map(|reserved| reserved.with(rooms.next())).collect()
    }

    /// Waits until the bodies of steps in hand leave room for more.
    async fn memory(&self) {
        let Some(spent) = self.shared.bodies.spent(self.lane.index) else { return };
        if let Some(more) = self.lane.said.again("bodies") {
            tracing::warn!(
                event = "memory_budget_used",
                queue = self.lane.name,
                bytes = spent.by_queue,
                bytes_of_all_queues = spent.by_all,
                most = spent.limit,
                more,
                "the arguments of current steps use up the memory budget: the queue is not polled \
                 until some steps have ended; pass large data by reference, or lower `concurrency`"
            );
        }
        self.shared.bodies.room(self.lane.index).await;
    }

    /// How long the queue may go unseen.
    fn unseen(&self) -> Duration {
        let stop_watch = self.lane.config.stop_watch;
        if stop_watch.is_zero() { UNWATCHED } else { stop_watch }
    }

    fn came_back(&mut self, reserved: Vec<Reservation>, received: Result<Vec<Received>, Fault>) {
        let ahead = reserved.iter().any(Reservation::is_ahead);
        self.look_ahead = Instant::now() + self.unseen();
        match received {
            Ok(messages) => {
                self.lane.polls.succeeded();
                self.failures.end();
                self.pause = None;
                let some = !messages.is_empty();
                if !ahead {
                    self.busy = some;
                    let concurrency = self.lane.slots.limit();
                    // What a receive brings at most; so many polls can have a batch of slots each.
                    if messages.len() >= concurrency.min(BATCH) {
                        let most = concurrency.div_ceil(BATCH).clamp(1, MAX_POLLS);
                        self.wanted = (self.wanted + 1).min(most);
                    } else if !self.busy {
                        self.wanted = 1;
                    }
                }
                // Nothing is dropped even if a queue returns more than was requested.
                let mut reserved = reserved.into_iter();
                for message in messages {
                    deliver(self.shared, self.lane, message, reserved.next());
                }
                drop(reserved);
                // The messages that took no room were stops, and there may be more.
                if ahead && some && self.lane.slots.has_room_ahead() {
                    self.look_ahead = Instant::now();
                }
            }
            Err(fault) => {
                self.wanted = 1;
                let wait = self.failures.another(BACKOFF, fastrand::f64());
                self.pause = Some(Instant::now() + wait);
                let cause = if fault.kind == FaultKind::Denied { "denied" } else { "unpolled" };
                if let Some(more) = self.lane.said.again(cause) {
                    tracing::warn!(
                        event = "queue_poll_failed",
                        queue = self.lane.name,
                        error = %fault,
                        failures = self.failures.count(),
                        again_in = ?wait,
                        more,
                        "the queue could not be polled"
                    );
                }
            }
        }
    }
}
