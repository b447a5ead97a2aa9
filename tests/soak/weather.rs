//! Faults of the endpoint: a few of each all the time, and now and then SQS, SageMaker or both are
//! unavailable.

use std::time::Duration;

use callbackd::local::faults::{EXECUTING_MESSAGE, STOPPING_MESSAGE};
use callbackd::local::{Fault, Rule};

use crate::Times;
use crate::stage::Stage;

/// Of each cycle, the last part of so many is an outage.
const OUTAGE: u32 = 6;

/// What the daemons ask of each service, and the load too.
const SQS: [&str; 5] = [
    "ReceiveMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibilityBatch",
    "SendMessage",
    "GetQueueAttributes",
];
const SAGEMAKER: [&str; 7] = [
    "CreatePipeline",
    "StartPipelineExecution",
    "StopPipelineExecution",
    "DescribePipelineExecution",
    "ListPipelineExecutionSteps",
    "SendPipelineExecutionStepSuccess",
    "SendPipelineExecutionStepFailure",
];

/// Which service is unavailable; the last three in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Nobody,
    Sqs,
    SageMaker,
    Both,
}

pub struct Weather {
    cycle: Duration,
    /// None before the first rules are set.
    gone: Option<Gone>,
    pub outages: u32,
}

impl Weather {
    pub fn new(times: Times) -> Self {
        Self { cycle: times.cycle, gone: None, outages: 0 }
    }

    /// Whether executions can be begun.
    pub fn leaves_sagemaker(&self) -> bool {
        matches!(self.gone, Some(Gone::Nobody | Gone::Sqs))
    }

    pub fn change(&mut self, stage: &Stage, since: Duration) {
        let cycle = since.as_millis() / self.cycle.as_millis();
        let into = Duration::from_millis(
            u64::try_from(since.as_millis() % self.cycle.as_millis()).unwrap_or(u64::MAX),
        );
        let gone = match cycle % 3 {
            _ if into < self.cycle * (OUTAGE - 1) / OUTAGE => Gone::Nobody,
            0 => Gone::Sqs,
            1 => Gone::SageMaker,
            _ => Gone::Both,
        };
        if self.gone.replace(gone) != Some(gone) {
            self.outages += u32::from(gone != Gone::Nobody);
            // Of the connections that are cut, the last rule says how: what is gone does nothing.
            stage.set_faults(drizzle().into_iter().chain(outage(gone)).collect());
        }
    }

    /// No faults any more.
    pub fn clear(&mut self, stage: &Stage) {
        self.gone = Some(Gone::Nobody);
        stage.set_faults(Vec::new());
    }
}

fn outage(gone: Gone) -> Vec<Rule> {
    let operations = match gone {
        Gone::Nobody => Vec::new(),
        Gone::Sqs => SQS.to_vec(),
        Gone::SageMaker => SAGEMAKER.to_vec(),
        Gone::Both => [&SQS[..], &SAGEMAKER].concat(),
    };
    let reset = |operation| Rule::new(operation, Fault::Disconnect { acted: false, reset: true });
    operations.into_iter().map(reset).collect()
}

fn drizzle() -> Vec<Rule> {
    let now_and_then = |operation: &str, probability: f64, fault: Fault| Rule {
        probability,
        ..Rule::new(operation, fault)
    };
    let error = |status: u16, code: &str, acted: bool| {
        let (code, message) = (code.to_owned(), "as the soak wills".to_owned());
        Fault::Error { status, code, message, acted }
    };
    vec![
        now_and_then("*", 0.02, error(503, "ServiceUnavailable", false)),
        now_and_then("*", 0.01, error(500, "InternalFailure", true)),
        now_and_then("*", 0.02, error(400, "ThrottlingException", false)),
        now_and_then("*", 0.01, Fault::Disconnect { acted: true, reset: true }),
        now_and_then("*", 0.01, Fault::Disconnect { acted: false, reset: false }),
        now_and_then("*", 0.05, Fault::Latency { millis: 400, acted: false }),
        now_and_then("*", 0.02, Fault::Latency { millis: 400, acted: true }),
        now_and_then("ReceiveMessage", 0.03, Fault::Duplicate),
        now_and_then("ReceiveMessage", 0.2, Fault::Reorder),
        now_and_then(
            "DeleteMessageBatch",
            0.05,
            Fault::FailEntries { first: 1, code: "InternalError".to_owned() },
        ),
        now_and_then(
            "ChangeMessageVisibilityBatch",
            0.05,
            Fault::FailEntries { first: 1, code: "InternalError".to_owned() },
        ),
        now_and_then(EXECUTING_MESSAGE, 0.05, Fault::Duplicate),
        now_and_then(STOPPING_MESSAGE, 0.2, Fault::Lose),
        now_and_then(STOPPING_MESSAGE, 0.2, Fault::Duplicate),
    ]
}
