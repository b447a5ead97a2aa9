//! Long polls of one queue: room first, then the poll, and what it brings is never dropped.
//!
//! One loop owns all polls of its queue. There is always one under way or about to be; more join while receives come back full, and
//! they leave when one comes back empty.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::delivery::deliver;
use super::gates::Reservation;
use super::lane::Lane;
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::lifecycle::Phase;
use crate::seam::{Fault, FaultKind, Received};

/// SQS's limit for a long poll.
const WAIT: Duration = Duration::from_secs(20);
/// SQS's limit for a receive.
const BATCH: usize = 10;
/// Polls of one queue at once, at most: at 10 ms a receive they bring 8,000 messages a second.
const MAX_POLLS: usize = 8;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// How often a ledger that fails is tried, so that the worker recovers by itself.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long a busy queue's poll waits for a whole batch of free slots, so that a receive brings more than one message.
const GATHER: Duration = Duration::from_millis(5);

type Poll<'a> = BoxFuture<'a, (Vec<Reservation>, Result<Vec<Received>, Fault>)>;

struct Pollers<'a> {
    shared: &'a Arc<Shared>,
    lane: &'a Arc<Lane>,
    /// What a receive brings at most.
    full: usize,
    /// How many polls can have a batch of slots each.
    most: usize,
    wanted: usize,
    busy: bool,
    failures: u32,
    pause: Option<Instant>,
}

/// Polls until the worker drains, and delivers what polls then under way still bring.
pub(crate) async fn poll(shared: Arc<Shared>, lane: Arc<Lane>) {
    let concurrency = lane.config.concurrency;
    let mut pollers = Pollers {
        shared: &shared,
        lane: &lane,
        full: concurrency.min(BATCH),
        most: concurrency.div_ceil(BATCH).clamp(1, MAX_POLLS),
        wanted: 1,
        busy: false,
        failures: 0,
        pause: None,
    };
    let mut polls: FuturesUnordered<Poll<'_>> = FuturesUnordered::new();
    while shared.phase() == Phase::Running {
        tokio::select! {
            biased;
            () = shared.phases.beyond(Phase::Running) => break,
            Some((reserved, received)) = polls.next(), if !polls.is_empty() => pollers.came_back(reserved, received),
            reserved = pollers.room(), if polls.len() < pollers.wanted => polls.push(receive(&lane, reserved)),
        }
    }
    // Bounded by one long poll each.
    while let Some((reserved, received)) = polls.next().await {
        pollers.came_back(reserved, received);
    }
}

fn receive(lane: &Lane, reserved: Vec<Reservation>) -> Poll<'_> {
    Box::pin(async move {
        let _open = lane.polls.begin();
        let received = lane.queue.receive(reserved.len(), WAIT, lane.config.visibility_timeout).await;
        (reserved, received)
    })
}

impl Pollers<'_> {
    /// Room for what a receive may bring. Cancel safe.
    async fn room(&self) -> Vec<Reservation> {
        if let Some(until) = self.pause {
            sleep_until(until).await;
        }
        while self.shared.ledger.is_failing() {
            sleep(PROBE_EVERY).await;
            self.shared.ledger.probe().await;
        }
        self.shared.bodies.room().await;
        if self.shared.impaired.may_poll(self.lane.handlers()).await {
            // One step shows whether it is over.
            return self.lane.slots.reserve(1).await;
        }
        let patience = if self.busy { GATHER } else { Duration::ZERO };
        self.lane.slots.reserve_up_to(BATCH, patience).await
    }

    fn came_back(&mut self, reserved: Vec<Reservation>, received: Result<Vec<Received>, Fault>) {
        match received {
            Ok(messages) => {
                self.lane.polls.succeeded();
                (self.failures, self.pause) = (0, None);
                self.busy = !messages.is_empty();
                if messages.len() >= self.full {
                    self.wanted = (self.wanted + 1).min(self.most);
                } else if !self.busy {
                    self.wanted = 1;
                }
                // A queue that gave more than was asked for would be no reason to drop any.
                let mut reserved = reserved.into_iter();
                for message in messages {
                    deliver(self.shared, self.lane, message, reserved.next());
                }
            }
            Err(fault) => {
                self.failures += 1;
                self.wanted = 1;
                let wait = BACKOFF.after(self.failures, fastrand::f64());
                self.pause = Some(Instant::now() + wait);
                let cause = if fault.kind == FaultKind::Denied { "may not be polled" } else { "unpolled" };
                if let Some(more) = self.lane.said.again(cause) {
                    tracing::warn!(
                        queue = self.lane.name,
                        error = %fault,
                        failures = self.failures,
                        again_in = ?wait,
                        more,
                        "the queue could not be polled"
                    );
                }
            }
        }
    }
}
