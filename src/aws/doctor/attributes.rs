//! What a queue's attributes mean for callback steps, and how far our clock is off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::Value;

use super::{Finding, Level};
use crate::aws::calls::{Failed, Limit};
use crate::aws::faults::ahead_of;
use crate::aws::sqs::Sqs;
use crate::step::QueueUrl;

/// A queue's attributes, and how many seconds our clock is ahead of the service's, if its answer
/// says.
pub(super) async fn read(queue: &Sqs) -> Result<(BTreeMap<String, String>, Option<i64>), Failed> {
    let (client, calls) = queue.client();
    let date = Date::default();
    let call = client
        .get_queue_attributes()
        .queue_url(queue.url().as_str())
        .attribute_names(QueueAttributeName::All);
    let call = call.customize().interceptor(date.clone()).send();
    let answer = calls.send("GetQueueAttributes", Limit::ANSWER, call).await?;
    let attributes = answer.attributes.unwrap_or_default();
    Ok((
        attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect(),
        date.ahead(),
    ))
}

/// How far our clock differed from the date of the last answer.
#[derive(Clone, Debug, Default)]
struct Date(Arc<Mutex<Option<i64>>>);

impl Date {
    fn ahead(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Date {
    fn name(&self) -> &'static str {
        "Date"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let ahead = context.response().headers().get("date").and_then(ahead_of);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ahead;
        Ok(())
    }
}

/// AWS refuses requests signed more than five minutes off. The SDK corrects that from the second
/// call on, but the log, and the times in a ledger that is no table, still go by this clock.
pub(super) fn clock(ahead: i64) -> Finding {
    const NOTED: u64 = 30;
    let (seconds, side) = (ahead.unsigned_abs(), if ahead < 0 { "behind" } else { "ahead of" });
    if seconds <= NOTED {
        return Finding::ok("the clock", format!("is within {} s of AWS's", seconds.max(1)));
    }
    let text = format!("is {seconds} s {side} AWS's; more than 300 s are refused");
    Finding::bad(Level::Warn, "the clock", text, "set it, by NTP")
}

/// The longest retention that SQS allows, in seconds: 14 days.
const LONGEST: u64 = 14 * 86_400;

/// What a queue's attributes mean for callback steps.
pub(super) fn judge(
    queue: &QueueUrl,
    attributes: &BTreeMap<String, String>,
    visibility_timeout: Duration,
) -> Vec<Finding> {
    let url = queue.as_str();
    let number = |name: &str| attributes.get(name).and_then(|text| text.parse::<u64>().ok());
    let warn = |text: String, remedy: &str| Finding::bad(Level::Warn, url, text, remedy);
    let mut findings = Vec::new();

    let waiting = number("ApproximateNumberOfMessages").unwrap_or_default();
    let held = number("ApproximateNumberOfMessagesNotVisible").unwrap_or_default();
    findings.push(Finding::ok(url, format!("reachable; {waiting} messages wait, {held} are held")));

    if attributes.get("FifoQueue").is_some_and(|fifo| fifo == "true") {
        findings.push(Finding::bad(
            Level::Error,
            url,
            "a FIFO queue: its messages need a group, which a callback step cannot set",
            "use a standard queue",
        ));
    }
    if !queue.name().to_ascii_lowercase().contains("sagemaker") {
        findings.push(warn(
            "its name lacks \"sagemaker\"; the managed pipelines policy allows sending to queues \
             with that in their name only"
                .to_owned(),
            "check that the pipeline's own role allows sqs:SendMessage to it",
        ));
    }
    match number("MessageRetentionPeriod") {
        Some(seconds) if seconds < LONGEST => findings.push(warn(
            format!(
                "messages are kept for {}; a step whose message is not received in time waits \
                 forever",
                crate::duration::text(Duration::from_secs(seconds))
            ),
            "set its retention to 14 days",
        )),
        Some(seconds) => {
            findings.push(Finding::ok(
                url,
                format!(
                    "messages are kept for {}",
                    crate::duration::text(Duration::from_secs(seconds))
                ),
            ));
        }
        None => {}
    }
    if let Some(delay) = number("DelaySeconds").filter(|delay| *delay > 0) {
        findings.push(warn(
            format!("every message is delayed by {delay} s"),
            "set its delivery delay to 0",
        ));
    }
    if let Some(key) = attributes.get("KmsMasterKeyId").filter(|key| !key.is_empty()) {
        findings.push(Finding::ok(
            url,
            format!(
                "encrypted with {key}, which is not tried: on it, this worker needs kms:Decrypt \
                 and kms:GenerateDataKey (deploy/iam/worker-kms-policy.json), and the pipeline's \
                 role both (deploy/iam/pipeline-role-kms-policy.json)"
            ),
        ));
    }
    findings.push(match attributes.get("RedrivePolicy").and_then(|policy| most_receives(policy)) {
        None => warn(
            "no dead-letter queue: an unreadable message comes back until its retention ends"
                .to_owned(),
            "give it a redrive policy with maxReceiveCount 5 or more",
        ),
        Some(most @ ..3) => warn(
            format!(
                "a message goes to the dead-letter queue after {most} receives, which restarts of \
                 this worker also use up"
            ),
            "set maxReceiveCount to 5 or more",
        ),
        Some(most) => Finding::ok(
            url,
            format!("a message goes to the dead-letter queue after {most} receives"),
        ),
    });
    findings.push(Finding::ok(
        url,
        format!(
            "held messages are kept invisible for {} at a time, whatever the queue's own timeout",
            crate::duration::text(visibility_timeout)
        ),
    ));
    findings
}

pub(super) fn judge_dead_letters(url: &str, attributes: &BTreeMap<String, String>) -> Vec<Finding> {
    let number = |name: &str| attributes.get(name).and_then(|text| text.parse::<u64>().ok());
    let waiting = number("ApproximateNumberOfMessages").unwrap_or_default();
    let short =
        number("MessageRetentionPeriod").filter(|seconds| *seconds < LONGEST).map(|seconds| {
            let kept = crate::duration::text(Duration::from_secs(seconds));
            let text = format!(
                "the dead-letter queue keeps messages for {kept}, from when they were first sent"
            );
            Finding::bad(Level::Warn, url, text, "set its retention to 14 days")
        });
    if waiting == 0 {
        return std::iter::once(Finding::ok(url, "the dead-letter queue is empty"))
            .chain(short)
            .collect();
    }
    let full = Finding::bad(
        Level::Warn,
        url,
        format!(
            "{waiting} messages are in the dead-letter queue; steps among them may still wait for \
             an answer"
        ),
        "find out why they are there, then redrive them or stop their executions",
    );
    std::iter::once(full).chain(short).collect()
}

/// A number, or a number in quotes as in older policies.
fn most_receives(policy: &str) -> Option<u64> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let most = policy.get("maxReceiveCount")?;
    most.as_u64().or_else(|| most.as_str()?.parse().ok())
}
