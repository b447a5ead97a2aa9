//! `check --online` tries each right of the worker's policy: one that is missing is named with its
//! file, and nothing is changed by the trial.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use callbackd::local::{Endpoint, Fault, Options, Rule};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Config, Environment};
use crate::http;
use crate::output::printed;

const POLICY: &str = include_str!("../../deploy/iam/worker-policy.json");

/// A step whose message is on the queue, and no daemon.
struct Account {
    endpoint: Endpoint,
    folder: TempDir,
}

impl Account {
    async fn new() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::start(loopback, Options::default()).await.expect("a free port");
        let account = Self { endpoint, folder: tempfile::tempdir().expect("a folder") };
        let run = account.folder.path().join("run");
        fs::write(&run, "#!/bin/sh\n").expect("the folder is writable");
        fs::set_permissions(run, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::create_dir(account.folder.path().join("ledger")).expect("it is writable");
        for (queue, attributes) in [
            ("dead", json!({})),
            (
                "sagemaker-callbacks",
                json!({ "RedrivePolicy": json!({
                "deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead",
                "maxReceiveCount": 5,
            }).to_string() }),
            ),
        ] {
            let input = json!({ "QueueName": queue, "Attributes": attributes });
            account.call("AmazonSQS.CreateQueue", input).await;
        }
        account
    }

    fn queue(&self) -> String {
        format!("{}/123456789012/sagemaker-callbacks", self.endpoint.url())
    }

    async fn call(&self, target: &str, input: Value) -> Value {
        http::call(self.endpoint.addr(), target, &input).await
    }

    /// Starts an execution, and returns its ARN.
    async fn waiting_step(&self) -> String {
        let step = json!({ "Name": "s", "Type": "Callback", "SqsQueueUrl": self.queue(),
            "Arguments": {}, "OutputParameters": [] });
        let definition = json!({ "Version": "2020-12-01", "Steps": [step] }).to_string();
        let token = "x".repeat(32);
        let pipeline = json!({ "PipelineName": "p", "PipelineDefinition": definition,
            "ClientRequestToken": token, "RoleArn": "arn:aws:iam::123456789012:role/p" });
        self.call("SageMaker.CreatePipeline", pipeline).await;
        let start = json!({ "PipelineName": "p", "ClientRequestToken": token });
        let started = self.call("SageMaker.StartPipelineExecution", start).await;
        started["PipelineExecutionArn"].as_str().expect("an ARN").to_owned()
    }

    /// The exit code and the output of `check --online` while these operations are denied.
    fn check(&self, denied: &[&str]) -> (Option<i32>, String) {
        let denial = |operation: &&str| {
            let fault = Fault::Error {
                status: 400,
                code: "AccessDeniedException".to_owned(),
                message: format!("not authorized to perform {operation}"),
                acted: false,
            };
            Rule::new(*operation, fault)
        };
        let rules = denied.iter().map(denial).collect();
        self.endpoint.set_faults(rules).expect("rules that can be");
        let (folder, url) = (self.folder.path().to_owned(), self.endpoint.url().to_owned());
        let prefix = ["/usr/bin/env".to_owned(), format!("AWS_ENDPOINT_URL_STS={url}")];
        let environment =
            Environment { prefix: prefix.into(), folder, sqs: url.clone(), sagemaker: url };
        let config =
            Config::new(self.folder.path(), &self.queue()).without("handlers.job.settings.cleanup");
        let output = environment.run(&config, &["check", "--online"]);
        (output.status.code(), printed(&output))
    }
}

/// The actions that the policy grants.
fn granted() -> Vec<String> {
    let policy: Value = serde_json::from_str(POLICY).expect("JSON");
    let statements = policy["Statement"].as_array().expect("a list");
    let actions = statements.iter().flat_map(|statement| match &statement["Action"] {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    });
    actions.map(|action| action.as_str().expect("a string").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_of_the_policy_is_tried_named_if_it_is_missing_and_changes_nothing() {
    let account = Account::new().await;
    let execution = account.waiting_step().await;
    let (code, told) = account.check(&[]);
    assert!(code == Some(0) && !told.contains("deploy/iam"), "{told}");

    for action in granted() {
        let (service, operation) = action.split_once(':').expect("a service and an operation");
        let batched = ["ChangeMessageVisibility", "DeleteMessage"].contains(&operation);
        let operation = operation.to_owned() + if batched { "Batch" } else { "" };
        let (code, told) = account.check(&[&operation]);
        let remedies: Vec<&str> = told.lines().filter(|line| line.contains("deploy/iam")).collect();
        let names = format!("allow {action} (deploy/iam/worker-policy.json)");
        assert!(
            !remedies.is_empty() && remedies.iter().all(|line| line.contains(&names)),
            "{action}: {told}"
        );
        // A policy that names pipelines denies what is asked about none of them.
        let works_without = service == "sagemaker" || operation == "GetQueueAttributes";
        assert_eq!(code, Some(i32::from(!works_without)), "{action}: {told}");
    }

    account.endpoint.set_faults(Vec::new()).expect("no rules");
    let receive = json!({ "QueueUrl": account.queue(), "MaxNumberOfMessages": 10,
        "AttributeNames": ["ApproximateReceiveCount"] });
    let received = account.call("AmazonSQS.ReceiveMessage", receive).await;
    let messages = received["Messages"].as_array().expect("the step's message");
    assert_eq!(messages.len(), 1, "{received}");
    assert_eq!(messages[0]["Attributes"]["ApproximateReceiveCount"], "1", "{received}");
    let asked = json!({ "PipelineExecutionArn": execution });
    let described = account.call("SageMaker.DescribePipelineExecution", asked).await;
    assert_eq!(described["PipelineExecutionStatus"], "Executing", "{described}");
}
