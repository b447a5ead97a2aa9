//! The local endpoint, used by clients that know nothing about it: boto3 and the AWS CLI.

#![allow(clippy::expect_used, reason = "a test says what it expected")]

#[path = "support/output.rs"]
mod output;
#[path = "support/service_model.rs"]
mod service_model;
#[path = "support/venv.rs"]
mod venv;

use std::path::Path;

use callbackd::local::{Endpoint, Options};
use serde_json::{Value, json};
use tokio::process::Command;

use output::printed;
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

#[tokio::test(flavor = "multi_thread")]
async fn boto3_uses_it_without_noticing() {
    let endpoint = endpoint().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/local_endpoint.py");
    let python = tokio::task::spawn_blocking(Venv::ready).await.expect("a venv").python();
    let output = client(&python, &endpoint).arg(script).output().await.expect("Python starts");
    assert!(output.status.success(), "{}", printed(&output));
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
        assert!(output.status.success(), "aws {arguments:?}: {}", printed(&output));
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

    let received =
        aws(&["sqs", "receive-message", "--queue-url", queue, "--wait-time-seconds", "5"]).await;
    let body = received["Messages"][0]["Body"].as_str().expect("a body");
    let message: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(message["status"], "Executing");
    let token = message["token"].as_str().expect("a token");

    let answer = &["sagemaker", "send-pipeline-execution-step-success", "--callback-token", token];
    aws(&[answer, &["--output-parameters", "Name=by,Value=me"][..]].concat()).await;
    let described =
        aws(&["sagemaker", "describe-pipeline-execution", "--pipeline-execution-arn", execution])
            .await;
    assert_eq!(described["PipelineExecutionStatus"], "Succeeded");
    let steps =
        aws(&["sagemaker", "list-pipeline-execution-steps", "--pipeline-execution-arn", execution])
            .await;
    let metadata = &steps["PipelineExecutionSteps"][0]["Metadata"]["Callback"];
    assert_eq!(metadata["OutputParameters"], json!([{"Name": "by", "Value": "me"}]));

    let refused = client(&cli, &endpoint)
        .args(["--endpoint-url", endpoint.url()])
        .args(answer)
        .output()
        .await
        .expect("the CLI starts");
    assert!(!refused.status.success());
    assert!(printed(&refused).contains("(ConflictException)"), "{}", printed(&refused));
    endpoint.shutdown().await;
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn the_rust_sdk_uses_it_without_noticing() {
    use aws_sdk_sagemaker::operation::send_pipeline_execution_step_success::SendPipelineExecutionStepSuccessError;
    use aws_sdk_sagemaker::types::{OutputParameter, PipelineExecutionStatus};
    use aws_sdk_sqs::types::{
        ChangeMessageVisibilityBatchRequestEntry, MessageSystemAttributeName,
    };

    let endpoint = endpoint().await;
    let config = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .endpoint_url(endpoint.url())
        .region(aws_config::Region::from_static("us-east-1"))
        .credentials_provider(aws_sdk_sqs::config::SharedCredentialsProvider::new(
            aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test"),
        ))
        .build();
    let (sqs, sagemaker) =
        (aws_sdk_sqs::Client::new(&config), aws_sdk_sagemaker::Client::new(&config));

    let queue =
        sqs.create_queue().queue_name("q").send().await.expect("created").queue_url.expect("a URL");
    let step = json!({"Name": "a", "Type": "Callback", "SqsQueueUrl": queue, "Arguments": {"n": 1},
        "OutputParameters": [{"OutputName": "x", "OutputType": "String"}]});
    let definition = json!({"Version": "2020-12-01", "Steps": [step]}).to_string();
    let create = sagemaker.create_pipeline().pipeline_name("p").pipeline_definition(definition);
    create.role_arn("arn:aws:iam::123456789012:role/pipelines").send().await.expect("created");
    let started =
        sagemaker.start_pipeline_execution().pipeline_name("p").send().await.expect("started");

    let receive = sqs.receive_message().queue_url(&queue).wait_time_seconds(5);
    let receive =
        receive.message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
    let message = receive.send().await.expect("received").messages.expect("one").remove(0);
    let received = message.attributes.expect("asked for");
    assert_eq!(received[&MessageSystemAttributeName::ApproximateReceiveCount], "1");
    let body: Value = serde_json::from_str(&message.body.expect("a body")).expect("JSON");
    let token = body["token"].as_str().expect("a token");

    let entry = |id: &str, handle: &str| {
        let entry =
            ChangeMessageVisibilityBatchRequestEntry::builder().id(id).visibility_timeout(60);
        entry.receipt_handle(handle).build().expect("complete")
    };
    let hide = sqs.change_message_visibility_batch().queue_url(&queue);
    let hide = hide.entries(entry("good", message.receipt_handle.as_deref().expect("a handle")));
    let hidden = hide.entries(entry("bad", "nonsense")).send().await.expect("a batch");
    assert_eq!((hidden.successful()[0].id(), hidden.failed()[0].id()), ("good", "bad"));

    let output = OutputParameter::builder().name("x").value("1").build();
    let answer = sagemaker
        .send_pipeline_execution_step_success()
        .callback_token(token)
        .output_parameters(output);
    answer.clone().send().await.expect("accepted");
    let refused =
        answer.send().await.expect_err("a fresh client request token").into_service_error();
    assert!(
        matches!(refused, SendPipelineExecutionStepSuccessError::ConflictException(_)),
        "{refused:?}"
    );
    assert_eq!(refused.meta().message(), Some("Step a is already in a terminal status"));

    let describe = sagemaker.describe_pipeline_execution();
    let described = describe
        .set_pipeline_execution_arn(started.pipeline_execution_arn)
        .send()
        .await
        .expect("described");
    assert_eq!(described.pipeline_execution_status, Some(PipelineExecutionStatus::Succeeded));

    sqs.delete_queue().queue_url(&queue).send().await.expect("deleted");
    let gone = sqs
        .get_queue_attributes()
        .queue_url(&queue)
        .send()
        .await
        .expect_err("gone")
        .into_service_error();
    assert!(gone.is_queue_does_not_exist(), "{gone:?}");
    endpoint.shutdown().await;
}

#[test]
fn what_the_published_model_does_not_allow_is_named() {
    let model = service_model::sagemaker();
    let good = json!({
        "CallbackToken": "SYZ8ExZ3Sd", "ClientRequestToken": "0".repeat(64), "OutputParameters": [{ "Name": "rows", "Value": "5" }],
    });
    let success = "SendPipelineExecutionStepSuccess";
    assert_eq!(model.wrong_with_request(success, &good), Vec::<String>::new());
    for (member, value) in [
        ("CallbackToken", json!("short")),
        ("CallbackToken", json!("SYZ8ExZ3S!")),
        ("ClientRequestToken", json!("tooshort")),
        ("OutputParameters", json!([{ "Name": "rows" }])),
        ("OutputParameters", json!([{ "Name": "rows", "Value": 5 }])),
        ("OutputParameters", json!([{ "Name": "rows", "Value": "5".repeat(1025) }])),
        ("OutputParameters", Value::Array(vec![json!({ "Name": "rows", "Value": "5" }); 51])),
        ("OutputParameter", json!([])),
    ] {
        let mut bad = good.clone();
        bad[member] = value.clone();
        let wrong = model.wrong_with_request(success, &bad);
        assert!(
            wrong.len() == 1 && wrong[0].contains(member.trim_end_matches('s')),
            "{member} {value}: {wrong:?}"
        );
    }
    let failure = json!({ "CallbackToken": "SYZ8ExZ3Sd", "FailureReason": "x".repeat(257) });
    assert_eq!(model.wrong_with_request("SendPipelineExecutionStepFailure", &failure).len(), 1);
    assert_eq!(model.wrong_with_request("NoSuchOperation", &json!({})).len(), 1);
    let answer = json!({ "PipelineExecutionSteps": [{ "StepStatus": "Asleep" }] });
    assert_eq!(model.wrong_with_answer("ListPipelineExecutionSteps", &answer).len(), 1);
}
