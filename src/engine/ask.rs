//! Asks SageMaker where a step stands, with a few retries.

use std::time::Duration;

use tokio::time::sleep;

use super::lane::Lane;
use crate::backoff::{Backoff, Failures};
use crate::lifecycle::Answer;
use crate::seam::{ExecutionStanding, Fault, FaultKind, Standing};
use crate::step::{CallbackToken, ExecutionArn};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// Enough for a second of throttling; a step that needs more asks again later.
const TRIES: u32 = 4;

/// SageMaker's answer about the step, or that there is none. With `confirm_stop`, a step counts as
/// stopping if its execution does.
pub(crate) async fn step(
    lane: &Lane,
    execution: &ExecutionArn,
    token: &CallbackToken,
    confirm_stop: bool,
) -> Answer {
    let mut failures = Failures::default();
    loop {
        match once(lane, execution, token, confirm_stop).await {
            Ok(standing) => return Answer::Standing(standing),
            Err(fault) => {
                let wait = failures.another(BACKOFF, fastrand::f64());
                if failures.count() == TRIES || fault.kind != FaultKind::Transient {
                    if let Some(more) = lane.said.again("unasked") {
                        tracing::warn!(
                            event = "status_not_returned",
                            error = %fault,
                            more,
                            "SageMaker did not return the step's status"
                        );
                    }
                    return Answer::Unknown(fault.detail);
                }
                sleep(wait).await;
            }
        }
    }
}

async fn once(
    lane: &Lane,
    execution: &ExecutionArn,
    token: &CallbackToken,
    confirm_stop: bool,
) -> Result<Standing, Fault> {
    match lane.pipelines(execution).step(execution, token).await? {
        Standing::Open { stopping: false, queue_url } if confirm_stop => {
            let stopping = lane.pipelines(execution).execution(execution).await?
                == ExecutionStanding::Stopping;
            Ok(Standing::Open { stopping, queue_url })
        }
        standing => Ok(standing),
    }
}
