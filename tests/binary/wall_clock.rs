//! A wall clock that is set while the daemon runs: the rest of each limit is unchanged.

use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clocks::Clocks;
use crate::scene::{Scene, until};

async fn a_job_begun_two_days_behind_has_its_time_limit_and_its_record_after_the_correction() {
    let run =
        "[ -e $FOLDER/short ] && { rm $FOLDER/short; exit 0; }\n[ -e $FOLDER/gate ] || exit 76";
    let scene = Scene::new(run).await;
    let clocks = Clocks::ahead_by_days(scene.folder(), -2);
    let config =
        scene.config().with("handlers.job.time_limit", "1d").with("ledger.retention", "1d");
    let config = config.with("handlers.job.settings.poll_interval", "1s");
    scene.open("short");
    let short = scene.step_sent().await;
    let mut daemon = scene.start_in(&config, &clocks.variables());
    scene.settled(&short).await;
    let long = scene.step_sent().await;
    until("it runs", async || scene.runs().len() >= 3).await;
    clocks.correct();
    until("it runs on", async || scene.runs().len() >= 9).await;
    daemon.kill();
    let next = scene.start_in(&config, &clocks.variables());
    until("it runs in the next life", async || {
        scene.sagemaker.accepted(&long.token).is_some() || scene.runs().len() >= 13
    })
    .await;
    let reports = scene.sagemaker.reports(&long.token);
    assert!(reports.is_empty(), "its time limit is a day, and it ran for seconds: {reports:?}");
    assert!(scene.record(&short).is_some(), "it was settled seconds ago, and is kept for a day");
    scene.open("gate");
    scene.answered_once(&long).await;
    drop(next);
}

fn due(record: &Value) -> Timestamp {
    record["not_before"].as_str().and_then(|at| at.parse().ok()).expect("a time")
}

fn in_a_minute() -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(1)
}

async fn a_retry_that_was_due_two_days_ahead_comes_in_seconds_after_the_correction() {
    let scene = Scene::new("[ $STEP_ATTEMPT = 1 ] && exit 75").await;
    let clocks = Clocks::ahead_by_days(scene.folder(), 2);
    let config = scene
        .config()
        .with("handlers.job.retry_delay", "25s")
        .with("handlers.job.retry_delay_max", "25s");
    let step = scene.step_sent().await;
    let mut daemon = scene.start_in(&config, &clocks.variables());
    let waits = async || scene.record(&step).is_some_and(|record| record["status"] == "waiting");
    until("it waits for its second attempt", waits).await;
    clocks.correct();
    // By then the times that it has written are corrected too.
    until("it is noticed", async || {
        !daemon.complaints(&["WARN"], "the wall clock was set").is_empty()
    })
    .await;
    let right = async || scene.record(&step).is_some_and(|record| due(&record) < in_a_minute());
    until("the record is put right", right).await;
    daemon.kill();
    let _next = scene.start_in(&config, &clocks.variables());
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1), step.attempt(2)]);
}

async fn a_worker_that_leaves_as_the_clock_is_set_leaves_right_times_behind() {
    let scene = Scene::new("exit 76").await;
    let clocks = Clocks::ahead_by_days(scene.folder(), -2);
    let config = scene.config().with("handlers.job.time_limit", "1d");
    let config = config.with("handlers.job.settings.poll_interval", "1h");
    let step = scene.step_sent().await;
    let mut daemon = scene.start_in(&config, &clocks.variables());
    let waits = async || scene.record(&step).is_some_and(|record| record["status"] == "waiting");
    until("it waits for its next call", waits).await;
    clocks.correct();
    daemon.signal(Signal::SIGTERM);
    until("it has left", async || daemon.ended().is_some()).await;
    let record = scene.record(&step).expect("a record");
    let deadline: Timestamp =
        record["deadline"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    assert!(
        deadline > Timestamp::now(),
        "{deadline} is a day after the step was begun, seconds ago"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_of_a_limit_stays_left_when_the_wall_clock_is_set() {
    tokio::join!(
        a_job_begun_two_days_behind_has_its_time_limit_and_its_record_after_the_correction(),
        a_retry_that_was_due_two_days_ahead_comes_in_seconds_after_the_correction(),
        a_worker_that_leaves_as_the_clock_is_set_leaves_right_times_behind(),
    );
}
