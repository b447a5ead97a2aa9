//! What runs report of their progress, and how long they have been silent.

use std::time::Duration;

use callbackd::clock::after;
use callbackd::engine::Progressed;
use callbackd::lifecycle::Activity;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::sleep;

use crate::bench::{Bench, Worker, until};

const ONE: &str = "aaaaaaaaaa";
const OTHER: &str = "bbbbbbbbbb";

/// When the step that has been silent for longest last made progress.
fn silent_since(worker: &Worker) -> Option<Timestamp> {
    let queues = worker.monitor.queues();
    let of_handler = queues[0].progress.iter().find(|(handler, _)| handler == "h");
    of_handler.expect("it is configured").1
}

fn progress(worker: &Worker, token: &str) -> Option<Progressed> {
    let face = worker.monitor.face(&token.parse().expect("a token"))?;
    face.progress.map(|progress| (*progress).clone())
}

fn activity(worker: &Worker, token: &str) -> Option<Activity> {
    worker.monitor.face(&token.parse().expect("a token"))?.activity
}

#[tokio::test(start_paused = true)]
async fn the_step_that_is_silent_for_longest_is_told_and_to_say_the_same_again_is_silence() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    assert_eq!(silent_since(&worker), None);
    let texts = json!(["one", "one", "two"]);
    bench.step(ONE, &json!({"do": "report", "seconds": 100, "texts": texts}));
    until("it reports", || progress(&worker, ONE).is_some()).await;
    let first = silent_since(&worker).expect("it runs");
    assert_eq!(progress(&worker, ONE).expect("it has reported").at, first);
    sleep(Duration::from_secs(150)).await;
    assert_eq!(silent_since(&worker), Some(first), "it said the same again");

    // This one says nothing: its start counts.
    bench.step(OTHER, &json!({"do": "sleep", "seconds": 500}));
    sleep(Duration::from_secs(100)).await;
    let last = progress(&worker, ONE).expect("it has reported");
    assert_eq!((&*last.progress.text, last.at), ("two", after(first, Duration::from_secs(200))));
    let since = silent_since(&worker).expect("two run");
    assert!(first < since && since < last.at, "{first} {since} {}", last.at);
    until("both have ended", || bench.queue.len() == 0).await;
    assert_eq!(silent_since(&worker), None);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_polled_keeps_its_progress_from_one_look_to_the_next() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(ONE, &json!({"do": "again", "seconds": 60}));
    let fraction = || progress(&worker, ONE).and_then(|it| it.progress.fraction);
    for wanted in [0.0, 0.25, 0.5] {
        let is_waiting = || activity(&worker, ONE) == Some(Activity::Sleeping);
        until("it is looked at", || fraction() == Some(wanted) && is_waiting()).await;
        let at = progress(&worker, ONE).expect("it has reported").at;
        assert_eq!(silent_since(&worker), Some(at), "it waits to be looked at again");
    }
    until("it has ended", || bench.queue.len() == 0).await;
    assert_eq!((silent_since(&worker), fraction()), (None, None));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_waits_for_its_next_attempt_is_not_silent_and_begins_anew() {
    let mut bench = Bench::new();
    let worker = bench.start().await;
    bench.step(ONE, &json!({"do": "report", "seconds": 100, "texts": ["one"], "fails": true}));
    until("it reports", || progress(&worker, ONE).is_some()).await;
    let first = progress(&worker, ONE).expect("it has reported").at;
    until("the attempt has failed", || activity(&worker, ONE) == Some(Activity::Sleeping)).await;
    assert_eq!(silent_since(&worker), None);
    let again = || progress(&worker, ONE).is_some_and(|it| it.at > first);
    until("it reports the same in its next attempt", again).await;
    assert_eq!(silent_since(&worker), progress(&worker, ONE).map(|it| it.at));
    until("it has ended", || bench.queue.len() == 0).await;
    worker.drain().await;
}
