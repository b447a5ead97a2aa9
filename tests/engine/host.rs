//! A problem of the machine is the worker's, not the step's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use callbackd::engine::config::QueueConfig;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, until};
use crate::world::QUEUE_URL;

const HOUR: Duration = Duration::from_hours(1);

fn token(number: usize) -> String {
    format!("abcdefgh{number:02}")
}

#[tokio::test(start_paused = true)]
async fn the_machines_trouble_uses_up_no_attempt_pauses_intake_and_ends_by_itself() {
    let mut bench = Bench::new();
    bench.handler_config.max_attempts = 1;
    let worker = bench.start().await;
    let ids: Vec<String> =
        (0..40).map(|n| bench.step(&token(n), &json!({"do": "need the machine"}))).collect();
    sleep(Duration::from_mins(2)).await;
    let impaired = worker.monitor.impaired();
    assert_eq!(
        (impaired[0].handler.as_str(), impaired[0].what, impaired[0].error.as_str()),
        ("h", "space", "disk full")
    );
    let taken = || {
        ids.iter()
            .filter(|id| bench.queue.receives(id).is_some_and(|receives| receives > 0))
            .count()
    };
    // What the first polls brought, and one for each time that it was tried again.
    assert!(taken() <= 4 + 4 + 12, "{} of 40 were taken", taken());
    assert!(bench.log.entries().len() < 300, "{} runs", bench.log.entries().len());
    assert!(bench.pipelines.accepted().is_empty());

    bench.well.store(true, Ordering::SeqCst);
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 40);
    assert!(bench.log.entries().iter().all(|entry| entry == "run 1"));
    assert!(worker.monitor.impaired().is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_the_machine_hinders_beyond_its_time_limit_fails_and_says_so() {
    let mut bench = Bench::new();
    bench.handler_config.time_limit = HOUR;
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "need the machine"}));
    until("the queue is empty", || bench.queue.len() == 0).await;
    let reports = bench.pipelines.accepted();
    assert!(
        format!("{reports:?}")
            .contains("the time limit of 1h was reached before it could be started: disk full"),
        "{reports:?}"
    );
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_hindered_step_is_given_back_where_another_worker_reads_the_queue() {
    let mut bench = Bench::new();
    bench.queue_config.exclusive = false;
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "need the machine"}));
    until("it was tried", || bench.log.count("run 1") == 1).await;
    until("it is on the queue again", || bench.queue.visible() == 1).await;
    bench.well.store(true, Ordering::SeqCst);
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_that_the_machine_hinders_is_tried_again_within_its_limit() {
    for recovers in [true, false] {
        let mut bench = Bench::new();
        let worker = bench.start().await;
        let arguments = json!({"do": "wait", "cleanup": "need the machine"});
        bench.step(&token(0), &arguments);
        until("it runs", || bench.log.count("run 1") == 1).await;
        bench.stop(&token(0), &arguments);
        until("it is tried", || bench.log.entries().len() > 5).await;
        assert!(worker.monitor.impaired().is_empty(), "runs are not kept from their work");
        bench.well.store(recovers, Ordering::SeqCst);
        until("the queue is empty", || bench.queue.len() == 0).await;
        let told = format!("{:?}", bench.pipelines.accepted());
        assert!(told.contains("the pipeline was stopped"), "{told}");
        assert_eq!(
            told.contains("the cleanup failed: it took longer than 5m: disk full"),
            !recovers,
            "{told}"
        );
        worker.drain().await;
    }
}

/// Steps with `"to": "other"` go to the handler `other`.
fn routed() -> QueueConfig {
    let route = json!({"arguments": {"to": "other"}, "handler": "other"});
    let config = json!({"url": QUEUE_URL, "handler": "h", "concurrency": 4, "routes": [route]});
    serde_json::from_value(config).expect("config")
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_cannot_work_holds_up_no_other_of_its_queue() {
    let mut bench = Bench::new();
    bench.queue_config = routed();
    bench.handler_config.max_attempts = 1;
    let worker = bench.start().await;
    for number in 0..3 {
        bench.step(&token(number), &json!({"do": "need the machine", "to": "other"}));
    }
    until("it is impaired", || !worker.monitor.impaired().is_empty()).await;
    sleep(Duration::from_mins(10)).await;
    let began = Instant::now();
    for number in 3..43 {
        bench.step(&token(number), &json!({}));
    }
    until("the others are done", || bench.pipelines.accepted().len() == 40).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    // With many waiting it is polled rarely, and they stay where they are.
    let many: Vec<String> = (43..83)
        .map(|n| bench.step(&token(n), &json!({"do": "need the machine", "to": "other"})))
        .collect();
    sleep(Duration::from_mins(2)).await;
    let taken = many
        .iter()
        .filter(|id| bench.queue.receives(id).is_some_and(|receives| receives > 0))
        .count();
    assert!((7..=20).contains(&taken), "{taken} were taken");
    let tried = bench.log.entries().len() - 40;
    assert!(tried < 45, "one at a time is tried, not {tried}");

    bench.well.store(true, Ordering::SeqCst);
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert!(bench.log.entries().iter().all(|entry| entry == "run 1"));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn steps_that_wait_for_their_handler_hold_no_slot_and_can_be_stopped() {
    let mut bench = Bench::new();
    bench.queue_config = routed();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    let arguments = json!({"do": "need the machine", "to": "other"});
    for number in 0..5 {
        bench.step(&token(number), &arguments);
    }
    until("all are held", || worker.monitor.queues()[0].held == 5).await;
    sleep(Duration::from_mins(2)).await;
    assert_eq!(worker.monitor.running(), 0);
    bench.step(&token(5), &json!({"do": "sleep", "seconds": 1}));
    until("the other handler's is done", || bench.pipelines.accepted().len() == 1).await;
    bench.stop(&token(4), &arguments);
    until("it is answered", || bench.pipelines.accepted().len() == 2).await;
    assert_eq!(bench.pipelines.accepted()[1].token.as_str(), token(4));
    worker.drain().await;
    assert!(
        (0..4).all(|n| bench.disk.status(&token(n)).as_deref() == Some("waiting")),
        "they go on in the next life"
    );
}

#[tokio::test(start_paused = true)]
async fn trouble_that_nothing_shows_any_more_is_over() {
    let mut bench = Bench::new();
    bench.handler_config.time_limit = Duration::from_secs(5);
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "need the machine"}));
    until("it has failed by its time limit", || bench.queue.len() == 0).await;
    assert_eq!(worker.monitor.impaired().len(), 1);
    sleep(Duration::from_secs(61)).await;
    assert!(worker.monitor.impaired().is_empty(), "{:?}", worker.monitor.impaired());
    bench.step(&token(1), &json!({"do": "need the machine"}));
    until("the next step tells anew", || !worker.monitor.impaired().is_empty()).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_run_that_gets_on_has_those_who_wait_for_its_handler_go_on() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    for number in 0..8 {
        bench.step(&token(number), &json!({"do": "need the machine"}));
    }
    until("all are held", || worker.monitor.queues()[0].held == 8).await;
    bench.well.store(true, Ordering::SeqCst);
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert!(worker.monitor.impaired().is_empty());
    worker.drain().await;
}
