//! What the log contains while a service is unavailable: causes, not messages.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::seam::{FaultKind, Standing};
use serde_json::json;
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::bench::{Bench, until};
use crate::world::Trouble;

const HELD: usize = 200;
/// One line of a kind each 30 s.
const SPELL: Duration = Duration::from_secs(300);
const MOST: usize = 12;

/// How often each warning and each error was logged.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<BTreeMap<String, usize>>>);

impl Warnings {
    /// Counts on this thread until the guard is dropped.
    fn listen() -> (Self, DefaultGuard) {
        let warnings = Self::default();
        let guard =
            tracing::subscriber::set_default(tracing_subscriber::registry().with(warnings.clone()));
        (warnings, guard)
    }

    fn said(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap().clone()
    }

    /// No text was logged for each of many messages, and this one was logged.
    fn are_few_and_hold(&self, text: &str) {
        let said = self.said();
        assert!(said.keys().any(|other| other.contains(text)), "{text} in {said:#?}");
        assert!(said.values().all(|times| *times <= MOST), "{said:#?}");
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            let mut text = Text::default();
            event.record(&mut text);
            *self.0.lock().unwrap().entry(text.0).or_default() += 1;
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// A worker that holds many messages whose steps run until they are released.
async fn busy() -> (Bench, crate::bench::Worker) {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = HELD + 50;
    let worker = bench.start().await;
    for n in 0..HELD {
        bench.step(&format!("step{n:06}"), &json!({"do": "wait"}));
    }
    until("all run", || bench.log.count("run 1") == HELD).await;
    (bench, worker)
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_is_said_by_cause_and_not_for_each_held_message() {
    let (bench, _worker) = busy().await;
    let (warnings, _listening) = Warnings::listen();
    for operation in ["receive", "set_visibility", "delete"] {
        bench.queue.fail(operation, 1_000_000, Trouble::Before(FaultKind::Transient));
    }
    sleep(SPELL).await;
    warnings.are_few_and_hold("could not be kept invisible");
    warnings.are_few_and_hold("the queue could not be polled");
}

#[tokio::test(start_paused = true)]
async fn a_sagemaker_that_refuses_and_finds_no_step_is_said_by_cause_and_not_for_each_outcome() {
    let (bench, _worker) = busy().await;
    let (warnings, _listening) = Warnings::listen();
    bench.pipelines.fail("report", 1_000_000, Trouble::Before(FaultKind::Refused));
    for n in 0..HELD {
        bench.pipelines.stand(&format!("step{n:06}"), Standing::NotFound);
    }
    bench.go.notify_waiters();
    sleep(SPELL).await;
    warnings.are_few_and_hold("SageMaker refused the report");
    warnings.are_few_and_hold("does not find the step");
}

#[tokio::test(start_paused = true)]
async fn steps_that_sagemaker_does_not_know_are_said_by_cause_and_not_for_each_message() {
    let mut bench = Bench::new();
    bench.queue_config.concurrency = HELD;
    bench.queue_config.verify = callbackd::engine::config::Verify::Always;
    let (warnings, _listening) = Warnings::listen();
    let _worker = bench.start().await;
    for n in 0..HELD {
        let token = format!("step{n:06}");
        bench.step(&token, &json!({}));
        bench.pipelines.stand(&token, Standing::NotFound);
    }
    sleep(SPELL).await;
    warnings.are_few_and_hold("the step is not accepted");
    assert!(bench.log.entries().is_empty());
}
