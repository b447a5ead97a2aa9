mod fleet;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::notice::Mark;
use super::*;
use crate::lifecycle::Via;

const MINUTE: Duration = Duration::from_mins(1);

/// A scripted SageMaker, with what it was asked and what the steps were told.
struct World {
    began: Instant,
    asked: Mutex<Vec<(Duration, String, usize)>>,
    stopping: Mutex<BTreeSet<String>>,
    hanging: Mutex<BTreeSet<String>>,
    listed: Mutex<Vec<String>>,
    /// The steps that have ended at SageMaker.
    ended: Mutex<BTreeSet<CallbackToken>>,
    told: Mutex<Vec<String>>,
    hinted: Mutex<Vec<(WorkerId, CallbackToken)>>,
    intervals: Mutex<Vec<Duration>>,
}

impl Looks for World {
    fn look<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight> {
        let name = execution.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push((self.began.elapsed(), name.clone(), lane));
        Box::pin(async move {
            if self.hanging.lock().unwrap().contains(&name) {
                std::future::pending::<()>().await;
            }
            if self.stopping.lock().unwrap().contains(&name) {
                Sight::Execution(Event::StopSeen(Via::Watch))
            } else {
                Sight::Executing
            }
        })
    }

    fn list<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight> {
        Box::pin(async move {
            let sight = self.look(execution, lane).await;
            let name = execution.as_str().rsplit('/').next().unwrap_or_default();
            self.listed.lock().unwrap().push(name.to_owned());
            let ended = self.ended.lock().unwrap();
            if ended.is_empty() { sight } else { Sight::Ended(ended.clone()) }
        })
    }

    fn tell(&self, token: &CallbackToken, event: Event) {
        let ended = self.ended.lock().unwrap().contains(token);
        assert_eq!(event, if ended { STEP_ENDED } else { Event::StopSeen(Via::Watch) });
        self.told.lock().unwrap().push(token.as_str().trim_start_matches('0').to_owned());
    }

    fn hint(&self, worker: &WorkerId, token: &CallbackToken) {
        self.hinted.lock().unwrap().push((worker.clone(), token.clone()));
    }

    fn observe_interval(&self, interval: Duration) {
        self.intervals.lock().unwrap().push(interval);
    }
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            asked: Mutex::default(),
            stopping: Mutex::default(),
            hanging: Mutex::default(),
            listed: Mutex::default(),
            ended: Mutex::default(),
            told: Mutex::default(),
            hinted: Mutex::default(),
            intervals: Mutex::default(),
        })
    }

    fn names(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, name, _)| name.clone()).collect()
    }

    /// How many calls it cost: a look that lists is two.
    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len() + self.listed.lock().unwrap().len()
    }

    /// When an execution was asked about.
    fn looks_at(&self, name: &str) -> Vec<Duration> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, asked, _)| asked == name)
            .map(|(at, ..)| *at)
            .collect()
    }

    fn assert_two_a_second(&self) {
        let asked = self.asked.lock().unwrap();
        for pair in asked.windows(2) {
            assert!(pair[1].0.abs_diff(pair[0].0) >= GAP, "{pair:?}");
        }
    }
}

struct Running {
    watch: Arc<Watch>,
    world: Arc<World>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(every: &[Duration]) -> Self {
        let (watch, world) = (Arc::new(Watch::new(every.to_vec(), true)), World::new());
        let (watching, looks) = (watch.clone(), world.clone());
        Self { watch, world, task: tokio::spawn(async move { watching.work(&*looks).await }) }
    }

    fn enter(&self, name: &str, kind: Kind) {
        self.watch.enter(&execution(name), 0, &token(name), kind);
    }
}

fn execution(name: &str) -> ExecutionArn {
    format!("arn:aws:sagemaker:eu-west-1:123456789012:pipeline/p/execution/{name}").parse().unwrap()
}

fn token(name: &str) -> CallbackToken {
    format!("{name:0>10}").parse().unwrap()
}

/// The longest time without a question about an execution, from the first second to the last look
/// and on to `until`.
fn longest(looks: &[Duration], until: Duration) -> Duration {
    let mut before = Duration::ZERO;
    looks
        .iter()
        .chain([&until])
        .map(|at| at.abs_diff(std::mem::replace(&mut before, *at)))
        .max()
        .unwrap_or(until)
}

#[tokio::test(start_paused = true)]
async fn each_execution_is_asked_about_once_per_its_interval_in_due_order() {
    let run = Running::start(&[MINUTE]);
    for name in ["a", "b", "c"] {
        run.enter(name, Kind::Active);
        sleep(MINUTE / 3).await;
    }
    sleep(MINUTE * 59).await;
    let first: Vec<_> = ["a", "b", "c"].iter().map(|name| run.world.looks_at(name)[0]).collect();
    assert!(first.is_sorted(), "{first:?}");
    for name in ["a", "b", "c"] {
        let looks = run.world.looks_at(name);
        assert!((58..=80).contains(&looks.len()), "{name}: {}", looks.len());
        assert!(longest(&looks, MINUTE * 60) < MINUTE * 2);
        assert!(
            looks.windows(2).all(
                |pair| (MINUTE * 3 / 4..=MINUTE + GAP * 3).contains(&pair[1].abs_diff(pair[0]))
            )
        );
    }
}

#[tokio::test(start_paused = true)]
async fn active_executions_come_first_and_deferred_ones_have_every_fourth_call() {
    let run = Running::start(&[MINUTE]);
    for at in 0..9 {
        run.enter(&format!("deferred{at}"), Kind::Deferred);
        run.enter(&format!("active{at}"), Kind::Active);
    }
    // All become due while nothing looks.
    advance(MINUTE).await;
    // A look that lists takes two calls.
    sleep(GAP * 27).await;
    let kinds: String = run.world.names().iter().map(|name| &name[..1]).collect();
    assert_eq!(kinds, "aaadaaadaaaddddddd");
    run.world.assert_two_a_second();
}

#[tokio::test(start_paused = true)]
async fn twenty_thousand_deferred_steps_do_not_delay_the_look_at_a_running_one() {
    let run = Running::start(&[MINUTE]);
    for at in 0..20_000 {
        run.enter(&format!("{at}"), Kind::Deferred);
    }
    run.enter("running", Kind::Active);
    let hours = MINUTE * 60 * 4;
    sleep(hours).await;
    run.world.assert_two_a_second();
    let running = run.world.looks_at("running");
    assert!(longest(&running, hours) <= MINUTE + GAP * 3);
    let deferred: BTreeSet<String> =
        run.world.names().into_iter().filter(|name| name != "running").collect();
    assert_eq!(deferred.len(), 20_000, "each had its look");
    let calls = run.world.calls();
    assert!(Duration::from_secs(calls as u64 / 2) + MINUTE * 2 > hours, "no call was left unused");
}

#[tokio::test(start_paused = true)]
async fn a_deferred_step_is_looked_at_among_a_thousand_running_ones() {
    let run = Running::start(&[MINUTE]);
    for at in 0..1_000 {
        run.enter(&format!("{at}"), Kind::Active);
    }
    run.enter("deferred", Kind::Deferred);
    sleep(MINUTE * 30).await;
    run.world.assert_two_a_second();
    assert!(longest(&run.world.looks_at("deferred"), MINUTE * 30) <= MINUTE + GAP * 6);
    for at in 0..1_000 {
        let looks = run.world.looks_at(&format!("{at}"));
        assert!(longest(&looks, MINUTE * 30) <= MINUTE * 11, "{at}: {looks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_look_serves_all_steps_of_an_execution() {
    let run = Running::start(&[MINUTE]);
    let one = execution("one");
    for name in ["a", "b", "c"] {
        run.watch.enter(&one, 0, &token(name), Kind::Deferred);
        run.watch.enter(&one, 0, &token(name), Kind::Active);
    }
    run.watch.leave(&one, &token("b"));
    run.watch.leave(&one, &token("b"));
    run.world.stopping.lock().unwrap().insert("one".to_owned());
    sleep(MINUTE).await;
    assert_eq!(run.world.names(), ["one"]);
    assert_eq!(*run.world.told.lock().unwrap(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn every_tenth_look_lists_deferred_steps_and_tells_those_that_have_ended() {
    let run = Running::start(&[MINUTE]);
    let one = execution("one");
    for (name, kind) in [("a", Kind::Deferred), ("b", Kind::Deferred), ("c", Kind::Active)] {
        run.watch.enter(&one, 0, &token(name), kind);
    }
    run.enter("active", Kind::Active);
    sleep(MINUTE * 60).await;
    let listed = run.world.listed.lock().unwrap().split_off(0);
    assert!(listed.iter().all(|name| name == "one"), "{listed:?}");
    assert!(run.world.looks_at("one").len().abs_diff(listed.len() * 10) <= 10, "{listed:?}");
    assert!(run.world.told.lock().unwrap().is_empty());
    run.world.ended.lock().unwrap().extend(["b", "c"].map(token));
    sleep(MINUTE * 11).await;
    let told = run.world.told.lock().unwrap().split_off(0);
    assert!(!told.is_empty() && told.iter().all(|name| name == "b"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_lists_counts_as_two_calls() {
    let run = Running::start(&[MINUTE]);
    for at in 0..1_000 {
        run.enter(&format!("{at}"), Kind::Deferred);
    }
    let passed = MINUTE * 60;
    sleep(passed).await;
    let calls = run.world.calls();
    assert!(run.world.listed.lock().unwrap().len() > 500, "it lists");
    assert!(GAP * u32::try_from(calls).unwrap() <= passed + GAP * 2, "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn who_has_left_is_neither_asked_about_nor_told() {
    let run = Running::start(&[MINUTE]);
    run.enter("left", Kind::Active);
    run.watch.leave(&execution("other"), &token("left"));
    run.watch.leave(&execution("left"), &token("left"));
    sleep(MINUTE * 10).await;
    assert!(run.world.names().is_empty());

    run.world.hanging.lock().unwrap().insert("leaves".to_owned());
    run.enter("leaves", Kind::Active);
    sleep(MINUTE).await;
    assert_eq!(run.world.names(), ["leaves"]);
    run.watch.leave(&execution("leaves"), &token("leaves"));
    sleep(MINUTE * 10).await;
    assert_eq!(run.world.names(), ["leaves"]);
    assert!(run.watch.lock().executions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn looks_that_hang_delay_nobody_else() {
    let run = Running::start(&[MINUTE]);
    for at in 0..30 {
        let name = format!("hangs{at}");
        run.world.hanging.lock().unwrap().insert(name.clone());
        run.enter(&name, Kind::Active);
    }
    run.enter("well", Kind::Active);
    sleep(MINUTE * 60).await;
    assert!(longest(&run.world.looks_at("well"), MINUTE * 60) <= MINUTE + GAP * 31);
    assert!(run.world.looks_at("hangs7").len() >= 50, "asked again once its look was given up");
    run.world.assert_two_a_second();
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_watch_is_off_is_not_watched() {
    let run = Running::start(&[Duration::ZERO, MINUTE]);
    run.enter("off", Kind::Active);
    run.watch.enter(&execution("unknown"), 7, &token("unknown"), Kind::Active);
    run.watch.enter(&execution("on"), 1, &token("on"), Kind::Active);
    sleep(MINUTE).await;
    assert_eq!(
        *run.world
            .asked
            .lock()
            .unwrap()
            .iter()
            .map(|(_, name, lane)| (name.as_str(), *lane))
            .collect::<Vec<_>>(),
        [("on", 1)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_execution_on_two_lanes_is_asked_about_at_the_shorter_interval() {
    let run = Running::start(&[MINUTE * 60, MINUTE]);
    let both = execution("both");
    run.watch.enter(&both, 0, &token("slow"), Kind::Active);
    run.watch.enter(&both, 1, &token("fast"), Kind::Active);
    run.watch.enter(&both, 0, &token("slower"), Kind::Active);
    sleep(MINUTE * 10).await;
    let asked = run.world.asked.lock().unwrap();
    assert!(
        (10..=14).contains(&asked.len()) && asked.iter().all(|(.., lane)| *lane == 1),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_that_starts_to_run_in_an_overdue_execution_goes_first() {
    let run = Running::start(&[MINUTE]);
    for at in 0..1_000 {
        run.enter(&format!("{at}"), Kind::Deferred);
    }
    sleep(MINUTE * 2).await;
    let name = "999";
    run.enter(name, Kind::Active);
    sleep(MINUTE).await;
    assert!(!run.world.looks_at(name).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_interval_that_is_stretched_to_is_said() {
    let run = Running::start(&[Duration::ZERO, MINUTE, MINUTE * 2]);
    let enter = |name: &str, kind| run.watch.enter(&execution(name), 1, &token(name), kind);
    (0..1_000).for_each(|at| enter(&format!("d{at}"), Kind::Deferred));
    sleep(MINUTE).await;
    assert_eq!(*run.world.intervals.lock().unwrap(), [MINUTE], "deferred ones do not count");
    (0..300).for_each(|at| enter(&format!("{at}"), Kind::Active));
    sleep(MINUTE).await;
    assert_eq!(run.world.intervals.lock().unwrap().last(), Some(&(GAP * 400)));
    (0..300).for_each(|at| run.watch.leave(&execution(&format!("{at}")), &token(&format!("{at}"))));
    sleep(MINUTE).await;
    assert_eq!(run.world.intervals.lock().unwrap().last(), Some(&MINUTE));
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_wakes_while_nothing_is_watched() {
    let (watch, world) = (Watch::new(vec![MINUTE], true), World::new());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut work = pin!(watch.work(&*world));
    let mut turn = || {
        woken.0.store(false, Ordering::SeqCst);
        assert!(work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    };
    turn();
    advance(MINUTE * 60 * 24).await;
    assert!(!woken.0.load(Ordering::SeqCst));
    watch.enter(&execution("a"), 0, &token("a"), Kind::Active);
    assert!(woken.0.load(Ordering::SeqCst));
    turn();
    watch.enter(&execution("b"), 0, &token("b"), Kind::Deferred);
    turn();
    advance(MINUTE / 2).await;
    watch.enter(&execution("c"), 0, &token("c"), Kind::Active);
    assert!(!woken.0.load(Ordering::SeqCst), "whoever is due later wakes nobody");
    advance(MINUTE / 2).await;
    assert!(woken.0.load(Ordering::SeqCst));
}

#[derive(Clone, Debug)]
enum Op {
    Enter {
        execution: u8,
        step: u8,
        active: bool,
    },
    Leave {
        execution: u8,
        step: u8,
    },
    Begin,
    End(usize),
    Pass(u64),
    /// Another worker asks about these executions, as often or only as often as for deferred steps.
    Heed(BTreeSet<u8>, bool),
    Hint {
        execution: u8,
        step: u8,
    },
    Alone,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..5_u8, 0..4_u8, any::<bool>())
            .prop_map(|(execution, step, active)| Op::Enter { execution, step, active }),
        3 => (0..5_u8, 0..4_u8).prop_map(|(execution, step)| Op::Leave { execution, step }),
        3 => Just(Op::Begin),
        2 => any::<usize>().prop_map(Op::End),
        2 => (0..90_u64).prop_map(Op::Pass),
        3 => (prop::collection::btree_set(0..5_u8, 0..5), any::<bool>())
            .prop_map(|(executions, active)| Op::Heed(executions, active)),
        2 => (0..5_u8, 0..4_u8).prop_map(|(execution, step)| Op::Hint { execution, step }),
        1 => Just(Op::Alone),
    ]
}

/// Another worker asks about these executions.
fn other_asks(executions: &BTreeSet<u8>, active: bool) -> Others {
    let names: Vec<String> =
        executions.iter().map(|at| execution(&at.to_string()).to_string()).collect();
    let haste = Haste { active, every: MINUTE };
    let found = names.iter().map(|name| (Mark::of(name), haste));
    let says = Notice::new(names.len(), found, BTreeMap::new()).text();
    let (me, other) = (WorkerId("me".into()), WorkerId("other".into()));
    Others::of(&me, &BTreeMap::from([(me.clone(), String::new()), (other, says)]), MINUTE)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each watched execution is either due, in the queue of its kind, or being asked about; or
    /// another worker asks, and none of its steps is deferred. No other is.
    #[test]
    fn no_execution_is_forgotten_or_kept(ops in prop::collection::vec(op(), 0..100)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let (watch, world) = (Watch::new(vec![MINUTE], true), World::new());
            let mut model: BTreeMap<String, BTreeMap<u8, bool>> = BTreeMap::new();
            let mut looking: Vec<Arc<str>> = Vec::new();
            for op in ops {
                match op {
                    Op::Enter { execution: at, step, active } => {
                        let (execution, token) = (execution(&at.to_string()), token(&format!("{at}x{step}")));
                        watch.enter(&execution, 0, &token, if active { Kind::Active } else { Kind::Deferred });
                        model.entry(execution.to_string()).or_default().insert(step, active);
                    }
                    Op::Leave { execution: at, step } => {
                        let (execution, token) = (execution(&at.to_string()), token(&format!("{at}x{step}")));
                        watch.leave(&execution, &token);
                        if let Some(steps) = model.get_mut(execution.as_str()) {
                            steps.remove(&step);
                        }
                        model.retain(|_, steps| !steps.is_empty());
                    }
                    Op::Begin => {
                        if let Some(Next { name, .. }) = watch.begin() {
                            prop_assert!(!looking.contains(&name), "asked about twice at once");
                            looking.push(name);
                        }
                    }
                    Op::End(which) if !looking.is_empty() => {
                        let name = looking.swap_remove(which % looking.len());
                        world.told.lock().unwrap().clear();
                        watch.looked(&name, &Sight::Execution(Event::StopSeen(Via::Watch)), &*world);
                        let told = world.told.lock().unwrap().len();
                        prop_assert_eq!(told, model.get(&*name).map_or(0, BTreeMap::len));
                    }
                    Op::End(_) => {}
                    Op::Pass(seconds) => advance(Duration::from_secs(seconds)).await,
                    Op::Heed(executions, active) => watch.heed(other_asks(&executions, active)),
                    Op::Hint { execution: at, step } => watch.ask_again(&token(&format!("{at}x{step}"))),
                    Op::Alone => watch.rely_on_none(),
                }
                let table = watch.lock();
                let relies = |name: &str| table.executions[name].relies.is_some();
                let due = |queue: &BTreeSet<(Instant, Arc<str>)>| -> BTreeSet<String> {
                    queue.iter().map(|(_, name)| name.to_string()).collect()
                };
                let waiting = |active: bool| -> BTreeSet<String> {
                    let is = |name: &str, steps: &BTreeMap<u8, bool>| {
                        let all = steps.values().all(|active| *active);
                        if relies(name) {
                            !active && !all
                        } else {
                            steps.values().any(|active| *active) == active
                        }
                    };
                    model
                        .iter()
                        .filter(|(name, steps)| is(name, steps) && !looking.iter().any(|looking| **looking == ***name))
                        .map(|(name, _)| name.clone())
                        .collect()
                };
                prop_assert_eq!(due(&table.due.active), waiting(true));
                prop_assert_eq!(due(&table.due.deferred), waiting(false));
                prop_assert!(table.executions.len() <= model.len() + looking.len());
            }
            Ok(())
        })?;
    }
}
