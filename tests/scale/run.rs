//! What happens to a fleet, phase by phase, and runs of smaller fleets that measure one figure.

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use callbackd::ledger::Store;
use callbackd::ledger::store::Query;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::figures::row;
use crate::log;
use crate::meter::Window;
use crate::steps::Kind;
use crate::worker::{Process, Settings};
use crate::world::{Group, STEPS, World};

pub const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
/// What anything may take to come true.
const PATIENCE: Duration = Duration::from_hours(3);

/// How large a fleet is, and how long its phases are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub workers: u32,
    /// Held steps.
    pub held: usize,
    pub settings: Settings,
    /// How long the held steps take to be sent.
    pub filling: Duration,
    pub steady: Duration,
    /// How many workers are replaced at once.
    pub replaced: u32,
    pub throttled: Duration,
    pub outage: Duration,
    /// How long the late jobs' ends are spread.
    pub ends: Duration,
    /// Between two executions of short steps.
    pub short_every: Duration,
    /// Between two phases of trouble.
    pub pause: Duration,
    /// One in so many held steps ends while SageMaker is down.
    pub early: u64,
    /// Of the capacity of a new table.
    pub capacity: f64,
}

/// What was measured.
pub struct Story {
    pub size: Size,
    pub world: Arc<World>,
    pub phases: Vec<(&'static str, Window)>,
    /// From the wave to the moment when half of the steps that it took run again, nine tenths, all.
    pub wave_recovered: [Duration; 3],
    /// The same after the last worker was replaced.
    pub redeploy_recovered: Duration,
    /// Outcomes that had come when SageMaker answered again.
    pub piled: usize,
    /// Until they were reported.
    pub outage_recovered: Duration,
    /// Steps whose workers the wave took.
    pub taken: usize,
    /// Of the worker that ran the most after the redeploy.
    pub fullest: usize,
    /// All of it.
    pub window: Window,
}

thread_local! {
    /// What a daemon on this thread reported as its own bug.
    static BUG: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The daemon has logged an error on this thread.
pub fn heard(error: &str) {
    if error.contains(log::BUG) {
        BUG.with_borrow_mut(|bug| {
            bug.get_or_insert_with(|| error.to_owned());
        });
    }
}

/// Runs a fleet on this thread, under paused time.
pub fn alone<T>(play: impl AsyncFnOnce(Arc<World>) -> T) -> T {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| log::listen(std::env::var_os("RUST_LOG").is_some()));
    BUG.take();
    fastrand::seed(1);
    let runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let played = runtime.block_on(async {
        let world = World::new(1);
        world.set_up().await;
        play(world.clone()).await
    });
    drop(runtime);
    assert_eq!(BUG.take(), None);
    played
}

/// The workers of a run.
pub struct Fleet {
    world: Arc<World>,
    settings: Settings,
    processes: Vec<Process>,
    started: u32,
}

impl Fleet {
    pub fn new(world: &Arc<World>, settings: Settings) -> Self {
        Self { world: world.clone(), settings, processes: Vec::new(), started: 0 }
    }

    /// Starts so many workers, spread over this time.
    pub async fn start(&mut self, count: u32, spread: Duration) {
        for _ in 0..count {
            self.started += 1;
            self.processes.push(Process::start(&self.world, self.started, self.settings));
            sleep(spread / count).await;
        }
    }

    /// Replaces every worker, so many at once.
    async fn redeploy(&mut self, at_once: u32) {
        let mut left = self.processes.len();
        while left > 0 {
            let some = left.min(at_once as usize);
            left -= some;
            let drains = self.processes.drain(..some).map(Process::drain);
            futures_util::future::join_all(drains).await;
            self.start(u32::try_from(some).expect("few"), Duration::from_secs(10)).await;
        }
    }

    /// Ends the third of them that holds the most steps, at one moment.
    fn lose_a_third(&mut self) -> u32 {
        let third = self.processes.len() / 3;
        self.processes.sort_by_key(|process| std::cmp::Reverse(process.running()));
        self.processes.drain(..third).for_each(Process::kill);
        u32::try_from(third).expect("few")
    }

    /// How many steps the worker runs that runs the most.
    fn fullest(&self) -> usize {
        self.processes.iter().map(Process::running).max().unwrap_or_default()
    }

    pub async fn drain(self) {
        futures_util::future::join_all(self.processes.into_iter().map(Process::drain)).await;
    }
}

/// Starts executions of a kind, spread over this time.
pub async fn send(world: &World, kind: Kind, steps: usize, spread: Duration) {
    let executions = u32::try_from(steps.div_ceil(STEPS)).expect("few");
    let begin = Instant::now();
    for number in 0..executions {
        sleep_until(begin + spread * number / executions).await;
        world.start(kind).await;
    }
}

/// Steps that come and go beside the held ones, until told to end.
async fn traffic(world: Arc<World>, size: Size, end: CancellationToken) {
    let every = |kind, interval| {
        let (world, end) = (world.clone(), end.clone());
        async move {
            while end.run_until_cancelled(sleep(interval)).await.is_some() {
                world.start(kind).await;
            }
        }
    };
    tokio::join!(
        every(Kind::Short, size.short_every),
        every(Kind::Polling, size.short_every * 10),
        every(Kind::Deferred, size.short_every * 10),
    );
}

/// Everything that the requirement names, one after another.
pub fn everything(size: Size) -> Story {
    alone(async |world| play(world, size).await)
}

async fn play(world: Arc<World>, size: Size) -> Story {
    world.steps(|steps| steps.early = size.early);
    world.limit(size.capacity);
    let mut phases: Vec<(&'static str, Window)> = Vec::new();
    let begun = std::cell::Cell::new(0);
    let mut over = |phase: &'static str| {
        let window = world.since(begun.replace(world.second()));
        tell(&world, phase, &window);
        phases.push((phase, window));
    };
    let mut fleet = Fleet::new(&world, size.settings);
    fleet.start(size.workers, MINUTE).await;
    send(&world, Kind::Held, size.held, size.filling).await;
    world.until("all steps run", PATIENCE, |steps| steps.held_running() == size.held).await;
    over("filling");

    let end = CancellationToken::new();
    let traffic = tokio::spawn(traffic(world.clone(), size, end.clone()));
    sleep(size.steady).await;
    over("steady");

    fleet.redeploy(size.replaced).await;
    let redeploy_recovered = runs_on(&world).await;
    over("redeploy");

    sleep(size.pause).await;
    over("after the redeploy");

    let fullest = fleet.fullest();
    let taken = world.steps(|steps| steps.held_running());
    let lost = fleet.lose_a_third();
    let taken = taken - world.steps(|steps| steps.held_running());
    let recovery = tokio::spawn({
        let world = world.clone();
        async move {
            let mut took = Duration::ZERO;
            let mut recovered = [Duration::ZERO; 3];
            for (part, recovered) in [2, 10, usize::MAX].into_iter().zip(&mut recovered) {
                let left = taken / part;
                took += world
                    .until("steps run again", PATIENCE, |steps| steps.left_alone() <= left)
                    .await;
                *recovered = took;
            }
            recovered
        }
    });
    sleep(3 * MINUTE).await;
    fleet.start(lost, MINUTE).await;
    let wave_recovered = recovery.await.expect("it does not panic");
    over("Spot wave");

    world.throttle(0.3);
    sleep(size.throttled).await;
    world.throttle(0.0);
    over("table throttled");

    end.cancel();
    traffic.await.expect("it does not panic");
    sleep(size.pause).await;
    over("quiet");

    world.set_down(true);
    world.end(Group::Early, size.outage);
    sleep(size.outage).await;
    world.set_down(false);
    let piled = world.steps(|steps| steps.unreported());
    over("SageMaker down");

    let reported = |steps: &crate::steps::Steps| steps.unreported() == 0;
    let outage_recovered = world.until("all outcomes are reported", PATIENCE, reported).await;
    sleep(MINUTE).await;
    over("after the outage");

    world.end(Group::Late, size.ends);
    sleep(size.ends).await;
    world.until("all steps are answered", PATIENCE, |steps| steps.open() == 0).await;
    let settled = Instant::now();
    while world.messages().await > 0 || unsettled(&world).await > 0 {
        let left = (world.messages().await, unsettled(&world).await);
        assert!(settled.elapsed() < PATIENCE, "messages and records are left: {left:?}");
        sleep(MINUTE).await;
    }
    over("the end");
    fleet.drain().await;
    Story {
        window: world.since(0),
        fullest,
        size,
        world,
        phases,
        wave_recovered,
        redeploy_recovered,
        piled,
        outage_recovered,
        taken,
    }
}

/// Until each held step runs on a live worker, or is done.
async fn runs_on(world: &World) -> Duration {
    world.until("all held steps run again", PATIENCE, |steps| steps.left_alone() == 0).await
}

async fn unsettled(world: &World) -> usize {
    let statuses = ["owed", "claimed", "waiting", "deferred", "concluded"];
    let statuses = statuses.map(str::to_owned).to_vec();
    let query = Query { statuses, limit: 1, ..Query::default() };
    world.held.outlines(query).await.expect("memory does not fail").found.len()
}

/// A run at a size of one's own takes long: how far it has come.
fn tell(world: &World, phase: &str, window: &Window) {
    if std::env::var_os(crate::SIZE).is_some() {
        let (left, open) = world.steps(|steps| (steps.left_alone(), steps.open()));
        eprintln!("{:>6} s: {open} steps, {left} run nowhere", world.second());
        eprintln!("{}", row(world, phase, window));
    }
}

/// So many workers without a step, from when they know each other: reads and polls of an hour.
pub fn idle(workers: u32) -> (Arc<World>, Window) {
    alone(async |world| {
        let mut fleet = Fleet::new(&world, SMALL);
        fleet.start(workers, MINUTE).await;
        sleep(3 * MINUTE).await;
        let from = world.second();
        sleep(HOUR).await;
        let window = world.since(from);
        fleet.drain().await;
        (world, window)
    })
}

/// So many workers that hold so many steps for an hour.
pub fn holding(workers: u32, steps: usize) -> (Arc<World>, Window) {
    alone(async |world| {
        let mut fleet = Fleet::new(&world, SMALL);
        fleet.start(workers, MINUTE).await;
        send(&world, Kind::Held, steps, MINUTE).await;
        world.until("all steps run", PATIENCE, |held| held.held_running() == steps).await;
        sleep(MINUTE).await;
        let from = world.second();
        sleep(HOUR).await;
        let window = world.since(from);
        world.end(Group::Early, MINUTE);
        world.end(Group::Late, MINUTE);
        world.until("all steps are answered", PATIENCE, |held| held.open() == 0).await;
        fleet.drain().await;
        (world, window)
    })
}

/// One worker that has more steps than slots, and then another one beside it.
pub fn crowded() {
    let settings = Settings { concurrency: 20, ..SMALL };
    alone(async |world| {
        let mut fleet = Fleet::new(&world, settings);
        fleet.start(1, MINUTE).await;
        send(&world, Kind::Held, 30, MINUTE).await;
        world.until("its slots are taken", PATIENCE, |held| held.held_running() == 20).await;
        // It looks ahead, and holds the rest.
        sleep(settings.stop_watch + MINUTE).await;
        fleet.start(1, MINUTE).await;
        let patience = 2 * settings.visibility_timeout;
        world.until("all steps run", patience, |held| held.held_running() == 30).await;
        world.end(Group::Early, MINUTE);
        world.end(Group::Late, MINUTE);
        world.until("all steps are answered", PATIENCE, |held| held.open() == 0).await;
        fleet.drain().await;
    });
}

/// So many workers that answer so many steps of a kind.
pub fn answering(workers: u32, kind: Kind, steps: usize) -> Arc<World> {
    alone(async |world| {
        let mut fleet = Fleet::new(&world, SMALL);
        fleet.start(workers, MINUTE).await;
        send(&world, kind, steps, MINUTE).await;
        world.until("all steps are answered", PATIENCE, |answered| answered.open() == 0).await;
        sleep(MINUTE).await;
        fleet.drain().await;
        world
    })
}

/// For fleets that measure one figure.
const SMALL: Settings = Settings {
    concurrency: 1_000,
    visibility_timeout: Duration::from_mins(10),
    stop_watch: Duration::from_mins(30),
};
