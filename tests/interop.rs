//! The local endpoint, used by clients that do not know it: boto3 and the AWS CLI.

#![allow(clippy::expect_used, reason = "a test says what it expected")]

#[path = "support/venv.rs"]
mod venv;

use std::path::Path;
use std::process::Output;

use callbackd::local::{Endpoint, Options};
use serde_json::{Value, json};
use tokio::process::Command;

use venv::Venv;

async fn endpoint() -> Endpoint {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    Endpoint::start(loopback, Options::default()).await.expect("a free port")
}

/// A client that finds neither credentials nor settings of the user who runs the tests.
fn client(program: &Path, endpoint: &Endpoint) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("LOCAL_ENDPOINT", endpoint.url());
    command
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_uses_it_without_noticing() {
    let endpoint = endpoint().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/local_endpoint.py");
    let python = tokio::task::spawn_blocking(Venv::ready).await.expect("a venv").python();
    let output = client(&python, &endpoint).arg(script).output().await.expect("Python starts");
    assert!(output.status.success(), "{}", told(&output));
    endpoint.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_uses_it_without_noticing() {
    let endpoint = endpoint().await;
    let cli = tokio::task::spawn_blocking(Venv::ready).await.expect("a venv").program("aws");
    let aws = async |arguments: &[&str]| -> Value {
        let output = client(&cli, &endpoint)
            .args(["--endpoint-url", endpoint.url()])
            .args(arguments)
            .output()
            .await
            .expect("the CLI starts");
        assert!(output.status.success(), "aws {arguments:?}: {}", told(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };

    let created = aws(&["sqs", "create-queue", "--queue-name", "callbacks"]).await;
    let queue = created["QueueUrl"].as_str().expect("a URL");
    let step = json!({"Name": "approve", "Type": "Callback", "SqsQueueUrl": queue, "Arguments": {"n": 1},
        "OutputParameters": [{"OutputName": "by", "OutputType": "String"}]});
    let definition = json!({"Version": "2020-12-01", "Steps": [step]}).to_string();
    let role = "arn:aws:iam::123456789012:role/pipelines";
    aws(&[
        &["sagemaker", "create-pipeline", "--pipeline-name", "p"][..],
        &["--pipeline-definition", &definition, "--role-arn", role],
    ]
    .concat())
    .await;
    let started = aws(&["sagemaker", "start-pipeline-execution", "--pipeline-name", "p"]).await;
    let execution = started["PipelineExecutionArn"].as_str().expect("an ARN");

    let received = aws(&["sqs", "receive-message", "--queue-url", queue, "--wait-time-seconds", "5"]).await;
    let body = received["Messages"][0]["Body"].as_str().expect("a body");
    let message: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(message["status"], "Executing");
    let token = message["token"].as_str().expect("a token");

    let answer = &["sagemaker", "send-pipeline-execution-step-success", "--callback-token", token];
    aws(&[answer, &["--output-parameters", "Name=by,Value=me"][..]].concat()).await;
    let described = aws(&["sagemaker", "describe-pipeline-execution", "--pipeline-execution-arn", execution]).await;
    assert_eq!(described["PipelineExecutionStatus"], "Succeeded");
    let steps = aws(&["sagemaker", "list-pipeline-execution-steps", "--pipeline-execution-arn", execution]).await;
    let metadata = &steps["PipelineExecutionSteps"][0]["Metadata"]["Callback"];
    assert_eq!(metadata["OutputParameters"], json!([{"Name": "by", "Value": "me"}]));

    let refused = client(&cli, &endpoint)
        .args(["--endpoint-url", endpoint.url()])
        .args(answer)
        .output()
        .await
        .expect("the CLI starts");
    assert!(!refused.status.success());
    assert!(told(&refused).contains("(ConflictException)"), "{}", told(&refused));
    endpoint.shutdown().await;
}
