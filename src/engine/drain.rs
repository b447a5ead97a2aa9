//! The shutdown: no new work, a wait, then the runs are told to end, then they are released. No
//! step fails because of it.

use std::time::Duration;

use tokio::time::timeout;

use super::shared::Shared;
use crate::lifecycle::Phase;

/// Beyond the longest grace: handlers enforce their own, and outcomes of the last second are sent.
const MARGIN: Duration = Duration::from_secs(3);

/// Takes the engine through its phases until no step is left. If `hurry` resolves, the runs are
/// dropped at once.
pub(crate) async fn drain(shared: &Shared, patience: Duration, mut hurry: impl AsyncFnMut()) {
    for lane in &shared.lanes {
        lane.messages.delay_releases();
    }
    shared.phases.enter(Phase::Draining);
    tracing::info!(
        event = "drain_started",
        steps = shared.steps.len(),
        "draining: no new steps are accepted; waiting for running ones"
    );
    let hurried = wait(shared, patience, &mut hurry).await == Waited::Hurried;
    if shared.steps.len() > 0 && !hurried {
        let grace = shared.handlers.longest_grace() + MARGIN;
        tracing::info!(
            event = "drain_timed_out",
            steps = shared.steps.len(),
            ?grace,
            "the drain timeout is over: running steps are told to end"
        );
        shared.phases.enter(Phase::Stopping);
        wait(shared, grace, &mut hurry).await;
    }
    let left = shared.steps.len();
    if left > 0 {
        tracing::warn!(event = "steps_released", steps = left, "releasing the remaining steps");
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
