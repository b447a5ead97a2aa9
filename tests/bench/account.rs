//! An AWS account on the local endpoint: a queue, a pipeline, executions, and a count of every
//! call.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::Http;
use crate::machine::{self, Machine, Process};

/// All that a worker calls while it answers steps.
const OPERATIONS: [&str; 10] = [
    "ReceiveMessage",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "SendMessage",
    REPORT,
    "SendPipelineExecutionStepFailure",
    "ListPipelineExecutionSteps",
    "DescribePipelineExecution",
];
pub const REPORT: &str = "SendPipelineExecutionStepSuccess";
const PATIENCE: Duration = Duration::from_mins(10);

pub struct Account {
    pub address: SocketAddr,
    pub queue: String,
    http: Http,
    _endpoint: Process,
}

impl Account {
    /// A new endpoint. With a file, it records each step's messages there.
    pub fn open(machine: &Machine, told: Option<&Path>) -> Self {
        let mut command = machine::this(machine.others, &["endpoint"]);
        command.args(told).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut endpoint = Process::start(&mut command);
        let mut line = String::new();
        BufReader::new(endpoint.0.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it prints");
        let address = line.trim().parse().expect("where it listens");
        let http = Http::to(address);
        let input = json!({"QueueName": "steps", "Attributes": {"VisibilityTimeout": "120"}});
        let queue = http.call("AmazonSQS.CreateQueue", &input)["QueueUrl"]
            .as_str()
            .expect("a URL")
            .to_owned();
        let arguments = json!({"dataset": "s3://features/penguins/2026-11-25/part-00000.parquet", "rows": 333,
            "columns": ["species", "island", "bill_length_mm", "bill_depth_mm"], "target": "species"});
        let step = json!({"Name": "work", "Type": "Callback", "SqsQueueUrl": queue, "Arguments": arguments,
            "OutputParameters": []});
        let definition = json!({"Version": "2020-12-01", "Steps": [step]}).to_string();
        let input = json!({"PipelineName": "p", "PipelineDefinition": definition, "ClientRequestToken": token(0),
            "RoleArn": "arn:aws:iam::123456789012:role/pipelines"});
        http.call("SageMaker.CreatePipeline", &input);
        Self { address, queue, http, _endpoint: endpoint }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts executions of one step each. When this returns, their messages are on the queue.
    pub fn start(&self, executions: usize) -> Vec<String> {
        let start = |_| {
            let input =
                json!({"PipelineName": "p", "ClientRequestToken": token(fastrand::u128(..))});
            let answer = self.http.call("SageMaker.StartPipelineExecution", &input);
            answer["PipelineExecutionArn"].as_str().expect("an ARN").to_owned()
        };
        (0..executions).map(start).collect()
    }

    pub fn stop(&self, execution: &str) {
        let input = json!({"PipelineExecutionArn": execution, "ClientRequestToken": token(fastrand::u128(..))});
        self.http.call("SageMaker.StopPipelineExecution", &input);
    }

    /// Counts calls from now on, and makes each receive take this much longer.
    pub fn count_calls(&self, receives_take: Duration) {
        let rule = |operation: &str, count: Option<u64>, millis: u128| json!({"operation": operation, "count": count, "fault": {"kind": "latency", "millis": millis}});
        // A rule that never applies still counts every call of its operation.
        let mut rules: Vec<Value> =
            OPERATIONS.iter().map(|operation| rule(operation, Some(0), 0)).collect();
        if !receives_take.is_zero() {
            rules.push(rule("ReceiveMessage", None, receives_take.as_millis()));
        }
        self.http.send(
            "PUT",
            "/_local/faults",
            "",
            &json!({"seed": 1, "rules": rules}).to_string(),
        );
    }

    /// Calls by operation, since [`count_calls`](Self::count_calls).
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let told: Value =
            serde_json::from_str(&self.http.send("GET", "/_local/faults", "", "")).expect("JSON");
        let rules = told["rules"].as_array().or(told.as_array()).expect("rules");
        let seen = |rule: &Value| {
            let operation = rule["rule"]["operation"].as_str().expect("an operation").to_owned();
            (operation, rule["seen"].as_u64().expect("a count"))
        };
        rules.iter().map(seen).collect()
    }

    /// Messages that are on the queue, visible or not.
    pub fn messages(&self) -> u64 {
        let input = json!({"QueueUrl": self.queue, "AttributeNames": ["All"]});
        let answer = self.http.call("AmazonSQS.GetQueueAttributes", &input);
        let number =
            |name: &str| answer["Attributes"][name].as_str().and_then(|n| n.parse::<u64>().ok());
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        names.iter().map(|name| number(name).expect("a number")).sum()
    }
}

/// Waits until something holds, and checks meanwhile that the process still runs.
pub fn until(what: &str, pause: Duration, process: &mut Process, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        process.must_run();
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(pause);
    }
}

fn token(number: u128) -> String {
    format!("{number:032x}")
}
