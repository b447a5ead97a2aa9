//! Performs what the lifecycle decides: polls, delivers, runs, keeps invisible, reports, deletes,
//! drains.
//!
//! The files in the order of use, each depending only on those before it:
//! - `accounts config route phase pause said waiting impaired limits missing budget gates messages`
//!   and `watch polls progress inbox moments orphans`: the parts;
//! - `lane shared` combine them;
//! - `ask report running driver` drive one step;
//! - `dispatch delivery pollers due completed looks bodies reap evidence sweep drain monitor` and
//!   `intake retries` bring steps, time and orders to the drivers.

mod accounts;
pub mod config;

mod ask;
mod bodies;
mod budget;
mod completed;
pub(crate) mod delivery;
pub(crate) mod dispatch;
mod drain;
pub(crate) mod driver;
mod due;
mod endings;
mod evidence;
mod fleet;
mod gates;
mod handlers;
mod impaired;
pub(crate) mod inbox;
mod intake;
mod lane;
mod lease;
mod limits;
mod looks;
pub(crate) mod messages;
mod missing;
mod moments;
mod monitor;
mod orphans;
mod pause;
mod phase;
pub(crate) mod pollers;
mod polls;
mod progress;
mod reap;
pub(crate) mod report;
mod retries;
pub mod route;
pub(crate) mod running;
mod said;
mod settings;
mod shared;
pub(crate) mod sweep;
mod waiting;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use budget::Spent;
pub use endings::Ended;
pub use handlers::HandlerParts;
pub use impaired::Impairment;
pub use inbox::Face;
pub use intake::Intake;
pub use lane::QueueParts;
pub use limits::Tripped;
pub use monitor::{Monitor, QueueStatus, Unpolled};
pub use progress::Progressed;
pub use retries::{Retries, Unretried};
pub use settings::Settings;

use crate::clock::Clock;
use crate::ledger::Ledger;
use crate::lifecycle::Phase;
use crate::seam::Observer;
use crate::step::QueueUrl;
use budget::Budget;
use dispatch::{FreeSlots, Turns};
use gates::{Grants, Permit, Slot};
use handlers::Handlers;
use inbox::Turn;
use lane::Lane;
use shared::Shared;

/// Everything that an engine works with.
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
    /// Where handlers keep files of runs.
    pub work_dir: PathBuf,
    /// The queues that are not polled, and the handlers that are not started, until [`Intake`] says
    /// so.
    pub paused: Vec<QueueUrl>,
    pub paused_handlers: Vec<String>,
}

/// A running engine. It owns every task that it started; [`drain`](Engine::drain) joins them. If it
/// is dropped, it takes no more work and releases what it has, without being awaited.
pub struct Engine {
    _leaves: Leaves,
    _hooks: Hooks,
    shared: Arc<Shared>,
    drain_timeout: Duration,
    pollers: JoinSet<&'static str>,
    background: JoinSet<&'static str>,
    keepers: JoinSet<&'static str>,
}

/// Ends the tasks of an engine that is dropped.
struct Leaves(Arc<Shared>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.phases.enter(Phase::Leaving);
    }
}

/// What the gates call when a turn has come; they hold it weakly.
struct Hooks {
    _turns: [(Turn, Arc<dyn Grants<Permit>>); 3],
    _slots: Arc<dyn Grants<Slot>>,
}

/// How long deletes and releases may take at the end if the queue does not answer; the messages
/// then come back by themselves. The ledger has as long.
const LAST_CALLS: Duration = Duration::from_secs(4);
/// How long an open poll may take from the beginning of a drain: SQS answers after its 20 s. ECS
/// kills a task 30 s after it told it to stop, and an idle worker must end before that, whatever
/// its queue does.
const LAST_POLL: Duration = Duration::from_secs(21);
/// Bytes of bodies in memory at which the polls of a queue that uses its share of them wait.
const BODIES: usize = 128 << 20;
/// How many due steps read their records at once: more would only wait for the ledger.
const WAKING: usize = 256;

impl Engine {
    /// Starts working. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let queues = parts.queues.len();
        let lane = |(index, queue)| Arc::new(Lane::new(index, queue, parts.handlers.keys()));
        let watches = parts.queues.iter().map(|queue| queue.config.stop_watch).collect();
        let lanes = parts.queues.into_iter().enumerate().map(lane).collect();
        let impaired = impaired::Impaired::new(parts.observer.clone());
        let configs = parts.handlers.iter().map(|(name, parts)| (name, &parts.config));
        let limits = limits::Limits::new(configs);
        let missing = missing::Missing::new(parts.observer.clone());
        let is_alone = !parts.ledger.is_shared();
        let unseen = AtomicBool::new(is_alone);
        let shared = Arc::new(Shared {
            clock: parts.clock,
            ledger: parts.ledger,
            handlers: Handlers::new(parts.handlers),
            lanes,
            observer: parts.observer,
            work_dir: parts.work_dir.into(),
            steps: inbox::Steps::default(),
            watch: watch::Watch::new(watches, is_alone),
            orphans: orphans::Orphans::default(),
            unseen,
            said: said::Said::default(),
            progress_lines: progress::Lines::default(),
            endings: endings::Endings::default(),
            impaired,
            limits,
            missing,
            bodies: Budget::new(BODIES, queues),
            phases: phase::Phases::default(),
            trials: gates::Trials::default(),
            waking: Arc::new(Semaphore::new(WAKING)),
            reaped: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let hooks = Hooks::set(&shared);
        let intake = Intake::new(shared.clone());
        intake.pause_only(&parts.paused);
        intake.hold_only(&parts.paused_handlers);
        let (mut pollers, mut background, mut keepers) =
            (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for lane in &shared.lanes {
            let poll = pollers::poll(shared.clone(), lane.clone());
            pollers.spawn(named("polling a queue", poll));
            let (ledger, kept) = (shared.clone(), lane.clone());
            keepers.spawn(named("keeping a queue's messages", async move {
                let (queue, observer) = (kept.queue.as_ref(), ledger.observer.as_ref());
                kept.messages.work(queue, ledger.as_ref(), observer, &kept.name).await;
            }));
        }
        background.spawn(named("keeping the lease", lease::keep(shared.clone())));
        background.spawn(named("waking steps", due::wake_due(shared.clone())));
        background.spawn(named("testing impaired handlers", due::wake_hindered(shared.clone())));
        background.spawn(named("noticing answers", completed::notice(shared.clone())));
        background.spawn(named("waking limited steps", due::wake_limited(shared.clone())));
        background.spawn(named("comparing the clocks", due::keep_time(shared.clone())));
        background.spawn(named(
            "looking through the ledger",
            sweep::sweep(shared.clone(), parts.retention),
        ));
        let looks = looks::Watching(shared.clone());
        background.spawn(named("the stop watch", async move {
            looks.0.watch.work(&looks).await;
        }));
        let left = shared.clone();
        shared.tasks.spawn(async move { reap::reap(&left).await });
        Self {
            _leaves: Leaves(shared.clone()),
            _hooks: hooks,
            pollers,
            background,
            keepers,
            drain_timeout: parts.drain_timeout,
            shared,
        }
    }

    /// Resolves with the name of a part of the engine that has ended although it must not. The
    /// worker cannot continue without it. Cancel safe.
    pub async fn broken(&mut self) -> String {
        let ended = tokio::select! {
            biased;
            Some(ended) = self.pollers.join_next() => ended,
            Some(ended) = self.background.join_next() => ended,
            Some(ended) = self.keepers.join_next() => ended,
            why = self.shared.ledger.ended() => return why,
        };
        match ended {
            Ok(name) => format!("{name} has ended"),
            Err(error) => format!("a task of the engine has failed: {error}"),
        }
    }

    /// Shortens the wait of a drain: the machine has no more time.
    pub fn drain_within(&mut self, timeout: Duration) {
        self.drain_timeout = self.drain_timeout.min(timeout);
    }

    /// Stops the worker without failing a step: waits for running steps, tells them to end,
    /// releases the rest, gives messages back. The first time that `hurry` resolves ends the wait
    /// for running steps, and releases them at once.
    pub async fn drain(mut self, hurry: impl AsyncFnMut()) {
        let last_poll = Instant::now() + LAST_POLL;
        drain::drain(&self.shared, self.drain_timeout, hurry).await;
        self.background.shutdown().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        if timeout(LAST_CALLS, due::keep_names(&self.shared)).await.is_err() {
            due::names_are_old("the ledger did not answer in time");
        }
        if !matches!(timeout(LAST_CALLS, self.shared.ledger.resign()).await, Ok(Ok(()))) {
            tracing::warn!(
                event = "lease_not_ended",
                "the worker's lease in the ledger could not be ended; it ends by itself"
            );
        }
        // Whatever an open poll brings is given back.
        if timeout_at(last_poll, join(&mut self.pollers)).await.is_err() {
            tracing::warn!(
                event = "last_poll_unanswered",
                "a queue did not answer its last poll; messages that it may still return become \
                 visible after their visibility timeout"
            );
            self.pollers.shutdown().await;
        }
        for lane in &self.shared.lanes {
            lane.messages.open_releases();
            lane.messages.close();
        }
        if timeout(LAST_CALLS, join(&mut self.keepers)).await.is_err() {
            tracing::warn!(
                event = "messages_left_behind",
                "messages could not be deleted or given back in time; they become visible after \
                 their visibility timeout"
            );
            self.keepers.shutdown().await;
        }
        tracing::info!(event = "drain_ended", "drained");
    }

    /// What can be observed while it works and drains; it does not keep the engine alive.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor::new(self.shared.clone())
    }

    /// What changes settings while it works; it does not keep the engine alive.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings::new(self.shared.clone())
    }

    /// What has steps tried again that wait; it does not keep the engine alive.
    #[must_use]
    pub fn retries(&self) -> Retries {
        Retries::new(self.shared.clone())
    }

    /// What decides from outside which queues are polled; it does not keep the engine alive.
    #[must_use]
    pub fn intake(&self) -> Intake {
        Intake::new(self.shared.clone())
    }
}

impl Hooks {
    fn set(shared: &Arc<Shared>) -> Self {
        let turns = [Turn::Ask, Turn::Report, Turn::CleanUp]
            .map(|turn| (turn, Arc::new(Turns::new(shared, turn)) as Arc<dyn Grants<Permit>>));
        let slots: Arc<dyn Grants<Slot>> = Arc::new(FreeSlots::new(shared));
        for lane in &shared.lanes {
            for (turn, grants) in &turns {
                lane.gate(*turn).grants_to(Arc::downgrade(grants));
            }
            lane.slots.grants_to(Arc::downgrade(&slots));
        }
        Self { _turns: turns, _slots: slots }
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

async fn join(tasks: &mut JoinSet<&'static str>) {
    // A task that panicked has been logged by the panic hook.
    while tasks.join_next().await.is_some() {}
}
