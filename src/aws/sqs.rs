//! One SQS queue, as the engine sees it.

use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry,
    DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
    MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::account::Account;
use super::calls::{Calls, Failed, Limit};
use super::faults::Failure;
use crate::seam::{Entries, Fault, FaultKind, Queue, Received};
use crate::step::QueueUrl;

/// One queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sqs {
    url: QueueUrl,
    poll: aws_sdk_sqs::Client,
    quick: aws_sdk_sqs::Client,
    calls: Calls,
}

impl Sqs {
    pub(super) fn new(account: &Account, url: QueueUrl) -> Self {
        Self {
            url,
            poll: account.poll.clone(),
            quick: account.quick.clone(),
            calls: account.calls("sqs"),
        }
    }

    #[must_use]
    pub fn url(&self) -> &QueueUrl {
        &self.url
    }

    /// The same client, for another queue of the account.
    pub(super) fn beside(&self, url: QueueUrl) -> Self {
        Self { url, ..self.clone() }
    }

    pub(super) fn client(&self) -> (&aws_sdk_sqs::Client, &Calls) {
        (&self.quick, &self.calls)
    }
}

impl Queue for Sqs {
    fn receive(
        &self,
        most: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Received>, Fault>> {
        let call = self
            .poll
            .receive_message()
            .queue_url(self.url.as_str())
            .max_number_of_messages(i32::try_from(most.clamp(1, 10)).unwrap_or(10))
            // Whole seconds, and never longer than the caller waits.
            .wait_time_seconds(i32::try_from(wait.as_secs().min(20)).unwrap_or(20))
            .visibility_timeout(seconds(visibility))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::AwsTraceHeader)
            .send();
        Box::pin(async move {
            let answer = self.calls.send("ReceiveMessage", Limit::POLL, call).await?;
            Ok(answer.messages.unwrap_or_default().into_iter().filter_map(read).collect())
        })
    }

    fn set_visibility<'a>(
        &'a self,
        entries: &'a [(String, Duration)],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        const OPERATION: &str = "ChangeMessageVisibilityBatch";
        Box::pin(async move {
            if entries.is_empty() {
                return Ok(Vec::new());
            }
            let mut call =
                self.quick.change_message_visibility_batch().queue_url(self.url.as_str());
            for (index, (receipt_handle, visibility)) in entries.iter().enumerate() {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt_handle)
                    .visibility_timeout(seconds(*visibility))
                    .build();
                call = call.entries(entry.map_err(|error| unbuilt(OPERATION, &error))?);
            }
            let answer = self.calls.send(OPERATION, Limit::QUICK, call.send()).await?;
            let done = answer.successful.iter().map(|entry| entry.id.as_str());
            Ok(by_entry(OPERATION, entries.len(), done, &answer.failed))
        })
    }

    fn delete<'a>(
        &'a self,
        receipt_handles: &'a [String],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        const OPERATION: &str = "DeleteMessageBatch";
        Box::pin(async move {
            if receipt_handles.is_empty() {
                return Ok(Vec::new());
            }
            let mut call = self.quick.delete_message_batch().queue_url(self.url.as_str());
            for (index, receipt_handle) in receipt_handles.iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt_handle);
                call = call.entries(entry.build().map_err(|error| unbuilt(OPERATION, &error))?);
            }
            let answer = self.calls.send(OPERATION, Limit::QUICK, call.send()).await?;
            let done = answer.successful.iter().map(|entry| entry.id.as_str());
            Ok(by_entry(OPERATION, receipt_handles.len(), done, &answer.failed))
        })
    }

    fn send<'a>(
        &'a self,
        body: &'a str,
        trace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        const OPERATION: &str = "SendMessage";
        Box::pin(async move {
            let mut call =
                self.quick.send_message().queue_url(self.url.as_str()).message_body(body);
            if let Some(trace) = trace {
                let value = MessageSystemAttributeValue::builder()
                    .data_type("String")
                    .string_value(trace)
                    .build();
                let value = value.map_err(|error| unbuilt(OPERATION, &error))?;
                call = call.message_system_attributes(
                    MessageSystemAttributeNameForSends::AwsTraceHeader,
                    value,
                );
            }
            self.calls.send(OPERATION, Limit::QUICK, call.send()).await?;
            Ok(())
        })
    }
}

/// Whole seconds, rounded up, so that nothing becomes visible before it should; SQS takes at most
/// twelve hours.
fn seconds(visibility: Duration) -> i32 {
    const TWELVE_HOURS: u64 = 43_200;
    let whole = visibility.as_secs() + u64::from(visibility.subsec_nanos() > 0);
    i32::try_from(whole.min(TWELVE_HOURS)).unwrap_or(i32::MAX)
}

/// A message without an id or a receipt handle can be neither kept nor deleted; it becomes visible
/// again by itself.
fn read(message: Message) -> Option<Received> {
    let (Some(id), Some(receipt_handle)) = (message.message_id, message.receipt_handle) else {
        tracing::warn!(
            event = "message_incomplete",
            "SQS returned a message without an id or a receipt handle; it is left to its \
             visibility timeout"
        );
        return None;
    };
    let mut attributes = message.attributes.unwrap_or_default();
    let mut attribute = |name: MessageSystemAttributeName| attributes.remove(&name);
    let receives = attribute(MessageSystemAttributeName::ApproximateReceiveCount)
        .and_then(|text| text.parse().ok());
    let sent = attribute(MessageSystemAttributeName::SentTimestamp)
        .and_then(|text| text.parse().ok())
        .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok());
    Some(Received {
        id,
        receipt_handle,
        // A missing body is as unreadable as an empty one.
        body: message.body.unwrap_or_default(),
        receives: receives.unwrap_or(1).max(1),
        sent,
        trace: attribute(MessageSystemAttributeName::AwsTraceHeader),
    })
}

/// The result of each of `count` entries, whose ids are their positions. An entry counts as done
/// only if the answer says so.
fn by_entry<'a>(
    operation: &str,
    count: usize,
    done: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Entries {
    let lacking =
        Fault::new(FaultKind::Transient, format!("{operation}: the answer lacks this entry"));
    let mut entries: Entries = vec![Err(lacking); count];
    let place = |id: &str| id.parse::<usize>().ok().filter(|place| *place < count);
    for place in done.filter_map(place) {
        entries[place] = Ok(());
    }
    for entry in failed {
        if let Some(place) = place(&entry.id) {
            let failure =
                Failure::of_entry(&entry.code, entry.message.as_deref(), entry.sender_fault);
            entries[place] = Err(failure.fault(operation));
        }
    }
    entries
}

fn unbuilt(operation: &'static str, error: &aws_sdk_sqs::error::BuildError) -> Failed {
    Failed { operation, failure: Failure::Unsent(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use FaultKind::{Denied, Refused, Stale, Transient};

    use super::*;
    use crate::aws::server::{Reply, Server};

    /// A different host from the endpoint's, as with an emulator behind a port-forward.
    const URL: &str = "http://sqs.elsewhere:5000/123456789012/q";

    async fn scene(replies: impl IntoIterator<Item = Reply>) -> (Server, Sqs) {
        let server = Server::start(replies).await;
        let queue = Sqs::new(&server.account(), URL.parse().expect("a URL"));
        (server, queue)
    }

    async fn receive(queue: &Sqs) -> Result<Vec<Received>, Fault> {
        queue.receive(10, Duration::from_secs(20), Duration::from_mins(2)).await
    }

    fn kinds(entries: Entries) -> Vec<Option<FaultKind>> {
        entries.into_iter().map(|entry| entry.err().map(|fault| fault.kind)).collect()
    }

    #[tokio::test]
    async fn a_receive_asks_for_what_the_engine_needs_and_reads_it() {
        let whole = json!({
            "MessageId": "m", "ReceiptHandle": "h", "Body": "b",
            "Attributes": {
                "ApproximateReceiveCount": "3", "SentTimestamp": "1700000000123", "AWSTraceHeader": "Root=1-2", "New": "x"
            },
        });
        let bare = json!({ "MessageId": "n", "ReceiptHandle": "i" });
        let lame = json!({ "MessageId": "o", "Body": "b" });
        let (server, queue) =
            scene([Reply::Json(200, json!({ "Messages": [whole, lame, bare], "Newer": 1 }))]).await;
        let received =
            queue.receive(40, Duration::from_millis(20_900), Duration::from_millis(90_001)).await;
        let sent = Timestamp::from_millisecond(1_700_000_000_123).ok();
        let received_whole = Received {
            id: "m".into(),
            receipt_handle: "h".into(),
            body: "b".into(),
            receives: 3,
            sent,
            trace: Some("Root=1-2".into()),
        };
        let received_bare = Received {
            id: "n".into(),
            receipt_handle: "i".into(),
            body: String::new(),
            receives: 1,
            sent: None,
            trace: None,
        };
        assert_eq!(received, Ok(vec![received_whole, received_bare]));
        let request = &server.requests()[0];
        assert_eq!(request.target(), "ReceiveMessage");
        assert_eq!(
            request.json(),
            json!({
                "QueueUrl": URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20, "VisibilityTimeout": 91,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp", "AWSTraceHeader"],
            })
        );
        assert_eq!(server.seen.all(), ["sqs ReceiveMessage ok"]);
    }

    #[tokio::test]
    async fn the_user_agent_says_who_calls() {
        let (server, queue) = scene([Reply::Json(200, json!({}))]).await;
        assert_eq!(receive(&queue).await, Ok(vec![]));
        let requests = server.requests();
        let agent = requests[0].header("user-agent").expect("a user agent").to_owned()
            + requests[0].header("x-amz-user-agent").unwrap_or_default();
        assert!(agent.contains("app/callbackd"), "{agent}");
        assert!(agent.contains(concat!("lib/callbackd/", env!("CARGO_PKG_VERSION"))), "{agent}");
    }

    #[tokio::test]
    async fn a_failed_receive_is_tried_once_and_sorted() {
        let (server, queue) = scene([
            Reply::Reset,
            Reply::Json(500, json!({ "__type": "com.amazonaws.sqs#InternalFailure" })),
            Reply::Json(400, json!({ "__type": "com.amazon.coral.service#AccessDeniedException", "Message": "no" })),
            Reply::Raw(
                400,
                "x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender\r\n",
                r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"gone"}"#,
            ),
            Reply::Raw(502, "content-type: text/html\r\n", "<html>bad gateway</html>"),
            Reply::Raw(200, "content-type: text/html\r\n", "<html>sign in</html>"),
        ])
        .await;
        let mut kinds = Vec::new();
        for _ in 0..6 {
            kinds.push(receive(&queue).await.expect_err("a fault").kind);
        }
        assert_eq!(kinds, [Transient, Transient, Denied, Refused, Transient, Transient]);
        assert_eq!(server.requests().len(), 6, "the SDK retried");
        let results: Vec<String> = server.seen.all();
        assert_eq!(
            results,
            [
                "sqs ReceiveMessage connection",
                "sqs ReceiveMessage InternalFailure",
                "sqs ReceiveMessage AccessDeniedException",
                "sqs ReceiveMessage AWS.SimpleQueueService.NonExistentQueue",
                "sqs ReceiveMessage unreadable",
                "sqs ReceiveMessage unreadable",
            ]
        );
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_mends_itself_with_the_first_answer() {
        let late = "date: Wed, 01 Jan 2070 00:00:00 GMT\r\n";
        let (server, queue) = scene([
            Reply::Raw(
                403,
                late,
                r#"{"__type":"InvalidSignatureException","message":"Signature expired"}"#,
            ),
            Reply::Raw(200, late, "{}"),
        ])
        .await;
        let fault = receive(&queue).await.expect_err("a fault");
        assert!(
            fault.kind == Transient && fault.detail.contains("the clock of this machine is"),
            "{fault:?}"
        );
        assert_eq!(receive(&queue).await, Ok(vec![]));
        let requests = server.requests();
        let dates: Vec<&str> =
            requests.iter().filter_map(|request| request.header("x-amz-date")).collect();
        assert!(
            !dates[0].starts_with("2070") && dates[1].starts_with("20700101T0000"),
            "{dates:?}"
        );
    }

    #[tokio::test]
    async fn a_connection_that_has_gone_silent_is_left_and_the_next_call_works() {
        let (server, queue) = scene([
            Reply::Json(200, json!({})),
            Reply::Hang,
            Reply::Json(200, json!({ "Messages": [] })),
        ])
        .await;
        assert_eq!(receive(&queue).await, Ok(vec![]));
        let mut call = Box::pin(receive(&queue));
        tokio::select! {
            _ = &mut call => panic!("it hangs"),
            () = server.asked(2) => {}
        }
        // From here on only timers are pending.
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        let fault = call.await.expect_err("a time-out");
        assert_eq!(fault.kind, FaultKind::Transient);
        let took = before.elapsed().as_secs();
        assert!((29..=31).contains(&took), "{took} s");
        tokio::time::resume();
        assert_eq!(receive(&queue).await, Ok(vec![]));
        assert_eq!(server.seen.all()[1], "sqs ReceiveMessage timeout");
    }

    #[tokio::test]
    async fn a_heartbeat_gives_up_after_seconds() {
        let (server, queue) = scene([Reply::Hang]).await;
        let entries = [("h".to_owned(), Duration::from_mins(1))];
        let mut call = queue.set_visibility(&entries);
        tokio::select! {
            _ = &mut call => panic!("it hangs"),
            () = server.asked(1) => {}
        }
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        assert_eq!(call.await.expect_err("a time-out").kind, FaultKind::Transient);
        let took = before.elapsed().as_secs();
        assert!((4..=6).contains(&took), "{took} s");
    }

    #[tokio::test]
    async fn each_entry_of_a_batch_has_its_own_end() {
        let failed = |id: &str, code: &str, sender: bool, message: &str| json!({ "Id": id, "Code": code, "SenderFault": sender, "Message": message });
        let gone = "Value h for parameter ReceiptHandle is invalid. Reason: Message does not exist \
                    or is not available for visibility timeout change.";
        let (server, queue) = scene([Reply::Json(
            200,
            json!({
                "Successful": [{ "Id": "5" }, { "Id": "0" }, { "Id": "77" }, { "Id": "x" }],
                "Failed": [
                    failed("4", "InvalidParameterValue", true, "Total VisibilityTimeout for the \
                        message is beyond the limit"),
                    failed("1", "ReceiptHandleIsInvalid", true, ""),
                    failed("2", "InternalError", false, ""),
                    failed("6", "InvalidParameterValue", true, gone),
                ],
            }),
        )])
        .await;
        let entries: Vec<_> =
            (0..7).map(|n| (format!("h{n}"), Duration::from_millis(1_500 * n))).collect();
        let ends = kinds(queue.set_visibility(&entries).await.expect("an answer"));
        // The fourth is in neither list.
        assert_eq!(
            ends,
            [None, Some(Stale), Some(Transient), Some(Transient), Some(Refused), None, Some(Stale)]
        );
        let request = server.requests()[0].json();
        let sent: Vec<(&Value, &Value, &Value)> = request["Entries"]
            .as_array()
            .expect("entries")
            .iter()
            .map(|entry| (&entry["Id"], &entry["ReceiptHandle"], &entry["VisibilityTimeout"]))
            .collect();
        assert_eq!(sent[0], (&json!("0"), &json!("h0"), &json!(0)));
        assert_eq!(sent[3], (&json!("3"), &json!("h3"), &json!(5)));
        assert_eq!(sent[6], (&json!("6"), &json!("h6"), &json!(9)));
    }

    #[tokio::test]
    async fn an_answer_without_lists_deletes_nothing() {
        let (server, queue) = scene([
            Reply::Json(200, json!({})),
            Reply::Json(200, json!({ "Successful": [{ "Id": "1" }] })),
        ])
        .await;
        let receipt_handles = ["a".to_owned(), "b".to_owned()];
        let transient = Some(FaultKind::Transient);
        assert_eq!(
            kinds(queue.delete(&receipt_handles).await.expect("an answer")),
            [transient, transient]
        );
        assert_eq!(
            kinds(queue.delete(&receipt_handles).await.expect("an answer")),
            [transient, None]
        );
        assert_eq!(server.requests()[0].target(), "DeleteMessageBatch");
    }

    #[tokio::test]
    async fn an_empty_batch_costs_no_call() {
        let (server, queue) = scene([]).await;
        assert_eq!(queue.delete(&[]).await, Ok(vec![]));
        assert_eq!(queue.set_visibility(&[]).await, Ok(vec![]));
        assert_eq!(server.requests(), []);
    }

    #[tokio::test]
    async fn a_fresh_copy_keeps_its_trace() {
        let answer = || Reply::Json(200, json!({ "MessageId": "m", "MD5OfMessageBody": "x" }));
        let (server, queue) = scene([answer(), answer()]).await;
        assert_eq!(queue.send("{\"token\":1}", Some("Root=1-2")).await, Ok(()));
        assert_eq!(queue.send("body", None).await, Ok(()));
        let requests = server.requests();
        assert_eq!(
            requests[0].json(),
            json!({
                "QueueUrl": URL, "MessageBody": "{\"token\":1}",
                "MessageSystemAttributes": { "AWSTraceHeader": { "DataType": "String", "StringValue": "Root=1-2" } },
            })
        );
        assert_eq!(requests[1].json(), json!({ "QueueUrl": URL, "MessageBody": "body" }));
    }

    #[test]
    fn a_visibility_is_rounded_up_and_never_beyond_twelve_hours() {
        for (milliseconds, wants) in
            [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (43_200_000, 43_200), (99_000_000, 43_200)]
        {
            assert_eq!(seconds(Duration::from_millis(milliseconds)), wants);
        }
    }
}
