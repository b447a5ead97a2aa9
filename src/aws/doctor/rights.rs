//! Whether each right is there, tried by requests that no service carries out, and which file of
//! `deploy/iam` grants it.

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};

use super::{Finding, Level};
use crate::aws::calls::Limit;
use crate::aws::sagemaker::SageMaker;
use crate::aws::sqs::Sqs;
use crate::seam::{Fault, FaultKind};
use crate::step::ExecutionArn;

/// The file that grants an action to the worker.
fn granting(action: &str) -> &'static str {
    match action.split(':').next() {
        Some("dynamodb") => "ledger-policy.json",
        Some("ecs") => "task-protection-policy.json",
        Some("kms") => "worker-kms-policy.json",
        _ => "worker-policy.json",
    }
}

/// The remedy for an action that is denied: the action, and the file that grants it.
pub(super) fn allow(action: &str) -> String {
    format!("allow {action} (deploy/iam/{})", granting(action))
}

/// Tries to hide, delete, send and receive in ways that change nothing.
pub(super) async fn sqs(queue: &Sqs) -> Vec<Finding> {
    // Belongs to no message.
    const HANDLE: &str = "callbackd-check";
    let (client, calls) = queue.client();
    let url = queue.url().as_str();
    let hide = ChangeMessageVisibilityBatchRequestEntry::builder()
        .id("0")
        .receipt_handle(HANDLE)
        .visibility_timeout(0);
    let delete = DeleteMessageBatchRequestEntry::builder().id("0").receipt_handle(HANDLE);
    let (Ok(hide), Ok(delete)) = (hide.build(), delete.build()) else { return Vec::new() };
    let hide = client.change_message_visibility_batch().queue_url(url).entries(hide).send();
    let delete = client.delete_message_batch().queue_url(url).entries(delete).send();
    // Each is invalid in two ways: a character and a delay, a number and a wait.
    let send = client.send_message().queue_url(url).message_body("\u{1}").delay_seconds(901).send();
    let receive = client
        .receive_message()
        .queue_url(url)
        .max_number_of_messages(11)
        .wait_time_seconds(21)
        // An endpoint that takes it all the same hides nothing.
        .visibility_timeout(0)
        .send();
    let tried = [
        (
            "sqs:ChangeMessageVisibility",
            calls.send("ChangeMessageVisibilityBatch", Limit::QUICK, hide).await.err(),
        ),
        ("sqs:DeleteMessage", calls.send("DeleteMessageBatch", Limit::QUICK, delete).await.err()),
        ("sqs:SendMessage", calls.send("SendMessage", Limit::QUICK, send).await.err()),
        ("sqs:ReceiveMessage", calls.send("ReceiveMessage", Limit::QUICK, receive).await.err()),
    ];
    let mut findings =
        tried.map(|(action, failed)| allowed(url, action, failed.map(Fault::from), Level::Error));
    let copies = &mut findings[2];
    if copies.level != Level::Ok {
        copies.text.push_str(
            "; long jobs, and messages that came three times, are replaced by fresh copies",
        );
    }
    findings.into()
}

/// Asks about an execution that does not exist, under a name that no pipeline has, and answers a
/// token that no step has.
pub(super) async fn sagemaker(
    pipelines: &SageMaker,
    partition: &str,
    account: &str,
) -> Vec<Finding> {
    const TOKEN: &str = "callbackd0";
    let subject = format!("SageMaker in {}", pipelines.region());
    let arn = format!(
        "arn:{partition}:sagemaker:{}:{account}:pipeline/callbackd-check/execution/callbackdcheck",
        pipelines.region()
    );
    let Ok(arn) = arn.parse::<ExecutionArn>() else {
        let remedy = "check that STS is the one of the same endpoint";
        return vec![Finding::bad(
            Level::Warn,
            &subject,
            format!("not asked: {account:?} is no account id"),
            remedy,
        )];
    };
    let (client, calls) = (&pipelines.client, &pipelines.calls);
    let steps = pipelines.page(&arn, None).await.err();
    let describe = client.describe_pipeline_execution().pipeline_execution_arn(arn.as_str()).send();
    let succeed = client.send_pipeline_execution_step_success().callback_token(TOKEN).send();
    let fail = client
        .send_pipeline_execution_step_failure()
        .callback_token(TOKEN)
        .failure_reason("callbackd check")
        .send();
    // A policy that is limited to named pipelines denies this one, and may be exactly right.
    [
        ("sagemaker:ListPipelineExecutionSteps", steps),
        (
            "sagemaker:DescribePipelineExecution",
            calls.send("DescribePipelineExecution", Limit::ANSWER, describe).await.err(),
        ),
        (
            "sagemaker:SendPipelineExecutionStepSuccess",
            calls.send("SendPipelineExecutionStepSuccess", Limit::ANSWER, succeed).await.err(),
        ),
        (
            "sagemaker:SendPipelineExecutionStepFailure",
            calls.send("SendPipelineExecutionStepFailure", Limit::ANSWER, fail).await.err(),
        ),
    ]
    .into_iter()
    .map(|(action, failed)| allowed(&subject, action, failed.map(Fault::from), Level::Warn))
    .collect()
}

/// Whether an action is allowed, judged by how it failed on something that does not exist.
pub(super) fn allowed(subject: &str, action: &str, fault: Option<Fault>, denied: Level) -> Finding {
    match fault {
        Some(fault)
            if matches!(
                fault.kind,
                FaultKind::Denied | FaultKind::Misconfigured | FaultKind::Transient
            ) =>
        {
            let scoped = if denied == Level::Warn {
                " on pipeline/*/execution/*; if your policy names pipelines, it denied only the \
                 one made up for this check"
            } else {
                ""
            };
            let mut finding = Finding::of(&fault, subject, &format!("{}{scoped}", allow(action)));
            if fault.kind == FaultKind::Denied {
                finding.level = denied;
            }
            finding
        }
        _ => Finding::ok(subject, format!("{action} is not denied")),
    }
}

/// What an ECS task needs beside, which cannot be tried: a protection that is set or released by
/// this command would be the daemon's own.
#[must_use]
pub fn unprotected() -> Finding {
    let action = "ecs:UpdateTaskProtection";
    let text = format!(
        "{action} is not tried: without it the log warns, and a scale-in may stop a busy task; {}",
        allow(action)
    );
    Finding::ok("this ECS task", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The actions that a policy of `deploy/iam` grants.
    fn granted(policy: &str) -> Vec<String> {
        let policy: serde_json::Value = serde_json::from_str(policy).expect("JSON");
        let statements = policy["Statement"].as_array().expect("a list");
        let actions = statements.iter().flat_map(|statement| match &statement["Action"] {
            serde_json::Value::Array(many) => many.clone(),
            one => vec![one.clone()],
        });
        actions.map(|action| action.as_str().expect("a string").to_owned()).collect()
    }

    #[test]
    fn the_file_that_is_named_grants_the_action() {
        let files = [
            ("worker-policy.json", include_str!("../../../deploy/iam/worker-policy.json")),
            ("ledger-policy.json", include_str!("../../../deploy/iam/ledger-policy.json")),
            ("worker-kms-policy.json", include_str!("../../../deploy/iam/worker-kms-policy.json")),
            (
                "task-protection-policy.json",
                include_str!("../../../deploy/iam/task-protection-policy.json"),
            ),
        ];
        for (file, policy) in files {
            for action in granted(policy) {
                assert_eq!(allow(&action), format!("allow {action} (deploy/iam/{file})"));
            }
        }
        assert!(unprotected().text.contains("(deploy/iam/task-protection-policy.json)"));
    }

    #[test]
    fn only_a_denial_or_silence_speaks_against_a_permission() {
        let with = |kind| {
            allowed("x", "sqs:DeleteMessage", Some(Fault::new(kind, "detail")), Level::Warn).level
        };
        assert_eq!(with(FaultKind::Denied), Level::Warn);
        assert_eq!(with(FaultKind::Transient), Level::Error);
        assert_eq!(with(FaultKind::Stale), Level::Ok);
        assert_eq!(with(FaultKind::Refused), Level::Ok);
        assert_eq!(allowed("x", "sqs:DeleteMessage", None, Level::Error).level, Level::Ok);
    }
}
