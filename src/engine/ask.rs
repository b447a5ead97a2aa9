//! Asks SageMaker where a step stands, a few times if need be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::lane::Lane;
use crate::backoff::Backoff;
use crate::lifecycle::Answer;
use crate::seam::FaultKind;
use crate::step::{CallbackToken, ExecutionArn};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// Enough for a throttled second; whoever asked for more than that asks again later.
const TRIES: u32 = 4;

/// What SageMaker says of the step, or that it does not say.
pub(crate) async fn step(lane: Arc<Lane>, execution: ExecutionArn, token: CallbackToken) -> Answer {
    let mut failures = 0;
    loop {
        match lane.pipelines.step(&execution, &token).await {
            Ok(standing) => return Answer::Standing(standing),
            Err(fault) => {
                failures += 1;
                if failures == TRIES || fault.kind != FaultKind::Transient {
                    tracing::warn!(error = %fault, "SageMaker does not say where the step stands");
                    return Answer::Unknown(fault.detail);
                }
                sleep(BACKOFF.after(failures, fastrand::f64())).await;
            }
        }
    }
}
