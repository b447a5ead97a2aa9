//! A message of a callback step, read as loosely as possible: what it looks like is the question.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::aws::probe::Letter;

/// One message of a step.
#[derive(Clone, Debug)]
pub(super) struct StepMessage {
    pub token: String,
    pub execution: String,
    pub status: String,
    /// The keys of the body, in its order of the alphabet.
    pub keys: Vec<String>,
    pub arguments: Value,
    /// Each argument as it is written in the body.
    pub written: BTreeMap<String, String>,
    pub attributes: Vec<String>,
}

impl StepMessage {
    /// Reads a message; `None` if it names no token or no execution.
    pub(super) fn read(letter: &Letter) -> Option<Self> {
        let body: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&letter.body).ok()?;
        let member = |wanted: &str| {
            let found = body.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.get())
        };
        let text = |wanted: &str| serde_json::from_str::<String>(member(wanted)?).ok();
        let arguments = member("arguments").unwrap_or("null");
        let written: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(arguments).unwrap_or_default();
        Some(Self {
            token: text("token")?,
            execution: text("pipelineExecutionArn")?,
            status: text("status").unwrap_or_else(|| "none".to_owned()),
            keys: body.keys().cloned().collect(),
            arguments: serde_json::from_str(arguments).unwrap_or_default(),
            written: written
                .into_iter()
                .map(|(name, value)| (name, value.get().to_owned()))
                .collect(),
            attributes: letter.attributes.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Option<StepMessage> {
        StepMessage::read(&Letter {
            id: "1".to_owned(),
            receipt_handle: "r".to_owned(),
            body: body.to_owned(),
            attributes: Vec::new(),
        })
    }

    #[test]
    fn keys_are_found_in_any_case_and_numbers_stay_as_they_are_written() {
        let message = read(
            r#"{"Token": "abcdefghij", "pipelineexecutionarn": "arn", "Status": "Stopping",
                "arguments": {"value": 12345678901234567890123}}"#,
        )
        .expect("a step's");
        assert_eq!((message.token.as_str(), message.status.as_str()), ("abcdefghij", "Stopping"));
        assert_eq!(message.written["value"], "12345678901234567890123");
        assert_eq!(message.keys, ["Status", "Token", "arguments", "pipelineexecutionarn"]);
    }

    #[test]
    fn what_is_no_steps_message_is_not_read() {
        for body in ["", "[]", "{}", r#"{"token": 1, "pipelineExecutionArn": "arn"}"#] {
            assert!(read(body).is_none(), "{body}");
        }
    }
}
