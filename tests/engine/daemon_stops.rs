//! The worker shuts down: nothing is failed, stranded or lost.

use std::time::Duration;

use callbackd::seam::FaultKind;
use serde_json::json;
use tokio::time::sleep;

use crate::bench::{Bench, run_and_crash, until};
use crate::world::Trouble;

const TOKEN: &str = "abcdefghij";

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_runs_and_takes_nothing_new() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "sleep", "seconds": 60}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    let draining = tokio::spawn(worker.drain());
    sleep(Duration::from_secs(30)).await;
    bench.step("other00000", &json!({}));
    draining.await.expect("drained");
    assert_eq!(bench.pipelines.accepted().len(), 1);
    assert_eq!(bench.queue.len(), 1);
    assert_eq!(bench.queue.visible(), 1, "what came during the drain is not stranded");
    assert_eq!(bench.log.entries(), ["run 1"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_stops_within_the_wait_of_a_poll() {
    for wait in [1, 20].map(Duration::from_secs) {
        let mut bench = Bench::new();
        bench.queue_config.poll_wait = wait;
        let worker = bench.start().await;
        until("it polls", || bench.queue.count("receive") > 0).await;
        sleep(wait).await;
        let polls = bench.queue.count("receive");
        sleep(wait * 10).await;
        assert!((9..=11).contains(&(bench.queue.count("receive") - polls)), "each poll waits");
        let before = tokio::time::Instant::now();
        worker.drain().await;
        assert!(before.elapsed() <= wait, "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_in_time_is_released_not_failed() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    bench.step("stubborn00", &json!({"do": "stubborn"}));
    until("both run", || bench.log.count("run 1") == 2).await;
    worker.drain().await;
    assert!(bench.pipelines.reports.lock().unwrap().is_empty());
    assert_eq!(bench.queue.visible(), 2);
    assert_eq!(bench.log.count("told shutdown"), 1);
    for token in [TOKEN, "stubborn00"] {
        assert_eq!(bench.disk.status(token).as_deref(), Some("waiting"));
        assert_eq!(bench.disk.body(token)["owner"], json!(null));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_cuts_the_waiting_short_and_not_the_ledger() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "stubborn"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    let before = tokio::time::Instant::now();
    worker.drain_hurried().await;
    assert!(before.elapsed() <= Duration::from_secs(21), "{:?}", before.elapsed());
    assert_eq!(bench.queue.visible(), 1);
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("waiting"));
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_ends_before_ecs_loses_patience_though_its_queue_is_silent() {
    let mut bench = Bench::new();
    *bench.queue.silent.lock().unwrap() = true;
    let worker = bench.start().await;
    sleep(Duration::from_secs(1)).await;
    let before = tokio::time::Instant::now();
    worker.drain().await;
    assert!(before.elapsed() <= Duration::from_secs(26), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_falls_silent_holds_up_the_end_for_seconds_though_messages_are_held() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    *bench.queue.silent.lock().unwrap() = true;
    let before = tokio::time::Instant::now();
    worker.drain_hurried().await;
    assert!(before.elapsed() <= Duration::from_secs(26), "{:?}", before.elapsed());
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("waiting"));
}

#[test]
fn an_outcome_that_could_not_be_reported_is_reported_by_the_next_process_without_a_message() {
    let (mut bench, ()) = run_and_crash(Bench::new(), async |bench| {
        bench.pipelines.fail("report", 1000, Trouble::Before(FaultKind::Transient));
        let worker = bench.start().await;
        bench.step(TOKEN, &json!({}));
        until("it is concluded", || bench.disk.status(TOKEN).as_deref() == Some("concluded")).await;
        worker.drain().await;
    });
    bench.pipelines.trouble.lock().unwrap().clear();
    bench.queue = std::sync::Arc::default();
    let (bench, ()) = run_and_crash(bench, async |bench| {
        let worker = bench.start().await;
        until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
        worker.drain().await;
    });
    assert_eq!(bench.log.entries(), ["run 1"]);
    assert_eq!(bench.pipelines.accepted().len(), 1);
}

#[test]
fn a_worker_that_dies_while_a_step_runs_leaves_it_to_the_next_with_its_checkpoint() {
    let (mut bench, ()) = run_and_crash(Bench::new(), async |bench| {
        let _worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": "wait"}));
        until("its checkpoint is saved", || {
            bench.disk.status(TOKEN).is_some() && !bench.disk.body(TOKEN)["checkpoint"].is_null()
        })
        .await;
    });
    bench.queue = std::sync::Arc::default();
    let (bench, ()) = run_and_crash(bench, async |bench| {
        bench.step(TOKEN, &json!({"do": "wait"}));
        let worker = bench.start().await;
        until("it runs again", || bench.log.count("run 2") == 1).await;
        assert_eq!(bench.disk.body(TOKEN)["checkpoint"], json!({"job": TOKEN}));
        bench.go.notify_one();
        until("the message is deleted", || bench.queue.len() == 0).await;
        worker.drain().await;
    });
    assert_eq!(bench.pipelines.accepted().len(), 1);
}
