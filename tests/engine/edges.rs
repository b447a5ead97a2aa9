//! Problems of the ledger, of a driver, or of a crowd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callbackd::engine::config::{QueueConfig, Verify};
use callbackd::seam::{ExecutionStanding, FaultKind, Observation, Observer, Standing, StepResult};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, body, body_of, until};
use crate::world::{QUEUE_URL, Trouble};

const TOKEN: &str = "abcdefghij";

#[tokio::test(start_paused = true)]
async fn a_stop_and_a_time_limit_are_told_to_the_run_while_the_ledger_does_not_answer() {
    for stopped in [true, false] {
        let mut bench = Bench::new();
        bench.handler_config.time_limit = Duration::from_mins(2);
        let worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": "wait"}));
        until("its checkpoint is saved", || {
            bench.disk.status(TOKEN).is_some() && bench.log.count("run 1") == 1
        })
        .await;
        sleep(Duration::from_secs(1)).await;
        *bench.disk.hanging.lock().unwrap() = true;
        if stopped {
            bench.stop(TOKEN, &json!({"do": "wait"}));
        }
        let told = if stopped { "told pipeline_stopped" } else { "told time_limit" };
        until("it is told", || bench.log.count(told) == 1).await;
        *bench.disk.hanging.lock().unwrap() = false;
        worker.drain_hurried().await;
    }
}

/// Panics when the first step is started.
#[derive(Default)]
struct Panics(AtomicUsize);

impl Observer for Panics {
    fn observe(&self, observation: Observation<'_>) {
        let starts = matches!(observation, Observation::StepStarted { .. });
        assert!(!(starts && self.0.fetch_add(1, Ordering::SeqCst) == 0), "on purpose");
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_holds_up_neither_its_step_nor_any_other() {
    let mut bench = Bench::new();
    bench.observer = Arc::new(Panics::default());
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({}));
    until("its driver is gone", || worker.monitor.steps() == 0).await;
    bench.step("klmnopqrst", &json!({}));
    until("the other is answered", || bench.pipelines.accepted().len() == 1).await;
    until("it is taken up again", || bench.pipelines.accepted().len() == 2).await;
    until("the queue is empty", || bench.queue.len() == 0).await;
    worker.drain().await;
}

/// A polling job's step, whose message is gone while no worker runs.
async fn waits_without_its_message(bench: &mut Bench) {
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "again", "seconds": 1200}));
    until("it waits", || bench.disk.status(TOKEN).as_deref() == Some("waiting")).await;
    worker.drain().await;
    bench.queue.lose(&id);
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_message_is_gone_goes_on_from_the_ledger_once_sagemaker_was_asked() {
    let mut bench = Bench::new();
    waits_without_its_message(&mut bench).await;
    let asked = *bench.pipelines.asked.lock().unwrap();
    let worker = bench.start().await;
    until("it is answered", || bench.pipelines.accepted().len() == 1).await;
    assert!(*bench.pipelines.asked.lock().unwrap() > asked, "SageMaker was asked first");
    assert_eq!(bench.log.count("run 1"), 4, "the job was looked at until it was done");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_of_another_execution_is_not_the_one_that_a_step_waits_for() {
    for stopped in [false, true] {
        let mut bench = Bench::new();
        waits_without_its_message(&mut bench).await;
        let worker = bench.start().await;
        sleep(Duration::from_secs(1)).await;
        let refused = bench.queue.count("set_visibility") + 1;
        bench.queue.put(&body_of("forged", TOKEN, &json!({}), "Executing"));
        until("it is refused", || bench.queue.count("set_visibility") == refused).await;
        let began = Instant::now();
        if stopped {
            let url = QUEUE_URL.parse().ok();
            bench.pipelines.stand(TOKEN, Standing::Open { stopping: true, queue_url: url });
            *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
        }
        until("the step is answered", || bench.pipelines.accepted().len() == 1).await;
        assert!(!stopped || began.elapsed() < Duration::from_secs(35), "the watch has noticed it");
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_message_and_whose_last_answer_of_the_ledger_are_lost_goes_on() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "error after a sleep", "seconds": 60}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    bench.queue.lose(&id);
    *bench.disk.mute.lock().unwrap() = true;
    until("its end is recorded", || bench.disk.status(TOKEN).as_deref() == Some("waiting")).await;
    *bench.disk.mute.lock().unwrap() = false;
    until("it is answered", || bench.pipelines.accepted().len() == 1).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn beside_other_workers_a_step_without_its_message_is_not_started() {
    let mut bench = Bench::new();
    bench.queue_config.exclusive = false;
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "again", "seconds": 60}));
    until("it waits", || bench.disk.status(TOKEN).as_deref() == Some("waiting")).await;
    worker.drain().await;
    bench.queue.lose(&id);
    let worker = bench.start().await;
    until("it is counted", || worker.monitor.queues()[0].without_message == 1).await;
    sleep(Duration::from_hours(2)).await;
    assert_eq!(bench.log.count("run 1"), 1);
    worker.drain().await;
}

/// Of two steps that wait for nobody, the message of one is gone and it was answered like this;
/// the message of the other is gone too, and SageMaker still waits for it. Returns how often the
/// other one was started by the next worker.
async fn starts_beside_an_answered_step(
    step: StepResult,
    execution: ExecutionStanding,
    message_comes: bool,
) -> usize {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    let again = json!({"do": "again", "seconds": 60});
    bench.pipelines.open(TOKEN);
    let first = body_of("first", TOKEN, &again, "Executing");
    let ids = [bench.queue.put(&first), bench.step("otherToken", &again)];
    let waiting = |token| bench.disk.status(token).as_deref() == Some("waiting");
    until("both wait", || waiting(TOKEN) && waiting("otherToken")).await;
    worker.drain().await;
    for id in &ids {
        bench.queue.lose(id);
    }
    bench.pipelines.stand(TOKEN, Standing::Closed(step));
    bench.pipelines.executions.lock().unwrap().insert("first".to_owned(), execution);
    let runs = bench.log.count("run 1");
    let worker = bench.start().await;
    until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
    if message_comes {
        bench.queue.put(&first);
    }
    sleep(Duration::from_hours(1)).await;
    let missing = worker.monitor.queues()[0].without_message;
    worker.drain().await;
    let starts = bench.log.count("run 1") - runs;
    assert_eq!(missing, usize::from(starts == 0), "what is not resumed is counted");
    starts
}

#[tokio::test(start_paused = true)]
async fn a_step_that_another_consumer_has_answered_ends_the_resuming_of_others() {
    let ended = ExecutionStanding::Ended(StepResult::Succeeded);
    assert_eq!(starts_beside_an_answered_step(StepResult::Succeeded, ended, false).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_another_end_than_an_answer_of_another_consumer_ends_no_resuming() {
    let ended = ExecutionStanding::Ended;
    for (step, execution, message_comes) in [
        // The handler, its job or an operator has answered; none of them deletes the message.
        (StepResult::Succeeded, ended(StepResult::Succeeded), true),
        (StepResult::Succeeded, ended(StepResult::Stopped), false),
        (StepResult::Failed, ended(StepResult::Failed), false),
        (StepResult::Stopped, ended(StepResult::Stopped), false),
    ] {
        let starts = starts_beside_an_answered_step(step, execution, message_comes).await;
        assert!(starts > 0, "{step:?} {execution:?} {message_comes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_asks_for_another_try_during_the_drain_is_not_started_again() {
    for arguments in [
        json!({"do": "again after a sleep", "seconds": 5}),
        json!({"do": "error after a sleep", "seconds": 5}),
    ] {
        let mut bench = Bench::new();
        bench.handler_config.retry_delay = Duration::from_millis(10);
        bench.handler_config.retry_delay_max = Duration::from_millis(10);
        let worker = bench.start().await;
        bench.step(TOKEN, &arguments);
        until("it runs", || bench.log.count("run 1") == 1).await;
        worker.drain().await;
        assert_eq!(bench.log.entries(), ["run 1"], "{arguments}");
        assert_eq!(bench.queue.visible(), 1, "its message is there for whoever comes next");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receive_brings_as_many_messages_as_there_is_room_for() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 10;
    let worker = bench.start().await;
    sleep(Duration::from_secs(1)).await;
    let before = bench.queue.count("receive");
    for n in 0..100 {
        bench.step(&format!("token{n:05}"), &json!({"do": "sleep", "seconds": 1}));
    }
    until("all are answered", || bench.pipelines.accepted().len() == 100).await;
    let receives = bench.queue.count("receive") - before;
    assert!(receives <= 25, "{receives} receives for 100 steps");
    worker.drain().await;
}

/// Both would come back together after each refusal.
#[tokio::test(start_paused = true)]
async fn a_copy_on_another_queue_does_not_keep_a_step_from_being_accepted() {
    let mut bench = Bench::new();
    bench.queue_config.verify = Verify::Always;
    let right = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-right".parse();
    let right = QueueConfig { url: right.expect("a queue"), ..bench.queue_config.clone() };
    let queue_url = Some(right.url.clone());
    bench.others.push((right, Arc::default()));
    bench.pipelines.stand(TOKEN, Standing::Open { stopping: false, queue_url });
    let message = body(TOKEN, &json!({"do": "succeed"}), "Executing");
    bench.queue.put(&message);
    bench.others[0].1.put(&message);
    // Both have arrived when SageMaker answers.
    bench.pipelines.fail("step", 3, Trouble::Before(FaultKind::Transient));
    let began = Instant::now();
    let worker = bench.start().await;
    until("the step is answered", || bench.pipelines.accepted().len() == 1).await;
    assert!(began.elapsed() < bench.queue_config.visibility_timeout, "{:?}", began.elapsed());
    until("its messages are deleted", || bench.queue.len() + bench.others[0].1.len() == 0).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_a_message_reaches_the_ledger_and_the_handler_and_a_bad_one_costs_nothing() {
    const HEADER: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8";
    let mut bench = Bench::new();
    let worker = bench.start().await;
    for (token, header) in [(TOKEN, HEADER), ("klmnopqrst", "Root=1-5759e988-bd;x=\n\u{1b}[2J")] {
        bench.pipelines.open(token);
        bench.queue.put_in(Some(header), &body(token, &json!({"do": "succeed"}), "Executing"));
    }
    until("both are answered", || bench.pipelines.accepted().len() == 2).await;
    until("both are settled", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.count("trace 5759e988bd862e3fe1be46a994272793"), 1);
    assert_eq!(bench.disk.body(TOKEN)["trace"], HEADER);
    assert_eq!(bench.disk.body("klmnopqrst").get("trace"), None);
    worker.drain_hurried().await;
}
