//! What a queue message asks for, parsed from its body.
//!
//! A body that cannot be parsed is never guessed at: [`Unreadable`] says why, and the queue's
//! redrive policy decides.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::arn::{ExecutionArn, InvalidArn};
use super::quoted::Quoted;
use super::token::{CallbackToken, InvalidToken};

/// One callback step as its message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The token that the step is answered with.
    pub token: CallbackToken,
    /// The execution that waits for the step.
    pub execution: ExecutionArn,
    /// Any JSON; an empty object if the message has none.
    pub arguments: Arc<Value>,
}

/// What a queue message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// The step waits for its outcome (`"status": "Executing"`, or no status).
    Work(Step),
    /// The pipeline is being stopped and still waits for an answer (`"status": "Stopping"`).
    Stop(Step),
}

/// Why a body is neither work nor a stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum Unreadable {
    #[error("the body is not a JSON object of a callback step: {0}")]
    Json(String),
    #[error("the body has no `{0}`")]
    Missing(&'static str),
    #[error("the body has the key `{0}` twice")]
    Twice(&'static str),
    #[error("`token` is not ten characters of a-z, A-Z, 0-9: {0}")]
    Token(Quoted),
    #[error("`pipelineExecutionArn` is not the ARN of a pipeline execution: {0}")]
    Execution(Quoted),
    #[error("`status` is neither \"Executing\" nor \"Stopping\": {0}")]
    Status(Quoted),
}

impl Message {
    /// Parses the body of a queue message. Keys are matched without regard to case; unknown keys
    /// are ignored.
    ///
    /// # Errors
    /// [`Unreadable`] if the body is not a JSON object (or has more than 127 levels), lacks the
    /// token or the execution, or has a value that SageMaker could not have sent.
    pub fn parse(body: &str) -> Result<Self, Unreadable> {
        let fields: Fields =
            serde_json::from_str(body).map_err(|error| Unreadable::Json(error.to_string()))?;
        if let Some(key) = fields.twice {
            return Err(Unreadable::Twice(key));
        }
        let token = text(fields.token, "token", Unreadable::Token)?;
        let execution = text(fields.execution, "pipelineExecutionArn", Unreadable::Execution)?;
        let step = Step {
            token: token.parse().map_err(|InvalidToken(quoted)| Unreadable::Token(quoted))?,
            execution: execution
                .parse()
                .map_err(|InvalidArn(quoted)| Unreadable::Execution(quoted))?,
            arguments: match fields.arguments {
                None | Some(Value::Null) => Arc::new(Value::Object(Map::new())),
                Some(arguments) => Arc::new(arguments),
            },
        };
        match fields.status {
            None | Some(Value::Null) => Ok(Self::Work(step)),
            Some(Value::String(status)) if status.eq_ignore_ascii_case("executing") => {
                Ok(Self::Work(step))
            }
            Some(Value::String(status)) if status.eq_ignore_ascii_case("stopping") => {
                Ok(Self::Stop(step))
            }
            Some(other) => Err(Unreadable::Status(Quoted::new(&other.to_string()))),
        }
    }

    /// A body with the same content and SageMaker's own keys.
    #[must_use]
    pub fn to_body(&self) -> String {
        let status = match self {
            Self::Work(_) => "Executing",
            Self::Stop(_) => "Stopping",
        };
        let Step { token, execution, arguments } = self.step();
        serde_json::json!({
            "token": token.as_str(),
            "pipelineExecutionArn": execution.as_str(),
            "arguments": arguments,
            "status": status,
        })
        .to_string()
    }

    /// The step that the message is about.
    #[must_use]
    pub fn step(&self) -> &Step {
        match self {
            Self::Work(step) | Self::Stop(step) => step,
        }
    }
}

fn text(
    value: Option<Value>,
    key: &'static str,
    wrong: fn(Quoted) -> Unreadable,
) -> Result<String, Unreadable> {
    match value {
        None | Some(Value::Null) => Err(Unreadable::Missing(key)),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(Quoted::new(&other.to_string()))),
    }
}

/// The four relevant keys, before they are checked.
#[derive(Default)]
struct Fields {
    token: Option<Value>,
    execution: Option<Value>,
    arguments: Option<Value>,
    status: Option<Value>,
    twice: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with token, pipelineExecutionArn, arguments and status")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<String>()? {
                    let (slot, name) = match key.to_ascii_lowercase().as_str() {
                        "token" => (&mut fields.token, "token"),
                        "pipelineexecutionarn" => (&mut fields.execution, "pipelineExecutionArn"),
                        "arguments" => (&mut fields.arguments, "arguments"),
                        "status" => (&mut fields.status, "status"),
                        _ => {
                            map.next_value::<de::IgnoredAny>()?;
                            continue;
                        }
                    };
                    if slot.replace(map.next_value()?).is_some() {
                        fields.twice = Some(name);
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const EXECUTING: &str = include_str!("../../tests/fixtures/executing.json");
    const STOPPING: &str = include_str!("../../tests/fixtures/stopping.json");

    #[test]
    fn a_message_captured_from_the_service_is_work() {
        let Ok(Message::Work(step)) = Message::parse(EXECUTING) else { panic!("not work") };
        assert_eq!(step.token.as_str(), "SYZ8ExZ3Sd");
        assert_eq!(step.execution.pipeline(), "e2e-ml-pipeline");
        assert_eq!(step.execution.region(), "us-east-1");
        assert_eq!(step.execution.account(), "123456789012");
        assert_eq!(step.arguments["model_package_group"], "basic-penguins-model-group");
        assert_eq!(step.arguments["baseline_accuracy"].to_string(), "0.8235294117647058");
    }

    #[test]
    fn the_stopping_message_of_the_developer_guide_is_a_stop() {
        let Ok(Message::Stop(step)) = Message::parse(STOPPING) else { panic!("not a stop") };
        assert_eq!(step.token.as_str(), "26vcYbeWsZ");
        assert_eq!(step.arguments["number"], json!(5));
    }

    fn body(token: &Value, arn: &Value, rest: &str) -> String {
        format!(r#"{{"Token":{token},"PIPELINEEXECUTIONARN":{arn}{rest}}}"#)
    }

    const ARN: &str = "arn:aws:sagemaker:us-east-2:012345678901:pipeline/p/execution/7pinimwddh3a";

    #[test]
    fn keys_match_without_regard_to_case_and_status_may_be_absent() {
        let parsed = Message::parse(&body(
            &json!("abcdefghij"),
            &json!(ARN),
            r#","Arguments":null,"x":[1]"#,
        ));
        let Ok(Message::Work(step)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(*step.arguments, json!({}));
    }

    #[test]
    fn a_message_reads_back_from_the_body_that_says_the_same() {
        for text in [EXECUTING, STOPPING] {
            let message = Message::parse(text).expect("message");
            assert_eq!(Message::parse(&message.to_body()), Ok(message));
        }
    }

    #[test]
    fn arguments_may_be_any_json() {
        for arguments in ["[1,{\"a\":null}]", "\"text\"", "18446744073709551615", "true"] {
            let parsed = Message::parse(&body(
                &json!("abcdefghij"),
                &json!(ARN),
                &format!(",\"arguments\":{arguments}"),
            ));
            assert_eq!(parsed.map(|m| m.step().arguments.to_string()), Ok(arguments.to_owned()));
        }
    }

    #[test]
    fn what_is_neither_work_nor_stop_says_why() {
        let good = json!("abcdefghij");
        let arn = json!(ARN);
        for (text, wants) in [
            ("", "not a JSON object"),
            ("[]", "expected an object with token, pipelineExecutionArn"),
            ("{\"token\":", "not a JSON object"),
            ("{}", "no `token`"),
            (&body(&json!("abcdefghi"), &arn, ""), "`token`"),
            (&body(&json!("abcdefghi\n"), &arn, ""), "`token`"),
            (&body(&json!(1_234_567_890), &arn, ""), "`token`"),
            (&body(&good, &json!("arn:aws:s3:::bucket"), ""), "`pipelineExecutionArn`"),
            (&body(&good, &json!(format!("{ARN}/../x")), ""), "`pipelineExecutionArn`"),
            (&body(&good, &arn, ",\"status\":\"Stopped\""), "`status`"),
            (&body(&good, &arn, ",\"status\":7"), "`status`"),
            (&body(&good, &arn, ",\"token\":\"abcdefghik\""), "twice"),
        ] {
            let error = Message::parse(text).expect_err(text).to_string();
            assert!(error.contains(wants), "{text}: {error}");
        }
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let parsed = Message::parse(&body(
            &json!("abcdefghij"),
            &json!(ARN),
            &format!(",\"arguments\":{deep}"),
        ));
        assert!(matches!(parsed, Err(Unreadable::Json(_))));
        let parsed = Message::parse(&body(
            &json!("abcdefghij"),
            &json!(ARN),
            &format!(",\"passed_over\":{deep}"),
        ));
        assert!(matches!(parsed, Ok(Message::Work(_))));
    }

    #[test]
    fn hostile_text_is_quoted_and_cut_before_it_reaches_a_log() {
        let error = Message::parse(&body(&json!("\u{1b}[2J\n".repeat(100)), &json!(ARN), ""))
            .expect_err("hostile");
        let text = error.to_string();
        assert!(text.len() < 800 && !text.contains('\n') && !text.contains('\u{1b}'), "{text}");
        assert!(text.ends_with(r#"\u{1b}[2J\n"…"#), "it is recognised: {text}");
    }

    proptest! {
        #[test]
        fn no_text_whatever_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Message::parse(&text);
        }
    }
}
