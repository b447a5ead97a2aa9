//! `deploy/cloudformation`, by cfn-lint and by checks of our own, which are seen to fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use callbackd::engine::config::HandlerConfig;
use serde_json::json;

use super::{LAST_REPORTS, Venv, default_stop_grace, path, printed, text};

const TEMPLATE: &str = "cloudformation/fleet.yaml";

/// A change that breaks the template, and what the check must say about it.
struct Break {
    from: &'static str,
    to: &'static str,
    complaint: &'static str,
}

const fn breaks(from: &'static str, to: &'static str, complaint: &'static str) -> Break {
    Break { from, to, complaint }
}

/// What `tests/deploy/template.py` must see; each `from` is there once.
const BREAKS: [Break; 34] = [
    breaks("ecs:UpdateTaskProtection", "ecs:GetTaskProtection", "is not iam/task-protection-pol"),
    breaks("PolicyName: task-protection-policy", "PolicyName: x", "x is no policy of a worker"),
    breaks("PolicyName: ledger-policy", "PolicyName: x", "ledger-policy is missing"),
    breaks("Action: sqs:SendMessage\n", "Action: sqs:*\n", "PipelinePolicy is not pipeline-role-"),
    breaks("DeletionProtectionEnabled: true", "DeletionProtectionEnabled: false", "by mistake"),
    breaks("AttributeName: expires", "AttributeName: expiry", "Table.TimeToLiveSpecification"),
    breaks("              - settled_at\n", "", "Table.GlobalSecondaryIndexes"),
    breaks("NetworkMode: awsvpc", "NetworkMode: bridge", "TaskDefinition.networkMode"),
    breaks("ReadonlyRootFilesystem: true", "ReadonlyRootFilesystem: false", "containerDefinit"),
    breaks("Essential: true", "Essential: [true]", "essential"),
    breaks("SourceVolume: tmp", "SourceVolume: temporary", "no volume is mounted at /tmp"),
    breaks("Value: 75s", "Value: 100s", "a drain of 100s and 40 s do not fit"),
    breaks("CALLBACKD_LOG__FORMAT, Value: json", "CALLBACKD_LOG__FORMAT, Value: text", "LOG__F"),
    breaks("__TYPE, Value: dynamodb", "__TYPE, Value: memory", "is not the table"),
    breaks("__URL, Value: !Ref Queue }", "__URL, Value: !Ref DeadLetterQueue }", "__URL is not"),
    breaks(
        "deadLetterTargetArn: !GetAtt DeadLetterQueue",
        "deadLetterTargetArn: !GetAtt Key",
        "does not name DeadLetterQueue",
    ),
    breaks(":${QueueName}\"]", ":other\"]", "does not accept messages of Queue"),
    breaks("maxReceiveCount: 5", "maxReceiveCount: 3", "maxReceiveCount is not above"),
    breaks("1209600\n      VisibilityTimeout", "345600\n      VisibilityTimeout", "for 14 days"),
    breaks(
        "      KmsMasterKeyId: !GetAtt Key.Arn\n      RedriveAllow",
        "      RedriveAllow",
        "DeadLetterQueue is not encrypted",
    ),
    breaks("      VisibilityTimeout: 120", "      FifoQueue: true", "Queue is a FIFO queue"),
    breaks("EnableKeyRotation: true", "EnableKeyRotation: false", "Key is not rotated"),
    breaks(
        "Type: AWS::DynamoDB::Table\n    DeletionPolicy: Retain",
        "Type: AWS::DynamoDB::Table",
        "Table is lost with the stack",
    ),
    breaks("Rollback: true", "Rollback: false", "a broken image is not rolled back"),
    breaks("MinimumHealthyPercent: 100", "MinimumHealthyPercent: 0", "leaves the queue without"),
    breaks("      PropagateTags: SERVICE", "      DesiredCount: 2", "reset DesiredCount"),
    breaks("AssignPublicIp: DISABLED", "AssignPublicIp: ENABLED", "have public addresses"),
    breaks("      SecurityGroupEgress:", "      SecurityGroupIngress:", "lets connections in"),
    breaks("SpotWeight, \"0\"]", "SpotWeight, \"1\"]", "=0 with SpotWeight=0 is accepted"),
    breaks("Assert: !Not [!And [", "Assert: !And [!Not [", "=0 with SpotWeight=1 is refused"),
    breaks("(queued + held)", "queued", "does not count ApproximateNumberOfMessagesNotVisible"),
    breaks("Default: 12\n", "Default: 16\n", "steps wait for a slot before a worker is added"),
    breaks("service/${Cluster}/", "service/default/", "ScalableTarget is not the service"),
    breaks("  QueueIsNotPolled:", "  SomeOtherName:", "SomeOtherName is not in the runbook"),
];

fn checked(file: &Path) -> Output {
    let handler: HandlerConfig =
        serde_json::from_value(json!({ "type": "exec" })).expect("all else has defaults");
    Command::new(Venv::ready().python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/template.py"))
        .args([file, &path("")])
        .arg((default_stop_grace() + LAST_REPORTS).as_secs().to_string())
        .arg(handler.max_attempts.to_string())
        .output()
        .expect("Python runs")
}

fn linted(file: &Path) -> Output {
    let mut lint = Command::new(Venv::ready().program("cfn-lint"));
    lint.args(["--include-checks", "I", "--"]).arg(file).output().expect("cfn-lint runs")
}

fn written(folder: &Path, template: &str) -> PathBuf {
    let file = folder.join("fleet.yaml");
    fs::write(&file, template).expect("it is writable");
    file
}

#[test]
fn cloudformation_would_take_the_template() {
    let output = linted(&path(TEMPLATE));
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn the_linter_sees_an_unknown_property_and_a_reference_to_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = text(TEMPLATE)
        .replace("KmsDataKeyReusePeriodSeconds", "KmsReuse")
        .replace("Value: !Ref PipelinePolicy", "Value: !Ref PipelinesPolicy");
    let told = printed(&linted(&written(folder.path(), &broken)));
    assert!(told.contains("KmsReuse") && told.contains("PipelinesPolicy"), "{told}");
}

#[test]
fn the_template_is_what_the_files_beside_it_say_and_what_a_fleet_needs() {
    let output = checked(&path(TEMPLATE));
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn each_check_of_the_template_sees_what_it_is_for() {
    let template = text(TEMPLATE);
    let folder = tempfile::tempdir().expect("a folder");
    for Break { from, to, complaint } in BREAKS {
        assert_eq!(template.matches(from).count(), 1, "{from:?} is there once");
        let output = checked(&written(folder.path(), &template.replace(from, to)));
        let told = printed(&output);
        assert!(!output.status.success() && told.contains(complaint), "{from:?}: {told}");
        assert!(!told.contains("Traceback"), "{from:?}: {told}");
    }
}

/// Many alarms have these lines; the first one's are changed.
#[test]
fn an_alarm_that_tells_no_one_or_watches_nothing_is_seen() {
    let template = text(TEMPLATE);
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to, complaint) in [
        ("      AlarmActions:", "      InsufficientDataActions:", "AlarmActions are not sent"),
        ("MetricName: NumberOfEmptyReceives", "MetricName: NumberOfReceives", "no alarm watches"),
    ] {
        let output = checked(&written(folder.path(), &template.replacen(from, to, 1)));
        let told = printed(&output);
        assert!(!output.status.success() && told.contains(complaint), "{from:?}: {told}");
    }
}
