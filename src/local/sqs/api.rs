//! SQS's operations, grouped by subject: each parses its input, acts on the queues, and writes its
//! output.

mod messages;
mod queue;
mod receive;

use std::time::Duration;

use serde_json::Value;

use super::error;
use super::queues::Queues;
use crate::local::call::Call;
use crate::local::protocol::ApiError;

pub(crate) use receive::{Receive, Waiting};

/// Performs any operation except `ReceiveMessage`, which may have to wait.
///
/// # Errors
/// The operation's own; `UnknownOperationException` for one that is not available.
pub(crate) fn call(
    operation: &str,
    body: Value,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    match operation {
        "CreateQueue" => queue::create(body, queues, call),
        "GetQueueUrl" => queue::find(body, queues, call),
        "ListQueues" => queue::list(body, queues),
        "DeleteQueue" => queue::delete(body, queues, call),
        "GetQueueAttributes" => queue::describe(body, queues, call),
        "SetQueueAttributes" => queue::set(body, queues, call),
        "PurgeQueue" => queue::purge(body, queues, call),
        "SendMessage" => messages::one(body, queues, call, messages::send),
        "SendMessageBatch" => messages::batch(body, queues, call, messages::send),
        "DeleteMessage" => messages::one(body, queues, call, messages::delete),
        "DeleteMessageBatch" => messages::batch(body, queues, call, messages::delete),
        "ChangeMessageVisibility" => messages::one(body, queues, call, messages::hide),
        "ChangeMessageVisibilityBatch" => messages::batch(body, queues, call, messages::hide),
        _ => Err(ApiError::unknown_operation(operation)),
    }
}

fn required<T>(parameter: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| error::missing(parameter))
}

fn seconds(parameter: &str, value: Option<i64>, most: u64) -> Result<Option<Duration>, ApiError> {
    let seconds = in_range(parameter, value, 0, most)?;
    Ok(seconds.map(|seconds| Duration::from_secs(seconds as u64)))
}

fn in_range(
    parameter: &str,
    value: Option<i64>,
    least: u64,
    most: u64,
) -> Result<Option<usize>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let number = u64::try_from(value).ok().filter(|number| (least..=most).contains(number));
    let number = number.ok_or_else(|| error::out_of_range(parameter, value, least, most))?;
    Ok(usize::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_its_range_is_refused_with_the_range() {
        assert_eq!(seconds("WaitTimeSeconds", Some(20), 20), Ok(Some(Duration::from_secs(20))));
        assert_eq!(seconds("WaitTimeSeconds", None, 20), Ok(None));
        for wrong in [-1, 21] {
            let error = seconds("WaitTimeSeconds", Some(wrong), 20).expect_err("out of range");
            assert_eq!(error.reported_code(), "InvalidParameterValue");
            assert!(error.message.contains("between 0 and 20"), "{error}");
        }
    }
}
