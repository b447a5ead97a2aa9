//! Whether the daemon reports that it is alive, which decides about restarts.

use std::time::Duration;

use crate::clocks::Clocks;
use crate::exposition::assert_metrics_are_well;
use crate::scene::{Scene, never, until};

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_do_not_wait_for_a_ledger_that_somebody_holds() {
    let scene = Scene::new("").await;
    let daemon = scene.start(&scene.config().listening());
    let first = scene.step_sent().await;
    scene.settled(&first).await;
    let holder = rusqlite::Connection::open(scene.ledger()).expect("it is there");
    holder.execute_batch("BEGIN IMMEDIATE").expect("it can be held");
    let second = scene.step_sent().await;
    until("it is received", async || scene.to_sqs.received().len() == 2).await;
    for path in ["/healthz", "/metrics"] {
        let answer = daemon.status(path).await;
        assert_eq!(answer.as_ref().map(|(status, _)| *status), Some(200), "{path}: {answer:?}");
    }
    assert!(scene.runs().len() == 1, "nothing is started that the ledger does not know");
    holder.execute_batch("COMMIT").expect("it can be let go");
    scene.answered_once(&second).await;
    let (_, metrics) = daemon.status("/metrics").await.expect("it answers");
    assert_metrics_are_well(&metrics);
}

/// The first attempt of the first step ends with 75 when it may; everything else runs until the
/// gate is open.
const RUN: &str =
    "mkdir $FOLDER/first 2>/dev/null && { until_there again; exit 75; }\nuntil_there gate";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_slots_are_all_busy_is_alive_for_as_long_as_they_are() {
    let scene = Scene::new(RUN).await;
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let clocks = Clocks::ahead_by_days(scene.folder(), 0);
    let config = scene
        .config()
        .listening()
        .with("queues.0.concurrency", 2)
        .with("queues.0.visibility_timeout", "10m");
    let daemon = scene.start_in(&config, &clocks.variables());
    until("both run", async || scene.runs().len() == 2).await;
    scene.open("again");
    until("one runs again", async || scene.runs().len() == 3).await;
    // A poll began when the slot was free, and finds nothing.
    let empty = async || {
        let exchanges = scene.to_sqs.exchanges();
        exchanges
            .iter()
            .any(|one| one.operation == "receivemessage" && one.answer["Messages"].is_null())
    };
    until("that poll is over", empty).await;
    for seconds in (10..=200).step_by(10) {
        clocks.run_ahead_to(seconds);
        // Time for what is due to be done, ten seconds at once.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let alive = async || daemon.status("/healthz").await.is_some_and(|(status, _)| status == 200);
    until("it is said to be alive", alive).await;
    never("it is called stuck", Duration::from_secs(2), async || !alive().await).await;
    scene.open("gate");
    for step in &steps {
        scene.answer(step).await;
    }
}
