//! Executions that are retried: their steps wait again, with a new token or with the one that was
//! answered before.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use callbackd::local::undocumented::RetriedToken;
use callbackd::local::{Endpoint, Options, Undocumented};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Config, Environment};
use crate::http;
use crate::scene::until;

struct Account {
    endpoint: Endpoint,
    folder: TempDir,
}

impl Account {
    async fn new(retried_token: RetriedToken, script: &str) -> Self {
        let undocumented = Undocumented { retried_token, ..Undocumented::default() };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options { undocumented, ..Options::default() };
        let endpoint = Endpoint::start(loopback, options).await.expect("a free port");
        let account = Self { endpoint, folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(account.path("ledger")).expect("the folder is writable");
        let run = account.path("run");
        let folder = account.folder.path().display();
        fs::write(
            &run,
            format!("#!/bin/sh\nFOLDER={folder}\necho \"$STEP_TOKEN\" >> $FOLDER/runs\n{script}\n"),
        )
        .expect("it is writable");
        fs::set_permissions(run, fs::Permissions::from_mode(0o755)).expect("it is ours");
        account.call("AmazonSQS.CreateQueue", json!({ "QueueName": "callbacks" })).await;
        let step = json!({ "Name": "s", "Type": "Callback", "SqsQueueUrl": account.queue(), "Arguments": { "n": 1 },
            "OutputParameters": [] });
        let definition = json!({ "Version": "2020-12-01", "Steps": [step] }).to_string();
        let role = "arn:aws:iam::123456789012:role/any";
        account
            .sagemaker(
                "CreatePipeline",
                json!({ "PipelineName": "p", "PipelineDefinition": definition, "RoleArn": role }),
            )
            .await;
        account
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn queue(&self) -> String {
        format!("{}/123456789012/callbacks", self.endpoint.url())
    }

    fn runs(&self) -> Vec<String> {
        fs::read_to_string(self.path("runs"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    async fn sagemaker(&self, operation: &str, mut input: Value) -> Value {
        input["ClientRequestToken"] = format!("{operation}-{}", "x".repeat(32)).into();
        self.call(&format!("SageMaker.{operation}"), input).await
    }

    async fn call(&self, target: &str, input: Value) -> Value {
        http::call(self.endpoint.addr(), target, &input).await
    }

    async fn has_status(&self, arn: &str, status: &str) {
        let asked = json!({ "PipelineExecutionArn": arn });
        let has = async || {
            let described = self.call("SageMaker.DescribePipelineExecution", asked.clone()).await;
            described["PipelineExecutionStatus"] == status
        };
        until("the execution ends", has).await;
    }

    async fn is_settled(&self, environment: &Environment, config: &Config) {
        let settled = async || {
            let output = environment.run(config, &["steps", "--json"]);
            let records: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
            !records.is_empty() && records.iter().all(|record| record["status"] == "settled")
        };
        until("all is settled", settled).await;
    }
}

/// The first round fails, and the second comes out as `second` has it.
async fn both_rounds_are_answered(retried_token: RetriedToken, second: &str, ends: &str) {
    let script = format!("mkdir $FOLDER/first 2>/dev/null && exit 3\n{second}");
    let account = Account::new(retried_token, &script).await;
    let url = account.endpoint.url().to_owned();
    let folder = account.folder.path().to_owned();
    let environment = Environment { prefix: Vec::new(), folder, sqs: url.clone(), sagemaker: url };
    let config = Config::new(account.folder.path(), &account.queue())
        .without("handlers.job.settings.cleanup");
    let daemon = environment.start(&config, "daemon");
    let started = account.sagemaker("StartPipelineExecution", json!({ "PipelineName": "p" })).await;
    let arn = started["PipelineExecutionArn"].as_str().expect("an ARN");
    account.has_status(arn, "Failed").await;
    account.is_settled(&environment, &config).await;
    account.sagemaker("RetryPipelineExecution", json!({ "PipelineExecutionArn": arn })).await;
    account.has_status(arn, ends).await;
    let runs = account.runs();
    assert_eq!(runs.len(), 2, "{}", daemon.log());
    assert_eq!(runs[0] == runs[1], retried_token == RetriedToken::Same);
    account.is_settled(&environment, &config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_of_an_execution_that_is_retried_is_run_and_answered_again() {
    tokio::join!(
        both_rounds_are_answered(RetriedToken::Fresh, "exit 0", "Succeeded"),
        both_rounds_are_answered(RetriedToken::Same, "exit 0", "Succeeded"),
        both_rounds_are_answered(RetriedToken::Same, "exit 3", "Failed"),
    );
}
