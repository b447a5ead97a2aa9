//! Assembles a running worker from a checked configuration, and shuts it down.

mod backlog;
mod error;
mod obedience;
mod opening;
mod overview;
mod reload;
mod status;
mod summary;
mod traces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::aws::{self, Sqs};
use crate::clock::Clock;
use crate::config::CheckedConfig;
#[cfg(debug_assertions)]
use crate::crash::Crash;
use crate::engine::{Engine, HandlerParts, Monitor, Parts, QueueParts};
use crate::handler::Severity;
use crate::ledger::{self, Ledger, Store};
use crate::lifecycle::WorkerId;
use crate::observe::metrics::Metrics;
use crate::observe::server::Server;
use crate::orders::Orders;
use crate::process::adopted;
use crate::process::protection::hold_while_running;
use crate::process::systemd::Manager;
use crate::seam::{Observer, Pipelines};
use crate::step::QueueUrl;
pub use error::DaemonError;
use obedience::Obedience;
use reload::Reloading;
pub use reload::Reloads;
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
}

impl Daemon {
    #[must_use]
    pub fn new(loaded: CheckedConfig) -> Self {
        Self { loaded, store: None, outside: aws::Outside::default(), clock: None, reloads: None }
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
    let Daemon { loaded, store, outside, clock, reloads } = daemon;
    let metrics = Arc::new(Metrics::new());
    let me = worker_id(loaded.config.worker.id.as_deref());
    let traces = Traces::of(&me.0);
    let observer: Arc<dyn Observer> =
        Arc::new(Counting { metrics: metrics.clone(), tracer: traces.tracer() });
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
    let served = Server::bind(&loaded.config.http, status.clone(), metrics.clone())
        .await
        .map(|server| tasks.extend(server.map(|server| serve(server, monitored.clone()))));
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
    let (queues, asked) = queues(&loaded, &clients, &metrics).await?;
    log_remarks(&loaded);
    let handlers = handlers(&loaded);
    #[cfg(debug_assertions)]
    let (store, queues, handlers) = may_crash(store, queues, handlers);
    let (obedience, paused) = obedience(orders).await;
    let mut engine = Engine::start(Parts {
        ledger: Ledger::new(
            store,
            me.clone(),
            loaded.config.ledger.lease,
            clock.clone(),
            observer.clone(),
        ),
        queues,
        handlers,
        observer,
        clock,
        drain_timeout: loaded.config.worker.drain_timeout,
        retention: loaded.config.ledger.retention,
        work_dir: loaded.config.work_dir(),
        paused,
    });
    let monitor = status.watch(engine.monitor());
    let settings = engine.settings();
    let reloading = Reloading::new(reloads, &loaded.config, &settings, &metrics, &manager);
    let measured = metrics.clone();
    tasks
        .extend(file.map(|file| tokio::spawn(opening::measure(file, measured, monitored.clone()))));
    let (backlogs, looked) = (status.backlogs().clone(), monitor.clone());
    let until = monitored.clone();
    tasks.push(tokio::spawn(async move { backlogs.keep(asked, looked, until).await }));
    tasks.extend(obedience.map(|it| tokio::spawn(it.obey(engine.intake(), monitored.clone()))));
    if std::env::var_os("ECS_AGENT_URI").is_some() {
        tasks.push(protect(monitor.clone(), monitored.clone()));
    }
    tracing::info!(
        event = "worker_started",
        worker = %me,
        version = env!("CARGO_PKG_VERSION"),
        "callbackd is up"
    );
    manager.ready("polling").await;

    let reaping = async {
        if adopted::is_first() { adopted::reap().await } else { std::future::pending().await }
    };
    tokio::pin!(reaping);
    tokio::select! {
        biased;
        () = stop() => {}
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
    tokio::select! {
        biased;
        () = drain(engine, stop, reaping, &manager, &clients, until) => {}
        () = keep_told(&manager, &monitor, &status) => {}
    }
    remove_own_directory(&loaded);
    traces.end().await;
    monitored.cancel();
    for task in tasks {
        // A task that panicked has been logged by the panic hook.
        let _ = task.await;
    }
    Ok(())
}

fn serve(server: Server, until: CancellationToken) -> JoinHandle<()> {
    tracing::info!(
        event = "status_server_started",
        address = %server.address(),
        "the status server listens"
    );
    tokio::spawn(server.run(until))
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

/// Drains the engine while everything else goes on. Beyond its own limits, at `until`, a drain
/// hangs, and systemd may kill it.
async fn drain(
    engine: Engine,
    stop: impl AsyncFnMut(),
    reaping: impl Future<Output = ()>,
    manager: &Manager,
    clients: &aws::Clients,
    until: Instant,
) {
    tokio::select! {
        biased;
        () = engine.drain(stop) => {}
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

/// What obeys these orders, if there may be some, and the queues that they pause by now.
async fn obedience(orders: Option<Orders>) -> (Option<Obedience>, Vec<QueueUrl>) {
    let Some(orders) = orders else { return (None, Vec::new()) };
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

/// The task that keeps ECS from stopping this one while steps run. Once the worker drains and no
/// step runs, it ends the protection.
fn protect(monitor: Monitor, until: CancellationToken) -> JoinHandle<()> {
    let (count, running) = watch::channel(0);
    tokio::spawn(async move {
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
    })
}

fn is_turning(monitor: &Monitor) -> bool {
    monitor.queues().iter().all(|queue| queue.turning)
}

/// The queues as the engine works with them, and as they are asked for their backlog.
async fn queues(
    loaded: &CheckedConfig,
    clients: &aws::Clients,
    metrics: &Metrics,
) -> Result<(Vec<QueueParts>, Vec<Sqs>), aws::NoEndpoint> {
    let (mut parts, mut asked) = (Vec::new(), Vec::new());
    for config in &loaded.config.queues {
        let (region, role) = (config.region.as_deref(), config.role());
        let queue = clients.queue(&config.url, region, role).await?;
        let region = region.or_else(|| config.url.region());
        let pipelines = clients.pipelines(region, role).await?;
        let mut elsewhere: BTreeMap<String, Arc<dyn Pipelines>> = BTreeMap::new();
        for (account, role) in config.accounts.iter() {
            if let Some(role) = role {
                elsewhere.insert(
                    account.to_owned(),
                    Arc::new(clients.pipelines(region, Some(role)).await?),
                );
            }
        }
        asked.push(queue.clone());
        let name = config.url.name().to_owned();
        metrics.expect_queue(&name);
        for handler in config.handlers() {
            metrics.expect_handler(&name, handler);
        }
        parts.push(QueueParts {
            account: config.url.account().to_owned(),
            region: pipelines.region().to_owned(),
            name,
            config: config.clone(),
            queue: Arc::new(queue),
            pipelines: Arc::new(pipelines),
            elsewhere,
        });
    }
    Ok((parts, asked))
}

/// The handlers' remarks about this machine, each with the handlers that make it.
pub(crate) fn remarks(loaded: &CheckedConfig) -> BTreeMap<&str, (Severity, Vec<&str>)> {
    let mut said: BTreeMap<&str, (Severity, Vec<&str>)> = BTreeMap::new();
    for (name, remark) in &loaded.remarks {
        said.entry(&remark.text).or_insert((remark.severity, Vec::new())).1.push(name);
    }
    said
}

fn handlers(loaded: &CheckedConfig) -> BTreeMap<String, HandlerParts> {
    let parts = |(name, handler): (&String, &crate::handler::DynHandler)| {
        let config = loaded.config.handlers.get(name)?.clone();
        Some((name.clone(), HandlerParts { config, handler: handler.clone() }))
    };
    loaded.handlers.iter().filter_map(parts).collect()
}

/// Installs the crash that the environment requests.
#[cfg(debug_assertions)]
fn may_crash(
    store: Arc<dyn Store>,
    queues: Vec<QueueParts>,
    handlers: BTreeMap<String, HandlerParts>,
) -> (Arc<dyn Store>, Vec<QueueParts>, BTreeMap<String, HandlerParts>) {
    let Some(crash) = Crash::planned(std::env::var_os(crate::crash::VARIABLE)) else {
        return (store, queues, handlers);
    };
    let queue = |parts: QueueParts| QueueParts {
        queue: crash.queue(parts.queue),
        pipelines: crash.pipelines(parts.pipelines),
        elsewhere: parts
            .elsewhere
            .into_iter()
            .map(|(account, other)| (account, crash.pipelines(other)))
            .collect(),
        ..parts
    };
    let handler =
        |parts: HandlerParts| HandlerParts { handler: crash.handler(parts.handler), ..parts };
    (
        crash.store(store),
        queues.into_iter().map(queue).collect(),
        handlers.into_iter().map(|(name, parts)| (name, handler(parts))).collect(),
    )
}

/// Unique for each process: a name that says where it runs, and a random suffix.
fn worker_id(configured: Option<&str>) -> WorkerId {
    let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let name =
        configured.map(str::to_owned).or_else(host).unwrap_or_else(|| "callbackd".to_owned());
    WorkerId(format!("{name}/{:08x}", fastrand::u32(..)).into())
}
