//! The body of a queue message, read into a step to work on or a step to stop.
//!
//! A body that cannot be read is never guessed at: [`Unreadable`] says why, and the queue's redrive policy decides.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The token by which SageMaker knows a waiting callback step: exactly ten of `[a-zA-Z0-9]` (SageMaker's service model).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CallbackToken(String);

/// The ARN of one pipeline execution, `arn:PARTITION:sagemaker:REGION:ACCOUNT:pipeline/NAME/execution/ID`, at most 2,048
/// characters (SageMaker's service model).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutionArn {
    text: String,
    region: (usize, usize),
    account: (usize, usize),
    pipeline: (usize, usize),
}

/// One callback step as its message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub token: CallbackToken,
    pub execution: ExecutionArn,
    /// Any JSON; an empty object where the message has none.
    pub arguments: Value,
}

/// What a queue message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The step waits for its outcome (`"status": "Executing"`, or no status).
    Work(Step),
    /// The pipeline is being stopped and waits for an answer all the same (`"status": "Stopping"`).
    Stop(Step),
}

/// Why a run is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The pipeline is being stopped, or its execution ended otherwise.
    PipelineStopped,
    /// The worker is shutting down. Another worker will run the step, with the checkpoint.
    Shutdown,
    /// The handler's `time_limit` is reached.
    TimeLimit,
    /// The claim on the step could not be renewed: another worker may start it.
    LeaseLost,
}

/// Why a body is neither work nor a stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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

/// Text from outside, escaped and cut so that it can stand in a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Message {
    /// Reads the body of a queue message. Keys are matched without regard to case; unknown keys are passed over.
    ///
    /// # Errors
    /// [`Unreadable`] where the body is no JSON object (nested deeper than 128 included), lacks the token or the execution, or
    /// has a value that SageMaker could not have sent.
    pub fn parse(body: &str) -> Result<Self, Unreadable> {
        let fields: Fields = serde_json::from_str(body).map_err(|error| Unreadable::Json(error.to_string()))?;
        if let Some(key) = fields.twice {
            return Err(Unreadable::Twice(key));
        }
        let token = text(fields.token, "token", Unreadable::Token)?;
        let execution = text(fields.execution, "pipelineExecutionArn", Unreadable::Execution)?;
        let step = Step {
            token: token.parse().map_err(|InvalidToken(quoted)| Unreadable::Token(quoted))?,
            execution: execution.parse().map_err(|InvalidArn(quoted)| Unreadable::Execution(quoted))?,
            arguments: match fields.arguments {
                None | Some(Value::Null) => Value::Object(Map::new()),
                Some(arguments) => arguments,
            },
        };
        match fields.status {
            None | Some(Value::Null) => Ok(Self::Work(step)),
            Some(Value::String(status)) if status.eq_ignore_ascii_case("executing") => Ok(Self::Work(step)),
            Some(Value::String(status)) if status.eq_ignore_ascii_case("stopping") => Ok(Self::Stop(step)),
            Some(other) => Err(Unreadable::Status(Quoted::new(&other.to_string()))),
        }
    }

    /// The step that the message is about.
    #[must_use]
    pub fn step(&self) -> &Step {
        match self {
            Self::Work(step) | Self::Stop(step) => step,
        }
    }
}

impl StopReason {
    /// `pipeline_stopped`, `shutdown`, `time_limit` or `lease_lost`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PipelineStopped => "pipeline_stopped",
            Self::Shutdown => "shutdown",
            Self::TimeLimit => "time_limit",
            Self::LeaseLost => "lease_lost",
        }
    }
}

impl CallbackToken {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no callback token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a callback token is ten characters of a-z, A-Z, 0-9, not {0}")]
pub struct InvalidToken(Quoted);

impl std::str::FromStr for CallbackToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidToken(Quoted::new(text)))
        }
    }
}

impl<'de> Deserialize<'de> for CallbackToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl ExecutionArn {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The region that the execution runs in.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.text[self.region.0..self.region.1]
    }

    /// The twelve digits of the account that owns the execution.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.text[self.account.0..self.account.1]
    }

    /// The pipeline's name.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        &self.text[self.pipeline.0..self.pipeline.1]
    }
}

impl fmt::Display for ExecutionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is no ARN of a pipeline execution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the ARN of a pipeline execution: {0}")]
pub struct InvalidArn(Quoted);

impl std::str::FromStr for ExecutionArn {
    type Err = InvalidArn;

    fn from_str(text: &str) -> Result<Self, InvalidArn> {
        Self::read(text).ok_or_else(|| InvalidArn(Quoted::new(text)))
    }
}

impl ExecutionArn {
    const MAX: usize = 2048;

    fn read(text: &str) -> Option<Self> {
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let mut parts = text.splitn(6, ':');
        let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
        let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
        let (pipeline, execution) = resource.strip_prefix("pipeline/")?.split_once("/execution/")?;
        let fits = text.len() <= Self::MAX
            && arn == "arn"
            && (partition == "aws" || partition.strip_prefix("aws-").is_some_and(plain))
            && service == "sagemaker"
            && plain(region)
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && plain(pipeline)
            && plain(execution);
        let span = |part: &str| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            (start, start + part.len())
        };
        fits.then(|| Self {
            text: text.to_owned(),
            region: span(region),
            account: span(account),
            pipeline: span(pipeline),
        })
    }
}

impl Serialize for ExecutionArn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ExecutionArn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Quoted {
    /// Long enough to recognise the culprit, short enough for a log line.
    const MAX: usize = 80;

    fn new(text: &str) -> Self {
        let head: String = text.chars().take(Self::MAX).collect();
        let dots = if head.len() < text.len() { "…" } else { "" };
        Self(format!("{head:?}{dots}"))
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn text(value: Option<Value>, key: &'static str, wrong: fn(Quoted) -> Unreadable) -> Result<String, Unreadable> {
    match value {
        None | Some(Value::Null) => Err(Unreadable::Missing(key)),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(Quoted::new(&other.to_string()))),
    }
}

/// The four keys that matter, before they are judged.
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

    const EXECUTING: &str = include_str!("../tests/fixtures/executing.json");
    const STOPPING: &str = include_str!("../tests/fixtures/stopping.json");

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
        let parsed = Message::parse(&body(&json!("abcdefghij"), &json!(ARN), r#","Arguments":null,"x":[1]"#));
        let Ok(Message::Work(step)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(step.arguments, json!({}));
    }

    #[test]
    fn arguments_may_be_any_json() {
        for arguments in ["[1,{\"a\":null}]", "\"text\"", "18446744073709551615", "true"] {
            let parsed =
                Message::parse(&body(&json!("abcdefghij"), &json!(ARN), &format!(",\"arguments\":{arguments}")));
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
        let parsed = Message::parse(&body(&json!("abcdefghij"), &json!(ARN), &format!(",\"arguments\":{deep}")));
        assert!(matches!(parsed, Err(Unreadable::Json(_))));
        let parsed = Message::parse(&body(&json!("abcdefghij"), &json!(ARN), &format!(",\"passed_over\":{deep}")));
        assert!(matches!(parsed, Ok(Message::Work(_))));
    }

    #[test]
    fn hostile_text_is_quoted_and_cut_before_it_reaches_a_log() {
        let error = Message::parse(&body(&json!("\u{1b}[2J\n".repeat(100)), &json!(ARN), "")).expect_err("hostile");
        let text = error.to_string();
        assert!(text.len() < 800 && !text.contains('\n') && !text.contains('\u{1b}'), "{text}");
        assert!(text.ends_with(r#"\u{1b}[2J\n"…"#), "it is recognised: {text}");
    }

    #[test]
    fn tokens_and_reasons_are_named_as_programs_and_people_know_them() {
        use StopReason::{LeaseLost, PipelineStopped, Shutdown, TimeLimit};
        let names = [PipelineStopped, Shutdown, TimeLimit, LeaseLost].map(StopReason::as_str);
        assert_eq!(names, ["pipeline_stopped", "shutdown", "time_limit", "lease_lost"]);
        assert_eq!("abcdefghij".parse::<CallbackToken>().map(|token| token.to_string()), Ok("abcdefghij".into()));
    }

    #[test]
    fn an_arn_with_one_part_wrong_is_refused() {
        let good = "arn:aws:sagemaker:us-east-2:012345678901:pipeline/p/execution/x";
        assert!(good.parse::<ExecutionArn>().is_ok());
        for (part, wrong) in [
            ("arn:", "urn:"),
            (":aws:", ":aws-:"),
            (":aws:", ":azure:"),
            (":sagemaker:", ":sqs:"),
            (":us-east-2:", "::"),
            (":012345678901:", ":01234567890:"),
            (":012345678901:", ":01234567890x:"),
            ("pipeline/p/", "pipeline/p q/"),
            ("pipeline/p/", "pipeline//"),
            ("/execution/x", "/execution/"),
            ("/execution/x", "/execution/x/y"),
        ] {
            let arn = good.replacen(part, wrong, 1);
            assert!(arn.parse::<ExecutionArn>().is_err(), "{arn}");
        }
        let of_length = |length: usize| format!("{good}{}", "x".repeat(length - good.len()));
        assert!(of_length(2048).parse::<ExecutionArn>().is_ok());
        assert!(of_length(2049).parse::<ExecutionArn>().is_err());
    }

    #[test]
    fn arns_of_every_partition_are_read() {
        for partition in ["aws", "aws-cn", "aws-us-gov"] {
            let arn = format!("arn:{partition}:sagemaker:cn-north-1:012345678901:pipeline/p-1/execution/abc");
            assert_eq!(arn.parse::<ExecutionArn>().map(|arn| arn.to_string()), Ok(arn));
        }
    }

    proptest! {
        #[test]
        fn no_text_whatever_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Message::parse(&text);
            let _ = text.parse::<ExecutionArn>();
            let _ = text.parse::<CallbackToken>();
        }

        #[test]
        fn an_arn_that_is_read_is_the_text_it_was_read_from(pipeline in "[a-zA-Z0-9-]{1,40}", id in "[a-z0-9]{1,12}") {
            let text = format!("arn:aws:sagemaker:eu-west-1:123456789012:pipeline/{pipeline}/execution/{id}");
            let arn: ExecutionArn = text.parse().expect("valid");
            prop_assert_eq!(arn.pipeline(), pipeline);
            prop_assert_eq!(arn.as_str(), text);
        }
    }
}
