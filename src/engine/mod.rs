//! Performs what the lifecycle decides: polls, delivers, runs, keeps invisible, reports, deletes, drains.

pub mod config;

mod ask;
mod clock;
mod delivery;
mod drain;
mod driver;
mod heartbeat;
mod lane;
mod phase;
mod poll;
mod recover;
pub mod route;
mod running;
mod settle;
mod slots;
mod steps;
mod stop;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clock::Clock;
pub use lane::{HandlerParts, QueueParts};
pub use steps::StepView;

use crate::ledger::{Filter, Ledger, LedgerError};
use crate::lifecycle::{Record, Status};
use crate::seam::Observer;
use lane::{Lane, Shared};
use phase::{Phase, Phases};

/// All that an engine works with.
pub struct Parts {
    pub ledger: Ledger,
    pub queues: Vec<QueueParts>,
    /// By their names in the configuration.
    pub handlers: BTreeMap<String, HandlerParts>,
    pub observer: Arc<dyn Observer>,
    pub clock: Clock,
    /// How long a shutdown waits for running steps.
    pub drain_timeout: Duration,
    /// How long settled records are kept.
    pub retention: Duration,
}

/// A running engine. It owns every task that it started; [`drain`](Engine::drain) joins them. Dropped, it takes no more work and
/// releases what it has, unwatched.
pub struct Engine {
    _leaves: Leaves,
    shared: Arc<Shared>,
    drain_timeout: Duration,
    pollers: TaskTracker,
    background: Vec<JoinHandle<()>>,
    /// Ends the deletes once no driver is left that could order one.
    settled: CancellationToken,
    keepers: Vec<JoinHandle<()>>,
}

/// Has the tasks end whose engine is dropped.
struct Leaves(Arc<Shared>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.phases.enter(Phase::Leaving);
    }
}

/// How one queue fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    pub name: String,
    pub url: String,
    pub running: usize,
    pub concurrency: usize,
    pub held: usize,
    /// How long ago it was last polled with success.
    pub polled_ago: Option<Duration>,
    /// Its pollers get on, whatever the queue answers.
    pub turning: bool,
}

/// A turn of a poller takes a long poll, or a call that times out, and a back-off.
const TURN: Duration = Duration::from_mins(2);
/// What deletes and releases may still take at the end, where the queue does not answer; the messages then come back by themselves.
const LAST_CALLS: Duration = Duration::from_secs(10);

impl Engine {
    /// Ends what the last process left running, then starts to work.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub async fn start(parts: Parts) -> Result<Self, LedgerError> {
        let shared = Arc::new(Shared {
            clock: parts.clock,
            ledger: parts.ledger,
            handlers: parts.handlers,
            lanes: parts.queues.into_iter().map(|queue| Arc::new(Lane::new(queue))).collect(),
            observer: parts.observer,
            steps: steps::Steps::default(),
            phases: Phases::default(),
            deferred: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
        });
        recover::reap(&shared).await?;
        let mut engine = Self {
            _leaves: Leaves(shared.clone()),
            background: vec![
                tokio::spawn(recover::sweep(shared.clone(), parts.retention)),
                tokio::spawn(stop::watch(shared.clone())),
            ],
            keepers: Vec::new(),
            pollers: TaskTracker::new(),
            settled: CancellationToken::new(),
            drain_timeout: parts.drain_timeout,
            shared,
        };
        for lane in &engine.shared.lanes {
            let (shared, beating, deleting) = (engine.shared.clone(), lane.clone(), lane.clone());
            let settled = engine.settled.clone();
            engine.keepers.push(tokio::spawn(async move {
                beating.held.beat(beating.queue.as_ref(), &beating.deletes, shared.observer.as_ref()).await;
            }));
            engine.keepers.push(tokio::spawn(async move {
                deleting.deletes.work(deleting.queue.as_ref(), &deleting.held, settled.cancelled()).await;
            }));
            engine.pollers.spawn(poll::poll(engine.shared.clone(), lane.clone(), engine.pollers.clone()));
        }
        Ok(engine)
    }

    /// Stops the worker without failing a step: waits for what runs, tells it to end, releases the rest, gives messages back.
    /// Each time that `hurry` resolves, a wait is cut short.
    pub async fn drain(self, hurry: impl AsyncFnMut()) {
        drain::drain(&self.shared, self.drain_timeout, hurry).await;
        for task in self.background {
            task.abort();
            // Aborted on purpose.
            let _ = task.await;
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.pollers.close();
        // Bounded by one long poll each: whatever it brings is given back.
        self.pollers.wait().await;
        self.settled.cancel();
        for lane in &self.shared.lanes {
            lane.held.open_releases();
            lane.held.close();
        }
        let mut keepers = self.keepers;
        let done = timeout(LAST_CALLS, async {
            for keeper in &mut keepers {
                // A keeper that panicked has been logged by the panic hook.
                let _ = keeper.await;
            }
        });
        if done.await.is_err() {
            tracing::warn!(
                "messages could not be deleted or given back in time; they come back when their visibility timeout is over"
            );
            for keeper in &keepers {
                keeper.abort();
            }
        }
        tracing::info!("drained");
    }

    /// What can be seen while it works, and while it drains; it does not keep the engine alive.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor { shared: self.shared.clone() }
    }
}

/// A look into a running engine; cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

impl Monitor {
    /// The steps that this worker is busy with.
    #[must_use]
    pub fn steps(&self) -> Vec<StepView> {
        self.shared.steps.views()
    }

    /// How many slots are taken, of all queues.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.lanes.iter().map(|lane| lane.slots.usage().0).sum()
    }

    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        let status = |lane: &Arc<Lane>| {
            let (running, concurrency) = lane.slots.usage();
            QueueStatus {
                name: lane.name.clone(),
                url: lane.config.url.to_string(),
                running,
                concurrency,
                held: lane.held.len(),
                polled_ago: lane.polls.since_success(),
                turning: self.is_draining() || lane.polls.are_turning(TURN),
            }
        };
        self.shared.lanes.iter().map(status).collect()
    }

    /// All that the ledger holds, of the settled steps those that it still keeps; what cannot be read is left out.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub async fn records(&self) -> Result<Vec<Record>, LedgerError> {
        records(&self.shared.ledger, &[]).await
    }

    /// When each outcome that is not yet known to be accepted was frozen.
    #[must_use]
    pub fn unreported(&self) -> Vec<Option<Timestamp>> {
        let views = self.shared.steps.views().into_iter();
        views.filter(|view| view.status == Status::Concluded).map(|view| view.concluded_at).collect()
    }

    /// How many steps were deferred when the ledger was last looked through.
    #[must_use]
    pub fn deferred(&self) -> usize {
        self.shared.deferred.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.phase() != Phase::Running
    }

    #[must_use]
    pub fn ledger_is_failing(&self) -> bool {
        self.shared.ledger.is_failing()
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

/// All records in one of `statuses` that can be read; the ledger has told of the others.
async fn records(ledger: &Ledger, statuses: &[Status]) -> Result<Vec<Record>, LedgerError> {
    let mut filter = Filter::of(statuses);
    let mut records = Vec::new();
    loop {
        let page = ledger.outlines(filter.clone()).await?;
        for outline in page.found.into_iter().flatten() {
            match ledger.load(&outline.token).await {
                Ok(record) => records.extend(record),
                Err(LedgerError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(records),
        }
    }
}
