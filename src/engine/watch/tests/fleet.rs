//! The watches of several workers that share a ledger.

use super::*;

/// How old what the workers know of each other becomes.
const LISTED_EVERY: Duration = Duration::from_secs(90);

/// Workers by their names; each has a SageMaker of its own, which only counts.
struct Fleet(BTreeMap<WorkerId, Running>);

impl Fleet {
    fn new(size: usize) -> Self {
        Self::of(&vec![MINUTE; size])
    }

    /// With a `stop_watch` of its own each.
    fn of(every: &[Duration]) -> Self {
        let worker = |at: usize| WorkerId(format!("worker{at}").into());
        let run = |(at, every): (usize, &Duration)| (worker(at), Running::start(&[*every]));
        Self(every.iter().enumerate().map(run).collect())
    }

    /// Workers with a step of the execution `one` each, of which one asks by now.
    async fn with_asker(size: usize) -> (Self, WorkerId) {
        let fleet = Self::new(size);
        fleet.enter("one", Kind::Active);
        fleet.pass(MINUTE * 10).await;
        let asker = fleet.asker("one");
        (fleet, asker)
    }

    /// A worker that is not this one.
    fn beside(&self, asker: &WorkerId) -> &Running {
        self.0.iter().find(|(id, _)| *id != asker).expect("several workers").1
    }

    /// Each worker has a step of this execution.
    fn enter(&self, name: &str, kind: Kind) {
        for (at, run) in self.0.values().enumerate() {
            run.watch.enter(&execution(name), 0, &token(&format!("{at}x{name}")), kind);
        }
    }

    /// Time passes, and all hear of each other.
    async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let says = |(id, run): (&WorkerId, &Running)| (id.clone(), run.watch.notice());
            let lives = self.0.iter().map(says).collect();
            for (id, run) in &self.0 {
                run.watch.heed(Others::of(id, &lives, LISTED_EVERY * 2));
            }
            sleep(LISTED_EVERY).await;
        }
    }

    /// What those that ask had the others told reaches them.
    fn hints_arrive(&self) {
        for run in self.0.values() {
            for (worker, token) in run.world.hinted.lock().unwrap().drain(..) {
                self.0[&worker].watch.ask_again(&token);
            }
        }
    }

    /// How often each has asked about an execution until now.
    fn looks(&self, name: &str) -> BTreeMap<WorkerId, usize> {
        self.0.iter().map(|(id, run)| (id.clone(), run.world.looks_at(name).len())).collect()
    }

    fn calls(&self) -> usize {
        self.0.values().map(|run| run.world.calls()).sum()
    }

    /// Who asks about an execution, most of the time.
    fn asker(&self, name: &str) -> WorkerId {
        self.looks(name).into_iter().max_by_key(|(_, looks)| *looks).expect("a worker").0
    }

    fn stop(&self, name: &str) {
        for run in self.0.values() {
            run.world.stopping.lock().unwrap().insert(name.to_owned());
        }
    }

    /// Who has told steps of a stop, and which.
    fn told(&self) -> BTreeMap<WorkerId, BTreeSet<String>> {
        let told = |run: &Running| run.world.told.lock().unwrap().iter().cloned().collect();
        self.0.iter().map(|(id, run)| (id.clone(), told(run))).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn of_ten_workers_with_steps_of_an_execution_one_asks_and_another_once_it_is_gone() {
    let mut fleet = Fleet::new(10);
    fleet.enter("one", Kind::Active);
    for size in (5..=10).rev() {
        assert_eq!(fleet.0.len(), size);
        let before = fleet.calls();
        fleet.pass(MINUTE * 60).await;
        let calls = fleet.calls() - before;
        // Those that have just lost the one that asked ask once or twice each.
        assert!((58..=80 + 3 * size).contains(&calls), "{calls} calls of {size} workers");
        fleet.0.remove(&fleet.asker("one"));
        // What was asked until now is of the past.
        for run in fleet.0.values() {
            run.world.asked.lock().unwrap().clear();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_has_those_ask_that_rely_on_it_and_each_tells_its_own_steps() {
    for arrive in [true, false] {
        let (fleet, asker) = Fleet::with_asker(4).await;
        // The step by which the others know each other's executions has ended since.
        for (at, run) in fleet.0.values().enumerate() {
            run.watch.enter(&execution("one"), 0, &token(&format!("{at}second")), Kind::Active);
            run.watch.leave(&execution("one"), &token(&format!("{at}xone")));
        }
        fleet.stop("one");
        sleep(MINUTE).await;
        let told = fleet.told();
        assert!(told.iter().all(|(id, told)| told.is_empty() == (*id != asker)), "{told:?}");
        if arrive {
            fleet.hints_arrive();
            sleep(GAP * 10).await;
        } else {
            // They are not named the execution any more, and ask too.
            fleet.pass(LISTED_EVERY * 2).await;
        }
        for (at, told) in fleet.told().into_values().enumerate() {
            let own = format!("{at}second").trim_start_matches('0').to_owned();
            assert_eq!(told, BTreeSet::from([own]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_relies_on_one_with_a_longer_interval() {
    let fleet = Fleet::of(&[MINUTE, MINUTE * 60]);
    for at in 0..10 {
        fleet.enter(&format!("{at}"), Kind::Active);
    }
    fleet.pass(MINUTE * 180).await;
    for at in 0..10 {
        let looks: Vec<usize> = fleet.looks(&format!("{at}")).into_values().collect();
        assert!(looks[0] >= 150 && looks[1] <= 4, "{looks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_not_been_heard_again_for_long_is_not_relied_on() {
    let (fleet, asker) = Fleet::with_asker(2).await;
    let other = fleet.beside(&asker);
    let before = other.world.looks_at("one").len();
    sleep(LISTED_EVERY / 2).await;
    assert!(other.watch.relies());
    sleep(MINUTE * 10).await;
    assert!(!other.watch.relies());
    assert!(other.world.looks_at("one").len() - before >= 7);
}

#[tokio::test(start_paused = true)]
async fn nobody_relies_on_one_that_gets_no_answer() {
    let (fleet, asker) = Fleet::with_asker(3).await;
    fleet.0[&asker].world.hanging.lock().unwrap().insert("one".to_owned());
    fleet.pass(MINUTE * 5).await;
    let before = fleet.looks("one");
    fleet.pass(MINUTE * 30).await;
    let mut looks = fleet.looks("one");
    for (id, looks) in &mut looks {
        *looks -= before[id];
    }
    let failed = looks.remove(&asker).expect("it is one of them");
    assert!(failed >= 25, "it goes on trying: {failed}");
    let answered: usize = looks.values().sum();
    assert!((28..=44).contains(&answered), "{looks:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_makes_two_calls_a_second_however_unevenly_its_executions_are_spread() {
    let fleet = Fleet::new(5);
    for (at, run) in fleet.0.values().enumerate() {
        for number in 0..[0, 1, 20, 300, 1_200][at] {
            run.enter(&format!("{at}y{number}"), Kind::Active);
        }
    }
    fleet.pass(LISTED_EVERY * 2).await;
    let before = fleet.calls();
    let time = MINUTE * 60;
    fleet.pass(time).await;
    let calls = Duration::from_millis(500) * u32::try_from(fleet.calls() - before).unwrap();
    assert!(calls <= time * 102 / 100 && calls >= time * 95 / 100, "{calls:?}");
    let looks = |at: usize, name: &str| {
        let run = fleet.0.values().nth(at).expect("a worker");
        run.world.looks_at(name).len()
    };
    // 1,521 executions are asked about each 760 s, wherever they are, and a single one more often.
    for (at, name) in [(1, "1y0"), (2, "2y7"), (3, "3y7"), (4, "4y7")] {
        assert!((3..=12).contains(&looks(at, name)), "{name}: {}", looks(at, name));
    }
}

#[tokio::test(start_paused = true)]
async fn each_worker_lists_its_own_deferred_steps_all_the_same() {
    let fleet = Fleet::new(3);
    fleet.enter("one", Kind::Deferred);
    fleet.pass(MINUTE * 100).await;
    let asker = fleet.asker("one");
    for (id, run) in &fleet.0 {
        let (looks, lists) =
            (run.world.looks_at("one").len(), run.world.listed.lock().unwrap().len());
        assert!((7..=14).contains(&lists), "{lists} lists in 100 minutes");
        assert!(*id == asker || looks <= lists + 4, "{looks} looks, {lists} lists");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_others_say_is_forgotten_when_it_cannot_be_read_again() {
    let (fleet, asker) = Fleet::with_asker(2).await;
    let other = fleet.beside(&asker);
    assert!(other.watch.relies());
    let before = other.world.looks_at("one").len();
    other.watch.rely_on_none();
    sleep(MINUTE * 10).await;
    assert!(other.world.looks_at("one").len() - before >= 9);
    assert!(!other.watch.relies());
}
