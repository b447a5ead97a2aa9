//! The handler of every step: what it does is in the step's arguments.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs, StopReason};
use serde_json::Value;
use tokio::time::{sleep, sleep_until};

use crate::steps::{Ended, Kind};
use crate::worker::Life;
use crate::world::Group;

const WORK: Duration = Duration::from_secs(1);
/// How often a polling step is called, at this interval.
pub const POLLS: u64 = 5;
const EVERY: Duration = Duration::from_secs(60);
/// How long someone takes to answer a deferred step.
const ANSWERED: Duration = Duration::from_mins(5);

pub struct Job(pub Arc<Life>);

impl Handler for Job {
    type Args = Value;

    async fn run(&self, cx: Context, args: Value) -> HandlerResult {
        let mut run = Run::begin(&self.0, &cx)?;
        let kind = Kind::ALL.into_iter().find(|kind| args["kind"] == kind.name());
        let work = async {
            match kind.expect("a kind of step") {
                Kind::Short => {
                    sleep(WORK).await;
                    Ok(Completion::Success(Outputs::new()))
                }
                Kind::Held => {
                    if cx.checkpoint::<u64>()?.is_none() {
                        run.save(&cx, 1).await;
                    }
                    self.job(&cx).await;
                    Ok(Completion::Success(Outputs::new()))
                }
                Kind::Polling => {
                    let polls = cx.checkpoint::<u64>()?.unwrap_or_default() + 1;
                    if polls >= POLLS {
                        return Ok(Completion::Success(Outputs::new()));
                    }
                    run.save(&cx, polls).await;
                    Ok(Completion::Again(EVERY))
                }
                Kind::Deferred => {
                    self.0.world.hand_over(cx.token().to_string(), ANSWERED);
                    Ok(Completion::Deferred)
                }
            }
        };
        let result = tokio::select! {
            biased;
            reason = cx.stopping() => {
                if reason != StopReason::Shutdown {
                    self.0.world.meter(|meter| meter.count("runs told of anything but a shutdown"));
                }
                return Err(HandlerError::retry(reason.as_str()));
            }
            result = work => result,
        };
        run.end = match &result {
            Ok(Completion::Again(_)) => Ended::Again,
            Ok(_) => Ended::Done,
            Err(_) => Ended::GivenBack,
        };
        result
    }
}

impl Job {
    /// The step's job, from wherever it is looked at, until it ends.
    async fn job(&self, cx: &Context) {
        let mut hasher = DefaultHasher::new();
        cx.token().as_str().hash(&mut hasher);
        let hash = hasher.finish();
        let early = self.0.world.steps(|steps| steps.early).max(1);
        let group = if hash.is_multiple_of(early) { Group::Early } else { Group::Late };
        let mut ends = self.0.world.end_of(group);
        let end = ends.wait_for(Option::is_some).await.map(|end| *end);
        let (from, spread) = end.ok().flatten().expect("the world ends last");
        let share = u32::try_from(hash >> 40).expect("24 bits");
        sleep_until(from + spread / (1 << 24) * share).await;
    }
}

/// A run, from its beginning to its end, whether it returns or is dropped.
struct Run {
    life: Arc<Life>,
    token: String,
    end: Ended,
}

impl Run {
    fn begin(life: &Arc<Life>, cx: &Context) -> Result<Self, HandlerError> {
        let token = cx.token().to_string();
        let checkpoint = cx.checkpoint::<u64>()?;
        if !life.is_over() {
            life.world.steps(|steps| steps.began(life.number, &token, checkpoint));
        }
        Ok(Self { life: life.clone(), token, end: Ended::GivenBack })
    }

    /// What is not saved is done again by the next run.
    async fn save(&self, cx: &Context, checkpoint: u64) {
        if cx.save_checkpoint(&checkpoint).await.is_ok() && !self.life.is_over() {
            self.life.world.steps(|steps| steps.saved(&self.token, checkpoint));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.life.is_over() {
            self.life.world.steps(|steps| steps.ended(self.life.number, &self.token, self.end));
        }
    }
}
