//! One worker: the real daemon, started again and again, and each time ended as the plan says.

use std::sync::Arc;
use std::time::Duration;

use callbackd::Registry;
use callbackd::clock::Clock;
use callbackd::config::CheckedConfig;
use callbackd::daemon::{Daemon, DaemonError};
use callbackd::ledger::Memory;
use fastrand::Rng;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clocks::Machine;
use crate::dates::Service;
use crate::disk::Disk;
use crate::impatience::Impatience;
use crate::judge::{Seen, Worker};
use crate::life::Life;
use crate::network::outside;
use crate::plan::{Ends, Fate, Fleet, Plan};
use crate::script::Scripted;
use crate::world::World;

/// How long a drain may take at most: all that its configuration adds up to, calls that time out,
/// and some more.
const DRAIN: Duration = Duration::from_secs(300);
/// Like a supervisor that restarts a process that failed to start.
const RESTART: Duration = Duration::from_secs(5);

pub struct Keeper {
    pub plan: Arc<Plan>,
    pub world: Arc<World>,
    /// Which ledger it keeps.
    pub ledger: u8,
    /// Of all workers.
    pub number: u32,
    pub held: Memory,
    /// The run is over: drain, and start no more.
    pub finish: CancellationToken,
}

/// A process under way.
struct Process {
    life: Arc<Life>,
    task: JoinHandle<Result<(), DaemonError>>,
    signal: Arc<Notify>,
}

impl Keeper {
    /// Keeps the worker up until the run is over and the last process has drained.
    pub async fn keep(self) {
        let fates = self.plan.lives[usize::try_from(self.number).expect("small")].clone();
        let mut fates = fates.into_iter();
        for life in 0.. {
            let fate = fates.next().filter(|_| self.world.has_faults());
            let mut process = self.start(life, fate);
            if self.live(&mut process, fate).await {
                return;
            }
            sleep(fate.map_or(RESTART, |fate| fate.pause)).await;
        }
    }

    fn start(&self, life: u32, fate: Option<Fate>) -> Process {
        let worker = Worker { ledger: self.ledger, process: 100 * self.number + life };
        let crossings = match fate {
            Some(Fate { end: Ends::AtEffect(at, crossings), .. }) => Some((at, crossings)),
            _ => None,
        };
        let life = Life::new(&self.world, worker, crossings);
        self.world.count("path: process started");
        self.world.note(&format!("{} starts", life.name()));
        let service = (self.plan.fleet == Fleet::Sharing)
            .then(|| Service::opened(&self.world, self.plan.seed ^ u64::from(worker.process)));
        let held = self.held.clone();
        let disk = Disk { held, life: life.clone(), trouble: self.plan.disk, service };
        let daemon = Daemon::new(self.loaded(&life))
            .store(Arc::new(disk))
            .outside(outside(&life, self.plan.network, self.plan.issuing))
            .clock(Clock::of(Box::new(Machine(self.world.clone()))));
        let (told, retries) = oneshot::channel();
        let daemon = daemon.retries(told);
        let mut random = Rng::with_seed(self.plan.seed ^ u64::from(worker.process) << 32);
        if random.bool() {
            let (life, held) = (life.clone(), self.held.clone());
            tokio::spawn(Impatience { life, held, random }.insist(retries));
        }
        let signal = Arc::new(Notify::new());
        let asked = signal.clone();
        let task = tokio::spawn(daemon.run(async move || asked.notified().await));
        Process { life, task, signal }
    }

    fn loaded(&self, life: &Arc<Life>) -> CheckedConfig {
        let scripts = Arc::new(self.plan.scripts.clone());
        let life = life.clone();
        let scripted = move || Scripted { life: life.clone(), scripts: scripts.clone() };
        let registry = Registry::new().handler("scripted", scripted);
        CheckedConfig::from_toml("simulation.toml", &self.plan.config, &registry)
            .expect("a configuration without mistakes")
    }

    /// Until the process is gone; whether that is the end.
    async fn live(&self, process: &mut Process, fate: Option<Fate>) -> bool {
        let end = async {
            match fate.map(|fate| fate.end) {
                Some(Ends::After(time)) => {
                    sleep(time).await;
                    None
                }
                Some(Ends::Drained { after, hurry }) => {
                    sleep(after).await;
                    Some(hurry)
                }
                Some(Ends::AtEffect(..)) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = process.life.ended() => process.task.abort(),
            ended = &mut process.task => self.ended(process, &ended),
            () = self.finish.cancelled() => {
                self.drain(process, None).await;
                return true;
            }
            drained = end => match drained {
                Some(hurry) => {
                    self.world.count("path: shutdown");
                    self.drain(process, hurry).await;
                }
                None => {
                    self.world.count("crash: at any moment");
                    process.life.end("killed");
                    process.task.abort();
                }
            },
        }
        false
    }

    /// It ended by itself: it could not start.
    fn ended(&self, process: &Process, ended: &Result<Result<(), DaemonError>, JoinError>) {
        self.world.fail(&format!("the daemon ended by itself: {ended:?}"));
        process.life.end("it could not start");
    }

    async fn drain(&self, process: &mut Process, hurry: Option<Duration>) {
        self.world.note(&format!("{} is told to end", process.life.name()));
        process.life.drains();
        process.signal.notify_one();
        let hurried = process.signal.clone();
        let drained = async {
            if let Some(after) = hurry {
                tokio::select! {
                    biased;
                    ended = &mut process.task => return Some(ended),
                    () = process.life.ended() => return None,
                    () = sleep(after) => hurried.notify_one(),
                }
                self.world.count("path: hurried shutdown");
            }
            tokio::select! {
                biased;
                ended = &mut process.task => Some(ended),
                () = process.life.ended() => None,
            }
        };
        match timeout(DRAIN, drained).await {
            Ok(None) => {}
            Ok(Some(Ok(Ok(())))) => {
                self.world.note(&format!("{} has drained", process.life.name()));
                self.world.see(&Seen::Died { worker: process.life.worker });
            }
            Ok(Some(other)) => self.world.fail(&format!("the drain ended with {other:?}")),
            Err(_) => self.world.fail("the drain hangs"),
        }
        process.life.end("it has ended");
    }
}
