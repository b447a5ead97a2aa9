//! `ReceiveMessage`: the one operation that may have to wait.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::futures::OwnedNotified;

use super::super::message::{Message, md5_of_attributes};
use super::super::queue::{Ask, Delivery, Receives};
use super::super::queues::Queues;
use super::{in_range, required, seconds};
use crate::local::call::Call;
use crate::local::clock::Time;
use crate::local::events::EventKind;
use crate::local::protocol::{ApiError, input};

/// The sender of every message; there is no identity here.
const SENDER: &str = "AIDALOCALENDPOINT";

/// A parsed and checked receive, to be tried until it returns something or its time is over.
#[derive(Debug)]
pub(crate) struct Receive {
    input: ReceiveMessage,
    /// How long it waits; zero for a short poll.
    pub wait: Duration,
}

/// What an empty receive waits for.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// When the next hidden message becomes visible.
    pub until: Option<Time>,
    /// Notifies that looking sooner may be worthwhile. Requested while the queue is known to be
    /// empty, it misses nothing.
    pub changed: OwnedNotified,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveMessage {
    queue_url: Option<String>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
}

impl Receive {
    /// # Errors
    /// For a queue that does not exist, or a number out of its range.
    pub(crate) fn read(
        body: Value,
        queues: &mut Queues,
        call: &Call<'_>,
    ) -> Result<Self, ApiError> {
        let input: ReceiveMessage = input(body)?;
        let queue = queues.get(&required("QueueUrl", input.queue_url.clone())?, call)?;
        in_range("MaxNumberOfMessages", input.max_number_of_messages, 1, 10)?;
        seconds("VisibilityTimeout", input.visibility_timeout, 43_200)?;
        let wait = seconds("WaitTimeSeconds", input.wait_time_seconds, 20)?
            .unwrap_or(queue.attributes.wait);
        Ok(Self { input, wait })
    }

    /// Looks once; `Err(Waiting)` inside if there is nothing.
    ///
    /// # Errors
    /// `QueueDoesNotExist` if the queue was deleted meanwhile; `OverLimit` for a short poll with
    /// too many in flight.
    pub(crate) fn look(
        &self,
        queues: &mut Queues,
        call: &mut Call<'_>,
    ) -> Result<Result<Value, Waiting>, ApiError> {
        let url = required("QueueUrl", self.input.queue_url.clone())?;
        let redrive = queues.get(&url, call)?.attributes.redrive.clone();
        let ask = Ask {
            max: usize::try_from(self.input.max_number_of_messages.unwrap_or(1)).unwrap_or(1),
            visibility_timeout: seconds(
                "VisibilityTimeout",
                self.input.visibility_timeout,
                43_200,
            )?,
            duplicate: call.misbehaviour.duplicate,
            reorder: call.misbehaviour.reorder,
            dead_letters: redrive.as_ref().is_some_and(|policy| queues.has(&policy.target)),
        };
        let queue = queues.get(&url, call)?;
        let name = queue.name.clone();
        let timeout = ask.visibility_timeout.unwrap_or(queue.attributes.visibility_timeout);
        let receives = match queue.receive(&ask, call.now) {
            Ok(receives) => receives,
            // A long poll does not get this error: it waits.
            Err(error) if error.code == "OverLimit" && !self.wait.is_zero() => Receives::default(),
            Err(error) => return Err(error),
        };
        let waiting = Waiting {
            until: queue.next_visible(),
            changed: queue.changed.clone().notified_owned(),
        };
        if let Some(policy) = redrive.filter(|_| !receives.dead.is_empty()) {
            queues.bury(&name, &policy.target, receives.dead, call)?;
        }
        for Delivery { message, .. } in &receives.deliveries {
            let (queue, id, receives) = (name.clone(), message.id.clone(), message.receives);
            call.tell(|| EventKind::MessageReceived {
                queue,
                id,
                receives,
                hidden_for: timeout.as_secs(),
            });
        }
        if receives.deliveries.is_empty() {
            return Ok(Err(waiting));
        }
        let messages: Vec<Value> =
            receives.deliveries.iter().map(|delivery| self.shown(delivery)).collect();
        Ok(Ok(json!({"Messages": messages})))
    }

    fn shown(&self, Delivery { message, receipt_handle }: &Delivery) -> Value {
        let mut shown = json!({
            "MessageId": &*message.id,
            "ReceiptHandle": receipt_handle,
            "MD5OfBody": message.content.md5_of_body(),
            "Body": &*message.content.body,
        });
        let asked = |name: &str| {
            let input = &self.input;
            input
                .attribute_names
                .iter()
                .chain(&input.message_system_attribute_names)
                .any(|it| it == "All" || it == name)
        };
        let system: Map<String, Value> =
            system_attributes(message).into_iter().filter(|(name, _)| asked(name)).collect();
        if !system.is_empty() {
            shown["Attributes"] = Value::Object(system);
        }
        let asked = |name: &str| {
            self.input.message_attribute_names.iter().any(|pattern| names(pattern, name))
        };
        let own: BTreeMap<_, _> =
            message.content.attributes.iter().filter(|(name, _)| asked(name)).collect();
        if let Some(md5) = md5_of_attributes(own.iter().map(|(name, value)| (*name, *value))) {
            shown["MD5OfMessageAttributes"] = Value::String(md5);
            shown["MessageAttributes"] = json!(own);
        }
        shown
    }
}

fn system_attributes(message: &Message) -> Vec<(String, Value)> {
    let mut attributes = vec![
        ("SenderId", SENDER.to_owned()),
        ("SentTimestamp", message.sent.millis().to_string()),
        ("ApproximateReceiveCount", message.receives.to_string()),
    ];
    let first = message.first_received.map(|time| time.millis().to_string());
    attributes.extend(first.map(|time| ("ApproximateFirstReceiveTimestamp", time)));
    attributes.extend(message.content.trace.clone().map(|trace| ("AWSTraceHeader", trace)));
    attributes.extend(message.content.group.clone().map(|group| ("MessageGroupId", group)));
    attributes
        .extend(message.source.as_ref().map(|arn| ("DeadLetterQueueSourceArn", arn.to_string())));
    attributes.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// Whether a receive that requests `pattern` gets the attribute: `All`, `.*`, a name, or the
/// beginning of one before `.*`.
fn names(pattern: &str, name: &str) -> bool {
    pattern == "All"
        || pattern == name
        || pattern.strip_suffix(".*").is_some_and(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_asked_for_by_name_by_its_beginning_or_with_all() {
        for pattern in ["All", ".*", "trace.id", "trace.*"] {
            assert!(names(pattern, "trace.id"), "{pattern}");
        }
        for pattern in ["", "trace", "other.*"] {
            assert!(!names(pattern, "trace.id"), "{pattern}");
        }
    }
}
