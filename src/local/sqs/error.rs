//! SQS's errors, each with the shape of its JSON protocol and the code of its older one.

use std::fmt::Display;

use crate::local::protocol::ApiError;

pub(super) fn queue_does_not_exist() -> ApiError {
    coded(
        "QueueDoesNotExist",
        "AWS.SimpleQueueService.NonExistentQueue",
        "The specified queue does not exist.",
    )
}

pub(super) fn queue_name_exists() -> ApiError {
    let message = "A queue already exists with the same name and a different value for one or more \
                   attributes.";
    coded("QueueNameExists", "QueueAlreadyExists", message)
}

pub(super) fn missing(parameter: &str) -> ApiError {
    let message = format!("The request must contain the parameter {parameter}.");
    coded("MissingRequiredParameterException", "MissingParameter", message)
}

pub(super) fn invalid_parameter(
    parameter: &str,
    value: impl Display,
    reason: impl Display,
) -> ApiError {
    let message = format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}");
    coded("InvalidParameterValueException", "InvalidParameterValue", message)
}

pub(super) fn out_of_range(parameter: &str, value: i64, least: u64, most: u64) -> ApiError {
    invalid_parameter(
        parameter,
        value,
        format_args!("Must be between {least} and {most}, if provided."),
    )
}

pub(super) fn invalid_attribute_name(name: &str) -> ApiError {
    ApiError::new("InvalidAttributeName", format!("Unknown Attribute {name}."))
}

pub(super) fn invalid_attribute_value(name: &str, reason: impl Display) -> ApiError {
    ApiError::new(
        "InvalidAttributeValue",
        format!("Invalid value for the parameter {name}. Reason: {reason}"),
    )
}

pub(super) fn invalid_receipt(receipt_handle: &str) -> ApiError {
    let message =
        format!("The input receipt handle \"{receipt_handle}\" is not a valid receipt handle.");
    ApiError::new("ReceiptHandleIsInvalid", message)
}

pub(super) fn unavailable_receipt(receipt_handle: &str) -> ApiError {
    let reason = "Message does not exist or is not available for visibility timeout change.";
    invalid_parameter("ReceiptHandle", receipt_handle, reason)
}

pub(super) fn message_not_in_flight() -> ApiError {
    let code = "AWS.SimpleQueueService.MessageNotInflight";
    coded("MessageNotInflight", code, "The message referred to is not in flight.")
}

pub(super) fn beyond_twelve_hours(seconds: u64) -> ApiError {
    let reason = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
    invalid_parameter("VisibilityTimeout", seconds, reason)
}

pub(super) fn over_limit(message: impl Into<String>) -> ApiError {
    ApiError::new("OverLimit", message)
}

pub(super) fn invalid_contents(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidMessageContents", message)
}

pub(super) fn purge_in_progress(queue: &str) -> ApiError {
    let message = format!("Only one PurgeQueue operation on {queue} is allowed every 60 seconds.");
    coded("PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress", message)
}

pub(super) fn unsupported(message: impl Into<String>) -> ApiError {
    coded("UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation", message)
}

pub(super) fn empty_batch() -> ApiError {
    let message = "There should be at least one entry in the request.";
    coded("EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", message)
}

pub(super) fn too_many_entries(entries: usize) -> ApiError {
    let message = format!("Maximum number of entries per request are 10. You have sent {entries}.");
    coded(
        "TooManyEntriesInBatchRequest",
        "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        message,
    )
}

pub(super) fn ids_not_distinct(id: &str) -> ApiError {
    let message = format!("Id {id} repeated.");
    coded("BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct", message)
}

pub(super) fn invalid_entry_id() -> ApiError {
    let message = "A batch entry id can only contain alphanumeric characters, hyphens and \
                   underscores. It can be at most 80 letters long.";
    coded("InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId", message)
}

pub(super) fn batch_too_long(bytes: usize, most: usize) -> ApiError {
    let message =
        format!("Batch requests cannot be longer than {most} bytes. You have sent {bytes} bytes.");
    coded("BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong", message)
}

fn coded(shape: &str, query_code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError { query_code: Some(query_code), ..ApiError::new(shape, message) }
}
