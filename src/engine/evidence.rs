//! Notices that another consumer reads a queue that is configured as this worker's alone.
//!
//! A step that this worker resumes from its ledger, the other one may be running by its message.

use std::time::Duration;

use super::orphans::{Fate, Orphan};
use super::polls::Polls;
use super::shared::Shared;
use crate::lifecycle::shows_an_answer;
use crate::step::CallbackToken;

/// A long poll takes 20 s.
const POLLED: Duration = Duration::from_secs(30);
/// How many steps are examined at once: many may have been stopped together, and each costs a call.
const MOST: usize = 16;

/// Examines the steps that were answered although their messages have not come back. The first one
/// that another consumer must have answered ends the resuming on its lane, for this life.
///
/// That message has not come back, although the queue is polled, so neither the handler nor its job
/// has answered: they delete no message. SageMaker is asked whether it was an answer.
pub(super) async fn examine(shared: &Shared) {
    for (token, orphan) in shared.orphans.suspicious(shared.clock.now()).into_iter().take(MOST) {
        let lane = &shared.lanes[orphan.lane];
        let (Fate::Answered(how), true) = (orphan.fate, lane.is_exclusive()) else {
            shared.orphans.take(&token);
            continue;
        };
        if !is_polled(&lane.polls) {
            continue;
        }
        match lane.pipelines(&orphan.execution).execution(&orphan.execution).await {
            Ok(execution) => {
                // The message may have come while SageMaker was asked.
                let is_missing = shared.orphans.take(&token);
                if is_missing && shows_an_answer(how, execution) && lane.found_another_consumer() {
                    tell(&lane.name, &token, &orphan);
                }
            }
            Err(fault) => {
                if let Some(more) = lane.said.again("evidence") {
                    tracing::warn!(
                        event = "end_not_known",
                        queue = lane.name,
                        error = %fault,
                        more,
                        "SageMaker did not say how the execution of a step ended that this worker \
                         has not answered; it is asked again"
                    );
                }
                return;
            }
        }
    }
}

fn is_polled(polls: &Polls) -> bool {
    polls.since_success().is_some_and(|ago| ago <= POLLED)
}

fn tell(queue: &str, token: &CallbackToken, orphan: &Orphan) {
    tracing::error!(
        event = "step_answered_elsewhere",
        queue,
        %token,
        execution = %orphan.execution,
        "a step of this worker was answered elsewhere and its message is gone: another consumer \
         reads the queue, although exclusive = true. Steps without a message are not resumed until \
         a restart. Set exclusive = false, or stop the other consumer and restart; if someone has \
         answered the step by hand, restart"
    );
}
