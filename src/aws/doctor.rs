//! Whether what a worker needs is there and allowed, asked without changing anything.
//!
//! Two permissions cannot be tried harmlessly, and are not: `sqs:ReceiveMessage`, since a message that is received counts as received, and
//! `sagemaker:SendPipelineExecutionStep*`, since only a token that really waits has a pipeline for a policy to speak of. An execution that
//! is started for the purpose tries both.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, QueueAttributeName,
};
use serde_json::Value;

use super::calls::{Failed, Limit};
use super::clients::{Clients, NoEndpoint};
use super::sagemaker::SageMaker;
use super::sqs::Sqs;
use crate::seam::{Fault, FaultKind};
use crate::step::{ExecutionArn, QueueUrl};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// It works now, or cannot be told; somebody should look.
    Warn,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `credentials`, a queue's URL, `SageMaker in eu-west-1`.
    pub subject: String,
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.to_owned(), text: text.into(), remedy: None }
    }

    fn bad(level: Level, subject: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level, subject: subject.to_owned(), text: text.into(), remedy: Some(remedy.into()) }
    }

    fn of(fault: &Fault, subject: &str, remedy: &str) -> Self {
        let (text, remedy) = match fault.kind {
            FaultKind::Denied => (format!("not allowed: {}", fault.detail), remedy),
            FaultKind::Misconfigured => (
                format!("not set up right: {}", fault.detail),
                "see to the keys, the profile, the role and the endpoint",
            ),
            FaultKind::Transient => (
                format!("cannot be reached: {}", fault.detail),
                "check credentials, network, proxy, VPC endpoints and `aws.endpoint_url`, then try again",
            ),
            FaultKind::Refused | FaultKind::Stale => (fault.detail.clone(), remedy),
        };
        Self::bad(Level::Error, subject, text, remedy)
    }
}

/// One queue as the configuration has it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub url: &'a QueueUrl,
    pub region: Option<&'a str>,
    pub role_arn: Option<&'a str>,
    pub visibility_timeout: Duration,
}

/// Looks at one queue and at SageMaker beside it: who we are there, the queue, its dead-letter queue, what is allowed.
pub async fn examine(clients: &Clients, subject: Subject<'_>) -> Vec<Finding> {
    match try_examine(clients, subject).await {
        Ok(findings) => findings,
        Err(no_endpoint) => {
            let remedy = "the daemon would not start";
            vec![Finding::bad(Level::Error, subject.url.as_str(), no_endpoint.to_string(), remedy)]
        }
    }
}

async fn try_examine(clients: &Clients, subject: Subject<'_>) -> Result<Vec<Finding>, NoEndpoint> {
    let queue = clients.queue(subject.url, subject.region, subject.role_arn).await?;
    let region = subject.region.or_else(|| subject.url.region());
    let pipelines = clients.pipelines(region, subject.role_arn).await?;
    let mut findings = Vec::new();
    let of_queue = subject.url.account();
    let account = match identity(clients, region, subject.role_arn).await? {
        Ok((account, arn)) => {
            findings.push(whose(&account, &arn, of_queue, pipelines.region()));
            Some(account)
        }
        Err(fault) => {
            let finding = Finding::of(&fault, "credentials", "check the profile, and the trust policy of `role_arn`");
            // The worker itself never asks STS who it is: behind an endpoint that only speaks SQS and SageMaker it works all the same.
            let unreachable = fault.kind == FaultKind::Transient && finding.level == Level::Error;
            findings.push(if unreachable { Finding { level: Level::Warn, ..finding } } else { finding });
            None
        }
    };
    findings.extend(sagemaker(&pipelines, account.as_deref().unwrap_or(of_queue)).await);
    findings.extend(attributes(&queue, subject.visibility_timeout).await);
    findings.extend(permissions(&queue).await);
    Ok(findings)
}

/// The steps of a queue are answered with the credentials that read it.
fn whose(account: &str, arn: &str, of_queue: &str, region: &str) -> Finding {
    if account == of_queue {
        Finding::ok("credentials", format!("{arn}, region {region}"))
    } else {
        Finding::bad(
            Level::Warn,
            "credentials",
            format!(
                "{arn} belongs to account {account}, the queue to {of_queue}; its steps are answered in account {account}"
            ),
            "set `role_arn` of the queue to a role in the account of its pipelines",
        )
    }
}

/// Account and ARN of who we are, which STS tells everybody.
async fn identity(
    clients: &Clients,
    region: Option<&str>,
    role_arn: Option<&str>,
) -> Result<Result<(String, String), Fault>, NoEndpoint> {
    let (sts, calls) = clients.sts(region, role_arn).await?;
    Ok(match calls.send("GetCallerIdentity", Limit::ANSWER, sts.get_caller_identity().send()).await {
        Ok(answer) => Ok((answer.account.unwrap_or_default(), answer.arn.unwrap_or_default())),
        Err(failed) => Err(failed.into()),
    })
}

async fn attributes(queue: &Sqs, visibility_timeout: Duration) -> Vec<Finding> {
    let url = queue.url().as_str();
    let attributes = match read(queue).await {
        Ok(attributes) => attributes,
        Err(failed) if failed.failure.is_not_found() => {
            let remedy = "check the URL, its account and region, and that the endpoint is the one that has it";
            return vec![Finding::bad(Level::Error, url, "there is no such queue", remedy)];
        }
        Err(failed) => {
            let fault = Fault::from(failed);
            let mut finding = Finding::of(&fault, url, "allow sqs:GetQueueAttributes, which only this check needs");
            if fault.kind == FaultKind::Denied {
                finding.level = Level::Warn;
            }
            return vec![finding];
        }
    };
    let mut findings = judge(queue.url(), &attributes, visibility_timeout);
    if let Some(dead) = attributes.get("RedrivePolicy").and_then(|policy| dead_letters(queue.url(), policy)) {
        match read(&queue.beside(dead.clone())).await {
            Ok(attributes) => findings.push(judge_dead_letters(dead.as_str(), &attributes)),
            Err(failed) if failed.failure.is_not_found() => findings.push(Finding::bad(
                Level::Error,
                dead.as_str(),
                "the redrive policy names a dead-letter queue that does not exist",
                "create it, or correct the redrive policy",
            )),
            Err(failed) => findings.push(Finding::bad(
                Level::Warn,
                dead.as_str(),
                format!("the dead-letter queue cannot be looked at: {}", Fault::from(failed)),
                "allow sqs:GetQueueAttributes on it",
            )),
        }
    }
    findings
}

async fn read(queue: &Sqs) -> Result<BTreeMap<String, String>, Failed> {
    let (client, calls) = queue.client();
    let call =
        client.get_queue_attributes().queue_url(queue.url().as_str()).attribute_names(QueueAttributeName::All).send();
    let answer = calls.send("GetQueueAttributes", Limit::ANSWER, call).await?;
    let attributes = answer.attributes.unwrap_or_default();
    Ok(attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect())
}

/// What a queue's attributes mean for callback steps.
fn judge(queue: &QueueUrl, attributes: &BTreeMap<String, String>, visibility_timeout: Duration) -> Vec<Finding> {
    const DAY: u64 = 86_400;
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
            "a FIFO queue: its messages need a group, which a callback step has no way to give",
            "use a standard queue",
        ));
    }
    if !queue.name().to_ascii_lowercase().contains("sagemaker") {
        findings.push(warn(
            "its name lacks \"sagemaker\"; the managed pipelines policy allows sending to queues with that in their name only".to_owned(),
            "see that the pipeline's own role may sqs:SendMessage to it",
        ));
    }
    match number("MessageRetentionPeriod") {
        Some(seconds) if seconds < 4 * DAY => findings.push(warn(
            format!(
                "messages are kept for {}; the step of one that is not read in time waits for ever",
                crate::duration::text(Duration::from_secs(seconds))
            ),
            "set its retention to 14 days",
        )),
        Some(seconds) => {
            findings.push(Finding::ok(
                url,
                format!("messages are kept for {}", crate::duration::text(Duration::from_secs(seconds))),
            ));
        }
        None => {}
    }
    if let Some(delay) = number("DelaySeconds").filter(|delay| *delay > 0) {
        findings.push(warn(format!("every message is delayed by {delay} s"), "set its delivery delay to 0"));
    }
    if let Some(key) = attributes.get("KmsMasterKeyId").filter(|key| !key.is_empty()) {
        findings.push(Finding::ok(
            url,
            format!("encrypted with {key}: this worker needs kms:Decrypt on it, the pipeline's role kms:GenerateDataKey and kms:Decrypt"),
        ));
    }
    findings.push(match attributes.get("RedrivePolicy").and_then(|policy| most_receives(policy)) {
        None => warn(
            "no dead-letter queue: a message that cannot be read comes back until its retention ends".to_owned(),
            "give it a redrive policy with maxReceiveCount 5 or more",
        ),
        Some(most @ ..3) => warn(
            format!("a message goes to the dead-letter queue after {most} receives, which restarts of this worker use up, too"),
            "set maxReceiveCount to 5 or more",
        ),
        Some(most) => Finding::ok(url, format!("a message goes to the dead-letter queue after {most} receives")),
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

fn judge_dead_letters(url: &str, attributes: &BTreeMap<String, String>) -> Finding {
    let waiting: u64 =
        attributes.get("ApproximateNumberOfMessages").and_then(|text| text.parse().ok()).unwrap_or_default();
    if waiting == 0 {
        return Finding::ok(url, "the dead-letter queue is empty");
    }
    Finding::bad(
        Level::Warn,
        url,
        format!("{waiting} messages are in the dead-letter queue; steps among them may still wait for an answer"),
        "find out why they are there, then redrive them or stop their executions",
    )
}

/// A number, or one in quotes, as older policies have it.
fn most_receives(policy: &str) -> Option<u64> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let most = policy.get("maxReceiveCount")?;
    most.as_u64().or_else(|| most.as_str()?.parse().ok())
}

/// The URL of the dead-letter queue, which lies in the same account and region as its source.
fn dead_letters(queue: &QueueUrl, policy: &str) -> Option<QueueUrl> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let name = policy.get("deadLetterTargetArn")?.as_str()?.rsplit(':').next()?;
    let before = queue.as_str().strip_suffix(queue.name())?;
    format!("{before}{name}").parse().ok()
}

/// Tries deleting and hiding with a handle that no message has.
async fn permissions(queue: &Sqs) -> Vec<Finding> {
    const HANDLE: &str = "callbackd-check";
    let (client, calls) = queue.client();
    let url = queue.url().as_str();
    let hide = ChangeMessageVisibilityBatchRequestEntry::builder().id("0").receipt_handle(HANDLE).visibility_timeout(0);
    let delete = DeleteMessageBatchRequestEntry::builder().id("0").receipt_handle(HANDLE);
    let (Ok(hide), Ok(delete)) = (hide.build(), delete.build()) else { return Vec::new() };
    let hide = client.change_message_visibility_batch().queue_url(url).entries(hide).send();
    let delete = client.delete_message_batch().queue_url(url).entries(delete).send();
    let tried = [
        ("sqs:ChangeMessageVisibility", calls.send("ChangeMessageVisibilityBatch", Limit::QUICK, hide).await.err()),
        ("sqs:DeleteMessage", calls.send("DeleteMessageBatch", Limit::QUICK, delete).await.err()),
    ];
    tried.into_iter().map(|(action, failed)| allowed(url, action, failed.map(Fault::from), Level::Error)).collect()
}

/// Asks about an execution that does not exist, under a name that no pipeline has.
async fn sagemaker(pipelines: &SageMaker, account: &str) -> Vec<Finding> {
    let subject = format!("SageMaker in {}", pipelines.region());
    let partition = match pipelines.region() {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    let arn = format!(
        "arn:{partition}:sagemaker:{}:{account}:pipeline/callbackd-check/execution/callbackdcheck",
        pipelines.region()
    );
    let Ok(arn) = arn.parse::<ExecutionArn>() else {
        let remedy = "check that STS is the one of the same endpoint";
        return vec![Finding::bad(Level::Warn, &subject, format!("not asked: {account:?} is no account id"), remedy)];
    };
    let steps = pipelines.page(&arn, None).await.err().map(Fault::from);
    let describe = pipelines.describe(&arn).await.err();
    // A policy that is scoped to named pipelines denies this one, and may be just right.
    [("sagemaker:ListPipelineExecutionSteps", steps), ("sagemaker:DescribePipelineExecution", describe)]
        .into_iter()
        .map(|(action, fault)| allowed(&subject, action, fault, Level::Warn))
        .collect()
}

/// Whether an action is allowed, told by how it failed on something that does not exist.
fn allowed(subject: &str, action: &str, fault: Option<Fault>, denied: Level) -> Finding {
    match fault {
        Some(fault) if matches!(fault.kind, FaultKind::Denied | FaultKind::Misconfigured | FaultKind::Transient) => {
            let scoped = if denied == Level::Warn {
                " on pipeline/*/execution/*; if your policy names pipelines, it denied only the one made up for this check"
            } else {
                ""
            };
            let mut finding = Finding::of(&fault, subject, &format!("allow {action}{scoped}"));
            if fault.kind == FaultKind::Denied {
                finding.level = denied;
            }
            finding
        }
        _ => Finding::ok(subject, format!("{action} is not denied")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::server::{Reply, Request, Server};

    const URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";
    const REDRIVE: &str = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:dead","maxReceiveCount":5}"#;

    fn found(url: &str, attributes: &[(&str, &str)]) -> Vec<(Level, String)> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let findings = judge(&url.parse().expect("a URL"), &attributes, Duration::from_mins(2));
        assert!(
            findings.iter().all(|finding| (finding.level == Level::Ok) == finding.remedy.is_none()),
            "{findings:?}"
        );
        findings.into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    fn complaints(url: &str, attributes: &[(&str, &str)]) -> Vec<(Level, String)> {
        found(url, attributes).into_iter().filter(|(level, _)| *level != Level::Ok).collect()
    }

    #[test]
    fn a_queue_as_it_should_be_gives_no_complaint() {
        let attributes = [("RedrivePolicy", REDRIVE), ("MessageRetentionPeriod", "1209600"), ("DelaySeconds", "0")];
        assert_eq!(complaints(URL, &attributes), []);
    }

    #[test]
    fn each_flaw_of_a_queue_is_told_with_its_remedy() {
        let redrive = ("RedrivePolicy", REDRIVE);
        let twice = REDRIVE.replace("5}", "\"2\"}");
        for (attributes, level, wants) in [
            (vec![], Level::Warn, "no dead-letter queue"),
            (vec![("RedrivePolicy", "nonsense")], Level::Warn, "no dead-letter queue"),
            (vec![("RedrivePolicy", twice.as_str())], Level::Warn, "after 2 receives"),
            (vec![redrive, ("MessageRetentionPeriod", "345599")], Level::Warn, "are kept for 3days23h59m59s"),
            (vec![redrive, ("DelaySeconds", "7")], Level::Warn, "delayed by 7 s"),
            (vec![redrive, ("FifoQueue", "true")], Level::Error, "FIFO"),
        ] {
            let complaints = complaints(URL, &attributes);
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].0 == level && complaints[0].1.contains(wants), "{wants}: {complaints:?}");
        }
        let complaints = complaints("https://sqs.us-east-1.amazonaws.com/123456789012/callbacks", &[redrive]);
        assert!(complaints.len() == 1 && complaints[0].1.contains("lacks \"sagemaker\""), "{complaints:?}");
        let encrypted = found(URL, &[redrive, ("KmsMasterKeyId", "alias/key")]);
        assert!(encrypted.iter().any(|(_, text)| text.contains("kms:Decrypt")), "{encrypted:?}");
    }

    #[test]
    fn credentials_of_another_account_than_the_queues_are_told() {
        let level = |of_queue| whose("123456789012", "arn:aws:sts::123456789012:role/r", of_queue, "us-east-1").level;
        assert_eq!(level("123456789012"), Level::Ok);
        assert_eq!(level("210987654321"), Level::Warn);
    }

    #[test]
    fn messages_in_the_dead_letter_queue_are_told() {
        let dead = dead_letters(&URL.parse().expect("a URL"), REDRIVE).expect("a URL");
        let dead = dead.as_str();
        assert_eq!(dead, "https://sqs.us-east-1.amazonaws.com/123456789012/dead");
        let with = |count: &str| BTreeMap::from([("ApproximateNumberOfMessages".to_owned(), count.to_owned())]);
        assert_eq!(judge_dead_letters(dead, &with("0")).level, Level::Ok);
        assert_eq!(judge_dead_letters(dead, &with("3")).level, Level::Warn);
    }

    #[test]
    fn only_a_denial_or_silence_speaks_against_a_permission() {
        let with = |kind| allowed("x", "sqs:DeleteMessage", Some(Fault::new(kind, "detail")), Level::Warn).level;
        assert_eq!(with(FaultKind::Denied), Level::Warn);
        assert_eq!(with(FaultKind::Transient), Level::Error);
        assert_eq!(with(FaultKind::Stale), Level::Ok);
        assert_eq!(with(FaultKind::Refused), Level::Ok);
        assert_eq!(allowed("x", "sqs:DeleteMessage", None, Level::Error).level, Level::Ok);
    }

    const STS: &str = "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/u</Arn>\
                       <Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";

    fn sts() -> Reply {
        Reply::Raw(200, "content-type: text/xml\r\n", STS)
    }

    fn error(code: &str) -> Reply {
        Reply::Json(400, json!({ "__type": code, "message": "why" }))
    }

    async fn examined(replies: impl IntoIterator<Item = Reply>) -> (Vec<Finding>, Vec<Request>) {
        let server = Server::start(replies).await;
        let clients = Clients::of(server.account()).await;
        let url = URL.parse().expect("a URL");
        let subject = Subject { url: &url, region: None, role_arn: None, visibility_timeout: Duration::from_mins(2) };
        let findings = examine(&clients, subject).await;
        (findings, server.requests())
    }

    fn worst(findings: &[Finding]) -> Vec<(Level, &str)> {
        let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
        bad.map(|finding| (finding.level, finding.text.as_str())).collect()
    }

    #[tokio::test]
    async fn an_account_as_it_should_be_is_examined_without_a_complaint_or_a_trace() {
        let stale = json!({ "Successful": [], "Failed": [{ "Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": true }] });
        let attributes = json!({ "Attributes": { "RedrivePolicy": REDRIVE, "MessageRetentionPeriod": "1209600" } });
        let (findings, requests) = examined([
            sts(),
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            Reply::Json(200, attributes),
            Reply::Json(200, json!({ "Attributes": { "ApproximateNumberOfMessages": "0" } })),
            Reply::Json(200, stale.clone()),
            Reply::Json(200, stale),
        ])
        .await;
        assert_eq!(worst(&findings), []);
        let asked: Vec<&str> = requests.iter().skip(1).map(Request::target).collect();
        assert_eq!(
            asked,
            [
                "ListPipelineExecutionSteps",
                "DescribePipelineExecution",
                "GetQueueAttributes",
                "GetQueueAttributes",
                "ChangeMessageVisibilityBatch",
                "DeleteMessageBatch",
            ]
        );
        assert!(requests[1].json()["PipelineExecutionArn"].as_str().is_some_and(|arn| arn.contains(":123456789012:")));
    }

    #[tokio::test]
    async fn what_is_denied_is_told_action_by_action() {
        let (findings, _) = examined((0..6).map(|n| if n == 0 { sts() } else { error("AccessDeniedException") })).await;
        let remedies: Vec<(Level, &str)> = findings
            .iter()
            .filter_map(|finding| Some((finding.level, finding.remedy.as_deref()?.split_whitespace().nth(1)?)))
            .collect();
        assert_eq!(
            remedies,
            [
                (Level::Warn, "sagemaker:ListPipelineExecutionSteps"),
                (Level::Warn, "sagemaker:DescribePipelineExecution"),
                (Level::Warn, "sqs:GetQueueAttributes,"),
                (Level::Error, "sqs:ChangeMessageVisibility"),
                (Level::Error, "sqs:DeleteMessage"),
            ]
        );
    }

    #[tokio::test]
    async fn a_queue_that_does_not_exist_is_an_error() {
        let gone = || error("com.amazonaws.sqs#QueueDoesNotExist");
        let (findings, _) = examined([
            error("UnknownOperation"),
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            gone(),
            gone(),
            gone(),
        ])
        .await;
        let worst = worst(&findings);
        assert!(worst.contains(&(Level::Error, "there is no such queue")), "{worst:?}");
    }
}
