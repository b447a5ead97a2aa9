//! Steps from their message to the delete.

use std::time::Duration;

use callbackd::outcome::{Outcome, Reason};
use callbackd::seam::{Queue, Standing};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::bench::{Bench, body, until};
use crate::world::Disk;

const TOKEN: &str = "abcdefghij";

#[tokio::test(start_paused = true)]
async fn a_step_is_run_reported_once_and_its_message_deleted() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({}));
    until("the queue is empty", || bench.queue.len() == 0).await;
    let accepted = bench.pipelines.accepted();
    assert_eq!(accepted.len(), 1);
    let Outcome::Success(outputs) = &accepted[0].outcome else { panic!("failed") };
    assert_eq!(outputs.get("answer"), Some("42"));
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("settled"));
    assert_eq!(bench.log.entries(), ["run 1"]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_settled_step_is_kept_for_the_retention_and_not_much_longer() {
    for retention in [Duration::from_secs(100), Duration::from_hours(24)] {
        let mut bench = Bench::new();
        bench.retention = retention;
        let worker = bench.start().await;
        bench.step(TOKEN, &json!({}));
        until("the queue is empty", || bench.queue.len() == 0).await;
        // It was settled at some time of the last two seconds.
        sleep(retention.saturating_sub(Duration::from_secs(2))).await;
        assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("settled"));
        sleep(Duration::from_hours(1).min(retention / 10) + Duration::from_secs(20)).await;
        assert_eq!(bench.disk.status(TOKEN), None);
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn failures_errors_and_panics_fail_the_step_with_their_reason() {
    for (act, reason, runs) in [
        ("fail", "no such table", 1),
        ("error", "gave up after 3 attempts: no route", 3),
        ("panic", "gave up after 3 attempts: the handler panicked: on purpose", 3),
    ] {
        let mut bench = Bench::new();
        let worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": act}));
        until("the queue is empty", || bench.queue.len() == 0).await;
        let Outcome::Failure(got) = &bench.pipelines.accepted()[0].outcome else {
            panic!("succeeded")
        };
        assert_eq!(got.as_str(), reason);
        assert_eq!(bench.log.entries().len(), runs);
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_of_many_visibility_timeouts_runs_once_and_its_message_is_received_once() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "sleep", "seconds": 3600}));
    sleep(Duration::from_secs(3500)).await;
    assert_eq!(bench.queue.receives(&id), Some(1));
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    // An hour at half of two minutes each.
    assert!(bench.queue.count("set_visibility") <= 61, "{}", bench.queue.count("set_visibility"));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn messages_held_together_are_extended_ten_to_a_call() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 50;
    let worker = bench.start().await;
    for n in 0..50 {
        bench.step(&format!("abcdefgh{n:02}"), &json!({"do": "sleep", "seconds": 3600}));
    }
    until("the queue is empty", || bench.queue.len() == 0).await;
    let calls = bench.queue.count("set_visibility");
    assert!(calls <= 60 * 6, "{calls} calls for 50 messages in an hour");
    assert_eq!(bench.pipelines.accepted().len(), 50);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn five_copies_of_a_message_run_one_handler() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "wait"}));
    for _ in 0..4 {
        bench.queue.put(&body(TOKEN, &json!({"do": "wait"}), "Executing"));
        // After its third receive it is replaced by a copy.
        if bench.queue.receives(&id).is_some() {
            bench.queue.duplicate(&id);
        }
        sleep(Duration::from_secs(1)).await;
    }
    until("it runs", || bench.log.count("run 1") == 1).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.queue.visible(), 0);
    bench.go.notify_one();
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_polled_holds_no_slot_and_keeps_its_checkpoint() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = 1;
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "again", "seconds": 300}));
    until("it was started", || !bench.log.entries().is_empty()).await;
    bench.step("other00000", &json!({}));
    until("the other is done", || bench.pipelines.accepted().len() == 1).await;
    assert_eq!(bench.pipelines.accepted()[0].token.as_str(), "other00000");
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.count("run 1"), 5);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_steps_run_than_the_queue_has_slots_and_all_of_them_run() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    for n in 0..30 {
        bench.step(&format!("abcdefgh{n:02}"), &json!({"do": "sleep", "seconds": 60}));
    }
    let monitor = worker.monitor.clone();
    let peak = tokio::spawn(async move {
        let mut peak = 0;
        loop {
            peak = peak.max(monitor.running());
            assert!(peak <= 4, "{peak}");
            sleep(Duration::from_secs(1)).await;
        }
    });
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert!(!peak.is_finished());
    peak.abort();
    assert_eq!(bench.pipelines.accepted().len(), 30);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_deferred_step_lets_its_message_go_and_fails_when_nobody_completes_it() {
    let mut bench = Bench::new();
    bench.handler_config.deferred_limit = Duration::from_hours(12);
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "defer"}));
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("deferred"));
    until("it is settled", || bench.disk.status(TOKEN).as_deref() == Some("settled")).await;
    let Outcome::Failure(reason) = &bench.pipelines.accepted()[0].outcome else {
        panic!("succeeded")
    };
    assert_eq!(reason.as_str(), "nobody completed the deferred step within 12h");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_deferred_step_has_its_key_and_an_answer_through_the_ledger_is_reported() {
    for disk in [Disk::exclusive(), Disk::shared()] {
        let mut bench = Bench::new();
        bench.disk = disk;
        let worker = bench.start().await;
        bench.step(TOKEN, &json!({"do": "defer", "key": "ORDER-17"}));
        until("it is deferred", || {
            bench.disk.status(TOKEN).as_deref() == Some("deferred") && bench.queue.len() == 0
        })
        .await;
        assert_eq!(bench.disk.body(TOKEN)["key"], "ORDER-17");
        let answer = Outcome::Failure(Reason::new("rejected by ada"));
        bench.answer(TOKEN, answer.clone()).await;
        // Within a lease, and not when the ledger is next looked through for what is due.
        let settled = || bench.disk.status(TOKEN).as_deref() == Some("settled");
        let noticed = timeout(Duration::from_mins(1), until("it is settled", settled)).await;
        assert!(noticed.is_ok(), "the answer is noticed");
        let accepted = bench.pipelines.accepted();
        assert_eq!((accepted.len(), &accepted[0].outcome), (1, &answer));
        assert_eq!(bench.log.entries(), ["run 1"], "neither run nor cleaned up after again");
        assert_eq!(bench.disk.body(TOKEN)["ending"], "failure");
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_forgotten_is_let_go_of_and_others_are_left_alone() {
    const OTHER: &str = "bbbbbbbbbb";
    for disk in [Disk::exclusive(), Disk::shared()] {
        let mut bench = Bench::new();
        bench.disk = disk;
        let worker = bench.start().await;
        for token in [TOKEN, OTHER] {
            bench.step(token, &json!({"do": "defer"}));
        }
        let deferred = || worker.monitor.queues()[0].deferred;
        until("both are deferred", || deferred() == 2).await;
        bench.forget(TOKEN).await;
        let let_go = timeout(Duration::from_mins(1), until("it is let go of", || deferred() == 1));
        assert!(let_go.await.is_ok(), "it is noticed");
        assert_eq!(bench.disk.status(TOKEN).as_deref(), Some("settled"));
        let answer = Outcome::Failure(Reason::new("rejected by ada"));
        bench.answer(OTHER, answer).await;
        until("it is settled", || bench.disk.status(OTHER).as_deref() == Some("settled")).await;
        assert_eq!(bench.pipelines.accepted().len(), 1, "nothing is said of the forgotten one");
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_key_cannot_be_one_fails() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "defer", "key": " "}));
    until("the queue is empty", || bench.queue.len() == 0).await;
    let Outcome::Failure(reason) = &bench.pipelines.accepted()[0].outcome else {
        panic!("succeeded")
    };
    assert!(reason.as_str().contains("a key is 1 to 256 characters"), "{reason}");
    assert_eq!(bench.log.entries(), ["run 1"], "no other attempt helps");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_beyond_its_time_limit_is_cleaned_up_and_fails() {
    let mut bench = Bench::new();
    bench.handler_config.time_limit = Duration::from_hours(2);
    let worker = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("the queue is empty", || bench.queue.len() == 0).await;
    let Outcome::Failure(reason) = &bench.pipelines.accepted()[0].outcome else {
        panic!("succeeded")
    };
    assert_eq!(reason.as_str(), "the time limit of 2h was reached");
    assert_eq!(
        bench.log.entries(),
        ["run 1", "told time_limit", "clean time_limit {\"job\":\"abcdefghij\"}"]
    );
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_or_is_foreign_is_never_deleted_and_does_no_harm() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    let foreign = body(TOKEN, &json!({}), "Executing");
    for text in [
        "garbage".to_owned(),
        format!("{{\"token\":\"abcdefghij\",\"x\":{}}}", "[".repeat(10_000)),
        foreign.replace(":123456789012:", ":999999999999:"),
        foreign.replace("us-east-1", "eu-west-1"),
    ] {
        bench.queue.put(&text);
    }
    bench.step("wellformed", &json!({}));
    until("the readable one is done", || bench.pipelines.accepted().len() == 1).await;
    sleep(Duration::from_hours(2)).await;
    assert_eq!(bench.queue.len(), 4);
    assert_eq!(bench.log.entries(), ["run 1"]);
    assert!(
        bench.queue.count("receive") < 500,
        "{} receives in two hours",
        bench.queue.count("receive")
    );
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_step_that_is_closed_at_sagemaker_starts_no_work() {
    let mut bench = Bench::new();
    bench.step(TOKEN, &json!({}));
    let id = bench.step("redelivery", &json!({}));
    bench.pipelines.stand("redelivery", Standing::Closed(callbackd::seam::StepResult::Succeeded));
    // Another worker received it before, and died.
    bench.queue.receive(10, Duration::ZERO, Duration::from_secs(30)).await.expect("messages");
    let worker = bench.start().await;
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    assert_eq!(bench.queue.receives(&id), None);
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nears_the_twelve_hours_is_replaced_and_the_job_goes_on() {
    let mut bench = Bench::new();
    bench.handler_config.time_limit = Duration::from_hours(48);
    let worker = bench.start().await;
    let first = bench.step(TOKEN, &json!({"do": "sleep", "seconds": 40 * 3600}));
    sleep(Duration::from_hours(13)).await;
    assert_eq!(bench.queue.receives(&first), None, "the old message is deleted");
    assert_eq!(bench.queue.len(), 1, "the fresh copy is there");
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["run 1"]);
    assert_eq!(bench.queue.count("send"), 3);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_the_ledger_has_no_room_for_is_refused_and_the_step_goes_on() {
    let mut bench = Bench::new();
    let arguments = json!({"do": "save too much"});
    bench.disk = Disk::small(100);
    let worker = bench.start().await;
    bench.step(TOKEN, &arguments);
    until("the queue is empty", || bench.queue.len() == 0).await;
    let entries = bench.log.entries();
    let [run, refused] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(run, "run 1");
    assert!(refused.contains("the checkpoint has 102 bytes"), "{refused}");
    assert!(matches!(bench.pipelines.accepted()[0].outcome, Outcome::Success(_)));
    worker.drain().await;
}
