//! A queue's attributes: those that can be set, with their defaults and ranges.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::error;
use crate::local::protocol::ApiError;

/// SQS encrypts with keys of its own unless this is disabled or another key is set.
const MANAGED_ENCRYPTION: &str = "SqsManagedSseEnabled";

/// The settable attributes of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `VisibilityTimeout`, 0..43,200 s, default 30 s.
    pub visibility_timeout: Duration,
    /// `DelaySeconds`, 0..900, default 0.
    pub delay: Duration,
    /// `ReceiveMessageWaitTimeSeconds`, 0..20, default 0.
    pub wait: Duration,
    /// `MessageRetentionPeriod`, 60..1,209,600 s, default 4 days.
    pub retention: Duration,
    /// `MaximumMessageSize`, 1,024..1,048,576 bytes, which is the default.
    pub max_size: usize,
    pub redrive: Option<RedrivePolicy>,
    /// Stored and returned, but without effect: policies and encryption.
    opaque: BTreeMap<String, String>,
}

/// When a message moves to the dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedrivePolicy {
    /// The dead-letter queue's ARN.
    pub target: String,
    /// A message that was received this often is moved when it is next received; 1..1,000.
    pub max_receives: u32,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            visibility_timeout: Duration::from_secs(30),
            delay: Duration::ZERO,
            wait: Duration::ZERO,
            retention: Duration::from_hours(4 * 24),
            max_size: 1_048_576,
            redrive: None,
            opaque: BTreeMap::from([(MANAGED_ENCRYPTION.to_owned(), "true".to_owned())]),
        }
    }
}

impl Attributes {
    /// These attributes with some of them changed.
    ///
    /// # Errors
    /// `InvalidAttributeName` for one that is unknown or cannot be set, `InvalidAttributeValue` for
    /// one out of its range; `UnsupportedOperation` for a FIFO queue, which the local endpoint does
    /// not support.
    pub(crate) fn with(&self, changes: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let mut set = self.clone();
        for (name, value) in changes {
            match name.as_str() {
                "VisibilityTimeout" => set.visibility_timeout = seconds(name, value, 0, 43_200)?,
                "DelaySeconds" => set.delay = seconds(name, value, 0, 900)?,
                "ReceiveMessageWaitTimeSeconds" => set.wait = seconds(name, value, 0, 20)?,
                "MessageRetentionPeriod" => set.retention = seconds(name, value, 60, 1_209_600)?,
                "MaximumMessageSize" => {
                    let bytes = number(name, value, 1_024, 1_048_576)?;
                    set.max_size = usize::try_from(bytes).unwrap_or(usize::MAX);
                }
                "RedrivePolicy" => set.redrive = RedrivePolicy::parse(value)?,
                "FifoQueue" if value != "false" => {
                    return Err(error::unsupported("the local endpoint has standard queues only"));
                }
                "Policy"
                | "RedriveAllowPolicy"
                | "KmsMasterKeyId"
                | "KmsDataKeyReusePeriodSeconds"
                | MANAGED_ENCRYPTION => {
                    set.opaque.insert(name.clone(), value.clone());
                }
                _ => return Err(error::invalid_attribute_name(name)),
            }
        }
        if set.opaque.get("KmsMasterKeyId").is_some_and(|key| !key.is_empty()) {
            set.opaque.insert(MANAGED_ENCRYPTION.to_owned(), "false".to_owned());
        }
        Ok(set)
    }

    /// In the form of `GetQueueAttributes`.
    pub(crate) fn shown(&self) -> BTreeMap<String, String> {
        let mut shown = self.opaque.clone();
        let mut show = |name: &str, value: String| shown.insert(name.to_owned(), value);
        show("VisibilityTimeout", self.visibility_timeout.as_secs().to_string());
        show("DelaySeconds", self.delay.as_secs().to_string());
        show("ReceiveMessageWaitTimeSeconds", self.wait.as_secs().to_string());
        show("MessageRetentionPeriod", self.retention.as_secs().to_string());
        show("MaximumMessageSize", self.max_size.to_string());
        if let Some(policy) = &self.redrive {
            let policy = json!({"deadLetterTargetArn": policy.target, "maxReceiveCount": policy.max_receives});
            show("RedrivePolicy", policy.to_string());
        }
        shown
    }
}

impl RedrivePolicy {
    /// Parses the attribute's JSON; an empty text removes the policy. The count may be a number or
    /// a string.
    fn parse(text: &str) -> Result<Option<Self>, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Policy {
            dead_letter_target_arn: String,
            max_receive_count: Value,
        }
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = |reason: String| error::invalid_attribute_value("RedrivePolicy", reason);
        let policy: Policy =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let count = match &policy.max_receive_count {
            Value::String(digits) => digits.parse().ok(),
            count => count.as_u64(),
        };
        let max_receives = count
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| (1..=1_000).contains(count))
            .ok_or_else(|| invalid("maxReceiveCount must be between 1 and 1000.".to_owned()))?;
        Ok(Some(Self { target: policy.dead_letter_target_arn, max_receives }))
    }

    /// Whether a message is moved instead of being received once more.
    pub(crate) fn gives_up(&self, receives: u32) -> bool {
        receives >= self.max_receives
    }
}

fn seconds(name: &str, value: &str, least: u64, most: u64) -> Result<Duration, ApiError> {
    number(name, value, least, most).map(Duration::from_secs)
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, ApiError> {
    value.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        error::invalid_attribute_value(name, format_args!("Must be between {least} and {most}."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<Attributes, ApiError> {
        Attributes::default().with(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn a_value_out_of_range_is_refused() {
        for (name, good, wrong) in [
            ("VisibilityTimeout", "43200", "43201"),
            ("DelaySeconds", "900", "901"),
            ("ReceiveMessageWaitTimeSeconds", "20", "21"),
            ("MessageRetentionPeriod", "60", "59"),
            ("MaximumMessageSize", "1048576", "1048577"),
            ("VisibilityTimeout", "0", "-1"),
        ] {
            assert_eq!(set(name, good).expect(name).shown()[name], good);
            assert_eq!(set(name, wrong).expect_err(name).code, "InvalidAttributeValue");
        }
    }

    #[test]
    fn a_queue_is_encrypted_by_one_kind_of_key() {
        assert_eq!(Attributes::default().shown()[MANAGED_ENCRYPTION], "true");
        assert_eq!(
            set("KmsMasterKeyId", "alias/own").expect("a key").shown()[MANAGED_ENCRYPTION],
            "false"
        );
    }

    #[test]
    fn an_attribute_that_cannot_be_set_is_refused() {
        for name in ["QueueArn", "ApproximateNumberOfMessages", "Nonsense"] {
            assert_eq!(set(name, "1").expect_err(name).code, "InvalidAttributeName");
        }
        assert_eq!(set("FifoQueue", "true").expect_err("FIFO").code, "UnsupportedOperation");
    }

    #[test]
    fn a_redrive_policy_counts_in_numbers_or_strings_and_an_empty_one_takes_it_away() {
        let policy = RedrivePolicy { target: "arn".to_owned(), max_receives: 3 };
        for text in [
            r#"{"deadLetterTargetArn": "arn", "maxReceiveCount": 3}"#,
            r#"{"deadLetterTargetArn": "arn", "maxReceiveCount": "3"}"#,
        ] {
            let set = set("RedrivePolicy", text).expect(text);
            assert_eq!(set.redrive.as_ref(), Some(&policy));
            let cleared = set.with(&BTreeMap::from([("RedrivePolicy".to_owned(), String::new())]));
            assert_eq!(cleared.expect("cleared").redrive, None);
        }
        for wrong in [
            r#"{"deadLetterTargetArn": "arn", "maxReceiveCount": 0}"#,
            r#"{"maxReceiveCount": 3}"#,
            "3",
        ] {
            assert_eq!(set("RedrivePolicy", wrong).expect_err(wrong).code, "InvalidAttributeValue");
        }
    }

    #[test]
    fn a_message_is_given_up_after_as_many_receives_as_the_policy_says() {
        let policy = RedrivePolicy { target: String::new(), max_receives: 2 };
        assert!(!policy.gives_up(1));
        assert!(policy.gives_up(2));
    }
}
