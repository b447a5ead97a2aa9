//! Workers whose wall clocks are five minutes ahead and behind, or are set. Neither claims nor the
//! limits and waits in a step's record depend on them.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Fleet, HANDS_OVER, all, has_lost};
use crate::clocks::Clocks;
use crate::daemon::{Config, Daemon};
use crate::scene::{Step, never, until};

const OFFSETS: [i64; 3] = [-300, 0, 300];

/// The worker with this place among the offsets owns the step.
async fn tell_of_a_claim(owner: usize) {
    let fleet = Fleet::new(3, HANDS_OVER).await;
    let clocks: Vec<Clocks> =
        (0..3).map(|at| clock(&fleet, at, OFFSETS[(at + owner) % 3])).collect();
    let start = |at: usize| {
        if at > 0 {
            fleet.ways[at].to_sqs.hold("receivemessage");
        }
        fleet.start_busy(at, &clocks[at].variables())
    };
    let mut workers = [start(1), start(2), start(0)];
    until("all are up", async || workers.iter().all(Daemon::is_up)).await;
    let step = fleet.scene.step_sent().await;
    fleet.checkpoint_is_recorded(&step).await;
    fleet.let_receive();
    never("it is run again", Duration::from_secs(8), async || fleet.scene.runs().len() > 1).await;
    assert!(!workers.iter().any(has_lost));
    workers[2].kill();
    fleet.first_is_timed_out().await;
    fleet.handed_over(&step).await;
    assert!(!workers[..2].iter().any(has_lost));
}

#[test]
fn clocks_that_are_five_minutes_off_neither_end_a_claim_nor_prolong_one() {
    all(&[0, 1, 2], tell_of_a_claim);
}

fn clock(fleet: &Fleet, worker: usize, ahead: i64) -> Clocks {
    Clocks::ahead(fleet.scene.folder(), &format!("clocks{worker}"), ahead)
}

/// What a record bounds.
#[derive(Clone, Copy, Debug)]
enum Bound {
    TimeLimit,
    Retry,
    Deferral,
}

/// How the first worker's clock differs from the next one's.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// Ten minutes behind: with its own clock, the next one would act at once.
    Behind,
    /// Ten minutes ahead: it would act ten minutes late.
    Ahead,
}

/// Saves that it was there, and never ends.
const HANGS: &str = "echo here > $STEP_CHECKPOINT.new && mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT\nuntil_there never";

impl Bound {
    fn script(self, side: Side) -> &'static str {
        match (self, side) {
            (Self::TimeLimit, Side::Behind) => HANDS_OVER,
            (Self::TimeLimit, Side::Ahead) => HANGS,
            (Self::Retry, _) => "[ $STEP_ATTEMPT = 1 ] && exit 75\nend 0",
            (Self::Deferral, _) => "exit 0",
        }
    }

    /// Far longer than the story takes, or over soon.
    fn configured(self, config: Config, side: Side) -> Config {
        let time = match (self, side) {
            (Self::TimeLimit, _) | (_, Side::Behind) => "4m",
            (_, Side::Ahead) => "10s",
        };
        match self {
            Self::TimeLimit => config.with("handlers.job.time_limit", time),
            Self::Retry => config
                .with("handlers.job.retry_delay", time)
                .with("handlers.job.retry_delay_max", time),
            Self::Deferral => config
                .with("handlers.job.settings.deferred", true)
                .with("handlers.job.deferred_limit", time),
        }
    }

    /// The bound is on record.
    async fn recorded(self, fleet: &Fleet, step: &Step) {
        match self {
            Self::TimeLimit => fleet.checkpoint_is_recorded(step).await,
            Self::Retry => fleet.recorded_as(step, "waiting").await,
            Self::Deferral => fleet.recorded_as(step, "deferred").await,
        }
    }

    /// The next worker does what is right, neither at once nor much later. `deadline` is what the
    /// first one has recorded.
    async fn kept(self, fleet: &Fleet, step: &Step, side: Side, deadline: &Value) {
        let scene = &fleet.scene;
        let a_while = Duration::from_secs(12);
        match (self, side) {
            (Self::TimeLimit, Side::Behind) => fleet.handed_over(step).await,
            (Self::Retry, Side::Behind) => {
                never("it is retried", a_while, async || scene.runs().len() > 1).await;
            }
            (Self::Deferral, Side::Behind) => {
                let answered = async || scene.sagemaker.accepted(&step.token).is_some();
                never("its limit is over", a_while, answered).await;
            }
            (Self::TimeLimit, Side::Ahead) => {
                until("it runs again", async || scene.runs().len() > 1).await;
                assert_eq!(recorded_deadline(fleet, step).await, *deadline, "it begins anew");
            }
            (Self::Retry, Side::Ahead) => {
                scene.answered_once(step).await;
                assert_eq!(scene.runs(), [step.attempt(1), step.attempt(2)]);
            }
            (Self::Deferral, Side::Ahead) => {
                let reason = scene.answered_once(step).await.reason();
                assert!(reason.contains("nobody completed"), "{reason}");
            }
        }
    }
}

/// The first worker is gone once the bound is on record, and the next one goes on.
async fn tell_of_a_bound((bound, side): (Bound, Side)) {
    let fleet = Fleet::new(2, bound.script(side)).await;
    let ahead = match side {
        Side::Behind => -300,
        Side::Ahead => 300,
    };
    let clocks = [clock(&fleet, 0, ahead), clock(&fleet, 1, -ahead)];
    let start = |worker: usize| {
        let config = bound.configured(fleet.config(worker), side);
        fleet.start_as(worker, &config, &clocks[worker].variables())
    };
    let step = fleet.scene.step_sent().await;
    let mut first = start(0);
    bound.recorded(&fleet, &step).await;
    let deadline = recorded_deadline(&fleet, &step).await;
    match bound {
        Bound::TimeLimit => first.kill(),
        Bound::Retry | Bound::Deferral => {
            // Told to end, it leaves the step to the next one at once.
            first.signal(Signal::SIGTERM);
            until("it has left", async || first.ended().is_some()).await;
        }
    }
    let _next = start(1);
    fleet.first_is_timed_out().await;
    bound.kept(&fleet, &step, side, &deadline).await;
}

async fn recorded_deadline(fleet: &Fleet, step: &Step) -> Value {
    let body = fleet.item(step).await["body"]["S"].as_str().map(serde_json::from_str::<Value>);
    body.expect("a record").expect("JSON")["deadline"].take()
}

#[test]
fn limits_and_waits_are_kept_by_a_worker_whose_clock_is_ten_minutes_off_the_first_one_s() {
    let bounds = [Bound::TimeLimit, Bound::Retry, Bound::Deferral];
    let stories = bounds.map(|bound| [Side::Behind, Side::Ahead].map(|side| (bound, side)));
    all(stories.as_flattened(), tell_of_a_bound);
}

/// The first worker's clock is set while it runs a step; it is killed `after` that.
async fn tell_of_a_set_clock(after: Duration) {
    let fleet = Fleet::new(2, HANDS_OVER).await;
    let config = |worker| fleet.config(worker).with("handlers.job.time_limit", "4m");
    let clocks = clock(&fleet, 0, -600);
    let step = fleet.scene.step_sent().await;
    let mut first = fleet.start_as(0, &config(0), &clocks.variables());
    fleet.checkpoint_is_recorded(&step).await;
    let record = fleet.item(&step).await;
    assert!(shown_age(&fleet, &step) < Duration::from_mins(5), "it began seconds ago");
    clocks.correct();
    never("its record changes", after, async || fleet.item(&step).await != record).await;
    assert!(first.complaints(&["WARN"], "was set").is_empty(), "the ledger's time was not");
    first.kill();
    let _next = fleet.start_as(1, &config(1), &[]);
    fleet.first_is_timed_out().await;
    fleet.handed_over(&step).await;
}

/// How old a step is according to `steps`, where the wall clock is ten minutes ahead.
fn shown_age(fleet: &Fleet, step: &Step) -> Duration {
    let clocks = clock(fleet, 9, 600);
    let mut environment = fleet.environment(1);
    environment.prefix.extend(clocks.variables().map(|(name, value)| format!("{name}={value}")));
    let shown = environment.run(&fleet.config(1), &["steps"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = shown.lines().find(|line| line.starts_with(&step.token)).expect("its line");
    let age = line.split_whitespace().nth(4).expect("an age");
    callbackd::duration::parse(age).expect("a duration")
}

#[test]
fn a_clock_that_is_set_changes_nothing_about_the_steps_of_a_shared_ledger() {
    all(&[Duration::ZERO, Duration::from_secs(8)], tell_of_a_set_clock);
}
