//! Handlers with limits, handlers that keep failing, and queues that are paused.

use std::time::Duration;

use callbackd::engine::Unpolled;
use callbackd::engine::config::{HandlerConfig, QueueConfig};
use callbackd::outcome::Outcome;
use callbackd::seam::ExecutionStanding;
use callbackd::step::QueueUrl;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, Worker, body_of, run_and_crash, until};
use crate::world::{Disk, FakeQueue, QUEUE_URL};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

fn token(number: usize) -> String {
    format!("limit{number:05}")
}

/// A handler with these limits and one attempt for each step.
fn limited(limits: &Value) -> HandlerConfig {
    let mut config = limits.clone();
    config["type"] = "scripted".into();
    config["max_attempts"] = config["max_attempts"].as_u64().unwrap_or(1).into();
    serde_json::from_value(config).expect("config")
}

/// A bench whose handler `h` has these limits, and `other` has none.
fn bench(limits: &Value) -> Bench {
    let mut bench = Bench::new();
    bench.handler_config = limited(&json!({}));
    bench.own_config = Some(limited(limits));
    bench
}

/// Steps with `"to": "other"` go to the handler `other`.
fn routed(concurrency: usize) -> QueueConfig {
    let route = json!({"arguments": {"to": "other"}, "handler": "other"});
    let config =
        json!({"url": QUEUE_URL, "handler": "h", "concurrency": concurrency, "routes": [route]});
    serde_json::from_value(config).expect("config")
}

fn url() -> QueueUrl {
    QUEUE_URL.parse().expect("a URL")
}

/// A second queue of the handler `h`, which looks at what waits as rarely as the first.
fn another_queue(bench: &mut Bench) {
    let (url, watch) = (QUEUE_URL.replace("callbacks", "others"), bench.queue_config.stop_watch);
    let watch = callbackd::duration::text(watch);
    let other = json!({"url": url, "handler": "h", "stop_watch": watch});
    let other: QueueConfig = serde_json::from_value(other).expect("config");
    bench.others.push((other, std::sync::Arc::default()));
}

fn received(bench: &Bench, ids: &[String]) -> usize {
    ids.iter().filter(|id| bench.queue.receives(id).is_some_and(|receives| receives > 0)).count()
}

fn is_tripped(worker: &Worker) -> bool {
    worker
        .monitor
        .breakers()
        .iter()
        .any(|(_, tripped)| tripped.as_ref().is_some_and(|tripped| tripped.pauses_for.is_some()))
}

fn unpolled(worker: &Worker) -> Option<Unpolled> {
    worker.monitor.queues()[0].unpolled
}

fn failures(bench: &Bench) -> usize {
    let failed = |report: &&crate::world::Report| matches!(report.outcome, Outcome::Failure(_));
    bench.pipelines.accepted().iter().filter(failed).count()
}

#[tokio::test(start_paused = true)]
async fn no_more_of_a_handler_run_than_it_may_in_all_queues_and_no_more_is_taken() {
    let mut bench = bench(&json!({"max_running": 2}));
    bench.queue_config.concurrency = 16;
    // Without a look at what waits for longer.
    bench.queue_config.stop_watch = Duration::from_hours(12);
    another_queue(&mut bench);
    let worker = bench.start().await;
    let held = json!({"do": "sleep", "seconds": 600});
    let ids: Vec<String> = (0..20).map(|n| bench.step(&token(n), &held)).collect();
    until("two run", || bench.log.count("run 1") == 2).await;
    sleep(5 * MINUTE).await;
    assert_eq!((received(&bench, &ids), worker.monitor.running()), (2, 2));
    let others: &FakeQueue = &bench.others[0].1;
    for number in 20..30 {
        bench.pipelines.open(&token(number));
        others.put(&body_of("e", &token(number), &json!({}), "Executing"));
    }
    sleep(4 * MINUTE).await;
    let (here, there) = (worker.monitor.queues()[0].held, worker.monitor.queues()[1].held);
    // The idle poll of the other queue was open when the limit was reached.
    assert!(here == 2 && there <= 2, "{here} and {there} are held");
    assert_eq!(bench.log.count("run 1"), 2);
    until("all are done", || bench.queue.len() == 0 && others.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 30);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_at_its_limit_holds_up_no_other_of_its_queue() {
    let mut bench = bench(&json!({"max_running": 1}));
    bench.queue_config = routed(2);
    let worker = bench.start().await;
    for number in 0..6 {
        bench.step(&token(number), &json!({"do": "sleep", "seconds": 3600}));
    }
    until("the rest is held", || worker.monitor.queues()[0].limited == 5).await;
    assert_eq!(worker.monitor.running(), 1, "those that wait hold no slot");
    let began = Instant::now();
    for number in 6..46 {
        bench.step(&token(number), &json!({"to": "other"}));
    }
    until("the others are done", || bench.pipelines.accepted().len() == 40).await;
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    assert_eq!(bench.log.count("run 1"), 41);
    // With many waiting no more are taken.
    let more: Vec<String> =
        (46..86).map(|n| bench.step(&token(n), &json!({"do": "sleep", "seconds": 1}))).collect();
    sleep(10 * MINUTE).await;
    let taken = received(&bench, &more);
    assert!((5..=15).contains(&taken), "{taken} were taken");
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 86);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_waits_for_a_slot_leaves_its_handler_to_another_queue() {
    let mut bench = bench(&json!({"max_running": 1}));
    bench.queue_config = routed(1);
    another_queue(&mut bench);
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "sleep", "seconds": 36_000, "to": "other"}));
    until("the only slot is taken", || worker.monitor.running() == 1).await;
    bench.step(&token(1), &json!({}));
    until("one waits for it", || worker.monitor.queues()[0].queued == [1, 0]).await;
    bench.pipelines.open(&token(2));
    bench.others[0].1.put(&body_of("e", &token(2), &json!({}), "Executing"));
    let began = Instant::now();
    until("the other queue's is done", || bench.pipelines.accepted().len() == 1).await;
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    until("the queue is empty", || bench.queue.len() == 0).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn with_a_handler_at_its_limit_the_stop_of_a_step_that_waits_is_answered() {
    let mut bench = bench(&json!({"max_running": 1}));
    bench.queue_config.concurrency = 16;
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "sleep", "seconds": 36_000}));
    until("one runs", || bench.log.count("run 1") == 1).await;
    let ids: Vec<String> = (1..31).map(|n| bench.step(&token(n), &json!({}))).collect();
    sleep(10 * MINUTE).await;
    assert_eq!(received(&bench, &ids), 10, "some are looked at ahead");
    assert_eq!((worker.monitor.queues()[0].limited, worker.monitor.running()), (10, 1));
    let began = Instant::now();
    bench.stop(&token(1), &json!({}));
    *bench.pipelines.execution.lock().unwrap() = ExecutionStanding::Stopping;
    until("all that wait are answered", || failures(&bench) >= 10).await;
    assert!(began.elapsed() <= 35 * SECOND, "{:?}", began.elapsed());
    assert_eq!(bench.log.count("run 1"), 1);
    worker.drain_hurried().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_waits_long_for_a_limit_is_passed_on_where_workers_share_a_ledger() {
    let mut bench = bench(&json!({"max_running": 1}));
    bench.disk = Disk::shared();
    // So that it does not look ahead at the moment when they are passed on.
    bench.queue_config.stop_watch = MINUTE;
    let full = bench.start().await;
    bench.step(&token(0), &json!({"do": "sleep", "seconds": 36_000}));
    until("one runs", || bench.log.count("run 1") == 1).await;
    for number in 1..6 {
        bench.step(&token(number), &json!({}));
    }
    until("the others wait", || full.monitor.queues()[0].limited == 5).await;
    bench.own_config = None;
    let other = bench.start().await;
    let began = Instant::now();
    until("they are done", || bench.pipelines.accepted().len() == 5).await;
    assert!(began.elapsed() < 5 * MINUTE, "{:?}", began.elapsed());
    assert_eq!(full.monitor.running(), 1);
    tokio::join!(full.drain_hurried(), other.drain());
}

#[tokio::test(start_paused = true)]
async fn a_rate_bounds_the_starts_of_every_window_and_not_what_goes_on() {
    let mut bench = bench(&json!({"rate": "3/1m", "max_attempts": 2, "retry_delay": "1s"}));
    bench.queue_config.concurrency = 16;
    let worker = bench.start().await;
    let began = Instant::now();
    for number in 0..8 {
        bench.step(&token(number), &json!({"do": "again", "seconds": 5}));
    }
    bench.step(&token(8), &json!({"do": "error"}));
    let started = || bench.pipelines.accepted().len();
    sleep(50 * SECOND).await;
    // Each polls its job four times.
    assert_eq!((started(), bench.log.count("run 1")), (3, 12));
    sleep(MINUTE).await;
    assert_eq!((started(), bench.log.count("run 1")), (6, 24));
    until("the queue is empty", || bench.queue.len() == 0).await;
    // Nine first attempts and a second one: four windows.
    assert!(began.elapsed() >= 3 * MINUTE && began.elapsed() < 4 * MINUTE, "{:?}", began.elapsed());
    assert_eq!((bench.log.count("run 1"), bench.log.count("run 2")), (33, 1));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_everything_does_not_burn_through_its_steps() {
    let mut bench = bench(&json!({"breaker": {"failures": 5, "pause": "5m"}}));
    bench.queue_config.concurrency = 2;
    let worker = bench.start().await;
    let ids: Vec<String> = (0..60).map(|n| bench.step(&token(n), &json!({"do": "fail"}))).collect();
    until("it has tripped", || is_tripped(&worker)).await;
    assert_eq!(unpolled(&worker), Some(Unpolled::ByBreaker));
    sleep(4 * MINUTE).await;
    let (failed, taken) = (failures(&bench), received(&bench, &ids));
    // What ran at that moment failed too; what was received then waits.
    assert!((5..=6).contains(&failed) && taken <= failed + 4, "{failed} failed, {taken} taken");
    sleep(Duration::from_mins(56)).await;
    let burnt = failures(&bench) - failed;
    assert!((10..=12).contains(&burnt), "one at a time is tried: {burnt} in an hour");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn one_step_that_succeeds_ends_it_and_those_that_wait_keep_their_attempts() {
    let limits = json!({"breaker": {"failures": 3, "pause": "5m"}, "max_attempts": 3});
    let mut bench = bench(&limits);
    bench.queue_config.concurrency = 4;
    let worker = bench.start().await;
    // Fails until the machine is well, as a service would.
    for number in 0..40 {
        bench.step(&token(number), &json!({"do": "error until well"}));
    }
    until("it has tripped", || is_tripped(&worker)).await;
    sleep(4 * MINUTE).await;
    assert!(bench.pipelines.accepted().is_empty(), "no step is used up");
    let runs = bench.log.entries().len();
    assert!(runs <= 7, "{runs} runs");
    bench.well.store(true, std::sync::atomic::Ordering::SeqCst);
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!((bench.pipelines.accepted().len(), failures(&bench)), (40, 0));
    assert_eq!(worker.monitor.breakers(), [("h".to_owned(), None)]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn while_half_open_one_step_at_a_time_runs() {
    let mut bench = bench(&json!({"breaker": {"failures": 2, "pause": "5m"}}));
    let worker = bench.start().await;
    for number in 0..2 {
        bench.step(&token(number), &json!({"do": "fail"}));
    }
    until("it has tripped", || is_tripped(&worker)).await;
    for number in 2..12 {
        bench.step(&token(number), &json!({"do": "sleep", "seconds": 60}));
    }
    sleep(5 * MINUTE + 30 * SECOND).await;
    assert_eq!((worker.monitor.running(), bench.log.count("run 1")), (1, 3));
    assert!(!is_tripped(&worker), "it is tried, not paused");
    sleep(MINUTE).await;
    assert_eq!(worker.monitor.running(), 4, "one has succeeded");
    until("the queue is empty", || bench.queue.len() == 0).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_step_stops_no_other_and_a_success_resets_the_count() {
    let limits =
        json!({"breaker": {"failures": 2, "pause": "5m"}, "max_attempts": 9, "retry_delay": "1s"});
    let mut bench = bench(&limits);
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "error"}));
    until("it is given up", || failures(&bench) == 1).await;
    assert_eq!(worker.monitor.breakers(), [("h".to_owned(), None)]);
    bench.step(&token(1), &json!({}));
    until("one succeeds", || bench.pipelines.accepted().len() == 2).await;
    bench.step(&token(2), &json!({"do": "fail"}));
    until("one fails", || failures(&bench) == 2).await;
    assert_eq!(worker.monitor.breakers(), [("h".to_owned(), None)]);
    bench.step(&token(3), &json!({"do": "fail"}));
    until("it has tripped", || is_tripped(&worker)).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn runs_that_reach_their_time_limit_count_and_stopped_ones_do_not() {
    let limits = json!({"breaker": {"failures": 2, "pause": "5m"}, "time_limit": "1m"});
    let mut bench = bench(&limits);
    let worker = bench.start().await;
    for number in 0..3 {
        bench.step(&token(number), &json!({"do": "wait"}));
    }
    until("they run", || bench.log.count("run 1") == 3).await;
    for number in 0..3 {
        bench.stop(&token(number), &json!({}));
    }
    until("they are answered", || failures(&bench) == 3).await;
    assert_eq!(worker.monitor.breakers(), [("h".to_owned(), None)]);
    for number in 3..5 {
        bench.step(&token(number), &json!({"do": "sleep", "seconds": 600}));
    }
    until("it has tripped", || is_tripped(&worker)).await;
    until("they are answered", || failures(&bench) == 5).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_ends_the_pause_of_a_handler() {
    let mut bench = bench(&json!({"breaker": {"failures": 2, "pause": "1h"}}));
    let worker = bench.start().await;
    for number in 0..2 {
        bench.step(&token(number), &json!({"do": "fail"}));
    }
    until("it has tripped", || is_tripped(&worker)).await;
    bench.step(&token(2), &json!({}));
    sleep(MINUTE).await;
    assert_eq!(bench.pipelines.accepted().len(), 2);
    let began = Instant::now();
    worker.intake.close_breakers(&url());
    until("it is done", || bench.pipelines.accepted().len() == 3).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_from_a_paused_queue_though_a_poll_of_it_is_open() {
    let mut bench = bench(&json!({}));
    let worker = bench.start().await;
    until("a poll is open", || bench.queue.count("receive") == 1).await;
    worker.intake.pause_only(&[url()]);
    let id = bench.step(&token(0), &json!({}));
    sleep(10 * MINUTE).await;
    assert_eq!(unpolled(&worker), Some(Unpolled::ByOrder));
    assert_eq!((bench.queue.count("receive"), bench.queue.visible()), (1, 1));
    assert_eq!(bench.queue.receives(&id), Some(1), "the open poll gave it back");
    assert!(bench.log.entries().is_empty());
    worker.intake.pause_only(&[]);
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn steps_of_a_paused_queue_go_on_and_their_stops_are_answered() {
    let mut bench = bench(&json!({}));
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "sleep", "seconds": 600}));
    bench.step(&token(1), &json!({"do": "again", "seconds": 60}));
    bench.pipelines.open(&token(2));
    bench.queue.put(&body_of("b", &token(2), &json!({"do": "wait"}), "Executing"));
    until("all run", || bench.log.count("run 1") == 3).await;
    worker.intake.pause_only(&[url()]);
    let stopping = ("b".to_owned(), ExecutionStanding::Stopping);
    bench.pipelines.executions.lock().unwrap().extend([stopping]);
    let began = Instant::now();
    until("the stop is answered", || failures(&bench) == 1).await;
    assert!(began.elapsed() <= 31 * SECOND, "within the stop watch: {:?}", began.elapsed());
    until("the others have ended", || bench.pipelines.accepted().len() == 3).await;
    assert_eq!((unpolled(&worker), bench.queue.len()), (Some(Unpolled::ByOrder), 0));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_message_that_an_open_poll_brings_is_taken() {
    let mut bench = bench(&json!({}));
    let worker = bench.start().await;
    bench.step(&token(0), &json!({"do": "wait"}));
    until("it runs", || bench.log.count("run 1") == 1).await;
    sleep(SECOND).await;
    worker.intake.pause_only(&[url()]);
    let began = Instant::now();
    bench.stop(&token(0), &json!({}));
    until("it is answered", || failures(&bench) == 1).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    worker.drain().await;
}

#[test]
fn a_queue_that_is_paused_at_the_start_is_not_polled_and_its_steps_go_on_from_the_ledger() {
    let (bench, ()) = run_and_crash(bench(&json!({})), async |bench| {
        let _worker = bench.start().await;
        bench.step(&token(0), &json!({"do": "again", "seconds": 60}));
        until("it has begun", || bench.log.count("run 1") == 1).await;
    });
    let _ = run_and_crash(bench, async |bench| {
        bench.paused = vec![url()];
        bench.now += jiff::SignedDuration::from_secs(60);
        let received = bench.queue.count("receive");
        let worker = bench.start().await;
        let id = bench.step(&token(1), &json!({}));
        until("the step of before is answered", || bench.pipelines.accepted().len() == 1).await;
        sleep(10 * MINUTE).await;
        assert_eq!((bench.queue.count("receive"), bench.queue.receives(&id)), (received, Some(0)));
        worker.intake.pause_only(&[]);
        until("the other is", || bench.pipelines.accepted().len() == 2).await;
        worker.drain().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_paused_starts_nothing_and_what_runs_goes_on() {
    let mut bench = bench(&json!({}));
    bench.queue_config = routed(4);
    let worker = bench.start().await;
    let paused = || worker.monitor.held().contains(&("h".to_owned(), true));
    bench.step(&token(0), &json!({"do": "wait"}));
    bench.step(&token(1), &json!({"do": "again", "seconds": 60}));
    until("both run", || bench.log.count("run 1") == 2).await;
    worker.intake.hold_only(&["h".to_owned()]);
    assert!(paused());
    bench.step(&token(2), &json!({}));
    bench.step(&token(3), &json!({"to": "other"}));
    until("the other handler's is answered", || bench.pipelines.accepted().len() == 1).await;
    sleep(10 * MINUTE).await;
    assert_eq!(bench.log.count("run 1"), 3, "nor is the job looked at again");
    assert_eq!(unpolled(&worker), None, "for the other handler");
    let refused = worker.retries.retry(&token(1).parse().expect("a token")).await;
    assert!(refused.expect_err("it is paused").to_string().contains("`h` is paused"));
    bench.go.notify_one();
    until("what runs ends", || bench.pipelines.accepted().len() == 2).await;
    bench.stop(&token(2), &json!({}));
    until("a stop is answered", || failures(&bench) == 1).await;

    worker.intake.hold_only(&[]);
    assert!(!paused());
    until("the queue is empty", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 4);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_whose_only_handler_is_paused_from_the_start_is_not_polled_and_loses_no_step() {
    let mut bench = bench(&json!({}));
    bench.queue_config.stop_watch = Duration::from_hours(12);
    bench.paused_handlers = vec!["h".to_owned(), "no such handler".to_owned()];
    let worker = bench.start().await;
    let ids: Vec<String> = (0..5).map(|n| bench.step(&token(n), &json!({}))).collect();
    sleep(10 * MINUTE).await;
    assert_eq!((received(&bench, &ids), bench.log.count("run 1")), (0, 0));
    assert_eq!(unpolled(&worker), Some(Unpolled::ByOrder));
    worker.intake.hold_only(&[]);
    assert_eq!(unpolled(&worker), None);
    until("all are answered", || bench.queue.len() == 0).await;
    assert_eq!(bench.pipelines.accepted().len(), 5);
    worker.drain().await;
}
