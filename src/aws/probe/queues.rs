//! One queue and its messages, in the service's own words.

use std::time::Duration;

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageSystemAttributeName,
};

use super::{Services, TAG, Tried, Unserved};
use crate::aws::calls::Limit;

/// A message as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// SQS's own, the same at each receive.
    pub id: String,
    pub receipt_handle: String,
    pub body: String,
    /// The names of its message attributes, and of its trace header if it has one.
    pub attributes: Vec<String>,
}

/// What became of the entries of a batch: the code of each that failed.
pub type Entries = Vec<Result<(), String>>;

impl Services {
    /// Creates a queue and returns its URL. `run` is the value of its tag.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn create_queue(&self, name: &str, run: &str) -> Tried<String> {
        const OPERATION: &str = "CreateQueue";
        let call = self.account.quick.create_queue().queue_name(name).tags(TAG, run).send();
        let answer = self.sqs.send(OPERATION, Limit::ANSWER, call).await?;
        answer.queue_url.ok_or_else(|| Unserved::lacking(OPERATION, "URL"))
    }

    /// Deletes a queue with all its messages.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn delete_queue(&self, url: &str) -> Tried<()> {
        let call = self.account.quick.delete_queue().queue_url(url).send();
        self.sqs.send("DeleteQueue", Limit::ANSWER, call).await?;
        Ok(())
    }

    /// The URLs of the queues whose names begin with `prefix`, at most a thousand.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn queues(&self, prefix: &str) -> Tried<Vec<String>> {
        let call = self.account.quick.list_queues().queue_name_prefix(prefix).send();
        let answer = self.sqs.send("ListQueues", Limit::ANSWER, call).await?;
        Ok(answer.queue_urls.unwrap_or_default())
    }

    /// Up to ten messages, waiting up to `wait` (at most 20 s) for the first; each stays invisible
    /// for `visibility`.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn receive(
        &self,
        url: &str,
        wait: Duration,
        visibility: Duration,
    ) -> Tried<Vec<Letter>> {
        let call = self
            .account
            .poll
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(seconds(visibility))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::AwsTraceHeader)
            .send();
        let answer = self.sqs.send("ReceiveMessage", Limit::POLL, call).await?;
        let letter = |message: aws_sdk_sqs::types::Message| {
            let own = message.message_attributes.unwrap_or_default().into_keys();
            let system = message.attributes.unwrap_or_default().into_keys();
            let mut attributes: Vec<String> =
                own.chain(system.map(|name| name.as_str().to_owned())).collect();
            attributes.sort();
            Some(Letter {
                id: message.message_id?,
                receipt_handle: message.receipt_handle?,
                body: message.body.unwrap_or_default(),
                attributes,
            })
        };
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }

    /// Puts a message on a queue and returns its id.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn post(&self, url: &str, body: &str) -> Tried<String> {
        const OPERATION: &str = "SendMessage";
        let call = self.account.quick.send_message().queue_url(url).message_body(body).send();
        let answer = self.sqs.send(OPERATION, Limit::QUICK, call).await?;
        answer.message_id.ok_or_else(|| Unserved::lacking(OPERATION, "message id"))
    }

    /// Keeps a message invisible for `visibility` from now.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn hide(&self, url: &str, receipt_handle: &str, visibility: Duration) -> Tried<()> {
        let call = self
            .account
            .quick
            .change_message_visibility()
            .queue_url(url)
            .receipt_handle(receipt_handle)
            .visibility_timeout(seconds(visibility))
            .send();
        self.sqs.send("ChangeMessageVisibility", Limit::QUICK, call).await?;
        Ok(())
    }

    /// The same in one batch that names the receipt handle in two entries.
    ///
    /// # Errors
    /// [`Unserved`], if the batch is refused as a whole.
    pub async fn hide_twice(
        &self,
        url: &str,
        receipt_handle: &str,
        visibility: Duration,
    ) -> Tried<Entries> {
        const OPERATION: &str = "ChangeMessageVisibilityBatch";
        let mut call = self.account.quick.change_message_visibility_batch().queue_url(url);
        for id in ["a", "b"] {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(receipt_handle)
                .visibility_timeout(seconds(visibility))
                .build();
            call = call.entries(entry.map_err(|error| Unserved::Unanswered(error.to_string()))?);
        }
        let answer = self.sqs.send(OPERATION, Limit::QUICK, call.send()).await?;
        let failed = answer.failed.into_iter().map(|entry| Err(entry.code));
        Ok(answer.successful.iter().map(|_| Ok(())).chain(failed).collect())
    }

    /// Deletes messages by their receipt handles, at most ten.
    ///
    /// # Errors
    /// [`Unserved`], if the batch is refused as a whole.
    pub async fn discard(&self, url: &str, receipt_handles: &[&str]) -> Tried<Entries> {
        const OPERATION: &str = "DeleteMessageBatch";
        let mut call = self.account.quick.delete_message_batch().queue_url(url);
        for (id, receipt_handle) in receipt_handles.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(id.to_string())
                .receipt_handle(*receipt_handle)
                .build();
            call = call.entries(entry.map_err(|error| Unserved::Unanswered(error.to_string()))?);
        }
        let answer = self.sqs.send(OPERATION, Limit::QUICK, call.send()).await?;
        let failed = answer.failed.into_iter().map(|entry| Err(entry.code));
        Ok(answer.successful.iter().map(|_| Ok(())).chain(failed).collect())
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
