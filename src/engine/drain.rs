//! The end of the worker: no new work, patience, then a word to the runs, then their release;
//! nothing is failed for it.

use std::time::Duration;

use tokio::time::timeout;

use super::shared::Shared;
use crate::lifecycle::Phase;

/// Beyond the longest grace: handlers enforce their own, and outcomes of the last second are sent.
const MARGIN: Duration = Duration::from_secs(3);

/// Walks the engine through its phases until no step is left. Each `hurry` that resolves ends a
/// wait early.
pub(crate) async fn drain(shared: &Shared, patience: Duration, mut hurry: impl AsyncFnMut()) {
    for lane in &shared.lanes {
        lane.messages.delay_releases();
    }
    shared.phases.enter(Phase::Draining);
    tracing::info!(
        steps = shared.steps.len(),
        "draining: no new steps are taken; waiting for those that run"
    );
    let hurried = wait(shared, patience, &mut hurry).await == Waited::Hurried;
    if shared.steps.len() > 0 && !hurried {
        let grace =
            shared.handlers.values().map(|parts| parts.config.stop_grace).max().unwrap_or_default()
                + MARGIN;
        tracing::info!(
            steps = shared.steps.len(),
            ?grace,
            "the drain timeout is over: telling the runs to end"
        );
        shared.phases.enter(Phase::Stopping);
        wait(shared, grace, &mut hurry).await;
    }
    let left = shared.steps.len();
    if left > 0 {
        tracing::warn!(steps = left, "releasing the steps that are left");
    }
    shared.phases.enter(Phase::Leaving);
    shared.steps.none_left().await;
}

#[derive(PartialEq, Eq)]
enum Waited {
    Done,
    Hurried,
}

async fn wait(shared: &Shared, patience: Duration, hurry: &mut impl AsyncFnMut()) -> Waited {
    tokio::select! {
        biased;
        _ = timeout(patience, shared.steps.none_left()) => Waited::Done,
        () = hurry() => Waited::Hurried,
    }
}
