//! Long polls of one queue: room first, then the poll, and what it brings is never dropped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::delivery::deliver;
use super::lane::{Counted, Lane, Shared};
use super::phase::Phase;
use crate::backoff::Backoff;

/// SQS's limit for a long poll.
const WAIT: Duration = Duration::from_secs(20);
/// SQS's limit for a receive.
const BATCH: usize = 10;
/// Pollers of one queue at most: at 10 ms a receive they bring 8,000 messages a second.
const MOST: usize = 8;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// How often a ledger that fails is tried, so that the worker recovers by itself.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long a busy queue's poll waits for more than one free slot, so that a receive brings more than one message.
const GATHER: Duration = Duration::from_millis(5);

/// The pollers of one queue.
#[derive(Default)]
pub(crate) struct Polls {
    pollers: AtomicUsize,
    /// Receives under way.
    open: AtomicUsize,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Default)]
struct Last {
    /// When a poller last did anything, and when a receive last worked.
    turn: Option<Instant>,
    success: Option<Instant>,
    waits_for_room: bool,
}

impl Polls {
    /// How long ago a receive last worked.
    pub(crate) fn since_success(&self) -> Option<Duration> {
        self.last().success.map(|at| at.elapsed())
    }

    /// Whether the pollers still turn: each turn ends within a long poll or a back-off, unless all slots are taken.
    pub(crate) fn are_turning(&self, within: Duration) -> bool {
        let last = self.last();
        last.waits_for_room || last.turn.is_some_and(|at| at.elapsed() <= within)
    }

    fn last(&self) -> Last {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Last)) {
        change(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Polls until the worker drains; more pollers join while receives come back full, and leave when one comes back empty.
pub(crate) async fn poll(shared: Arc<Shared>, lane: Arc<Lane>, pollers: TaskTracker) {
    let _counted = Counted::new(&lane.polls.pollers);
    let mut failures = 0;
    let mut busy = false;
    loop {
        lane.polls.note(|last| {
            last.turn = Some(Instant::now());
            last.waits_for_room = true;
        });
        let reserved = tokio::select! {
            biased;
            () = shared.phases.beyond(Phase::Running) => return,
            reserved = gather(&lane, busy) => reserved,
        };
        lane.polls.note(|last| {
            last.turn = Some(Instant::now());
            last.waits_for_room = false;
        });
        if shared.ledger.is_failing() {
            drop(reserved);
            sleep(PROBE_EVERY).await;
            shared.ledger.probe().await;
            continue;
        }
        let received = {
            let _open = Counted::new(&lane.polls.open);
            lane.queue.receive(reserved.len(), WAIT, lane.config.visibility_timeout).await
        };
        match received {
            Ok(messages) => {
                lane.polls.note(|last| last.success = Some(Instant::now()));
                failures = 0;
                busy = !messages.is_empty();
                let full = messages.len() >= reserved.len();
                // A queue that gave more than was asked for would be no reason to drop any.
                let mut reserved = reserved.into_iter();
                for message in messages {
                    deliver(&shared, &lane, message, reserved.next()).await;
                }
                drop(reserved);
                let count = lane.polls.pollers.load(Ordering::SeqCst);
                if full && count < MOST && shared.phase() == Phase::Running {
                    pollers.spawn(poll_more(shared.clone(), lane.clone(), pollers.clone()));
                } else if !busy && count > 1 {
                    return;
                }
            }
            Err(fault) => {
                failures += 1;
                let wait = BACKOFF.after(failures, fastrand::f64());
                tracing::warn!(queue = lane.name, error = %fault, failures, again_in = ?wait, "the queue could not be polled");
                drop(reserved);
                tokio::select! {
                    biased;
                    () = shared.phases.beyond(Phase::Running) => return,
                    () = sleep(wait) => {}
                }
            }
        }
    }
}

/// [`poll`], boxed where it starts another of itself.
fn poll_more(
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    pollers: TaskTracker,
) -> futures_util::future::BoxFuture<'static, ()> {
    Box::pin(poll(shared, lane, pollers))
}

async fn gather(lane: &Lane, busy: bool) -> Vec<super::slots::Reservation> {
    let mut reserved = lane.slots.reserve(BATCH).await;
    if busy && reserved.len() < BATCH {
        sleep(GATHER).await;
        reserved.extend(lane.slots.try_reserve(BATCH - reserved.len()));
    }
    reserved
}
