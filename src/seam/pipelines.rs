//! SageMaker, as the engine sees it.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::outcome::{ClientRequestToken, Outcome};
use crate::step::{CallbackToken, ExecutionArn, QueueUrl};

/// Where one callback step stands, according to SageMaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for an answer; on this queue, if SageMaker names one that can be parsed.
    Open { stopping: bool, queue_url: Option<QueueUrl> },
    /// It has ended.
    Closed(StepResult),
    /// The execution has no step with this token, or the execution does not exist.
    NotFound,
}

/// How a step, or an execution, ended at SageMaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepResult {
    Succeeded,
    Failed,
    Stopped,
}

impl StepResult {
    /// Its name in the ledger and in `callbackd steps`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// Where one execution stands, according to SageMaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionStanding {
    Executing,
    Stopping,
    Ended(StepResult),
    NotFound,
}

/// SageMaker, as far as callback steps need it.
pub trait Pipelines: Send + Sync {
    /// Sends the outcome of a step. [`FaultKind::Refused`](super::fault::FaultKind::Refused) leaves
    /// open whether the step is closed: ask [`Pipelines::step`].
    fn report<'a>(
        &'a self,
        token: &'a CallbackToken,
        outcome: &'a Outcome,
        request: &'a ClientRequestToken,
    ) -> BoxFuture<'a, Result<(), Fault>>;

    /// Where the step with this token stands.
    fn step<'a>(
        &'a self,
        execution: &'a ExecutionArn,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Standing, Fault>>;

    /// The callback steps of the execution that have ended; none if it is not found.
    fn ended_steps<'a>(
        &'a self,
        execution: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<BTreeSet<CallbackToken>, Fault>>;

    /// Where the execution stands.
    fn execution<'a>(
        &'a self,
        execution: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<ExecutionStanding, Fault>>;
}
