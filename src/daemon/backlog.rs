//! What SQS says of the queues, for the page: asked once a minute while someone looks, never for
//! each request.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::aws::Sqs;
use crate::engine::Monitor;
use crate::lifecycle::WorkerId;

/// How often a queue is asked at most.
const EVERY: Duration = Duration::from_mins(1);

/// The last answers.
#[derive(Default)]
pub(super) struct Backlogs {
    wanted: Notify,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    queues: BTreeMap<String, Backlog>,
    workers: Option<Vec<WorkerId>>,
}

/// What a queue said, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) at: Instant,
    pub(super) counts: Result<Counts, String>,
}

/// SQS calls them approximate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) visible: u64,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
    pub(super) dead_letters: DeadLetters,
}

/// The messages in a queue's dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeadLetters {
    /// The queue has no dead-letter queue.
    NoQueue,
    /// It does not say, mostly for lack of a permission.
    Unknown,
    Count(u64),
}

impl Backlogs {
    /// What the queue of this URL said last; `None` if it was not asked yet. Has it asked again if
    /// a minute has passed.
    pub(super) fn of(&self, url: &str) -> Option<Backlog> {
        self.wanted.notify_one();
        self.found().queues.get(url).cloned()
    }

    /// The live workers of a shared ledger, by what was last seen.
    pub(super) fn workers(&self) -> Option<Vec<WorkerId>> {
        self.found().workers.clone()
    }

    /// Asks while someone looks, until `stop`.
    pub(super) async fn keep(&self, queues: Vec<Sqs>, monitor: Monitor, stop: CancellationToken) {
        let asking = async {
            loop {
                self.wanted.notified().await;
                let looks = queues.iter().map(async |queue| {
                    let counts = counts(queue).await;
                    let backlog = Backlog { at: Instant::now(), counts };
                    self.found().queues.insert(queue.url().as_str().to_owned(), backlog);
                });
                let workers = async {
                    // The ledger's own trouble is told by its health check.
                    if let Ok(found) = monitor.workers().await {
                        self.found().workers = found.map(|all| all.into_iter().collect());
                    }
                };
                tokio::join!(join_all(looks), workers);
                sleep(EVERY).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = asking => {}
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn counts(queue: &Sqs) -> Result<Counts, String> {
    let found = queue.backlog().await.map_err(|fault| fault.to_string())?;
    let found = found.ok_or("there is no such queue")?;
    let dead_letters = match &found.dead_letters {
        None => DeadLetters::NoQueue,
        Some(queue) => match queue.backlog().await {
            Ok(Some(dead)) => DeadLetters::Count(dead.visible + dead.in_flight + dead.delayed),
            Ok(None) | Err(_) => DeadLetters::Unknown,
        },
    };
    let (visible, in_flight, delayed) = (found.visible, found.in_flight, found.delayed);
    Ok(Counts { visible, in_flight, delayed, dead_letters })
}
