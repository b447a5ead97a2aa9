//! Assembles a running worker from a checked configuration, and shuts it down.

mod backlog;
mod error;
mod obedience;
mod opening;
mod operator;
mod overview;
mod parts;
mod reload;
mod spot;
mod status;
mod summary;
mod traces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::aws::{self, Sqs};
use crate::clock::Clock;
use crate::config::CheckedConfig;
use crate::engine::{Engine, Monitor, Parts, Retries};
use crate::handler::Severity;
use crate::ledger::{self, Ledger, Store};
use crate::lifecycle::WorkerId;
use crate::observe::actions::Office;
use crate::observe::metrics::Metrics;
use crate::observe::server::{BindError, Server};
use crate::orders::Orders;
use crate::process::adopted;
use crate::process::protection::hold_while_running;
use crate::process::systemd::Manager;
use crate::seam::Observer;
pub use error::DaemonError;
use obedience::{Obedience, Paused};
pub use operator::Control;
use operator::Desk;
#[cfg(debug_assertions)]
use parts::may_crash;
use parts::{handlers, queues};
use reload::Reloading;
pub use reload::{Reloads, Request};
use spot::Spot;
use status::{Counting, Status};
pub(crate) use status::{moment, newest};
use summary::keep_told;
use traces::Traces;

/// How long a drain may take beyond its timeout and the longest grace: a long poll, and the last
/// calls.
const LAST_WORDS: Duration = Duration::from_secs(35);
/// How often the number of running steps is checked for the task's scale-in protection.
const LOOK: Duration = Duration::from_secs(1);

/// A worker that does not run yet. Everything outside is real unless a deterministic test replaces
/// it.
pub struct Daemon {
    loaded: CheckedConfig,
    store: Option<Arc<dyn Store>>,
    outside: aws::Outside,
    clock: Option<Clock>,
    reloads: Option<Reloads>,
    control: Option<Control>,
    retries: Option<oneshot::Sender<Retries>>,
}

impl Daemon {
    #[must_use]
    pub fn new(loaded: CheckedConfig) -> Self {
        let outside = aws::Outside::default();
        let (store, clock, reloads, control, retries) = (None, None, None, None, None);
        Self { loaded, store, outside, clock, reloads, control, retries }
    }

    /// Replaces the configured ledger.
    #[must_use]
    pub fn store(self, store: Arc<dyn Store>) -> Self {
        Self { store: Some(store), ..self }
    }

    /// Replaces the network, clock and credentials of the AWS clients.
    #[must_use]
    pub fn outside(self, outside: aws::Outside) -> Self {
        Self { outside, ..self }
    }

    /// Replaces this machine's clock, unless the ledger has its own.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Takes over settings of a changed configuration while it works, as far as
    /// [`Config::reloaded`](crate::config::Config::reloaded) says; one with mistakes is refused.
    #[must_use]
    pub fn reloads(self, reloads: Reloads) -> Self {
        Self { reloads: Some(reloads), ..self }
    }

    /// Opens an admin socket, on which commands of this machine have it drained or reloaded.
    #[must_use]
    pub fn control(self, control: Control) -> Self {
        Self { control: Some(control), ..self }
    }

    /// Tells, once it works, by what a deterministic test has steps tried again.
    #[must_use]
    pub fn retries(self, told: oneshot::Sender<Retries>) -> Self {
        Self { retries: Some(told), ..self }
    }

    /// Runs the worker until `stop` resolves, then drains it; each further time that `stop`
    /// resolves cuts a wait short.
    ///
    /// # Errors
    /// [`DaemonError`] if it cannot start: the ledger cannot be opened, no endpoint is known, or
    /// the status address is in use.
    pub async fn run(self, stop: impl AsyncFnMut()) -> Result<(), DaemonError> {
        run(self, stop).await
    }
}

async fn run(daemon: Daemon, mut stop: impl AsyncFnMut()) -> Result<(), DaemonError> {
    let Daemon { loaded, store, outside, clock, reloads, control, retries } = daemon;
    let metrics = Arc::new(Metrics::new());
    let me = worker_id(loaded.config.worker.id.as_deref());
    let traces = Traces::of(&me.0, store.is_some());
    let observer = Counting::observer(&metrics, traces.tracer());
    let manager = Manager::of_this_process();
    let file = (store.is_none() && loaded.config.ledger.kind == ledger::Kind::Sqlite)
        .then(|| loaded.config.ledger.path.clone());
    // A test whose time is simulated gets no orders from a disk.
    let orders = loaded.config.orders().filter(|_| store.is_none());
    // Before everything that may take long: health checks wait neither for the ledger nor for AWS.
    let status = Arc::new(Status::default());
    let monitored = CancellationToken::new();
    let _ends = monitored.clone().drop_guard();
    let mut tasks = Vec::new();
    let office = Office::default();
    let served = listen(&loaded, &status, &metrics, &office, &monitored).await;
    let served = served.map(|server| tasks.extend(server));
    let clients = aws::Clients::within(outside, loaded.config.aws.clone(), &me.0, observer.clone());
    let opened = open(store, &loaded.config.ledger, &clients, &observer, &manager);
    let store = tokio::select! {
        biased;
        opened = opened => opened?,
        () = stop() => return Ok(()),
    };
    let clock = store.clock().or(clock).unwrap_or_else(Clock::of_this_machine);
    // Reported only now: if another daemon runs here, its lock on the ledger says more than the
    // address in use.
    served?;
    let spot = Spot::new(loaded.config.worker.spot_notice, &clients);
    if spot.is_noticed().await {
        idle(&manager, stop).await;
        return Ok(());
    }
    let (queues, asked) = queues(&loaded, &clients, &metrics).await?;
    log_remarks(&loaded);
    let handlers = handlers(&loaded);
    #[cfg(debug_assertions)]
    let (store, queues, handlers) = may_crash(store, queues, handlers);
    let (obedience, paused) = obedience(orders.clone()).await;
    let lease = loaded.config.ledger.lease;
    let mut engine = Engine::start(Parts {
        ledger: Ledger::new(store, me.clone(), lease, clock.clone(), observer.clone()),
        queues,
        handlers,
        observer,
        clock,
        drain_timeout: loaded.config.worker.drain_timeout,
        retention: loaded.config.ledger.retention,
        work_dir: loaded.config.work_dir(),
        paused: paused.queues,
        paused_handlers: paused.handlers,
    });
    let monitor = status.watch(engine.monitor());
    retries.map(|told| told.send(engine.retries()));
    let settings = engine.settings();
    let reloading = Reloading::new(reloads, &loaded.config, &settings, &metrics, &manager);
    let measure = |file| opening::measure(file, metrics.clone(), monitored.clone());
    tasks.extend(file.map(measure).map(tokio::spawn));
    tasks.push(keep_backlogs(&status, asked, monitor.clone(), monitored.clone()));
    let drained = CancellationToken::new();
    let desk = |control| Desk::new(control, &engine, drained.clone(), orders, &loaded.config);
    tasks.extend(control.map(desk).map(|desk| {
        desk.open(&loaded.config, office, status.clone(), metrics.clone(), monitored.clone())
    }));
    tasks.extend(obedience.map(|it| tokio::spawn(it.obey(engine.intake(), monitored.clone()))));
    tasks.extend(protect(monitor.clone(), monitored.clone()));
    tell_started(&me, &manager).await;

    let reaping = async {
        if adopted::is_first() { adopted::reap().await } else { std::future::pending().await }
    };
    tokio::pin!(reaping);
    let mut left = None;
    tokio::select! {
        biased;
        () = stop() => {}
        noticed = spot.notice() => left = Some(noticed),
        () = &mut reaping => {}
        what = engine.broken() => return Err(DaemonError::broken(what)),
        () = manager.watchdog(|| is_turning(&monitor)) => {}
        () = keep_told(&manager, &monitor, &status) => {}
        () = reloading.work() => {}
        () = clients.keep_credentials() => {}
    }
    manager.stopping("draining").await;
    let longest = loaded.config.worker.drain_timeout + settings.longest_grace() + LAST_WORDS;
    let until = Instant::now() + longest;
    if let Some(left) = left {
        engine.drain_within(spot::wait(left, settings.longest_grace()));
    }
    tokio::select! {
        biased;
        () = drain(engine, stop, traces, reaping, &manager, &clients, until) => {}
        () = keep_told(&manager, &monitor, &status) => {}
    }
    remove_own_directory(&loaded);
    drained.cancel();
    monitored.cancel();
    for task in tasks {
        // A task that panicked has been logged by the panic hook.
        let _ = task.await;
    }
    Ok(())
}

/// Waits until the worker is to stop, without taking work.
async fn idle(manager: &Manager, mut stop: impl AsyncFnMut()) {
    manager.ready("EC2 takes the instance back: not polling").await;
    tokio::select! {
        biased;
        () = stop() => {}
        () = manager.watchdog(|| true) => {}
    }
}

async fn tell_started(me: &WorkerId, manager: &Manager) {
    tracing::info!(
        event = "worker_started",
        worker = %me,
        version = env!("CARGO_PKG_VERSION"),
        "callbackd is up"
    );
    manager.ready("polling").await;
}

/// The task that asks the queues for their backlog while someone looks at it.
fn keep_backlogs(
    status: &Status,
    asked: Vec<Sqs>,
    monitor: Monitor,
    until: CancellationToken,
) -> JoinHandle<()> {
    let backlogs = status.backlogs().clone();
    tokio::spawn(async move { backlogs.keep(asked, monitor, until).await })
}

/// The status server, if it is on.
async fn listen(
    loaded: &CheckedConfig,
    status: &Arc<Status>,
    metrics: &Arc<Metrics>,
    office: &Office,
    until: &CancellationToken,
) -> Result<Option<JoinHandle<()>>, BindError> {
    let (source, shown) = (status.clone(), metrics.clone());
    let server = Server::bind(&loaded.config.http, source, shown, office.clone()).await?;
    Ok(server.map(|server| {
        tracing::info!(
            event = "status_server_started",
            address = %server.address(),
            "the status server listens"
        );
        tokio::spawn(server.run(until.clone()))
    }))
}

/// The ledger's storage: the one that replaces it, or what is configured.
async fn open(
    store: Option<Arc<dyn Store>>,
    config: &ledger::Config,
    clients: &aws::Clients,
    observer: &Arc<dyn Observer>,
    manager: &Manager,
) -> Result<Arc<dyn Store>, DaemonError> {
    match store {
        Some(store) => Ok(store),
        None => opening::open(config, clients, observer.clone(), manager).await,
    }
}

/// Drains the engine, and exports its last traces, while everything else goes on. Beyond its own
/// limits, at `until`, a drain hangs, and systemd may kill it.
async fn drain(
    engine: Engine,
    stop: impl AsyncFnMut(),
    traces: Traces,
    reaping: impl Future<Output = ()>,
    manager: &Manager,
    clients: &aws::Clients,
    until: Instant,
) {
    let drained = async {
        engine.drain(stop).await;
        traces.end().await;
    };
    tokio::select! {
        biased;
        () = drained => {}
        () = reaping => {}
        () = manager.keep_extending(|| Instant::now() < until) => {}
        () = manager.watchdog(|| Instant::now() < until) => {}
        () = clients.keep_credentials() => {}
    }
}

/// Removes the directory that was created for this process alone. If it is not empty, its content
/// is in use or worth a look.
fn remove_own_directory(loaded: &CheckedConfig) {
    let config = &loaded.config;
    if config.ledger.kind == ledger::Kind::Memory && config.worker.work_dir.is_none() {
        let _ = std::fs::remove_dir(config.work_dir());
    }
}

/// What obeys these orders, if there may be some, and what they pause by now.
async fn obedience(orders: Option<Orders>) -> (Option<Obedience>, Paused) {
    let Some(orders) = orders else { return (None, Paused::default()) };
    let (obedience, paused) = Obedience::begin(orders).await;
    (Some(obedience), paused)
}

/// Logs the handlers' remarks about this machine.
fn log_remarks(loaded: &CheckedConfig) {
    for (text, (severity, names)) in remarks(loaded) {
        let handlers = names.join(", ");
        match severity {
            Severity::Error => {
                tracing::error!(
                    event = "handler_unusable",
                    handlers,
                    "{text}; its steps wait until that is fixed"
                );
            }
            Severity::Warning => tracing::warn!(event = "handler_doubtful", handlers, "{text}"),
            _ => tracing::info!(event = "handler_remarked", handlers, "{text}"),
        }
    }
}

/// In ECS, the task that keeps it from stopping this one while steps run. Once the worker drains
/// and no step runs, it ends the protection.
fn protect(monitor: Monitor, until: CancellationToken) -> Option<JoinHandle<()>> {
    std::env::var_os("ECS_AGENT_URI")?;
    let (count, running) = watch::channel(0);
    Some(tokio::spawn(async move {
        let counting = async {
            let mut look = interval(LOOK);
            loop {
                tokio::select! {
                    biased;
                    () = until.cancelled() => break,
                    _ = look.tick() => {}
                }
                let now = monitor.running();
                count.send_if_modified(|before| std::mem::replace(before, now) != now);
                if now == 0 && monitor.is_draining() {
                    break;
                }
            }
            drop(count);
        };
        tokio::join!(counting, hold_while_running(running));
    }))
}

fn is_turning(monitor: &Monitor) -> bool {
    monitor.queues().iter().all(|queue| queue.turning)
}

/// The handlers' remarks about this machine, each with the handlers that make it.
pub(crate) fn remarks(loaded: &CheckedConfig) -> BTreeMap<&str, (Severity, Vec<&str>)> {
    let mut said: BTreeMap<&str, (Severity, Vec<&str>)> = BTreeMap::new();
    for (name, remark) in &loaded.remarks {
        said.entry(&remark.text).or_insert((remark.severity, Vec::new())).1.push(name);
    }
    said
}

/// Unique for each process: a name that says where it runs, and a random suffix.
fn worker_id(configured: Option<&str>) -> WorkerId {
    let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let name =
        configured.map(str::to_owned).or_else(host).unwrap_or_else(|| "callbackd".to_owned());
    WorkerId(format!("{name}/{:08x}", fastrand::u32(..)).into())
}
