//! `SendPipelineExecutionStepSuccess` and `…Failure`: the answers to callback steps.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::SageMaker;
use super::super::answer::{Verdict, judge};
use super::super::execution::{Status, StepAnswer};
use super::super::requests::{Fingerprint, Seen};
use super::super::shape::{CALLBACK_TOKEN, Constraints};
use super::REQUEST_TOKEN;
use crate::local::call::Call;
use crate::local::events::EventKind;
use crate::local::protocol::{ApiError, input};
use crate::local::sqs::Queues;

/// One scope for both: a client request token of a success is used up for a failure too.
const SCOPE: &str = "SendPipelineExecutionStep";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Send {
    callback_token: Option<String>,
    #[serde(default)]
    output_parameters: Vec<OutputParameter>,
    failure_reason: Option<String>,
    client_request_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OutputParameter {
    name: Option<String>,
    value: Option<String>,
}

impl Send {
    fn check(&self) -> Result<(), ApiError> {
        let mut constraints = Constraints::default();
        constraints
            .required("callbackToken", self.callback_token.as_ref())
            .text("callbackToken", self.callback_token.as_ref(), (10, 10), Some(CALLBACK_TOKEN))
            .text("failureReason", self.failure_reason.as_ref(), (0, 256), None)
            .text("clientRequestToken", self.client_request_token.as_ref(), REQUEST_TOKEN, None)
            .items("outputParameters", self.output_parameters.len(), 50);
        for (index, OutputParameter { name, value }) in (1..).zip(&self.output_parameters) {
            let member = |part: &str| format!("outputParameters.{index}.member.{part}");
            constraints
                .required(&member("name"), name.as_ref())
                .required(&member("value"), value.as_ref())
                .text(&member("name"), name.as_ref(), (0, 256), None)
                .text(&member("value"), value.as_ref(), (0, 1_024), None);
        }
        constraints.check()
    }
}

pub(super) fn send(
    operation: &str,
    body: &Value,
    sagemaker: &mut SageMaker,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let sent: Send = input(body.clone())?;
    let token = sent.callback_token.clone().unwrap_or_default();
    let request_token = sent.client_request_token.clone();
    let fingerprint = Fingerprint::of(operation, body);
    let verdict = match sent.check() {
        Ok(()) => {
            let seen = request_token.as_deref().map_or(Seen::Never, |request_token| {
                sagemaker.requests.seen(SCOPE, request_token, &fingerprint)
            });
            judge(seen, step_of(sagemaker, &token), call.undocumented)
        }
        Err(error) => Verdict::Refuse(error),
    };
    let operation = operation.to_owned();
    match verdict {
        Verdict::Accept => {
            let execution = sagemaker
                .executions
                .of_token(&token)
                .map(|(execution, _)| execution.arn.to_string());
            let response = json!({"PipelineExecutionArn": execution});
            if let Some(request_token) = &request_token {
                sagemaker.requests.remember(SCOPE, request_token, fingerprint, response.clone());
            }
            let answer = answer(&operation, sent);
            let told = token.clone();
            call.tell(|| EventKind::AnswerAccepted {
                token: told,
                operation,
                request_token,
                repeated: false,
            });
            sagemaker.executions.answer(&token, answer, queues, call);
            Ok(response)
        }
        Verdict::Repeat(response) => {
            call.tell(|| EventKind::AnswerAccepted {
                token,
                operation,
                request_token,
                repeated: true,
            });
            Ok(response)
        }
        Verdict::Refuse(error) => {
            let (code, message) = (error.code.clone(), error.message.clone());
            call.tell(|| EventKind::AnswerRefused {
                token,
                operation,
                request_token,
                code,
                message,
            });
            Err(error)
        }
    }
}

fn step_of<'a>(sagemaker: &'a SageMaker, token: &str) -> Option<(&'a str, Status)> {
    let (execution, index) = sagemaker.executions.of_token(token)?;
    let status = execution.steps.get(index)?.status?;
    Some((&execution.step(index)?.name, status))
}

fn answer(operation: &str, sent: Send) -> StepAnswer {
    if operation == "SendPipelineExecutionStepFailure" {
        return StepAnswer::Failure(sent.failure_reason.unwrap_or_default());
    }
    let outputs =
        sent.output_parameters.into_iter().filter_map(|output| output.name.zip(output.value));
    StepAnswer::Success(outputs.collect())
}
