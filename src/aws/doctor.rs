//! Checks that what a worker needs exists and is allowed, without changing anything.
//!
//! The requests are ones that no service carries out: receipt handles that belong to no message, a
//! message that is invalid.
//!
//! A policy that names pipelines denies what is tried at SageMaker, because it is about none of
//! them: that is a warning. Starting an execution as a canary tries it all. The rights to a queue's
//! own key and to ECS's protection of this task cannot be tried harmlessly; they are named.

mod attributes;
mod rights;
#[cfg(feature = "dynamodb")]
mod table;

use std::time::Duration;

use self::attributes::{clock, judge, judge_dead_letters, read};
pub use self::rights::unprotected;
use self::rights::{allow, sagemaker, sqs};
#[cfg(feature = "dynamodb")]
pub use self::table::examine_table;
use super::backlog::dead_letters;
use super::calls::Limit;
use super::clients::{Clients, NoEndpoint};
use super::sqs::Sqs;
use crate::seam::{Fault, FaultKind, Role};
use crate::step::QueueUrl;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// It works now, or cannot be determined; someone should look.
    Warn,
    /// It does not work.
    Error,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What was checked: `credentials`, a queue's URL, `SageMaker in eu-west-1`.
    pub subject: String,
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The name of the condition, if it is one that has a code.
    pub event: Option<&'static str>,
}

impl Finding {
    fn ok(subject: &str, text: impl Into<String>) -> Self {
        let subject = subject.to_owned();
        Self { level: Level::Ok, subject, text: text.into(), remedy: None, event: None }
    }

    fn bad(
        level: Level,
        subject: &str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, remedy) = (subject.to_owned(), Some(remedy.into()));
        Self { level, subject, text: text.into(), remedy, event: None }
    }

    fn of(fault: &Fault, subject: &str, remedy: &str) -> Self {
        let (text, remedy) = match fault.kind {
            FaultKind::Denied => (format!("not allowed: {}", fault.detail), remedy),
            FaultKind::Misconfigured => (
                format!("wrongly configured: {}", fault.detail),
                "check the keys, the profile, the role and the endpoint",
            ),
            FaultKind::Transient => (
                format!("cannot be reached: {}", fault.detail),
                "check credentials, network, proxy, VPC endpoints and `aws.endpoint_url`, then try \
                 again",
            ),
            FaultKind::Refused | FaultKind::Stale => (fault.detail.clone(), remedy),
        };
        Self { event: fault.event(), ..Self::bad(Level::Error, subject, text, remedy) }
    }

    /// The daemon would not start.
    fn without_endpoint(why: &NoEndpoint, subject: &str) -> Self {
        let finding =
            Self::bad(Level::Error, subject, why.to_string(), "the daemon would not start");
        Self { event: Some(why.event()), ..finding }
    }
}

/// One queue as it is configured.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    pub url: &'a QueueUrl,
    pub region: Option<&'a str>,
    pub role: Option<Role<'a>>,
    /// Other accounts whose executions are accepted, each with its role if it has one.
    pub accounts: Vec<(&'a str, Option<Role<'a>>)>,
    pub visibility_timeout: Duration,
}

/// Checks one queue and SageMaker beside it: our identity there, the queue, its dead-letter queue,
/// the permissions.
pub async fn examine(clients: &Clients, subject: &Subject<'_>) -> Vec<Finding> {
    match try_examine(clients, subject).await {
        Ok(findings) => findings,
        Err(why) => vec![Finding::without_endpoint(&why, subject.url.as_str())],
    }
}

async fn try_examine(clients: &Clients, subject: &Subject<'_>) -> Result<Vec<Finding>, NoEndpoint> {
    let queue = clients.queue(subject.url, subject.region, subject.role).await?;
    let region = subject.region.or_else(|| subject.url.region());
    let mut findings = Vec::new();
    let of_queue = subject.url.account();
    let listed: Vec<&str> = subject
        .accounts
        .iter()
        .filter(|(_, role)| role.is_none())
        .map(|(account, _)| *account)
        .collect();
    findings.extend(of_account(clients, region, subject.role, of_queue, &listed).await?);
    for (account, role) in &subject.accounts {
        if role.is_some() {
            findings.extend(of_account(clients, region, *role, account, &[]).await?);
        }
    }
    findings.extend(Box::pin(attributes(&queue, subject.visibility_timeout)).await);
    findings.extend(Box::pin(sqs(&queue)).await);
    Ok(findings)
}

/// Our identity with or without a role, and the permissions at SageMaker in the account of
/// `executions`, or in those that are `listed`.
async fn of_account(
    clients: &Clients,
    region: Option<&str>,
    role: Option<Role<'_>>,
    executions: &str,
    listed: &[&str],
) -> Result<Vec<Finding>, NoEndpoint> {
    let pipelines = clients.pipelines(region, role).await?;
    let mut findings = Vec::new();
    let mut partition = partition_of(pipelines.region()).to_owned();
    let account = match identity(clients, region, role).await? {
        Ok((account, arn)) => {
            findings.extend(whose(&account, &arn, executions, listed, pipelines.region()));
            if let Some(named) = arn.split(':').nth(1).filter(|named| !named.is_empty()) {
                named.clone_into(&mut partition);
            }
            Some(account)
        }
        Err(fault) => {
            let finding = Finding::of(
                &fault,
                "credentials",
                "check the profile; for a `role_arn`, allow sts:AssumeRole on it \
                 (deploy/iam/assume-role-policy.json), and check its trust policy",
            );
            // The worker itself never calls STS: with an endpoint that only offers SQS and
            // SageMaker it works all the same.
            let unreachable = fault.kind == FaultKind::Transient && finding.level == Level::Error;
            findings.push(if unreachable {
                Finding { level: Level::Warn, ..finding }
            } else {
                finding
            });
            None
        }
    };
    findings
        .extend(sagemaker(&pipelines, &partition, account.as_deref().unwrap_or(executions)).await);
    Ok(findings)
}

/// The partition of regions whose names reveal it; the identity's ARN is more reliable.
fn partition_of(region: &str) -> &'static str {
    const PREFIXES: [(&str, &str); 7] = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-iso-", "aws-iso"),
        ("eusc-", "aws-eusc"),
    ];
    PREFIXES
        .iter()
        .find(|(prefix, _)| region.starts_with(prefix))
        .map_or("aws", |(_, partition)| partition)
}

/// Steps are answered with the credentials that read their queue, unless their account has a role
/// of its own. SageMaker accepts answers only from the execution's own account.
fn whose(
    account: &str,
    arn: &str,
    executions: &str,
    listed: &[&str],
    region: &str,
) -> Vec<Finding> {
    let other = listed.iter().find(|allowed| **allowed != account).map(|allowed| {
        let text = format!(
            "executions of the account {allowed} are allowed, and cannot be answered as {arn}"
        );
        let remedy = "write `accounts` as a table of account = role ARN";
        Finding::bad(Level::Error, "credentials", text, remedy)
    });
    let own = if account == executions || listed.contains(&account) {
        Finding::ok("credentials", format!("{arn}, region {region}"))
    } else {
        Finding::bad(
            Level::Warn,
            "credentials",
            format!(
                "{arn} belongs to account {account}, the executions to {executions}; they are \
                 answered in account {account}"
            ),
            "set `role_arn` of the queue to a role in the account of its pipelines",
        )
    };
    std::iter::once(own).chain(other).collect()
}

/// Our account and ARN. STS needs no permission for that.
async fn identity(
    clients: &Clients,
    region: Option<&str>,
    role: Option<Role<'_>>,
) -> Result<Result<(String, String), Fault>, NoEndpoint> {
    let (sts, calls) = clients.sts(region, role).await?;
    Ok(
        match calls.send("GetCallerIdentity", Limit::ANSWER, sts.get_caller_identity().send()).await
        {
            Ok(answer) => Ok((answer.account.unwrap_or_default(), answer.arn.unwrap_or_default())),
            Err(failed) => Err(failed.into()),
        },
    )
}

async fn attributes(queue: &Sqs, visibility_timeout: Duration) -> Vec<Finding> {
    let url = queue.url().as_str();
    let (attributes, ahead) = match read(queue).await {
        Ok(found) => found,
        Err(failed) if failed.failure.is_not_found() => {
            let remedy = "check the URL, its account and region, and that the endpoint is the one \
                          that has it";
            return vec![Finding::bad(Level::Error, url, "there is no such queue", remedy)];
        }
        Err(failed) => {
            let fault = Fault::from(failed);
            let mut finding = Finding::of(
                &fault,
                url,
                &format!("{}, which only this check needs", allow("sqs:GetQueueAttributes")),
            );
            if fault.kind == FaultKind::Denied {
                finding.level = Level::Warn;
            }
            return vec![finding];
        }
    };
    let mut findings = judge(queue.url(), &attributes, visibility_timeout);
    findings.extend(ahead.map(clock));
    if let Some(dead) =
        attributes.get("RedrivePolicy").and_then(|policy| dead_letters(queue.url(), policy))
    {
        match read(&queue.beside(dead.clone())).await {
            Ok((attributes, _)) => findings.extend(judge_dead_letters(dead.as_str(), &attributes)),
            Err(failed) if failed.failure.is_not_found() => findings.push(Finding::bad(
                Level::Error,
                dead.as_str(),
                "the redrive policy names a dead-letter queue that does not exist",
                "create it, or correct the redrive policy",
            )),
            Err(failed) => findings.push(Finding::bad(
                Level::Warn,
                dead.as_str(),
                format!("the dead-letter queue cannot be examined: {}", Fault::from(failed)),
                format!("{} on it", allow("sqs:GetQueueAttributes")),
            )),
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::aws::server::{Reply, Request, Server};
    use crate::step::ExecutionArn;

    const URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";
    const REDRIVE: &str =
        r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:dead","maxReceiveCount":5}"#;

    fn found(url: &str, attributes: &[(&str, &str)]) -> Vec<(Level, String)> {
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
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
        let attributes = [
            ("RedrivePolicy", REDRIVE),
            ("MessageRetentionPeriod", "1209600"),
            ("DelaySeconds", "0"),
        ];
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
            (
                vec![redrive, ("MessageRetentionPeriod", "1209599")],
                Level::Warn,
                "are kept for 13d23h59m59s",
            ),
            (vec![redrive, ("DelaySeconds", "7")], Level::Warn, "delayed by 7 s"),
            (vec![redrive, ("FifoQueue", "true")], Level::Error, "FIFO"),
        ] {
            let complaints = complaints(URL, &attributes);
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(
                complaints[0].0 == level && complaints[0].1.contains(wants),
                "{wants}: {complaints:?}"
            );
        }
        let complaints =
            complaints("https://sqs.us-east-1.amazonaws.com/123456789012/callbacks", &[redrive]);
        assert!(
            complaints.len() == 1 && complaints[0].1.contains("lacks \"sagemaker\""),
            "{complaints:?}"
        );
        let encrypted = found(URL, &[redrive, ("KmsMasterKeyId", "alias/key")]);
        assert!(encrypted.iter().any(|(_, text)| text.contains("kms:Decrypt")), "{encrypted:?}");
    }

    #[test]
    fn credentials_of_another_account_than_the_queues_are_told() {
        let (own, other) = ("123456789012", "210987654321");
        let levels = |of_queue, listed: &[&str]| -> Vec<Level> {
            let found =
                whose(own, "arn:aws:sts::123456789012:role/r", of_queue, listed, "us-east-1");
            found.into_iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(own, &[]), [Level::Ok]);
        assert_eq!(levels(other, &[]), [Level::Warn]);
        assert_eq!(
            levels(own, &[other]),
            [Level::Ok, Level::Error],
            "nothing could be answered there"
        );
        assert_eq!(
            levels(other, &[own]),
            [Level::Ok],
            "a queue of one account, pipelines of another"
        );
    }

    #[test]
    fn every_partition_has_its_arns() {
        for (region, wants) in [
            ("eu-west-1", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("eusc-de-east-1", "aws-eusc"),
        ] {
            assert_eq!(partition_of(region), wants, "{region}");
            let arn = format!("arn:{wants}:sagemaker:{region}:123456789012:pipeline/p/execution/e");
            assert!(arn.parse::<ExecutionArn>().is_ok(), "{arn}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told_in_seconds() {
        assert_eq!((clock(0).level, clock(-30).level), (Level::Ok, Level::Ok));
        let late = clock(-420);
        assert!(
            late.level == Level::Warn && late.text.starts_with("is 420 s behind AWS's"),
            "{late:?}"
        );
        assert!(clock(31).text.contains("31 s ahead of"), "{:?}", clock(31));
    }

    #[test]
    fn messages_in_the_dead_letter_queue_are_told() {
        let dead = dead_letters(&URL.parse().expect("a URL"), REDRIVE).expect("a URL");
        let dead = dead.as_str();
        assert_eq!(dead, "https://sqs.us-east-1.amazonaws.com/123456789012/dead");
        let with = |count: &str| {
            BTreeMap::from([("ApproximateNumberOfMessages".to_owned(), count.to_owned())])
        };
        let levels = |attributes| {
            judge_dead_letters(dead, &attributes)
                .into_iter()
                .map(|one| one.level)
                .collect::<Vec<_>>()
        };
        assert_eq!(levels(with("0")), [Level::Ok]);
        assert_eq!(levels(with("3")), [Level::Warn]);
        let mut short = with("0");
        short.insert("MessageRetentionPeriod".to_owned(), "345600".to_owned());
        assert_eq!(levels(short), [Level::Ok, Level::Warn]);
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
        let visibility_timeout = Duration::from_mins(2);
        let subject =
            Subject { url: &url, region: None, role: None, accounts: vec![], visibility_timeout };
        let findings = examine(&clients, &subject).await;
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
        let now = jiff::fmt::rfc2822::to_string(
            &jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC),
        )
        .expect("a date");
        let now = format!("date: {}\r\n", now.replace("+0000", "GMT"));
        let (findings, requests) = examined([
            sts(),
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            Reply::Raw(200, now.leak(), attributes.to_string().leak()),
            Reply::Json(200, json!({ "Attributes": { "ApproximateNumberOfMessages": "0" } })),
            Reply::Json(200, stale.clone()),
            Reply::Json(200, stale),
            error("InvalidMessageContents"),
            error("InvalidParameterValue"),
        ])
        .await;
        assert_eq!(worst(&findings), []);
        assert!(
            findings.iter().any(|finding| finding.text.starts_with("is within ")),
            "{findings:?}"
        );
        let asked: Vec<&str> = requests.iter().skip(1).map(Request::target).collect();
        assert_eq!(
            asked,
            [
                "ListPipelineExecutionSteps",
                "DescribePipelineExecution",
                "SendPipelineExecutionStepSuccess",
                "SendPipelineExecutionStepFailure",
                "GetQueueAttributes",
                "GetQueueAttributes",
                "ChangeMessageVisibilityBatch",
                "DeleteMessageBatch",
                "SendMessage",
                "ReceiveMessage",
            ]
        );
        let sent = requests[9].json();
        assert_eq!(
            (&sent["MessageBody"], &sent["DelaySeconds"]),
            (&json!("\u{1}"), &json!(901)),
            "no message can be so"
        );
        let received = requests[10].json();
        assert_eq!(
            (&received["MaxNumberOfMessages"], &received["WaitTimeSeconds"]),
            (&json!(11), &json!(21)),
            "nothing can be received so"
        );
        assert!(
            requests[1].json()["PipelineExecutionArn"]
                .as_str()
                .is_some_and(|arn| arn.contains(":123456789012:"))
        );
    }

    #[tokio::test]
    async fn what_is_denied_is_told_action_by_action() {
        let (findings, _) =
            examined((0..10).map(|n| if n == 0 { sts() } else { error("AccessDeniedException") }))
                .await;
        let remedies: Vec<(Level, &str)> = findings
            .iter()
            .filter_map(|finding| {
                let remedy = finding.remedy.as_deref()?;
                assert!(remedy.contains("(deploy/iam/worker-policy.json)"), "{remedy}");
                Some((finding.level, remedy.split_whitespace().nth(1)?))
            })
            .collect();
        assert_eq!(
            remedies,
            [
                (Level::Warn, "sagemaker:ListPipelineExecutionSteps"),
                (Level::Warn, "sagemaker:DescribePipelineExecution"),
                (Level::Warn, "sagemaker:SendPipelineExecutionStepSuccess"),
                (Level::Warn, "sagemaker:SendPipelineExecutionStepFailure"),
                (Level::Warn, "sqs:GetQueueAttributes"),
                (Level::Error, "sqs:ChangeMessageVisibility"),
                (Level::Error, "sqs:DeleteMessage"),
                (Level::Error, "sqs:SendMessage"),
                (Level::Error, "sqs:ReceiveMessage"),
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
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            gone(),
            gone(),
            gone(),
            gone(),
            gone(),
        ])
        .await;
        let worst = worst(&findings);
        assert!(worst.contains(&(Level::Error, "there is no such queue")), "{worst:?}");
    }
}
