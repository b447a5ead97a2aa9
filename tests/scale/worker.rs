//! The workers: real daemons, each a process of its own as far as it can tell.

use std::sync::Arc;
use std::time::Duration;

use callbackd::Registry;
use callbackd::clock::Clock;
use callbackd::config::CheckedConfig;
use callbackd::daemon::{Daemon, DaemonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clocks::Machine;
use crate::job::Job;
use crate::network::outside;
use crate::table::Table;
use crate::world::{QUEUE_URL, World};

/// How long a drain may take at most: its time-out, a long poll, and the last calls.
const DRAIN: Duration = Duration::from_secs(150);

/// One life of a worker's process. Once it is over, no call of it takes effect or returns.
pub struct Life {
    pub number: u32,
    pub world: Arc<World>,
    over: CancellationToken,
}

impl Life {
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Never returns if it is over.
    pub async fn lives(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }

    pub async fn sleep(&self, time: Duration) {
        self.within(sleep(time)).await;
    }

    /// The result of `outside`, as long as the process lives.
    pub async fn within<T>(&self, outside: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.over.cancelled() => std::future::pending().await,
            done = outside => done,
        }
    }
}

/// What the workers' configuration says, where it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub concurrency: usize,
    pub visibility_timeout: Duration,
    pub stop_watch: Duration,
}

/// A process under way.
pub struct Process {
    life: Arc<Life>,
    task: JoinHandle<Result<(), DaemonError>>,
    signal: Arc<Notify>,
}

impl Process {
    pub fn start(world: &Arc<World>, number: u32, settings: Settings) -> Self {
        let life = Arc::new(Life { number, world: world.clone(), over: CancellationToken::new() });
        let daemon = Daemon::new(loaded(&life, settings))
            .store(Arc::new(Table(life.clone())))
            .outside(outside(&life))
            .clock(Clock::of(Box::new(Machine(world.clone()))));
        let signal = Arc::new(Notify::new());
        let asked = signal.clone();
        let task = tokio::spawn(daemon.run(async move || asked.notified().await));
        Self { life, task, signal }
    }

    /// How many steps it runs.
    pub fn running(&self) -> usize {
        self.life.world.steps(|steps| steps.running_in(self.life.number))
    }

    /// It is told to end, and does.
    pub async fn drain(self) {
        self.signal.notify_one();
        let ended = timeout(DRAIN, self.task).await.expect("the drain hangs");
        ended.expect("it does not panic").expect("it drains");
        self.life.world.steps(|steps| steps.died(self.life.number));
        self.life.over.cancel();
    }

    /// It ends here and now.
    pub fn kill(self) {
        self.life.over.cancel();
        self.life.world.steps(|steps| steps.died(self.life.number));
        self.task.abort();
    }
}

fn loaded(life: &Arc<Life>, settings: Settings) -> CheckedConfig {
    let Settings { concurrency, visibility_timeout, stop_watch } = settings;
    let text = format!(
        r#"
        worker = {{ id = "w{}", drain_timeout = "5s" }}
        aws = {{ endpoint_url = "http://world.invalid", region = "us-east-1" }}
        http = {{ listen = "off" }}
        ledger = {{ type = "memory", lease = "1m" }}
        [[queues]]
        url = "{QUEUE_URL}"
        handler = "job"
        concurrency = {concurrency}
        visibility_timeout = "{}s"
        stop_watch = "{}s"
        [handlers.job]
        type = "job"
        stop_grace = "5s"
        "#,
        life.number,
        visibility_timeout.as_secs(),
        stop_watch.as_secs(),
    );
    let life = life.clone();
    let registry = Registry::new().handler("job", move || Job(life.clone()));
    CheckedConfig::from_toml("scale.toml", &text, &registry).expect("a configuration that can be")
}
