//! Trouble of the machine is the worker's, not the step's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::bench::{Bench, until};

const HOUR: Duration = Duration::from_hours(1);

fn token(number: usize) -> String {
    format!("abcdefgh{number:02}")
}

#[tokio::test(start_paused = true)]
async fn the_machines_trouble_uses_up_no_attempt_pauses_intake_and_ends_by_itself() {
    let mut bench = Bench::new();
    bench.handler_config.max_attempts = 1;
    let worker = bench.start().await;
    let ids: Vec<String> = (0..40).map(|n| bench.step(&token(n), &json!({"do": "need the machine"}))).collect();
    sleep(Duration::from_mins(2)).await;
    let impaired = worker.monitor.impaired();
    assert_eq!(
        (impaired[0].handler.as_str(), impaired[0].what, impaired[0].error.as_str()),
        ("h", "space", "disk full")
    );
    let taken = || ids.iter().filter(|id| bench.queue.receives(id).is_some_and(|receives| receives > 0)).count();
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
        format!("{reports:?}").contains("the time limit of 1h was reached before it could be started: disk full"),
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
        bench.well.store(recovers, Ordering::SeqCst);
        until("the queue is empty", || bench.queue.len() == 0).await;
        let told = format!("{:?}", bench.pipelines.accepted());
        assert!(told.contains("the pipeline was stopped"), "{told}");
        assert_eq!(told.contains("the cleanup failed: it took longer than 5m: disk full"), !recovers, "{told}");
        worker.drain().await;
    }
}
