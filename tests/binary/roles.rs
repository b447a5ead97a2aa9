//! One daemon for the pipelines of several accounts: each is answered with the role of its account,
//! and with the external id that the role requires.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use callbackd::local::{Endpoint, ExternalIds, Options};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use toml::Table;

use crate::daemon::{Config, Daemon, Environment};
use crate::http;
use crate::output::printed;
use crate::scene::until;

const OWN: &str = "123456789012";
const OWN_ROLE: &str = "arn:aws:iam::123456789012:role/worker";
const THEIRS: &str = "210987654321";
const THEIR_ROLE: &str = "arn:aws:iam::210987654321:role/answer";
/// They occur nowhere else, so that a log is found in which one appears.
const OWN_ID: &str = "tenant:7f3a";
const THEIR_ID: &str = "tenant/9c1e";

const RUN: &str = "#!/bin/sh\necho $STEP_TOKEN >> $HOME/runs\n";

/// Two accounts, each with a pipeline `p` whose step waits on the queue of the first one.
struct Accounts {
    endpoint: Endpoint,
    folder: TempDir,
}

impl Accounts {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::start(loopback, options).await.expect("a free port");
        let accounts = Self { endpoint, folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(accounts.folder.path().join("ledger")).expect("the folder is writable");
        let run = accounts.folder.path().join("run");
        fs::write(&run, RUN).expect("it is writable");
        fs::set_permissions(run, fs::Permissions::from_mode(0o755)).expect("it is ours");
        accounts.call(OWN, "AmazonSQS.CreateQueue", json!({ "QueueName": "callbacks" })).await;
        for account in [OWN, THEIRS] {
            let step = json!({ "Name": "s", "Type": "Callback", "SqsQueueUrl": accounts.queue(), "Arguments": {},
                "OutputParameters": [] });
            let definition = json!({ "Version": "2020-12-01", "Steps": [step] }).to_string();
            let role = format!("arn:aws:iam::{account}:role/pipelines");
            let pipeline =
                json!({ "PipelineName": "p", "PipelineDefinition": definition, "RoleArn": role });
            accounts.sagemaker(account, "CreatePipeline", pipeline).await;
        }
        accounts
    }

    fn queue(&self) -> String {
        format!("{}/{OWN}/callbacks", self.endpoint.url())
    }

    async fn sagemaker(&self, account: &str, operation: &str, mut input: Value) -> Value {
        input["ClientRequestToken"] = format!("{operation}-{}", "x".repeat(32)).into();
        self.call(account, &format!("SageMaker.{operation}"), input).await
    }

    /// A call with credentials of a role in this account.
    async fn call(&self, account: &str, target: &str, input: Value) -> Value {
        let key = format!("ASIALOCAL{account}/20260101/us-east-1/x/aws4_request");
        let headers = format!(
            "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: {target}\r\nAuthorization: \
             AWS4-HMAC-SHA256 Credential={key}\r\n"
        );
        let answer = http::post(self.endpoint.addr(), &headers, &input.to_string()).await;
        let (status, body) = answer.expect("the endpoint answers");
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    async fn execution(&self, account: &str) -> String {
        let start = json!({ "PipelineName": "p" });
        let started = self.sagemaker(account, "StartPipelineExecution", start).await;
        let arn = started["PipelineExecutionArn"].as_str().expect("an ARN").to_owned();
        assert!(arn.contains(account), "{arn}");
        arn
    }

    async fn succeeds(&self, account: &str, arn: &str) {
        let asked = json!({ "PipelineExecutionArn": arn });
        let target = "SageMaker.DescribePipelineExecution";
        let has = async || {
            self.call(account, target, asked.clone()).await["PipelineExecutionStatus"]
                == "Succeeded"
        };
        until("the execution succeeds", has).await;
    }

    /// From now on the roles require these.
    fn require(&self, own: &str, theirs: &str) {
        let ids = [(OWN_ROLE, own), (THEIR_ROLE, theirs)];
        let ids = ids.map(|(role, id)| (role.to_owned(), id.to_owned()));
        self.endpoint.set_external_ids(ExternalIds::from(ids));
    }

    fn environment(&self) -> Environment {
        let (folder, url) = (self.folder.path().to_owned(), self.endpoint.url().to_owned());
        let prefix = ["/usr/bin/env".to_owned(), format!("AWS_ENDPOINT_URL_STS={url}")];
        Environment { prefix: prefix.into(), folder, sqs: url.clone(), sagemaker: url }
    }

    /// A role for the queue and one for the other account, each with its external id.
    fn config(&self) -> Config {
        let theirs = [("role_arn", THEIR_ROLE), ("external_id", THEIR_ID)];
        let theirs: Table =
            theirs.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
        let accounts: Table = [(THEIRS.to_owned(), theirs.into())].into_iter().collect();
        Config::new(self.folder.path(), &self.queue())
            .without("handlers.job.settings.cleanup")
            .with("handlers.job.settings.inherit_env", vec!["HOME"])
            .with("queues.0.role_arn", OWN_ROLE)
            .with("queues.0.external_id", OWN_ID)
            .with("queues.0.accounts", accounts)
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default().lines().count()
    }
}

/// Waits for a log line at one of these levels that names the queue and the role.
async fn complains(daemon: &Daemon, level: &str, role: &str) {
    let says = async || {
        daemon.complaints(&[level], role).iter().any(|line| {
            let line = line.to_string();
            line.contains("\"queue\":\"callbacks\"") && line.contains("the configured external_id")
        })
    };
    until("the queue and the role are named", says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_account_is_answered_with_its_role_and_a_wrong_external_id_is_named_and_recovers() {
    let accounts = Accounts::new().await;
    let (environment, config) = (accounts.environment(), accounts.config());
    accounts.require("another", "another");
    let own = accounts.execution(OWN).await;
    let daemon = environment.start(&config, "daemon");
    complains(&daemon, "WARN", OWN_ROLE).await;

    accounts.require(OWN_ID, "another");
    accounts.succeeds(OWN, &own).await;
    let theirs = accounts.execution(THEIRS).await;
    complains(&daemon, "ERROR", THEIR_ROLE).await;
    accounts.require(OWN_ID, THEIR_ID);
    accounts.succeeds(THEIRS, &theirs).await;
    assert_eq!(accounts.runs(), 2, "no step is run again");
    let log = daemon.log();
    assert!(!log.contains(OWN_ID) && !log.contains(THEIR_ID), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credentials_of_roles_are_renewed_before_they_end_and_no_call_is_refused() {
    let role_lifetime = Duration::from_secs(15);
    let accounts = Accounts::with(Options { role_lifetime, ..Options::default() }).await;
    let daemon = accounts.environment().start(&accounts.config().listening(), "daemon");
    let begun = Instant::now();
    // Two lives of the first credentials.
    while begun.elapsed() < 2 * role_lifetime {
        for account in [OWN, THEIRS] {
            let arn = accounts.execution(account).await;
            accounts.succeeds(account, &arn).await;
        }
    }
    let metrics = daemon.status("/metrics").await.expect("it answers").1;
    let calls: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("callbackd_aws_requests_total{")).collect();
    let assumed = calls.iter().filter(|line| line.contains("AssumeRole")).count();
    let failed: Vec<_> = calls.iter().filter(|line| !line.contains("result=\"ok\"")).collect();
    assert!(assumed > 0 && failed.is_empty(), "{calls:#?}");
    let complaints = daemon.complaints(&["WARN", "ERROR"], "");
    // The scene's own configuration has a doubtful limit.
    assert!(complaints.iter().all(|line| line["event"] == "config_doubtful"), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_use_the_role_and_the_external_id_of_the_account_too() {
    let accounts = Accounts::new().await;
    let (environment, config) = (accounts.environment(), accounts.config());
    accounts.require(OWN_ID, THEIR_ID);
    let theirs = accounts.execution(THEIRS).await;
    let stopped = environment.run(&config, &["stop", &theirs]);
    assert!(stopped.status.success(), "{}", printed(&stopped));
    let checked = environment.run(&config, &["check", "--online"]);
    let of_roles = printed(&checked).lines().filter(|line| line.contains(":assumed-role/")).count();
    assert!(checked.status.success() && of_roles == 2, "{}", printed(&checked));

    accounts.require(OWN_ID, "another");
    let checked = environment.run(&config, &["check", "--online"]);
    let told = printed(&checked);
    assert_eq!(checked.status.code(), Some(1), "{told}");
    assert!(told.contains(THEIR_ROLE) && !told.contains(THEIR_ID), "{told}");
}
