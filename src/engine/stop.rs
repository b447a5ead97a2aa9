//! The stop watch: notices that an execution is stopping, or has ended, where no Stopping message says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::driver::{Driver, Input};
use super::lane::{Lane, Shared};
use super::steps::Undelivered;
use crate::lifecycle::{Event, Here, Record, Status, Via};
use crate::seam::{ExecutionStanding, Observation};
use crate::step::{CallbackToken, ExecutionArn};

/// Calls of all watching together stay below two a second; no rate limit is published.
const GAP: Duration = Duration::from_millis(500);

/// An execution with a step that runs, waits or is deferred here.
struct Watched {
    lane: Arc<Lane>,
    tokens: Vec<CallbackToken>,
    /// Those nobody drives, with their records.
    deferred: Vec<Record>,
}

/// Asks about each execution once per its queue's `stop_watch`, until dropped.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let Some(shortest) = shared.lanes.iter().map(|lane| lane.config.stop_watch).filter(|every| !every.is_zero()).min()
    else {
        return std::future::pending().await;
    };
    let mut asked: BTreeMap<ExecutionArn, Instant> = BTreeMap::new();
    let mut told = None;
    loop {
        // Jittered, so that a fleet that started together does not ask together.
        sleep(shortest.mul_f64(0.15 + fastrand::f64() / 10.0)).await;
        let watched = watched(&shared).await;
        asked.retain(|execution, _| watched.contains_key(execution));
        let stretched = GAP * u32::try_from(watched.len()).unwrap_or(u32::MAX);
        if told != Some(stretched.max(shortest)) {
            told = Some(stretched.max(shortest));
            shared.observer.observe(Observation::StopWatchInterval(stretched.max(shortest)));
        }
        for (execution, watched) in watched {
            let every = watched.lane.config.stop_watch.max(stretched);
            // By the next look it would be late.
            let due = asked.get(&execution).is_none_or(|at| at.elapsed() >= every.mul_f64(0.75));
            if due {
                asked.insert(execution.clone(), Instant::now());
                let next = Instant::now() + GAP;
                ask(&shared, &execution, watched).await;
                sleep_until(next).await;
            }
        }
    }
}

async fn ask(shared: &Arc<Shared>, execution: &ExecutionArn, watched: Watched) {
    let event = match watched.lane.pipelines.execution(execution).await {
        Ok(ExecutionStanding::Executing) => return,
        Ok(ExecutionStanding::Stopping) => Event::StopSeen(Via::Watch),
        Ok(ExecutionStanding::Ended | ExecutionStanding::NotFound) => Event::ExecutionEnded,
        Err(fault) => {
            tracing::warn!(%execution, error = %fault, "SageMaker does not say whether the execution is being stopped");
            return;
        }
    };
    for token in watched.tokens {
        // A full inbox hears of it at the next turn.
        let _ = shared.steps.send(&token, Input::Event(event.clone()));
    }
    for record in watched.deferred {
        wake(shared, &watched.lane, record, &event);
    }
}

/// Tells the step of a record of an event, with a new driver if it has none.
pub(crate) fn wake(shared: &Arc<Shared>, lane: &Arc<Lane>, record: Record, event: &Event) {
    if let Err(Undelivered::Absent(input)) = shared.steps.send(&record.token, Input::Event(event.clone())) {
        // Somebody else may have started one just now: it reads the same record.
        let _ = Driver::spawn(shared, lane, record, input);
    }
}

async fn watched(shared: &Shared) -> BTreeMap<ExecutionArn, Watched> {
    let mut watched = BTreeMap::new();
    let mut entry = |execution: &ExecutionArn, queue: &str, put: &mut dyn FnMut(&mut Watched)| {
        if let Some(lane) = shared.lane(queue).filter(|lane| !lane.config.stop_watch.is_zero()) {
            put(watched.entry(execution.clone()).or_insert_with(|| Watched {
                lane: lane.clone(),
                tokens: Vec::new(),
                deferred: Vec::new(),
            }));
        }
    };
    for view in shared.steps.views() {
        let works = matches!(view.status, Status::New | Status::Claimed | Status::Waiting | Status::Deferred);
        if works && !view.stop_requested && view.activity != Here::Nothing {
            entry(&view.execution, &view.queue, &mut |watched| watched.tokens.push(view.token.clone()));
        }
    }
    match super::records(&shared.ledger, &[Status::Deferred]).await {
        Ok(records) => {
            for record in records {
                entry(&record.execution, &record.queue, &mut |watched| watched.deferred.push(record.clone()));
            }
        }
        Err(error) => tracing::warn!(%error, "the deferred steps could not be listed"),
    }
    watched
}
