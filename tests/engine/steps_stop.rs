//! Stops, however they arrive.

use std::time::Duration;

use callbackd::engine::config::OnStop;
use callbackd::outcome::{Outcome, Outputs};
use callbackd::seam::{ExecutionStanding, Standing, StepResult};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::bench::{Bench, body_of, run_and_crash, until};
use crate::world::Disk;

const TOKEN: &str = "abcdefghij";

fn reason(bench: &Bench) -> String {
    let accepted = bench.pipelines.accepted();
    assert_eq!(accepted.len(), 1);
    match &accepted[0].outcome {
        Outcome::Failure(reason) => reason.as_str().to_owned(),
        Outcome::Success(_) => "success".to_owned(),
    }
}

async fn stopped_while_running(arguments: Value, on_stop: OnStop) -> Bench {
    let mut bench = Bench::new();
    bench.handler_config.on_stop = on_stop;
    let worker = bench.start().await;
    bench.step(TOKEN, &arguments);
    until("it runs", || bench.log.count("run 1") == 1).await;
    bench.stop(TOKEN, &arguments);
    until("both messages are deleted", || bench.queue.len() == 0).await;
    worker.drain().await;
    bench
}

#[tokio::test(start_paused = true)]
async fn a_running_step_is_told_cleaned_up_and_answered() {
    let bench = stopped_while_running(json!({"do": "wait"}), OnStop::Failure).await;
    assert_eq!(
        bench.log.entries(),
        ["run 1", "told pipeline_stopped", "clean pipeline_stopped {\"job\":\"abcdefghij\"}"]
    );
    assert_eq!(reason(&bench), "the pipeline was stopped");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_does_not_end_is_aborted_after_its_grace() {
    let bench = stopped_while_running(json!({"do": "stubborn"}), OnStop::Success).await;
    assert_eq!(bench.log.entries(), ["run 1", "clean pipeline_stopped null"]);
    assert_eq!(bench.pipelines.accepted()[0].outcome, Outcome::Success(Outputs::new()));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_by_itself_in_time_keeps_its_outcome() {
    let bench = stopped_while_running(json!({"do": "finish when told"}), OnStop::Failure).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    assert_eq!(reason(&bench), "success");
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_answered_whatever_becomes_of_the_cleanup() {
    for (cleanup, says) in
        [("fail", "no permission"), ("hang", "it took longer than 5m"), ("panic", "panicked")]
    {
        let bench =
            stopped_while_running(json!({"do": "wait", "cleanup": cleanup}), OnStop::Failure).await;
        assert!(reason(&bench).contains(says), "{}", reason(&bench));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_whose_message_never_comes_is_noticed_by_the_watch() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
    let before = tokio::time::Instant::now();
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert!(before.elapsed() <= Duration::from_secs(31), "{:?}", before.elapsed());
    assert_eq!(reason(&bench), "the pipeline was stopped");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_gets_through_with_every_slot_busy() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    bench.stop(TOKEN, &json!({"do": "wait"}));
    *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
    until("both messages are deleted", || bench.queue.len() == 0).await;
    assert_eq!(reason(&bench), "the pipeline was stopped");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_deferred_step_is_cleaned_up_and_answered() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "defer"}));
    until("it is deferred", || {
        bench.disk.status(TOKEN).as_deref() == Some("deferred") && bench.queue.len() == 0
    })
    .await;
    *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
    until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
    assert_eq!(bench.log.entries(), ["run 1", "clean pipeline_stopped null"]);
    assert_eq!(reason(&bench), "the pipeline was stopped");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_comes_first_keeps_its_step_from_running() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.pipelines.open(TOKEN);
    let stop = bench.stop(TOKEN, &json!({}));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(bench.queue.receives(&stop), Some(1), "it is held, not bounced");
    assert!(bench.pipelines.accepted().is_empty(), "it is not answered blindly");
    bench.step(TOKEN, &json!({}));
    until("both messages are deleted", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["clean pipeline_stopped null"]);
    assert_eq!(reason(&bench), "the pipeline was stopped");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_a_step_that_is_run_elsewhere_is_held_until_that_one_has_answered() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.pipelines.open(TOKEN);
    bench.stop(TOKEN, &json!({}));
    sleep(Duration::from_secs(100)).await;
    bench.pipelines.stand(TOKEN, Standing::Closed(StepResult::Failed));
    until("the message is deleted", || bench.queue.len() == 0).await;
    assert!(bench.log.entries().is_empty());
    assert!(bench.pipelines.reports.lock().unwrap().is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_nobody_answers_is_answered_by_its_holder() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.pipelines.open(TOKEN);
    bench.stop(TOKEN, &json!({}));
    sleep(Duration::from_secs(290)).await;
    assert!(bench.pipelines.accepted().is_empty());
    until("the message is deleted", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["clean pipeline_stopped null"]);
    assert_eq!(reason(&bench), "the pipeline was stopped");
    // The Executing message arrives after all.
    bench.step(TOKEN, &json!({}));
    until("it is deleted unrun", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["clean pipeline_stopped null"]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_execution_ended_otherwise_is_cleaned_up_without_a_report() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    bench.pipelines.stand(TOKEN, Standing::Closed(StepResult::Stopped));
    *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Ended(StepResult::Failed);
    until("the message is deleted", || bench.queue.len() == 0).await;
    assert_eq!(
        bench.log.entries(),
        ["run 1", "told pipeline_stopped", "clean pipeline_stopped {\"job\":\"abcdefghij\"}"]
    );
    assert!(bench.pipelines.reports.lock().unwrap().is_empty());
    worker.drain().await;
}

#[test]
fn a_stop_outlives_the_worker_that_saw_it() {
    let arguments = json!({"do": "stubborn"});
    let (mut bench, ()) = run_and_crash(Bench::new(), async |bench| {
        let _worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": "stubborn"}));
        until("it runs", || bench.log.count("run 1") == 1).await;
        bench.stop(TOKEN, &json!({"do": "stubborn"}));
        until("it is flagged", || !bench.disk.body(TOKEN)["stop_requested"].is_null()).await;
    });
    bench.now += Duration::from_secs(60);
    bench.queue = std::sync::Arc::default();
    let (bench, ()) = run_and_crash(bench, async |bench| {
        // Only the Executing message comes back.
        bench.step(TOKEN, &arguments);
        let worker = bench.start().await;
        until("the message is deleted", || bench.queue.len() == 0).await;
        worker.drain().await;
    });
    assert_eq!(bench.log.entries(), ["run 1", "clean pipeline_stopped null"]);
    assert_eq!(reason(&bench), "the pipeline was stopped");
}

#[test]
fn the_stop_of_a_deferred_step_outlives_a_worker_that_dies_in_its_cleanup_although_no_message_is_left()
 {
    let (bench, ()) = run_and_crash(Bench::new(), async |bench| {
        let _worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": "defer", "cleanup": "hang"}));
        until("its message is gone", || bench.queue.len() == 0).await;
        *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
        until("it is cleaned up", || bench.log.count("clean pipeline_stopped null") == 1).await;
    });
    let (bench, ()) = run_and_crash(bench, async |bench| {
        let worker = bench.start().await;
        until("it is answered", || bench.pipelines.accepted().len() == 1).await;
        worker.drain().await;
    });
    assert_eq!(bench.log.count("clean pipeline_stopped null"), 2);
    assert_eq!(bench.log.count("run 1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_told_to_end_before_it_began_never_begins() {
    let mut bench = Bench::new();
    // One receive brings both.
    bench.step(TOKEN, &json!({}));
    bench.stop(TOKEN, &json!({}));
    let worker = bench.start().await;
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["clean pipeline_stopped null"]);
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn of_three_workers_with_steps_of_an_execution_one_watches_for_the_stop_of_all() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    bench.queue_config.concurrency = 1;
    let mut workers = Vec::new();
    for number in 1..=3 {
        workers.push(bench.start().await);
        bench.step(&format!("stopped00{number}"), &json!({"do": "wait"}));
        until("it runs", || bench.log.count("run 1") == number).await;
    }
    sleep(Duration::from_mins(5)).await;
    let before = *bench.pipelines.looked.lock().unwrap();
    sleep(Duration::from_mins(60)).await;
    let looks = *bench.pipelines.looked.lock().unwrap() - before;
    assert!((115..=165).contains(&looks), "{looks} looks in an hour at a stop_watch of 30s");
    *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
    until("all are told", || bench.log.count("told pipeline_stopped") == 3).await;
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 3);
    for worker in workers {
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn three_workers_with_many_executions_make_two_calls_a_second_and_use_them() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    bench.queue_config.concurrency = 40;
    let mut workers = Vec::new();
    for worker in 0..3 {
        workers.push(bench.start().await);
        for number in 0..40 {
            let token = format!("own{worker}0000{number:02}");
            bench.pipelines.open(&token);
            let arguments = json!({"do": "wait"});
            bench.queue.put(&body_of(&token, &token, &arguments, "Executing"));
        }
        until("all run", || bench.log.count("run 1") == 40 * (worker + 1)).await;
    }
    sleep(Duration::from_mins(5)).await;
    let before = *bench.pipelines.looked.lock().unwrap();
    sleep(Duration::from_mins(60)).await;
    let looks = *bench.pipelines.looked.lock().unwrap() - before;
    assert!((6_500..=7_300).contains(&looks), "{looks} looks in an hour");
    bench.go.notify_waiters();
    until("the queue is empty", || bench.queue.len() == 0).await;
    for worker in workers {
        worker.drain().await;
    }
}
