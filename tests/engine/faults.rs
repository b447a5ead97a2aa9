//! Every call fails before and after its effect, which costs only time.

use std::time::Duration;

use callbackd::seam::FaultKind;
use serde_json::json;
use tokio::time::sleep;

use crate::bench::{Bench, Worker, until};
use crate::world::{Disk, Trouble};

const TOKEN: &str = "abcdefghij";

#[tokio::test(start_paused = true)]
async fn each_call_may_fail_before_or_after_its_effect() {
    for operation in ["receive", "set_visibility", "delete"] {
        for trouble in [
            Trouble::Before(FaultKind::Transient),
            Trouble::Before(FaultKind::Denied),
            Trouble::After,
        ] {
            let mut bench = Bench::new();
            bench.queue.fail(operation, 5, trouble);
            let worker = bench.start().await;
            bench.step(TOKEN, &json!({"do": "sleep", "seconds": 600}));
            until("the queue is empty", || bench.queue.len() == 0).await;
            assert_eq!(bench.log.entries(), ["run 1"], "{operation} {trouble:?}");
            assert_eq!(bench.pipelines.accepted().len(), 1, "{operation} {trouble:?}");
            worker.drain().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_could_not_be_kept_invisible_is_tried_again_before_it_becomes_visible() {
    let mut bench = Bench::new();
    bench.queue.fail("set_visibility", 5, Trouble::Before(FaultKind::Transient));
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "sleep", "seconds": 600}));
    sleep(Duration::from_secs(590)).await;
    assert_eq!(bench.queue.receives(&id), Some(1));
    until("the queue is empty", || bench.queue.len() == 0).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn every_send_of_an_outcome_is_the_identical_request() {
    for trouble in
        [Trouble::Before(FaultKind::Transient), Trouble::Before(FaultKind::Denied), Trouble::After]
    {
        let mut bench = Bench::new();
        bench.pipelines.fail("report", 4, trouble);
        let worker = bench.start().await;
        bench.step(TOKEN, &json!({}));
        until("the queue is empty", || bench.queue.len() == 0).await;
        let reports = bench.pipelines.reports.lock().unwrap().clone();
        assert!(
            reports.iter().all(|report| report.request == reports[0].request
                && report.outcome == reports[0].outcome)
        );
        assert_eq!(bench.pipelines.accepted().len(), 1);
        assert_eq!(bench.log.entries(), ["run 1"]);
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_refused_while_the_step_waits_is_never_dropped() {
    let mut bench = Bench::new();
    bench.pipelines.fail("report", 6, Trouble::Before(FaultKind::Refused));
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({}));
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_fails_keeps_messages_takes_nothing_new_and_recovers_by_itself() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    *bench.disk.failing.lock().unwrap() = true;
    bench.go.notify_one();
    until("the failure is noticed", || worker.monitor.ledger_ailment().is_some()).await;
    sleep(Duration::from_secs(60)).await;
    bench.step("other00000", &json!({}));
    sleep(Duration::from_secs(1800)).await;
    assert!(
        bench.pipelines.reports.lock().unwrap().is_empty(),
        "nothing is sent that is not frozen"
    );
    assert_eq!(bench.queue.visible(), 1, "the new step is left to others");
    *bench.disk.failing.lock().unwrap() = false;
    until("both are done", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 2);
    assert_eq!(bench.log.entries(), ["run 1", "run 1"]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn two_workers_of_one_ledger_never_run_a_step_at_once() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    let one = bench.start().await;
    let two = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "sleep", "seconds": 600}));
    for _ in 0..20 {
        sleep(Duration::from_secs(10)).await;
        // After its third receive it is replaced by a copy.
        if bench.queue.receives(&id).is_some() {
            bench.queue.duplicate(&id);
        }
    }
    until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    one.drain().await;
    two.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_another_worker_of_the_ledger_receives_reaches_the_owner() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    bench.queue_config.stop_watch = Duration::ZERO;
    let one = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    // The owner polls another queue from now on, as it were.
    let mut other = Bench::new();
    other.disk = bench.disk.clone();
    other.pipelines = bench.pipelines.clone();
    other.queue_config.stop_watch = Duration::ZERO;
    // The first of them would go by the owner's name.
    other.start().await.drain().await;
    let two = other.start().await;
    other.stop(TOKEN, &json!({"do": "wait"}));
    until("it is told", || bench.log.count("told pipeline_stopped") == 1).await;
    until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
    until("the stop is deleted", || other.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    one.drain().await;
    two.drain().await;
}

/// A step runs, its checkpoint is saved, and other workers may have its ledger open.
async fn running_in_a_shared_ledger() -> (Bench, Worker) {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("its checkpoint is saved", || {
        bench.disk.status(TOKEN).is_some() && !bench.disk.body(TOKEN)["checkpoint"].is_null()
    })
    .await;
    (bench, worker)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_write_at_its_end_gives_its_steps_back_all_the_same() {
    let (mut bench, one) = running_in_a_shared_ledger().await;
    let theirs = bench.disk.clone();
    bench.disk = theirs.beside();
    let two = bench.start().await;
    *theirs.throttled.lock().unwrap() = true;
    one.drain().await;
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("claimed"), "that could not be written");
    until("another one runs it", || bench.log.count("run 1") == 2).await;
    assert_eq!(bench.disk.body(TOKEN)["crashes"], json!(null), "nothing has crashed");
    bench.go.notify_one();
    until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
    two.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_renew_its_claim_cancels_its_run_before_another_may_start_it() {
    let (bench, one) = running_in_a_shared_ledger().await;
    *bench.disk.failing.lock().unwrap() = true;
    let before = tokio::time::Instant::now();
    until("it is told", || bench.log.count("told lease_lost") == 1).await;
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
    assert!(bench.pipelines.reports.lock().unwrap().is_empty());
    *bench.disk.failing.lock().unwrap() = false;
    bench.go.notify_one();
    until("it runs again and ends", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    one.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_while_its_claim_could_not_be_renewed_is_let_go_and_not_held_for_ever() {
    let (bench, worker) = running_in_a_shared_ledger().await;
    *bench.disk.failing.lock().unwrap() = true;
    bench.go.notify_one();
    sleep(Duration::from_secs(120)).await;
    assert!(bench.pipelines.reports.lock().unwrap().is_empty());
    *bench.disk.failing.lock().unwrap() = false;
    until("it runs again", || bench.log.count("run 1") + bench.log.count("run 2") == 2).await;
    bench.go.notify_one();
    until("it is answered", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_never_answers_keeps_nobody_from_giving_up_a_claim_in_time() {
    let (bench, one) = running_in_a_shared_ledger().await;
    *bench.disk.hanging.lock().unwrap() = true;
    let before = tokio::time::Instant::now();
    until("it is told", || bench.log.count("told lease_lost") == 1).await;
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
    *bench.disk.hanging.lock().unwrap() = false;
    bench.go.notify_one();
    until("it runs again and ends", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    one.drain().await;
}

#[tokio::test(start_paused = true)]
async fn steps_whose_messages_are_gone_and_whose_lease_was_lost_for_a_moment_are_resumed() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    bench.queue_config.concurrency = 8;
    let mut other = Bench::new();
    other.disk = bench.disk.beside();
    other.pipelines = bench.pipelines.clone();
    // The first of them would go by the owner's name.
    other.start().await.drain().await;
    let two = other.start().await;
    let one = bench.start().await;
    let tokens: Vec<String> = (0..8).map(|number| format!("gone00000{number}")).collect();
    for token in &tokens {
        let message = bench.step(token, &json!({"do": "wait"}));
        let saved = || {
            bench.disk.status(token).is_some() && !bench.disk.body(token)["checkpoint"].is_null()
        };
        until("its checkpoint is saved", saved).await;
        bench.queue.lose(&message);
    }
    for times in 1..=2 {
        *bench.disk.failing.lock().unwrap() = true;
        let told = || bench.log.count("told lease_lost") == times * tokens.len();
        until("all are told", told).await;
        *bench.disk.failing.lock().unwrap() = false;
        let runs = || bench.log.entries().iter().filter(|entry| entry.starts_with("run ")).count();
        until("all run again", || runs() == (times + 1) * tokens.len()).await;
        assert!(other.log.entries().is_empty(), "their worker lives");
    }
    one.drain().await;
    two.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_that_waits_for_its_turn_while_the_lease_is_lost_is_done_later() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    let tokens = [TOKEN, "other00000"];
    let arguments = json!({"do": "defer", "cleanup": "hang"});
    for token in tokens {
        bench.step(token, &arguments);
    }
    let deferred = |token| bench.disk.status(token).as_deref() == Some("deferred");
    until("both are deferred", || tokens.into_iter().all(deferred)).await;
    for token in tokens {
        bench.stop(token, &arguments);
    }
    let claimed = |token| bench.disk.status(token).as_deref() == Some("claimed");
    until("both are to be cleaned up", || tokens.into_iter().all(claimed)).await;
    assert_eq!(bench.log.count("clean pipeline_stopped null"), 1, "the other waits for its turn");
    *bench.disk.failing.lock().unwrap() = true;
    sleep(Duration::from_secs(120)).await;
    *bench.disk.failing.lock().unwrap() = false;
    until("both stops are answered", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 2);
    worker.drain().await;
}
