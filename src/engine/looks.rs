//! What the stop watch does at each look: it asks SageMaker about the execution, and tells its
//! steps.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::dispatch::send_or_start;
use super::driver::Origin;
use super::inbox::Input;
use super::shared::Shared;
use super::watch::{Looks, Sight};
use crate::lifecycle::{Event, Via, WorkerId};
use crate::seam::{ExecutionStanding, Observation, StepResult};
use crate::step::{CallbackToken, ExecutionArn};

/// Asks through the lanes' pipelines.
pub(crate) struct Watching(pub(crate) Arc<Shared>);

impl Looks for Watching {
    fn look<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight> {
        Box::pin(async move {
            let Some(lane) = self.0.lanes.get(lane) else { return Sight::Unseen };
            match lane.pipelines(execution).execution(execution).await {
                Ok(ExecutionStanding::Executing) => Sight::Executing,
                Ok(ExecutionStanding::Stopping) => Sight::Execution(Event::StopSeen(Via::Watch)),
                Ok(ended @ (ExecutionStanding::Ended(_) | ExecutionStanding::NotFound)) => {
                    let stopped = ended == ExecutionStanding::Ended(StepResult::Stopped);
                    Sight::Execution(Event::SeenEnded { stopped })
                }
                Err(fault) => {
                    if let Some(more) = lane.said.again("watch") {
                        tracing::warn!(
                            event = "execution_not_described",
                            %execution,
                            error = %fault,
                            more,
                            "SageMaker did not say whether the execution is being stopped"
                        );
                    }
                    Sight::Unseen
                }
            }
        })
    }

    fn list<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight> {
        Box::pin(async move {
            let sight = self.look(execution, lane).await;
            let Some(lane) = self.0.lanes.get(lane).filter(|_| sight == Sight::Executing) else {
                return sight;
            };
            match lane.pipelines(execution).ended_steps(execution).await {
                Ok(ended) => Sight::Ended(ended),
                Err(fault) => {
                    if let Some(more) = lane.said.again("list") {
                        tracing::warn!(
                            event = "steps_not_listed",
                            %execution,
                            error = %fault,
                            more,
                            "SageMaker did not list the execution's steps: if someone else answers \
                             one that is deferred, that is noticed at the execution's end"
                        );
                    }
                    sight
                }
            }
        })
    }

    fn tell(&self, token: &CallbackToken, event: Event) {
        send_or_start(&self.0, token, Input::Event(event), Origin::Ledger);
    }

    fn hint(&self, worker: &WorkerId, token: &CallbackToken) {
        let (shared, worker, token) = (self.0.clone(), worker.clone(), token.clone());
        self.0.tasks.spawn(async move { shared.ledger.hint(&worker, &token).await });
    }

    fn observe_interval(&self, interval: Duration) {
        self.0.observer.observe(Observation::StopWatchInterval(interval));
    }
}
