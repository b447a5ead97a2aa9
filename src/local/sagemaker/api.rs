//! SageMaker's operations, grouped by subject.

mod answers;
mod executions;
mod pipelines;

use serde_json::Value;

use super::SageMaker;
use super::shape::{Constraints, invalid};
use crate::local::call::Call;
use crate::local::page::page;
use crate::local::protocol::ApiError;
use crate::local::sqs::Queues;

/// The bounds of a `ClientRequestToken`'s length.
const REQUEST_TOKEN: (usize, usize) = (32, 128);

/// The page size of a list if `MaxResults` is not set, and the maximum.
const PAGE: i64 = 100;

/// Performs an operation.
///
/// # Errors
/// The operation's own; `UnknownOperationException` for one that is not available.
pub(crate) fn call(
    operation: &str,
    body: &Value,
    sagemaker: &mut SageMaker,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    match operation {
        "CreatePipeline" => pipelines::create(body, sagemaker, call),
        "UpdatePipeline" => pipelines::update(body, sagemaker, call),
        "DescribePipeline" => pipelines::describe(body, sagemaker, call),
        "DeletePipeline" => pipelines::delete(body, sagemaker, call),
        "ListPipelines" => pipelines::list(body, sagemaker),
        "StartPipelineExecution" => executions::start(body, sagemaker, queues, call),
        "StopPipelineExecution" => executions::stop(body, sagemaker, queues, call),
        "RetryPipelineExecution" => executions::retry(body, sagemaker, queues, call),
        "DescribePipelineExecution" => executions::describe(body, sagemaker),
        "ListPipelineExecutions" => executions::list(body, sagemaker, call),
        "ListPipelineExecutionSteps" => executions::list_steps(body, sagemaker),
        "SendPipelineExecutionStepSuccess" | "SendPipelineExecutionStepFailure" => {
            answers::send(operation, body, sagemaker, queues, call)
        }
        _ => Err(ApiError::unknown_operation(operation)),
    }
}

/// The members that all lists share, within their constraints.
fn check_list(
    constraints: &mut Constraints,
    max_results: Option<i64>,
    sort_order: Option<&String>,
    next_token: Option<&String>,
) -> Result<(), ApiError> {
    constraints
        .text("nextToken", next_token, (0, 8_192), None)
        .number("maxResults", max_results, 1, Some(PAGE))
        .one_of("sortOrder", sort_order, &["Ascending", "Descending"])
        .check()
}

/// A page of a list in the requested order; `items` are in ascending order.
fn listed<T>(
    mut items: Vec<T>,
    sort_order: Option<&String>,
    ascending: bool,
    max_results: Option<i64>,
    token: Option<&String>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    if !sort_order.map_or(ascending, |order| order == "Ascending") {
        items.reverse();
    }
    let most = usize::try_from(max_results.unwrap_or(PAGE)).unwrap_or_default();
    page(items.into_iter(), most, token.map(String::as_str))
        .ok_or_else(|| invalid("The pagination token is invalid."))
}

/// Omits members that are null: the services never write them.
fn without_nulls(mut output: Value) -> Value {
    if let Some(members) = output.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    output
}
