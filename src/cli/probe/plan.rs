//! What a probe creates: names, pipelines, and what is said before.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::duration;

/// What one probe creates, and under which names.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The name of the queue, with which the names of the pipelines begin.
    pub run: String,
    /// The role that the pipelines run as.
    pub role: String,
}

/// One of the pipelines. Its name has capitals, to see what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    /// A step.
    One,
    /// A step, and another with its outputs as arguments.
    Later,
    /// Two steps beside each other, and a third that depends on the second.
    Siblings,
    Boolean,
    Null,
    Object,
    List,
    LongInteger,
    HugeInteger,
    Fraction,
}

/// The actions that deploy/iam/probe-policy.json allows.
const ACTIONS: [&str; 22] = [
    "iam:PassRole",
    "sagemaker:AddTags",
    "sagemaker:CreatePipeline",
    "sagemaker:DeletePipeline",
    "sagemaker:DescribePipeline",
    "sagemaker:DescribePipelineExecution",
    "sagemaker:ListPipelineExecutionSteps",
    "sagemaker:ListPipelineExecutions",
    "sagemaker:ListPipelines",
    "sagemaker:RetryPipelineExecution",
    "sagemaker:SendPipelineExecutionStepFailure",
    "sagemaker:SendPipelineExecutionStepSuccess",
    "sagemaker:StartPipelineExecution",
    "sagemaker:StopPipelineExecution",
    "sqs:ChangeMessageVisibility",
    "sqs:CreateQueue",
    "sqs:DeleteMessage",
    "sqs:DeleteQueue",
    "sqs:ListQueues",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
    "sqs:TagQueue",
];
/// The characters of a run's suffix, and how many it has.
const SUFFIX: (&[u8], usize) = (b"abcdefghijklmnopqrstuvwxyz0123456789", 8);
/// A queue's name has at most 80 characters.
const LONGEST_PREFIX: usize = 60;
/// `--clean-up` deletes what begins with the prefix.
const SHORTEST_PREFIX: usize = 8;

impl Plan {
    pub(super) fn new(prefix: &str, role: &str) -> Self {
        let (letters, length) = SUFFIX;
        let suffix: String =
            (0..length).map(|_| char::from(letters[fastrand::usize(..letters.len())])).collect();
        Self { run: format!("{prefix}-{suffix}"), role: role.to_owned() }
    }

    pub(super) fn queue(&self) -> &str {
        &self.run
    }

    pub(super) fn pipeline(&self, shape: Shape) -> String {
        format!("{}-{shape:?}", self.run)
    }

    /// The same name with the capitals of its last part as small letters, and the reverse. The
    /// prefix stays, because policies name it.
    pub(super) fn pipeline_in_another_case(&self, shape: Shape) -> String {
        let turned = |c: char| {
            if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }
        };
        let last: String = format!("{shape:?}").chars().map(turned).collect();
        format!("{}-{last}", self.run)
    }

    /// What is said before anything is created.
    pub(super) fn told(&self, account: &str, region: &str, patience: Duration) -> String {
        let mut text = format!(
            "callbackd probe will create in account {account}, region {region}:\n  1 SQS queue     \
             {}\n  {} pipelines    ",
            self.queue(),
            Shape::ALL.len()
        );
        for (index, shape) in Shape::ALL.iter().enumerate() {
            let name = if index == 0 { self.pipeline(*shape) } else { format!(", …-{shape:?}") };
            text.push_str(&name);
        }
        let _ = write!(
            text,
            "\nThe pipelines run as {}, have callback steps only, and cost nothing; SQS gets some \
             hundreds of requests.\nAbout 20 executions are started, and all are ended. Everything \
             is deleted at the end, also after Ctrl-C or an error.\nIt takes 10 to 30 minutes; for \
             a message that does not come it waits {}.\n\nYou need (deploy/iam/probe-policy.json){}\nThe role needs sqs:SendMessage to the queue \
             (deploy/iam/probe-role-policy.json).",
            self.role,
            duration::text(patience),
            by_service()
        );
        text
    }
}

/// The actions, a line for each service.
fn by_service() -> String {
    let mut text = String::new();
    let mut last = "";
    for action in ACTIONS {
        let (service, name) = action.split_once(':').unwrap_or(("", action));
        if service == last {
            text.push_str(&format!(", {name}"));
        } else {
            text.push_str(&format!("\n  {service}: {name}"));
        }
        last = service;
    }
    text
}

/// Whether a probe with this prefix gave a queue or a pipeline this name.
pub(super) fn is_ours(prefix: &str, name: &str) -> bool {
    let (letters, length) = SUFFIX;
    let Some(rest) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    let Some((suffix, shape)) = rest.split_at_checked(length) else { return false };
    suffix.bytes().all(|byte| letters.contains(&byte))
        && (shape.is_empty() || Shape::ALL.iter().any(|one| shape == format!("-{one:?}")))
}

/// A prefix that fits both services, and is not so short that others' names may have it.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_plain
        && !text.starts_with('-')
        && !text.ends_with('-')
        && (SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&text.len())
    {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a prefix is {SHORTEST_PREFIX} to {LONGEST_PREFIX} letters, digits and inner hyphens"
        ))
    }
}

impl Shape {
    pub(super) const ALL: [Self; 10] = [
        Self::One,
        Self::Later,
        Self::Siblings,
        Self::Boolean,
        Self::Null,
        Self::Object,
        Self::List,
        Self::LongInteger,
        Self::HugeInteger,
        Self::Fraction,
    ];

    /// The pipeline's definition, with its steps on this queue.
    pub(super) fn definition(self, queue: &str) -> String {
        let step = |name: &str, arguments: Value, outputs: &[(&str, &str)], after: &[&str]| {
            let outputs =
                outputs.iter().map(|(name, kind)| json!({"OutputName": name, "OutputType": kind}));
            json!({
                "Name": name, "Type": "Callback", "SqsQueueUrl": queue, "Arguments": arguments,
                "OutputParameters": outputs.collect::<Vec<_>>(), "DependsOn": after,
            })
        };
        let plain = json!({"number": 1, "text": "probe"});
        let x = [("x", "String")];
        let steps = match self {
            Self::One => vec![step("Only", plain, &x, &[])],
            Self::Later => {
                let types = OUTPUTS.map(|(name, kind, _)| (name, kind));
                let uses: Value = OUTPUTS
                    .iter()
                    .map(|(name, _, _)| {
                        let get = format!("Steps.First.OutputParameters['{name}']");
                        ((*name).to_owned(), json!({"Get": get}))
                    })
                    .collect::<serde_json::Map<_, _>>()
                    .into();
                vec![step("First", plain, &types, &[]), step("Second", uses, &[], &["First"])]
            }
            Self::Siblings => vec![
                step("First", plain.clone(), &x, &[]),
                step("Second", plain.clone(), &x, &[]),
                step("Third", plain, &x, &["Second"]),
            ],
            _ => vec![step("Only", json!({"value": HOLE}), &[], &[])],
        };
        let definition = json!({"Version": "2020-12-01", "Steps": steps}).to_string();
        // As text, because not every number survives parsing.
        definition.replace(&format!("\"{HOLE}\""), self.argument())
    }

    /// The JSON of the argument that the pipeline is about.
    pub(super) const fn argument(self) -> &'static str {
        match self {
            Self::Boolean => "true",
            Self::Null => "null",
            Self::Object => r#"{"inner":{"number":1}}"#,
            Self::List => r#"[1,"two",true]"#,
            // 2^53 + 1
            Self::LongInteger => "9007199254740993",
            Self::HugeInteger => "123456789012345678901234567890",
            Self::Fraction => "0.12345678901234567890",
            Self::One | Self::Later | Self::Siblings => "\"\"",
        }
    }
}

/// Stands for an argument whose text is put in later.
const HOLE: &str = "the argument";

/// The outputs of the first step of [`Shape::Later`]: name, declared type, and value.
pub(super) const OUTPUTS: [(&str, &str, &str); 4] =
    [("s", "String", "7"), ("i", "Integer", "7"), ("f", "Float", "0.5"), ("b", "Boolean", "true")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_probe_makes_are_ours() {
        let plan = Plan::new("sagemaker-callbackd-probe", "role");
        let pipelines = Shape::ALL.map(|shape| plan.pipeline(shape));
        for name in pipelines.iter().map(String::as_str).chain([plan.queue()]) {
            assert!(is_ours("sagemaker-callbackd-probe", name), "{name}");
            assert!(!is_ours("sagemaker-callbackd-other", name), "{name}");
        }
        for name in [
            "sagemaker-callbackd-probe",
            "sagemaker-callbackd-probe-",
            "sagemaker-callbackd-probe-mine",
            "sagemaker-callbackd-probe-abcdefgh-Mine",
            "sagemaker-callbackd-probe-abcdefgh-dead",
            "sagemaker-callbackd-probe-ABCDEFGH",
            "sagemaker-callbackd-probe-ääää",
        ] {
            assert!(!is_ours("sagemaker-callbackd-probe", name), "{name}");
        }
    }

    #[test]
    fn a_prefix_cannot_stand_for_everything() {
        assert!(prefix("sagemaker-callbackd-probe").is_ok());
        for wrong in ["", "a", "sagemaker-", "-sagemaker", "sagemaker probe", &"x".repeat(61)] {
            assert!(prefix(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_definition_has_its_argument_digit_by_digit() {
        for shape in Shape::ALL {
            let definition = shape.definition("https://q");
            assert!(serde_json::from_str::<Value>(&definition).is_ok(), "{definition}");
            assert!(!definition.contains(HOLE), "{definition}");
        }
        let huge = Shape::HugeInteger.definition("https://q");
        assert!(huge.contains(r#"{"value":123456789012345678901234567890}"#), "{huge}");
    }

    #[test]
    fn what_is_said_before_names_everything_that_follows() {
        let plan = Plan::new("sagemaker-callbackd-probe", "arn:aws:iam::123456789012:role/r");
        let told = plan.told("123456789012", "eu-west-1", Duration::from_secs(300));
        for part in ["123456789012", "eu-west-1", "10 pipelines", "1 SQS queue", "role/r", "5m"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        for shape in Shape::ALL {
            assert!(told.contains(&format!("-{shape:?}")), "{told}");
        }
        let policy: Value =
            serde_json::from_str(include_str!("../../../deploy/iam/probe-policy.json"))
                .expect("JSON");
        let mut allowed: Vec<String> = Vec::new();
        for statement in policy["Statement"].as_array().expect("a list") {
            let action = &statement["Action"];
            let many = action.as_array().cloned().unwrap_or_else(|| vec![action.clone()]);
            allowed.extend(many.iter().map(|one| one.as_str().expect("text").to_owned()));
        }
        allowed.sort();
        assert_eq!(allowed, ACTIONS);
        for action in ACTIONS {
            let (_, name) = action.split_once(':').expect("a service");
            assert!(told.contains(name), "{action}: {told}");
        }
        assert_ne!(plan.pipeline(Shape::One), plan.pipeline_in_another_case(Shape::One));
        assert!(is_ours("sagemaker-callbackd-probe", plan.queue()));
    }
}
