//! What the demo runs on: a directory with its programs, and the pipeline at the local endpoint.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Failure;

/// The directory of one demo; removed when dropped.
pub(super) struct Workplace(PathBuf);

const CONFIGURATION: &str = include_str!("../../../config/demo/callbackd.toml");
const PROGRAMS: [(&str, &str); 4] = [
    ("extract.sh", include_str!("../../../config/demo/extract.sh")),
    ("train.sh", include_str!("../../../config/demo/train.sh")),
    ("train-cleanup.sh", include_str!("../../../config/demo/train-cleanup.sh")),
    ("register.sh", include_str!("../../../config/demo/register.sh")),
];

impl Workplace {
    pub(super) fn new() -> io::Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("callbackd-demo-{:016x}", fastrand::u64(..)));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let workplace = Self(directory);
        for (name, text) in PROGRAMS {
            fs::write(workplace.0.join(name), text)?;
        }
        Ok(workplace)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn configuration(&self, url: &str, queue: &str) -> String {
        let directory = self.0.display().to_string();
        CONFIGURATION
            .replace("@URL@", url)
            .replace("@QUEUE@", queue)
            .replace("@DIRECTORY@", &directory)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // On failure it is left to the system's clean-up of temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The pipeline's side: plain calls to the local endpoint, as any SDK would make them.
pub(super) struct Stage {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

pub(super) const PIPELINE: &str = "churn-model";

impl Stage {
    pub(super) fn new(url: &str) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), url: url.to_owned() }
    }

    pub(super) async fn create_queue(&self) -> Result<String, Failure> {
        let answer = self
            .call("AmazonSQS.CreateQueue", &json!({"QueueName": "sagemaker-callbacks"}))
            .await?;
        Ok(answer["QueueUrl"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) async fn create_pipeline(&self, queue: &str) -> Result<(), Failure> {
        let step = |name: &str, arguments: Value, outputs: &[(&str, &str)]| {
            let outputs: Vec<Value> = outputs
                .iter()
                .map(|(name, kind)| json!({"OutputName": name, "OutputType": kind}))
                .collect();
            json!({"Name": name, "Type": "Callback", "SqsQueueUrl": queue, "Arguments": arguments, "OutputParameters": outputs})
        };
        let definition = json!({
            "Version": "2020-12-01",
            "Parameters": [{"Name": "Seconds", "Type": "Integer", "DefaultValue": 1}],
            "Steps": [
                step("extract", json!({"task": "extract"}), &[("rows", "Integer")]),
                step(
                    "train",
                    json!({
                        "task": "train",
                        "rows": {"Get": "Steps.extract.OutputParameters['rows']"},
                        "seconds": {"Get": "Parameters.Seconds"},
                    }),
                    &[("model", "String"), ("accuracy", "Float")],
                ),
                step(
                    "register",
                    json!({"task": "register", "model": {"Get": "Steps.train.OutputParameters['model']"}}),
                    &[("registered", "String")],
                ),
            ],
        });
        let request = json!({
            "PipelineName": PIPELINE,
            "PipelineDefinition": definition.to_string(),
            "ClientRequestToken": request_token(),
            "RoleArn": "arn:aws:iam::123456789012:role/demo",
        });
        self.call("SageMaker.CreatePipeline", &request).await.map(drop)
    }

    pub(super) async fn start(&self, parameters: Value) -> Result<String, Failure> {
        let request = json!({"PipelineName": PIPELINE, "PipelineParameters": parameters, "ClientRequestToken": request_token()});
        let answer = self.call("SageMaker.StartPipelineExecution", &request).await?;
        Ok(answer["PipelineExecutionArn"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) async fn stop(&self, execution: &str) -> Result<(), Failure> {
        let request =
            json!({"PipelineExecutionArn": execution, "ClientRequestToken": request_token()});
        self.call("SageMaker.StopPipelineExecution", &request).await.map(drop)
    }

    /// Waits for the end of an execution.
    pub(super) async fn ends(&self, execution: &str) -> Result<(), Failure> {
        while ["Executing", "Stopping"].contains(&self.status(execution).await?.as_str()) {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub(super) async fn status(&self, execution: &str) -> Result<String, Failure> {
        let answer = self
            .call(
                "SageMaker.DescribePipelineExecution",
                &json!({"PipelineExecutionArn": execution}),
            )
            .await?;
        Ok(answer["PipelineExecutionStatus"].as_str().unwrap_or_default().to_owned())
    }

    /// How many messages are on the queue, visible or not.
    pub(super) async fn messages(&self, queue: &str) -> Result<u64, Failure> {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = self
            .call(
                "AmazonSQS.GetQueueAttributes",
                &json!({"QueueUrl": queue, "AttributeNames": names}),
            )
            .await?;
        Ok(names
            .iter()
            .filter_map(|name| answer["Attributes"][name].as_str()?.parse::<u64>().ok())
            .sum())
    }

    async fn call(&self, target: &str, request: &Value) -> Result<Value, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Runtime(format!("the local endpoint, {target}: {error}"))
        };
        let version = if target.starts_with("AmazonSQS") { "1.0" } else { "1.1" };
        let request = Request::post(&self.url)
            .header("X-Amz-Target", target)
            .header("Content-Type", format!("application/x-amz-json-{version}"))
            .body(Full::new(Bytes::from(request.to_string())))
            .map_err(|error| failed(&error))?;
        let answer = self.client.request(request).await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            return Err(failed(&format_args!("{status}: {text}")));
        }
        if body.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_str(&text).map_err(|error| failed(&error))
        }
    }
}

fn request_token() -> String {
    format!("{:032x}", fastrand::u128(..))
}
