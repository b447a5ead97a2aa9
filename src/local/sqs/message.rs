//! A message: its content, its checksums, and what the queue records about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::error;
use crate::hex::hex;
use crate::local::clock::Time;
use crate::local::protocol::ApiError;

/// The maximum number of a message's own attributes.
const MAX_ATTRIBUTES: usize = 10;

/// A message; cloning it does not copy the content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub id: Arc<str>,
    pub content: Arc<Content>,
    pub sent: Time,
    pub first_received: Option<Time>,
    /// How often it was received so far, in all its queues.
    pub receives: u32,
    /// The ARN of the source queue, if this is a dead-letter queue.
    pub source: Option<Arc<str>>,
}

/// The sender's part.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub body: Arc<str>,
    pub attributes: BTreeMap<String, AttributeValue>,
    /// `AWSTraceHeader`, the only system attribute that a sender can set.
    pub trace: Option<String>,
    pub group: Option<String>,
}

/// The value of a message attribute, as JSON has it: binary values are base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AttributeValue {
    /// Empty if it was omitted, which is not allowed.
    #[serde(default)]
    pub data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string_value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_value: Option<String>,
}

impl Message {
    pub(crate) fn new(id: impl Into<Arc<str>>, content: Content, sent: Time) -> Self {
        Self {
            id: id.into(),
            content: Arc::new(content),
            sent,
            first_received: None,
            receives: 0,
            source: None,
        }
    }
}

impl Content {
    pub(crate) fn of_body(body: impl Into<Arc<str>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// # Errors
    /// `InvalidMessageContents` for characters that XML cannot contain, `InvalidParameterValue` for
    /// an empty body or malformed attributes.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.body.is_empty() {
            return Err(error::missing("MessageBody"));
        }
        if let Some(wrong) = self.body.chars().find(|&c| !allowed(c)) {
            let message = format!(
                "Invalid binary character '{}' was found in the message body",
                wrong.escape_unicode()
            );
            return Err(error::invalid_contents(message));
        }
        if self.attributes.len() > MAX_ATTRIBUTES {
            let reason = format!(
                "Number of message attributes exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
            );
            return Err(error::invalid_parameter(
                "MessageAttributes",
                self.attributes.len(),
                reason,
            ));
        }
        for (name, value) in &self.attributes {
            if !is_attribute_name(name) {
                let reason = "A message attribute's name is of letters, digits, hyphens, \
                              underscores and single periods \
                    between them, at most 256, and does not begin with AWS. or Amazon.";
                return Err(error::invalid_parameter("MessageAttributes", name, reason));
            }
            value
                .bytes()
                .map_err(|reason| error::invalid_parameter("MessageAttributes", name, reason))?;
        }
        Ok(())
    }

    /// The size that counts against the queue's maximum, in bytes.
    pub(crate) fn size(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.size());
        self.body.len() + attributes.sum::<usize>()
    }

    pub(crate) fn md5_of_body(&self) -> String {
        hex(&Md5::digest(self.body.as_bytes()))
    }
}

impl AttributeValue {
    /// The value itself, and its transport kind in the checksum: 1 for text, 2 for binary.
    fn bytes(&self) -> Result<(u8, Vec<u8>), &'static str> {
        let kind = self.data_type.split('.').next().unwrap_or_default();
        match (kind, &self.string_value, &self.binary_value) {
            ("String" | "Number", Some(text), None) if !text.is_empty() => {
                Ok((1, text.clone().into_bytes()))
            }
            ("Binary", None, Some(text)) if !text.is_empty() => BASE64
                .decode(text)
                .map(|bytes| (2, bytes))
                .map_err(|_| "The binary value is not base64."),
            ("String" | "Number" | "Binary", ..) => {
                Err("The attribute must have a value of its type.")
            }
            _ => Err("The attribute's type must be String, Number or Binary."),
        }
    }

    fn size(&self) -> usize {
        self.data_type.len() + self.bytes().map_or(0, |(_, value)| value.len())
    }
}

/// The checksum of message attributes that SDKs compare: over each name, type and value sorted by
/// name, each preceded by its length as four bytes.
pub(super) fn md5_of_attributes<'a>(
    attributes: impl IntoIterator<Item = (&'a String, &'a AttributeValue)>,
) -> Option<String> {
    let sorted: BTreeMap<_, _> = attributes.into_iter().collect();
    if sorted.is_empty() {
        return None;
    }
    let mut digest = Md5::new();
    for (name, value) in sorted {
        let (transport, bytes) = value.bytes().unwrap_or_default();
        with_length(&mut digest, name.as_bytes());
        with_length(&mut digest, value.data_type.as_bytes());
        digest.update([transport]);
        with_length(&mut digest, &bytes);
    }
    Some(hex(&digest.finalize()))
}

fn with_length(digest: &mut Md5, bytes: &[u8]) {
    digest.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    digest.update(bytes);
}

fn is_attribute_name(name: &str) -> bool {
    let reserved =
        ["aws.", "amazon."].iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix));
    let named = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    !reserved && name.len() <= 256 && name.split('.').all(named)
}

/// What SQS allows in a body: the characters of XML 1.0.
const fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> AttributeValue {
        AttributeValue {
            data_type: "String".to_owned(),
            string_value: Some(value.to_owned()),
            binary_value: None,
        }
    }

    #[test]
    fn the_checksum_of_a_body_is_its_md5() {
        assert_eq!(Content::of_body("hello").md5_of_body(), "5d41402abc4b2a76b9719d911017c592");
    }

    #[test]
    fn the_checksum_of_attributes_is_over_lengths_names_types_and_values() {
        // Python: md5(pack('>I', 1) + b'a' + pack('>I', 6) + b'String' + b'\x01' + pack('>I', 1) +
        // b'v')
        let attributes = BTreeMap::from([("a".to_owned(), text("v"))]);
        assert_eq!(
            md5_of_attributes(&attributes).as_deref(),
            Some("a18cbb58171ebf4ce88d9fb787f9210b")
        );
        // and then pack('>I', 1) + b'b' + pack('>I', 6) + b'Binary' + b'\x02' + pack('>I', 2) +
        // b'\x00\x01'
        let binary = AttributeValue {
            data_type: "Binary".to_owned(),
            string_value: None,
            binary_value: Some("AAE=".to_owned()),
        };
        let attributes = BTreeMap::from([("b".to_owned(), binary), ("a".to_owned(), text("v"))]);
        assert_eq!(
            md5_of_attributes(&attributes).as_deref(),
            Some("f3eef722b9e535eb41b93a467449512d")
        );
        assert_eq!(md5_of_attributes(&BTreeMap::new()), None);
    }

    #[test]
    fn a_body_with_a_control_character_is_refused() {
        assert_eq!(Content::of_body("tab\tand ü and 🦀").check(), Ok(()));
        assert_eq!(
            Content::of_body("bell \u{7}").check().expect_err("a bell").code,
            "InvalidMessageContents"
        );
        assert!(Content::of_body("").check().is_err());
    }

    #[test]
    fn an_attribute_without_a_value_of_its_type_is_refused() {
        let wrong = AttributeValue { data_type: "Binary".to_owned(), ..text("v") };
        let content = Content {
            attributes: BTreeMap::from([("a".to_owned(), wrong)]),
            ..Content::of_body("body")
        };
        assert_eq!(
            content.check().expect_err("no binary value").reported_code(),
            "InvalidParameterValue"
        );
    }

    #[test]
    fn an_attribute_needs_a_name_and_a_type() {
        let checked = |name: &str, value: AttributeValue| {
            let attributes = BTreeMap::from([(name.to_owned(), value)]);
            Content { attributes, ..Content::of_body("body") }.check()
        };
        for name in ["a", "a.b-c_D.9", "awsome"] {
            assert_eq!(checked(name, text("v")), Ok(()), "{name}");
        }
        for name in ["", "a b", ".a", "a.", "a..b", "AWS.trace", "amazon.x", "ü"] {
            let error = checked(name, text("v")).expect_err(name);
            assert_eq!(error.reported_code(), "InvalidParameterValue", "{name}");
        }
        let untyped: AttributeValue =
            serde_json::from_str(r#"{"StringValue": "v"}"#).expect("it can be read");
        assert_eq!(
            checked("a", untyped).expect_err("no type").reported_code(),
            "InvalidParameterValue"
        );
    }
}
