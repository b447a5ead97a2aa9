//! Create, find, list, set and purge queues.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::error;
use super::super::queue::Queue;
use super::super::queues::Queues;
use super::{in_range, required};
use crate::local::call::Call;
use crate::local::events::EventKind;
use crate::local::page::page;
use crate::local::protocol::{ApiError, input};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateQueue {
    queue_name: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueUrl {
    queue_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListQueues {
    #[serde(default)]
    queue_name_prefix: String,
    next_token: Option<String>,
    max_results: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfQueue {
    queue_url: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueAttributes {
    queue_url: Option<String>,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetQueueAttributes {
    queue_url: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

pub(super) fn create(
    body: Value,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let input: CreateQueue = input(body)?;
    let name = required("QueueName", input.queue_name)?;
    queues.create(&name, &input.attributes, call)?;
    Ok(json!({"QueueUrl": queues.url(&name)}))
}

pub(super) fn find(body: Value, queues: &mut Queues, call: &Call<'_>) -> Result<Value, ApiError> {
    let GetQueueUrl { queue_name } = input(body)?;
    let url = queues.url(&required("QueueName", queue_name)?);
    queues.get(&url, call)?;
    Ok(json!({"QueueUrl": url}))
}

pub(super) fn list(body: Value, queues: &Queues) -> Result<Value, ApiError> {
    let input: ListQueues = input(body)?;
    let most = in_range("MaxResults", input.max_results, 1, 1_000)?;
    let names = queues.names().filter(|name| name.starts_with(&input.queue_name_prefix));
    let invalid =
        || error::invalid_parameter("NextToken", "", "Not a token of an earlier response.");
    let (names, next) =
        page(names, most.unwrap_or(1_000), input.next_token.as_deref()).ok_or_else(invalid)?;
    let urls: Vec<String> = names.into_iter().map(|name| queues.url(name)).collect();
    // If there are none, SQS omits the member.
    let mut output = if urls.is_empty() { json!({}) } else { json!({"QueueUrls": urls}) };
    // Without MaxResults SQS returns the first thousand and no token.
    if let (Some(next), Some(_)) = (next, most) {
        output["NextToken"] = Value::String(next);
    }
    Ok(output)
}

pub(super) fn describe(
    body: Value,
    queues: &mut Queues,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    let input: GetQueueAttributes = input(body)?;
    let queue = queues.get(&required("QueueUrl", input.queue_url)?, call)?;
    let shown = attributes_of(queue);
    if let Some(unknown) = input.attribute_names.iter().find(|name| !attribute_exists(name)) {
        return Err(error::invalid_attribute_name(unknown));
    }
    let all = input.attribute_names.iter().any(|name| name == "All");
    let asked = shown.into_iter().filter(|(name, _)| all || input.attribute_names.contains(name));
    let attributes: BTreeMap<String, String> = asked.collect();
    Ok(if attributes.is_empty() { json!({}) } else { json!({"Attributes": attributes}) })
}

pub(super) fn set(body: Value, queues: &mut Queues, call: &Call<'_>) -> Result<Value, ApiError> {
    let SetQueueAttributes { queue_url, attributes } = input(body)?;
    queues.set(&required("QueueUrl", queue_url)?, &attributes, call)?;
    Ok(Value::Null)
}

pub(super) fn delete(body: Value, queues: &mut Queues, call: &Call<'_>) -> Result<Value, ApiError> {
    let OfQueue { queue_url } = input(body)?;
    queues.delete(&required("QueueUrl", queue_url)?, call)?;
    Ok(Value::Null)
}

pub(super) fn purge(body: Value, queues: &mut Queues, call: &Call<'_>) -> Result<Value, ApiError> {
    let OfQueue { queue_url } = input(body)?;
    let queue = queues.get(&required("QueueUrl", queue_url)?, call)?;
    let messages = queue.purge(call.now)?;
    call.tell(|| EventKind::QueuePurged { queue: queue.name.clone(), messages });
    Ok(Value::Null)
}

fn attributes_of(queue: &Queue) -> BTreeMap<String, String> {
    let counts = queue.counts();
    let mut shown = queue.attributes.shown();
    let mut show = |name: &str, value: String| shown.insert(name.to_owned(), value);
    show("QueueArn", queue.arn.to_string());
    show("ApproximateNumberOfMessages", counts.visible.to_string());
    show("ApproximateNumberOfMessagesNotVisible", counts.in_flight.to_string());
    show("ApproximateNumberOfMessagesDelayed", counts.delayed.to_string());
    show("CreatedTimestamp", (queue.created.millis() / 1_000).to_string());
    show("LastModifiedTimestamp", (queue.modified.millis() / 1_000).to_string());
    shown
}

/// The names of the service model.
fn attribute_exists(name: &str) -> bool {
    const NAMES: [&str; 22] = [
        "All",
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "ContentBasedDeduplication",
        "CreatedTimestamp",
        "DeduplicationScope",
        "DelaySeconds",
        "FifoQueue",
        "FifoThroughputLimit",
        "KmsDataKeyReusePeriodSeconds",
        "KmsMasterKeyId",
        "LastModifiedTimestamp",
        "MaximumMessageSize",
        "MessageRetentionPeriod",
        "Policy",
        "QueueArn",
        "ReceiveMessageWaitTimeSeconds",
        "RedriveAllowPolicy",
        "RedrivePolicy",
        "SqsManagedSseEnabled",
        "VisibilityTimeout",
    ];
    NAMES.contains(&name)
}
