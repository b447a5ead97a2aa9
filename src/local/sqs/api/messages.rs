//! Send and delete messages and change their visibility, one by one and in batches.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::super::batch::{self, BatchEntry};
use super::super::error;
use super::super::message::{AttributeValue, Content, md5_of_attributes};
use super::super::queues::Queues;
use super::{required, seconds};
use crate::local::call::Call;
use crate::local::events::EventKind;
use crate::local::protocol::{ApiError, input};

/// The size limit of a batch is that of one message.
const MAX_BATCH_BYTES: usize = 1_048_576;

/// `SendMessage`, and an entry of `SendMessageBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendMessage {
    #[serde(default)]
    id: String,
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: BTreeMap<String, AttributeValue>,
    #[serde(default)]
    message_system_attributes: BTreeMap<String, AttributeValue>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
}

/// `DeleteMessage`, and an entry of `DeleteMessageBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteMessage {
    #[serde(default)]
    id: String,
    receipt_handle: Option<String>,
}

/// `ChangeMessageVisibility`, and an entry of `ChangeMessageVisibilityBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeMessageVisibility {
    #[serde(default)]
    id: String,
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<E> {
    queue_url: Option<String>,
    #[serde(default = "Vec::new")]
    entries: Vec<E>,
}

/// A message operation's request for one message.
pub(super) trait Part: BatchEntry + DeserializeOwned {
    /// How much it contributes to a batch's size.
    fn bytes(&self) -> usize {
        0
    }
}

impl BatchEntry for SendMessage {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Part for SendMessage {
    fn bytes(&self) -> usize {
        self.message_body.as_ref().map_or(0, String::len)
    }
}

impl BatchEntry for DeleteMessage {
    fn id(&self) -> &str {
        &self.id
    }

    fn receipt(&self) -> Option<&str> {
        self.receipt_handle.as_deref()
    }
}

impl Part for DeleteMessage {}

impl BatchEntry for ChangeMessageVisibility {
    fn id(&self) -> &str {
        &self.id
    }

    fn receipt(&self) -> Option<&str> {
        self.receipt_handle.as_deref()
    }
}

impl Part for ChangeMessageVisibility {}

/// Performs an operation for one message; an output without members is omitted.
pub(super) fn one<P: Part>(
    body: Value,
    queues: &mut Queues,
    call: &mut Call<'_>,
    act: fn(P, &str, &mut Queues, &mut Call<'_>) -> Result<Value, ApiError>,
) -> Result<Value, ApiError> {
    let url = body.get("QueueUrl").and_then(Value::as_str).map(str::to_owned);
    let output = act(input(body)?, &required("QueueUrl", url)?, queues, call)?;
    Ok(if output.as_object().is_some_and(Map::is_empty) { Value::Null } else { output })
}

/// Performs an operation for each message of a batch.
pub(super) fn batch<P: Part>(
    body: Value,
    queues: &mut Queues,
    call: &mut Call<'_>,
    act: fn(P, &str, &mut Queues, &mut Call<'_>) -> Result<Value, ApiError>,
) -> Result<Value, ApiError> {
    let Batch { queue_url, entries } = input::<Batch<P>>(body)?;
    let url = required("QueueUrl", queue_url)?;
    queues.get(&url, call)?;
    let bytes = entries.iter().map(Part::bytes).sum();
    if bytes > MAX_BATCH_BYTES {
        return Err(error::batch_too_long(bytes, MAX_BATCH_BYTES));
    }
    batch::run(entries, call, |entry, call| act(entry, &url, queues, call))
}

pub(super) fn send(
    message: SendMessage,
    url: &str,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let delay = seconds("DelaySeconds", message.delay_seconds, 900)?;
    if let Some(id) = message.message_deduplication_id {
        let reason = "The request include parameter that is not valid for this queue type";
        return Err(error::invalid_parameter("MessageDeduplicationId", id, reason));
    }
    let system = message.message_system_attributes;
    let mut output = json!({});
    if let Some(md5) = md5_of_attributes(&system) {
        output["MD5OfMessageSystemAttributes"] = Value::String(md5);
    }
    let content = Content {
        body: required("MessageBody", message.message_body)?.into(),
        attributes: message.message_attributes,
        trace: trace(system)?,
        group: message.message_group_id,
    };
    output["MD5OfMessageBody"] = Value::String(content.md5_of_body());
    if let Some(md5) = md5_of_attributes(&content.attributes) {
        output["MD5OfMessageAttributes"] = Value::String(md5);
    }
    if call.misbehaviour.duplicate {
        queues.send(url, content.clone(), delay, call)?;
    }
    let id = queues.send(url, content, delay, call)?;
    output["MessageId"] = Value::String(id.to_string());
    Ok(output)
}

pub(super) fn delete(
    deletion: DeleteMessage,
    url: &str,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let queue = queues.get(url, call)?;
    let receipt_handle = required("ReceiptHandle", deletion.receipt_handle)?;
    if let Some(message) = queue.delete(&receipt_handle, call.undocumented.old_receipt)? {
        call.tell(|| EventKind::MessageDeleted { queue: queue.name.clone(), id: message.id });
    }
    Ok(json!({}))
}

pub(super) fn hide(
    change: ChangeMessageVisibility,
    url: &str,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let queue = queues.get(url, call)?;
    let receipt_handle = required("ReceiptHandle", change.receipt_handle)?;
    let timeout = seconds("VisibilityTimeout", change.visibility_timeout, 43_200)?;
    let timeout = required("VisibilityTimeout", timeout)?;
    let message =
        queue.hide(&receipt_handle, timeout, call.undocumented.lapsed_receipt, call.now)?;
    let (queue, seconds) = (queue.name.clone(), timeout.as_secs());
    call.tell(|| EventKind::MessageHidden { queue, id: message.id, seconds });
    Ok(json!({}))
}

fn trace(system: BTreeMap<String, AttributeValue>) -> Result<Option<String>, ApiError> {
    let mut trace = None;
    for (name, value) in system {
        if name != "AWSTraceHeader" || value.data_type != "String" {
            let reason = "Only AWSTraceHeader, of type String, can be set.";
            return Err(error::invalid_parameter("MessageSystemAttributes", name, reason));
        }
        trace = value.string_value;
    }
    Ok(trace)
}
