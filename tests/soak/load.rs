//! Steps of every kind, started continuously.

use serde_json::json;

use crate::stage::{Stage, UNREADABLE};

/// What a step's program does; some of them more often than others.
const KINDS: [&str; 10] =
    ["quick", "quick", "quick", "quick", "slow", "failing", "retry", "again", "noisy", "stopped"];
/// How many turns bring one unreadable message.
const UNREADABLE_EVERY: u64 = 100;

pub struct Load {
    pub begun: usize,
    turns: u64,
    /// Executions that are to be stopped, and in how many turns.
    to_stop: Vec<(String, u64)>,
    made: bool,
    random: fastrand::Rng,
}

impl Load {
    pub fn new() -> Self {
        Self {
            begun: 0,
            turns: 0,
            to_stop: Vec::new(),
            made: false,
            random: fastrand::Rng::with_seed(7),
        }
    }

    /// One turn: a step begins, and what is due is stopped.
    pub async fn more(&mut self, stage: &Stage) {
        self.turns += 1;
        if !self.made {
            self.made = make_pipelines(stage).await;
            return;
        }
        let kind = KINDS[self.random.usize(..KINDS.len())];
        let queue = self.random.usize(..2);
        let token = format!("{:032x}", self.random.u128(..));
        let request = json!({
            "PipelineName": format!("soak-{queue}"),
            "PipelineParameters": [{ "Name": "Kind", "Value": kind }],
            "ClientRequestToken": token,
        });
        // If the answer is lost, the same request is repeated.
        for _ in 0..20 {
            if let Some(answer) = stage.call("SageMaker.StartPipelineExecution", &request).await {
                self.begun += 1;
                if kind == "stopped" {
                    let execution =
                        answer["PipelineExecutionArn"].as_str().unwrap_or_default().to_owned();
                    self.to_stop.push((execution, self.turns + self.random.u64(0..20)));
                }
                break;
            }
        }
        let mut waiting = Vec::new();
        for (execution, at) in std::mem::take(&mut self.to_stop) {
            let request = json!({ "PipelineExecutionArn": execution, "ClientRequestToken": format!("{execution:0>32}") });
            if at > self.turns
                || stage.call("SageMaker.StopPipelineExecution", &request).await.is_none()
            {
                waiting.push((execution, at));
            }
        }
        self.to_stop = waiting;
        if self.turns.is_multiple_of(UNREADABLE_EVERY) {
            let request = json!({ "QueueUrl": stage.queues[queue].url, "MessageBody": UNREADABLE });
            // Whether it came there, the endpoint tells.
            let _ = stage.call("AmazonSQS.SendMessage", &request).await;
        }
    }
}

async fn make_pipelines(stage: &Stage) -> bool {
    for (number, queue) in stage.queues.iter().enumerate() {
        let definition = json!({
            "Version": "2020-12-01",
            "Parameters": [{ "Name": "Kind", "Type": "String" }],
            "Steps": [{
                "Name": "work", "Type": "Callback", "SqsQueueUrl": queue.url, "Arguments": { "kind": { "Get": "Parameters.Kind" } },
                "OutputParameters": [{ "OutputName": "done", "OutputType": "String" }],
            }],
        });
        let request = json!({
            "PipelineName": format!("soak-{number}"), "PipelineDefinition": definition.to_string(),
            "ClientRequestToken": format!("{number:032}"), "RoleArn": "arn:aws:iam::123456789012:role/soak",
        });
        if stage.call("SageMaker.CreatePipeline", &request).await.is_none() {
            return false;
        }
    }
    true
}
