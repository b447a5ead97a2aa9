//! SageMaker Pipelines: pipelines of callback steps, their executions, and the operations on them.
//!
//! [`definition`] parses what is to run; [`execution`] decides what happens to one execution and
//! sends nothing itself; [`executions`] sends its messages; [`api`] turns requests into calls of
//! these.

mod answer;
pub(super) mod api;
mod arguments;
mod definition;
mod execution;
mod executions;
mod expression;
mod parameter;
mod pipelines;
mod requests;
mod shape;

use executions::Executions;
use pipelines::Pipelines;
use requests::Requests;

/// The whole state of SageMaker.
#[derive(Debug)]
pub(super) struct SageMaker {
    pipelines: Pipelines,
    executions: Executions,
    requests: Requests,
}

impl SageMaker {
    pub(super) fn new(region: &str, account: &str, kept: usize) -> Self {
        Self {
            pipelines: Pipelines::new(region, account),
            executions: Executions::new(kept),
            requests: Requests::default(),
        }
    }
}
