//! How many messages a queue has, and the queue for those that were received too often.

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;

use super::calls::Limit;
use super::sqs::Sqs;
use crate::seam::{Fault, FaultKind};
use crate::step::QueueUrl;

/// What a queue says of its messages. SQS calls the numbers approximate.
#[derive(Clone, Debug)]
pub struct Backlog {
    /// Messages that the next receive may return.
    pub visible: u64,
    /// Messages that were received and not deleted, and do not wait again.
    pub in_flight: u64,
    /// Messages that are not visible yet.
    pub delayed: u64,
    /// Where messages go that were received too often.
    pub dead_letters: Option<Sqs>,
}

const OPERATION: &str = "GetQueueAttributes";

impl Sqs {
    /// Asks for the queue's messages; `None` if there is no such queue.
    ///
    /// # Errors
    /// A [`Fault`], also if the answer lacks a number: that does not mean zero.
    pub async fn backlog(&self) -> Result<Option<Backlog>, Fault> {
        let (client, calls) = self.client();
        let call = client
            .get_queue_attributes()
            .queue_url(self.url().as_str())
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .send();
        let attributes = match calls.send(OPERATION, Limit::ANSWER, call).await {
            Ok(answer) => answer.attributes.unwrap_or_default(),
            Err(failed) if failed.failure.is_not_found() => return Ok(None),
            Err(failed) => return Err(failed.into()),
        };
        let number = |name: QueueAttributeName| {
            let found = attributes.get(&name).and_then(|text| text.parse().ok());
            found.ok_or_else(|| wrong(&format!("the answer lacks {name}")))
        };
        let policy = attributes.get(&QueueAttributeName::RedrivePolicy);
        let dead_letters = match policy.map(String::as_str) {
            None | Some("") => None,
            Some(policy) => {
                let unreadable =
                    || wrong(&format!("the redrive policy cannot be read: {policy:?}"));
                Some(dead_letters(self.url(), policy).ok_or_else(unreadable)?)
            }
        };
        Ok(Some(Backlog {
            visible: number(QueueAttributeName::ApproximateNumberOfMessages)?,
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)?,
            delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed)?,
            dead_letters: dead_letters.map(|url| self.beside(url)),
        }))
    }
}

fn wrong(what: &str) -> Fault {
    Fault::new(FaultKind::Transient, format!("{OPERATION}: {what}"))
}

/// The URL of the dead-letter queue, which is in the same account and region as its source.
pub(super) fn dead_letters(queue: &QueueUrl, policy: &str) -> Option<QueueUrl> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let name = policy.get("deadLetterTargetArn")?.as_str()?.rsplit(':').next()?;
    let before = queue.as_str().strip_suffix(queue.name())?;
    format!("{before}{name}").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::server::{Reply, Server};

    const URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/q";

    async fn backlog(reply: Reply) -> Result<Option<Backlog>, Fault> {
        let server = Server::start([reply]).await;
        Sqs::new(&server.account(), URL.parse().expect("a URL")).backlog().await
    }

    fn attributes(delayed: &str, policy: &str) -> Reply {
        let attributes = json!({
            "ApproximateNumberOfMessages": "1", "ApproximateNumberOfMessagesNotVisible": "2",
            "ApproximateNumberOfMessagesDelayed": delayed, "RedrivePolicy": policy,
        });
        Reply::Json(200, json!({ "Attributes": attributes }))
    }

    #[tokio::test]
    async fn a_queue_says_how_many_messages_it_has_and_where_the_dead_ones_go() {
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:dead"}"#;
        let found = backlog(attributes("3", policy)).await.expect("an answer").expect("a queue");
        assert_eq!((found.visible, found.in_flight, found.delayed), (1, 2, 3));
        let dead = found.dead_letters.expect("a queue");
        assert_eq!(dead.url().as_str(), "https://sqs.us-east-1.amazonaws.com/123456789012/dead");
        let none = backlog(attributes("0", "")).await.expect("an answer").expect("a queue");
        assert!(none.dead_letters.is_none());
    }

    #[tokio::test]
    async fn what_an_answer_lacks_is_not_taken_for_nothing() {
        for reply in [
            Reply::Json(200, json!({})),
            attributes("", ""),
            attributes("0", "nonsense"),
            Reply::Json(400, json!({ "__type": "AccessDeniedException" })),
        ] {
            backlog(reply).await.expect_err("a fault");
        }
        let gone = json!({ "__type": "com.amazonaws.sqs#QueueDoesNotExist" });
        assert!(backlog(Reply::Json(400, gone)).await.expect("an answer").is_none());
    }
}
