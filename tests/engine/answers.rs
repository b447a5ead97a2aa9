//! Steps that someone else answers: their own handler, which is to, or anyone who is faster.

use std::time::Duration;

use callbackd::engine::config::AnsweredBy;
use callbackd::outcome::Outcome;
use callbackd::seam::{ExecutionStanding, FaultKind, Standing, StepResult};
use serde_json::json;
use tokio::time::sleep;

use crate::bench::{Bench, run_and_crash, until};
use crate::world::{Disk, Trouble};

const TOKEN: &str = "abcdefghij";
const SUCCEEDED: Standing = Standing::Closed(StepResult::Succeeded);

/// A step is deferred, and its execution goes on.
async fn deferred(bench: &Bench) {
    bench.step(TOKEN, &json!({"do": "defer"}));
    until("it is deferred", || bench.disk.status(TOKEN).as_deref() == Some("deferred")).await;
}

#[tokio::test(start_paused = true)]
async fn a_deferred_step_that_is_answered_at_sagemaker_is_settled_while_its_execution_goes_on() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    deferred(&bench).await;
    sleep(Duration::from_hours(1)).await;
    let listed = *bench.pipelines.listed.lock().unwrap();
    assert!((10..=18).contains(&listed), "listed {listed} times at a stop_watch of 30s");
    assert_eq!(bench.asked(), 0, "an open step is not asked about by itself");
    bench.pipelines.stand(TOKEN, SUCCEEDED);
    bench.settled().await;
    let body = bench.disk.body(TOKEN);
    assert_eq!(
        (&body["ending"], &body["closed_as"]),
        (&json!("settled_elsewhere"), &json!("succeeded"))
    );
    assert_eq!(bench.log.entries(), ["run 1"], "nothing is cleaned up after");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_list_steps_a_deferred_one_waits_for_its_executions_end() {
    let mut bench = Bench::new();
    bench.pipelines.fail("list", 1_000, Trouble::Before(FaultKind::Denied));
    let worker = bench.start().await;
    deferred(&bench).await;
    bench.pipelines.stand(TOKEN, SUCCEEDED);
    sleep(Duration::from_hours(1)).await;
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("deferred"));
    bench.succeeds();
    bench.settled().await;
    worker.drain().await;
}

/// A bench whose handler answers its steps itself.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.handler_config.answers = AnsweredBy::Handler;
    bench
}

impl Bench {
    fn asked(&self) -> usize {
        *self.pipelines.asked.lock().unwrap()
    }

    /// The step has succeeded, and with it its execution.
    fn succeeds(&self) {
        self.pipelines.stand(TOKEN, SUCCEEDED);
        *self.pipelines.execution.lock().unwrap() = ExecutionStanding::Ended(StepResult::Succeeded);
    }

    async fn settled(&self) {
        until("it is settled", || self.disk.status(TOKEN).as_deref() == Some("settled")).await;
    }

    /// The handler has run once and answered; nothing was sent for it.
    fn was_answered_by_its_handler(&self) {
        assert_eq!(self.log.entries(), ["run 1"]);
        assert_eq!(self.disk.body(TOKEN)["ending"], "answered_by_handler");
        assert!(self.pipelines.reports.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_its_handler_has_answered_is_settled_as_its_run_ends() {
    for arguments in [json!({}), json!({"do": "defer"})] {
        let mut bench = bench();
        // Nothing else would ask.
        bench.queue_config.stop_watch = Duration::ZERO;
        let worker = bench.start().await;
        bench.step(TOKEN, &arguments);
        bench.pipelines.stand(TOKEN, SUCCEEDED);
        bench.settled().await;
        bench.was_answered_by_its_handler();
        assert_eq!(bench.asked(), 1);
        until("its message is deleted", || bench.queue.len() == 0).await;
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_handler_has_only_begun_is_waited_for_ever_more_slowly() {
    let mut bench = bench();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({}));
    until("its message is deleted", || bench.queue.len() == 0).await;
    sleep(Duration::from_hours(1)).await;
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("deferred"));
    let in_an_hour = bench.asked();
    assert!((12..=40).contains(&in_an_hour), "asked {in_an_hour} times");
    bench.pipelines.fail("step", 30, Trouble::Before(FaultKind::Transient));
    sleep(Duration::from_hours(1)).await;
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("deferred"), "no answer says nothing");
    // The execution goes on, so that the watch sees nothing of it.
    bench.pipelines.stand(TOKEN, SUCCEEDED);
    bench.settled().await;
    bench.was_answered_by_its_handler();
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_answers_fails_its_step_after_its_limit() {
    let mut bench = bench();
    bench.handler_config.deferred_limit = Duration::from_hours(12);
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({}));
    bench.settled().await;
    let Outcome::Failure(reason) = &bench.pipelines.accepted()[0].outcome else {
        panic!("succeeded")
    };
    assert_eq!(reason.as_str(), "the handler ended well but did not answer the step within 12h");
    assert_eq!(bench.log.entries(), ["run 1"]);
    worker.drain().await;
}

#[test]
fn the_wait_for_a_handlers_answer_outlives_the_worker_although_no_message_is_left() {
    for disk in [Disk::exclusive(), Disk::shared()] {
        let mut bench = bench();
        bench.disk = disk;
        bench.queue_config.stop_watch = Duration::ZERO;
        let (mut bench, ()) = run_and_crash(bench, async |bench| {
            let _worker = bench.start().await;
            bench.step(TOKEN, &json!({}));
            until("its message is deleted", || bench.queue.len() == 0).await;
        });
        bench.pipelines.stand(TOKEN, SUCCEEDED);
        bench.now += Duration::from_secs(60);
        let (bench, ()) = run_and_crash(bench, async |bench| {
            let worker = bench.start().await;
            bench.settled().await;
            worker.drain().await;
        });
        bench.was_answered_by_its_handler();
    }
}

#[test]
fn a_handler_that_has_answered_as_its_worker_dies_is_not_run_again() {
    let (mut bench, ()) = run_and_crash(bench(), async |bench| {
        let _worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": "stubborn"}));
        until("it runs", || bench.log.count("run 1") == 1).await;
    });
    bench.pipelines.stand(TOKEN, SUCCEEDED);
    bench.now += Duration::from_secs(60);
    let (bench, ()) = run_and_crash(bench, async |bench| {
        let worker = bench.start().await;
        until("its message is deleted", || bench.queue.len() == 0).await;
        worker.drain().await;
    });
    bench.was_answered_by_its_handler();
}

#[tokio::test(start_paused = true)]
async fn a_polling_handler_that_has_answered_is_not_called_again() {
    let mut bench = bench();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "again", "seconds": 60}));
    until("it has polled twice", || bench.log.count("run 1") == 2).await;
    bench.pipelines.stand(TOKEN, SUCCEEDED);
    bench.settled().await;
    assert_eq!(bench.log.entries(), ["run 1"; 2], "and not cleaned up after");
    assert_eq!(bench.disk.body(TOKEN)["ending"], "answered_by_handler");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_answered_its_step_goes_on_to_its_end() {
    let mut bench = bench();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "sleep", "seconds": 3600}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    bench.succeeds();
    sleep(Duration::from_mins(30)).await;
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("claimed"));
    bench.settled().await;
    bench.was_answered_by_its_handler();
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_step_succeeds_elsewhere_is_told_so_and_so_is_its_cleanup() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    bench.succeeds();
    until("the message is deleted", || bench.queue.len() == 0).await;
    let cleaned = "clean settled_elsewhere {\"job\":\"abcdefghij\"}";
    assert_eq!(bench.log.entries(), ["run 1", "told settled_elsewhere", cleaned]);
    assert_eq!(bench.disk.body(TOKEN)["ending"], "settled_elsewhere");
    assert!(bench.pipelines.reports.lock().unwrap().is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_succeeds_elsewhere_while_it_waits_for_its_next_poll_is_not_cleaned_up_after() {
    for arguments in [json!({"do": "again", "seconds": 36_000}), json!({"do": "error"})] {
        let mut bench = Bench::new();
        bench.handler_config.retry_delay = Duration::from_hours(10);
        bench.handler_config.retry_delay_max = Duration::from_hours(10);
        let worker = bench.start().await;
        bench.step(TOKEN, &arguments);
        until("it waits", || bench.disk.status(TOKEN).as_deref() == Some("waiting")).await;
        bench.succeeds();
        until("the message is deleted", || bench.queue.len() == 0).await;
        assert_eq!(bench.log.entries(), ["run 1"]);
        assert_eq!(bench.disk.body(TOKEN)["ending"], "settled_elsewhere");
        worker.drain().await;
    }
}
