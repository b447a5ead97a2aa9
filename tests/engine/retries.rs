//! Steps that an operator wants tried again at once.

use std::time::Duration;

use callbackd::engine::Unretried;
use callbackd::engine::config::HandlerConfig;
use callbackd::lifecycle::{Activity, NotRetried, WorkerId};
use serde_json::json;
use tokio::time::Instant;

use crate::bench::{Bench, Worker, until};
use crate::world::Disk;

const TOKEN: &str = "abcdefghij";

/// A handler whose steps wait for ten hours between two attempts.
fn patient(breaker: bool) -> HandlerConfig {
    let mut config = json!({"type": "scripted", "retry_delay": "10h", "retry_delay_max": "10h"});
    if breaker {
        config["breaker"] = json!({"failures": 1, "pause": "1h"});
    }
    serde_json::from_value(config).expect("config")
}

async fn retry(worker: &Worker) -> Result<(), Unretried> {
    worker.retries.retry(&TOKEN.parse().expect("a token")).await
}

/// With the id of the step's message.
async fn waiting(bench: &mut Bench) -> (Worker, String) {
    let worker = bench.start().await;
    let id = bench.step(TOKEN, &json!({"do": "error until well"}));
    until("it waits", || bench.disk.status(TOKEN).as_deref() == Some("waiting")).await;
    (worker, id)
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tried_again_without_waiting_and_a_job_is_looked_at_without_an_attempt() {
    for (arguments, runs) in [
        (json!({"do": "error"}), ["run 1", "run 2", "run 3"]),
        (json!({"do": "again", "seconds": 36_000}), ["run 1", "run 1", "run 1"]),
    ] {
        let mut bench = Bench::new();
        bench.own_config = Some(patient(false));
        let worker = bench.start().await;
        bench.step(TOKEN, &arguments);
        let began = Instant::now();
        for number in 1..3 {
            let ran = || bench.log.entries().len() == number;
            until("it waits", || ran() && bench.disk.status(TOKEN).as_deref() == Some("waiting"))
                .await;
            retry(&worker).await.expect("it waits");
        }
        until("it has run", || bench.log.entries().len() == 3).await;
        assert!(began.elapsed() < Duration::from_mins(1));
        assert_eq!(bench.log.entries(), runs);
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_handler_is_left_alone_is_refused_until_that_is_over() {
    let mut bench = Bench::new();
    bench.own_config = Some(patient(true));
    let (worker, _) = waiting(&mut bench).await;
    let refused = retry(&worker).await.expect_err("its breaker is open");
    assert!(refused.to_string().contains("`h` is paused"), "{refused}");
    bench.well.store(true, std::sync::atomic::Ordering::SeqCst);
    worker.intake.close_breakers(&bench.queue_config.url);
    retry(&worker).await.expect("it waits for its time alone");
    until("it is answered", || bench.queue.len() == 0).await;
    assert_eq!(bench.log.entries(), ["run 1", "run 2"]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_shared_ledger_any_worker_tries_a_waiting_step_and_none_what_another_one_runs() {
    let mut bench = Bench::new();
    bench.disk = Disk::shared();
    bench.own_config = Some(patient(false));
    let first = bench.start().await;
    bench.step(TOKEN, &json!({"do": "wait"}));
    until("it runs", || bench.disk.status(TOKEN).as_deref() == Some("claimed")).await;
    let second = bench.start().await;
    let refused = retry(&first).await.expect_err("it runs");
    let running = NotRetried::UnderWay(Activity::Running);
    assert!(matches!(&refused, Unretried::Refused(why) if *why == running), "{refused}");
    let refused = retry(&second).await.expect_err("another one runs it");
    let elsewhere = NotRetried::Elsewhere(WorkerId("worker-1".into()));
    assert!(matches!(&refused, Unretried::Refused(why) if *why == elsewhere), "{refused}");
    bench.go.notify_one();
    until("it is answered", || bench.queue.len() == 0).await;

    let other = "bcdefghijk";
    bench.step(other, &json!({"do": "error until well"}));
    until("it waits", || bench.disk.status(other).as_deref() == Some("waiting")).await;
    bench.well.store(true, std::sync::atomic::Ordering::SeqCst);
    let began = Instant::now();
    let token = other.parse().expect("a token");
    for worker in [&first, &second] {
        // The one that is too late finds it under way, or ended.
        let _ = worker.retries.retry(&token).await;
    }
    until("it is answered", || bench.disk.status(other).as_deref() == Some("settled")).await;
    assert!(began.elapsed() < Duration::from_mins(1));
    assert_eq!(bench.log.entries(), ["run 1", "run 1", "run 2"]);
    first.drain().await;
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn where_other_workers_may_have_the_step_it_is_not_begun_without_its_message() {
    let mut bench = Bench::new();
    bench.queue_config.exclusive = false;
    bench.own_config = Some(patient(false));
    let (first, id) = waiting(&mut bench).await;
    first.drain().await;
    bench.queue.lose(&id);
    let next = bench.start().await;
    let refused = retry(&next).await.expect_err("its message is gone");
    assert!(matches!(refused, Unretried::NotInHand), "{refused}");
    let nobody = next.retries.retry(&"nosuchstep".parse().expect("a token")).await;
    assert!(matches!(nobody, Err(Unretried::Unknown(_))), "{nobody:?}");
    next.drain().await;
}
