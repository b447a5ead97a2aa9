//! How a queue is polled while there is no room for work.

use std::time::Duration;

use callbackd::engine::config::{QueueConfig, Verify};
use callbackd::outcome::Outcome;
use callbackd::seam::{ExecutionStanding, FaultKind, Standing};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, body_of, until};
use crate::world::{QUEUE_URL, Trouble};

const RUNS: &str = "runs000000";
const QUEUED: &str = "queued0000";

fn token(number: usize) -> String {
    format!("abcdefgh{number:02}")
}

fn stopped(bench: &Bench, token: &str) -> bool {
    let is_it = |outcome: &Outcome| matches!(outcome, Outcome::Failure(why) if why.as_str() == "the pipeline was stopped");
    bench
        .pipelines
        .accepted()
        .iter()
        .any(|report| report.token.as_str() == token && is_it(&report.outcome))
}

#[tokio::test(start_paused = true)]
async fn with_every_slot_taken_the_stop_of_a_step_that_waits_is_noticed_within_the_stop_watch() {
    for (verify, exclusive, watch) in [
        (Verify::Redelivered, true, 30),
        (Verify::Redelivered, false, 30),
        (Verify::Always, true, 30),
        (Verify::Redelivered, true, 1),
        (Verify::Never, true, 0),
    ] {
        let mut bench = Bench::new();
        bench.queue_config.concurrency = 1;
        bench.queue_config.verify = verify;
        bench.queue_config.exclusive = exclusive;
        bench.queue_config.stop_watch = Duration::from_secs(watch);
        let worker = bench.start().await;
        bench.step(RUNS, &json!({"do": "wait"}));
        until("one runs", || bench.log.count("run 1") == 1).await;
        bench
            .pipelines
            .stand(QUEUED, Standing::Open { stopping: true, queue_url: QUEUE_URL.parse().ok() });
        let arguments = json!({"do": "never"});
        bench.queue.put(&body_of("b", QUEUED, &arguments, "Executing"));
        let began = Instant::now();
        bench.queue.put(&body_of("b", QUEUED, &arguments, "Stopping"));
        until("it is answered", || stopped(&bench, QUEUED)).await;
        let within =
            Duration::from_secs(if watch == 0 { 30 } else { watch }) + Duration::from_secs(2);
        assert!(began.elapsed() <= within, "{:?}", began.elapsed());
        assert_eq!(
            bench.log.entries(),
            ["run 1", "clean pipeline_stopped null"],
            "its handler was not started"
        );
        bench.go.notify_one();
        until("the queue is empty", || bench.queue.len() == 0).await;
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_waits_for_a_slot_is_watched_and_answered_without_a_message() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    bench.step(RUNS, &json!({"do": "wait"}));
    until("one runs", || bench.log.count("run 1") == 1).await;
    bench.pipelines.open(QUEUED);
    bench.queue.put(&body_of("b", QUEUED, &json!({}), "Executing"));
    until("it is held", || worker.monitor.queues()[0].queued == [1, 0]).await;
    bench.pipelines.executions.lock().unwrap().insert("b".to_owned(), ExecutionStanding::Stopping);
    let began = Instant::now();
    until("it is answered", || stopped(&bench, QUEUED)).await;
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
    assert_eq!(worker.monitor.queues()[0].queued, [0, 0]);
    assert_eq!(bench.log.entries(), ["run 1", "clean pipeline_stopped null"]);
    worker.drain_hurried().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_free_as_the_stop_is_noticed_starts_no_handler() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    bench.step(RUNS, &json!({"do": "wait"}));
    until("one runs", || bench.log.count("run 1") == 1).await;
    bench.step(QUEUED, &json!({}));
    until("the other is held", || worker.monitor.queues()[0].queued == [1, 0]).await;
    *bench.disk.slow.lock().unwrap() = Duration::from_secs(1);
    bench.go.notify_one();
    // The claim is being written.
    until("it has the slot", || worker.monitor.queues()[0].queued == [0, 0]).await;
    bench.stop(QUEUED, &json!({}));
    until("it is answered", || stopped(&bench, QUEUED)).await;
    assert_eq!(
        bench.log.entries(),
        ["run 1", "clean pipeline_stopped null"],
        "its handler was not started"
    );
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_looked_at_ahead_is_bounded_charged_once_and_run_in_turn() {
    for verify in [Verify::Redelivered, Verify::Always] {
        let mut bench = Bench::new();
        bench.queue_config.concurrency = 2;
        bench.queue_config.verify = verify;
        let worker = bench.start().await;
        // SageMaker does not say which of them wait.
        bench.pipelines.fail("step", 2_000, Trouble::Before(FaultKind::Transient));
        let step = |n| bench.step(&token(n), &json!({"do": "sleep", "seconds": 3600}));
        let ids: Vec<String> = (0..40).map(step).collect();
        for _ in 0..30 {
            sleep(Duration::from_mins(1)).await;
            let status = &worker.monitor.queues()[0];
            assert!(status.held <= 2 + 10, "{} are held", status.held);
        }
        assert_eq!(worker.monitor.queues()[0].held, 12);
        let receives =
            bench.queue.calls.lock().unwrap().iter().filter(|(call, _)| *call == "receive").count();
        assert!(receives < 20, "{receives} receives in half an hour");
        assert!(ids.iter().all(|id| bench.queue.receives(id) <= Some(1)));
        bench.pipelines.trouble.lock().unwrap().clear();
        until("the queue is empty", || {
            assert!(ids.iter().all(|id| bench.queue.receives(id) <= Some(1)), "none is bounced");
            bench.queue.len() == 0
        })
        .await;
        assert_eq!(bench.log.count("run 1"), 40);
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_drains_looks_ahead_no_more_and_gives_back_what_it_holds() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    bench.step(RUNS, &json!({"do": "stubborn"}));
    until("one runs", || bench.log.count("run 1") == 1).await;
    let ids: Vec<String> = (0..30).map(|n| bench.step(&token(n), &json!({}))).collect();
    until("ten are held beside it", || worker.monitor.queues()[0].held == 11).await;
    worker.drain().await;
    let taken = ids.iter().filter(|id| bench.queue.receives(id) == Some(1)).count();
    assert_eq!((taken, bench.queue.visible()), (10, 31));
    assert!((0..30).all(|n| bench.disk.status(&token(n)).is_none()));
}

#[tokio::test(start_paused = true)]
async fn large_arguments_of_one_queue_keep_no_other_from_its_share() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 10;
    let other =
        json!({"url": QUEUE_URL.replace("callbacks", "others"), "handler": "h", "concurrency": 4});
    let other: QueueConfig = serde_json::from_value(other).expect("config");
    bench.others.push((other, std::sync::Arc::default()));
    let worker = bench.start().await;
    let large = json!({"do": "wait", "text": "x".repeat(70 << 20)});
    for number in 0..2 {
        bench.step(&token(number), &large);
    }
    until("they run", || bench.log.count("run 1") == 2).await;
    bench.step(&token(2), &json!({}));
    sleep(Duration::from_mins(1)).await;
    let queues = worker.monitor.queues();
    let spent = queues[0].bodies_spent.expect("there is no room");
    assert!(spent.by_queue > spent.limit && spent.by_all == spent.by_queue);
    assert_eq!((queues[1].bodies_spent, bench.log.count("run 1")), (None, 2));

    bench.pipelines.open(&token(3));
    bench.others[0].1.put(&body_of("e", &token(3), &json!({}), "Executing"));
    let began = Instant::now();
    until("the other queue's is done", || bench.others[0].1.len() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    bench.go.notify_one();
    until("there is room again", || bench.log.count("run 1") == 4).await;
    bench.go.notify_one();
    until("the queue is empty", || bench.queue.len() == 0).await;
    worker.drain().await;
}
