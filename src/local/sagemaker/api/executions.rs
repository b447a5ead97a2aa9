//! Start, stop, retry, describe and list executions, and list their steps.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::SageMaker;
use super::super::answer::{already_terminal, reused};
use super::super::definition::Step;
use super::super::execution::{Beginning, Execution, Status, StepRun};
use super::super::executions::MAX_RUNNING;
use super::super::parameter::bind;
use super::super::requests::{Fingerprint, Seen};
use super::super::shape::{
    Constraints, EXECUTION_ARN, EXECUTION_NAME, PARAMETER_NAME, PIPELINE_NAME_OR_ARN, conflict,
    invalid, unserved,
};
use super::pipelines::Parallelism;
use super::{REQUEST_TOKEN, check_list, listed, without_nulls};
use crate::local::call::Call;
use crate::local::clock::Time;
use crate::local::events::EventKind;
use crate::local::protocol::{ApiError, input};
use crate::local::sqs::Queues;

/// The scope of `StartPipelineExecution`'s client request tokens.
const SCOPE: &str = "StartPipelineExecution";

/// The scope of `RetryPipelineExecution`'s.
const RETRY_SCOPE: &str = "RetryPipelineExecution";

/// Members that AWS acts on but the local endpoint does not.
const UNSERVED: [&str; 4] =
    ["SelectiveExecutionConfig", "PipelineVersionId", "PipelineVersionAlias", "RoleArn"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Start {
    pipeline_name: Option<String>,
    pipeline_execution_display_name: Option<String>,
    #[serde(default)]
    pipeline_parameters: Vec<Parameter>,
    pipeline_execution_description: Option<String>,
    client_request_token: Option<String>,
    parallelism_configuration: Option<Parallelism>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    name: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfExecution {
    pipeline_execution_arn: Option<String>,
    client_request_token: Option<String>,
    parallelism_configuration: Option<Parallelism>,
    next_token: Option<String>,
    max_results: Option<i64>,
    sort_order: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    pipeline_name: Option<String>,
    created_after: Option<f64>,
    created_before: Option<f64>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    next_token: Option<String>,
    max_results: Option<i64>,
}

impl Start {
    fn check(&self) -> Result<(), ApiError> {
        let mut constraints = Constraints::default();
        constraints
            .required("pipelineName", self.pipeline_name.as_ref())
            .required("clientRequestToken", self.client_request_token.as_ref())
            .text(
                "pipelineName",
                self.pipeline_name.as_ref(),
                (1, 2_048),
                Some(PIPELINE_NAME_OR_ARN),
            )
            .text("clientRequestToken", self.client_request_token.as_ref(), REQUEST_TOKEN, None)
            .text(
                "pipelineExecutionDisplayName",
                self.pipeline_execution_display_name.as_ref(),
                (1, 82),
                Some(EXECUTION_NAME),
            )
            .text(
                "pipelineExecutionDescription",
                self.pipeline_execution_description.as_ref(),
                (0, 3_072),
                None,
            )
            .items("pipelineParameters", self.pipeline_parameters.len(), 200);
        for (index, Parameter { name, value }) in (1..).zip(&self.pipeline_parameters) {
            let member = |part: &str| format!("pipelineParameters.{index}.member.{part}");
            constraints
                .required(&member("name"), name.as_ref())
                .required(&member("value"), value.as_ref())
                .text(&member("name"), name.as_ref(), (1, 256), Some(PARAMETER_NAME))
                .text(&member("value"), value.as_ref(), (0, 1_024), None);
        }
        if let Some(parallelism) = self.parallelism_configuration {
            parallelism.check(&mut constraints);
        }
        constraints.check()
    }
}

impl OfExecution {
    fn arn(&self) -> Result<&str, ApiError> {
        let arn = self.pipeline_execution_arn.as_ref();
        Constraints::default()
            .required("pipelineExecutionArn", arn)
            .text("pipelineExecutionArn", arn, (0, 2_048), Some(EXECUTION_ARN))
            .check()?;
        Ok(arn.map_or("", String::as_str))
    }
}

pub(super) fn start(
    body: &Value,
    sagemaker: &mut SageMaker,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    unserved(body, &UNSERVED)?;
    let start: Start = input(body.clone())?;
    start.check()?;
    let fingerprint = Fingerprint::of(SCOPE, body);
    let token = start.client_request_token.unwrap_or_default();
    match sagemaker.requests.seen(SCOPE, &token, &fingerprint) {
        Seen::Never => {}
        Seen::Same(answer) => return Ok(answer),
        Seen::Other(answer) => return reused(call.undocumented).map_or(Ok(answer), Err),
    }
    let pipeline = sagemaker
        .pipelines
        .get(&start.pipeline_name.unwrap_or_default(), call.undocumented.pipeline_names)?;
    let given: BTreeMap<String, String> = start
        .pipeline_parameters
        .into_iter()
        .filter_map(|parameter| parameter.name.zip(parameter.value))
        .collect();
    let parameters = bind(&pipeline.definition.parameters, &given).map_err(invalid)?;
    if sagemaker.executions.running() >= MAX_RUNNING {
        return Err(too_many());
    }
    pipeline.last_run = Some(call.now);
    let id = call.ids.execution();
    let arn = format!("{}/execution/{id}", pipeline.arn);
    let beginning = Beginning {
        arn: arn.as_str().into(),
        display_name: start
            .pipeline_execution_display_name
            .or_else(|| Some(format!("execution-{}", call.now.millis()))),
        id,
        pipeline: pipeline.name.clone(),
        pipeline_arn: pipeline.arn.clone(),
        description: start.pipeline_execution_description,
        parallelism: start
            .parallelism_configuration
            .and_then(Parallelism::most)
            .or(pipeline.parallelism),
        parameters,
        definition: pipeline.definition.clone(),
    };
    let (name, execution, request_token) =
        (pipeline.name.clone(), beginning.arn.clone(), token.clone());
    call.tell(|| EventKind::ExecutionStarted { pipeline: name, execution, request_token });
    sagemaker.executions.start(beginning, queues, call);
    let output = json!({"PipelineExecutionArn": arn});
    sagemaker.requests.remember(SCOPE, &token, fingerprint, output.clone());
    Ok(output)
}

pub(super) fn stop(
    body: &Value,
    sagemaker: &mut SageMaker,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let stop: OfExecution = input(body.clone())?;
    let token = stop.client_request_token.as_ref();
    Constraints::default()
        .required("clientRequestToken", token)
        .text("clientRequestToken", token, REQUEST_TOKEN, None)
        .check()?;
    let arn = stop.arn()?;
    let execution = sagemaker.executions.get(arn)?;
    match execution.status {
        Status::Executing => {
            let (execution, request_token) =
                (execution.arn.clone(), token.cloned().unwrap_or_default());
            call.tell(|| EventKind::ExecutionStopping { execution, request_token });
            sagemaker.executions.stop(arn, queues, call)?;
        }
        // It is being stopped already.
        Status::Stopping => {}
        _ => {
            let message = format!("Pipeline execution {arn} is already in a terminal status");
            return Err(already_terminal(message, call.undocumented));
        }
    }
    Ok(json!({"PipelineExecutionArn": arn}))
}

pub(super) fn retry(
    body: &Value,
    sagemaker: &mut SageMaker,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<Value, ApiError> {
    let retry: OfExecution = input(body.clone())?;
    let token = retry.client_request_token.as_ref();
    let mut constraints = Constraints::default();
    constraints.required("clientRequestToken", token).text(
        "clientRequestToken",
        token,
        REQUEST_TOKEN,
        None,
    );
    if let Some(parallelism) = retry.parallelism_configuration {
        parallelism.check(&mut constraints);
    }
    constraints.check()?;
    let arn = retry.arn()?;
    let token = token.cloned().unwrap_or_default();
    let fingerprint = Fingerprint::of(RETRY_SCOPE, body);
    match sagemaker.requests.seen(RETRY_SCOPE, &token, &fingerprint) {
        Seen::Never => {}
        Seen::Same(answer) => return Ok(answer),
        Seen::Other(answer) => return reused(call.undocumented).map_or(Ok(answer), Err),
    }
    let execution = sagemaker.executions.get(arn)?;
    if !matches!(execution.status, Status::Failed | Status::Stopped) {
        // That it is refused follows from the operation's purpose; the code is a choice among those
        // in the model.
        let status = execution.status.name();
        return Err(conflict(format!(
            "Pipeline execution {arn} is {status}: it has nothing to retry"
        )));
    }
    if sagemaker.executions.running() >= MAX_RUNNING {
        return Err(too_many());
    }
    let (execution, request_token) = (execution.arn.clone(), token.clone());
    call.tell(|| EventKind::ExecutionRetried { execution, request_token });
    let parallelism = retry.parallelism_configuration.and_then(Parallelism::most);
    sagemaker.executions.retry(arn, parallelism, queues, call)?;
    let output = json!({"PipelineExecutionArn": arn});
    sagemaker.requests.remember(RETRY_SCOPE, &token, fingerprint, output.clone());
    Ok(output)
}

fn too_many() -> ApiError {
    let message = format!("the local endpoint runs at most {MAX_RUNNING} executions at once");
    ApiError::new("ResourceLimitExceeded", message)
}

pub(super) fn describe(body: &Value, sagemaker: &SageMaker) -> Result<Value, ApiError> {
    let asked: OfExecution = input(body.clone())?;
    let execution = sagemaker.executions.get(asked.arn()?)?;
    Ok(without_nulls(json!({
        "PipelineArn": execution.pipeline_arn,
        "PipelineExecutionArn": &*execution.arn,
        "PipelineExecutionDisplayName": execution.display_name,
        "PipelineExecutionStatus": execution.status.name(),
        "PipelineExecutionDescription": execution.description,
        "FailureReason": execution.failure,
        "CreationTime": execution.started.seconds(),
        "LastModifiedTime": execution.modified.seconds(),
        "ParallelismConfiguration": execution.parallelism.map(|most| json!({"MaxParallelExecutionSteps": most})),
    })))
}

pub(super) fn list(
    body: &Value,
    sagemaker: &mut SageMaker,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    unserved(body, &["PipelineVersionAlias"])?;
    let list: List = input(body.clone())?;
    let name = list.pipeline_name.as_ref();
    let mut constraints = Constraints::default();
    constraints
        .required("pipelineName", name)
        .text("pipelineName", name, (1, 2_048), Some(PIPELINE_NAME_OR_ARN))
        .one_of("sortBy", list.sort_by.as_ref(), &["CreationTime", "PipelineExecutionArn"]);
    check_list(
        &mut constraints,
        list.max_results,
        list.sort_order.as_ref(),
        list.next_token.as_ref(),
    )?;
    let pipeline = &sagemaker
        .pipelines
        .get(name.map_or("", String::as_str), call.undocumented.pipeline_names)?
        .arn;
    let mut found: Vec<&Execution> = sagemaker
        .executions
        .of_pipeline(pipeline)
        .filter(|execution| {
            list.created_after.is_none_or(|time| execution.started.seconds() > time)
        })
        .filter(|execution| {
            list.created_before.is_none_or(|time| execution.started.seconds() < time)
        })
        .collect();
    if list.sort_by.as_deref() == Some("PipelineExecutionArn") {
        found.sort_by_key(|execution| execution.arn.clone());
    }
    let (found, next) =
        listed(found, list.sort_order.as_ref(), false, list.max_results, list.next_token.as_ref())?;
    let summary = |execution: &Execution| {
        without_nulls(json!({
            "PipelineExecutionArn": &*execution.arn,
            "StartTime": execution.started.seconds(),
            "PipelineExecutionStatus": execution.status.name(),
            "PipelineExecutionDescription": execution.description,
            "PipelineExecutionDisplayName": execution.display_name,
            "PipelineExecutionFailureReason": execution.failure,
        }))
    };
    let summaries: Vec<Value> = found.into_iter().map(summary).collect();
    Ok(without_nulls(json!({"PipelineExecutionSummaries": summaries, "NextToken": next})))
}

pub(super) fn list_steps(body: &Value, sagemaker: &SageMaker) -> Result<Value, ApiError> {
    let asked: OfExecution = input(body.clone())?;
    let mut constraints = Constraints::default();
    check_list(
        &mut constraints,
        asked.max_results,
        asked.sort_order.as_ref(),
        asked.next_token.as_ref(),
    )?;
    if asked.pipeline_execution_arn.is_none() {
        // The model does not require it.
        return Err(invalid("PipelineExecutionArn must be given."));
    }
    let execution = sagemaker.executions.get(asked.arn()?)?;
    let mut started: Vec<(&Step, &StepRun)> =
        execution.steps_defined().filter(|(_, run)| run.status.is_some()).collect();
    started.sort_by_key(|(_, run)| run.started);
    let (started, next) = listed(
        started,
        asked.sort_order.as_ref(),
        true,
        asked.max_results,
        asked.next_token.as_ref(),
    )?;
    let steps: Vec<Value> = started.into_iter().map(|(step, run)| shown(step, run)).collect();
    Ok(without_nulls(json!({"PipelineExecutionSteps": steps, "NextToken": next})))
}

fn shown(step: &Step, run: &StepRun) -> Value {
    let outputs: Vec<Value> =
        run.outputs.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect();
    let callback = without_nulls(json!({
        "CallbackToken": run.token,
        "SqsQueueUrl": step.queue_url,
        "OutputParameters": outputs,
    }));
    without_nulls(json!({
        "StepName": step.name,
        "StepDisplayName": step.display_name,
        "StepDescription": step.description,
        "StartTime": run.started.map(Time::seconds),
        "EndTime": run.ended.map(Time::seconds),
        "StepStatus": run.status.map(Status::name),
        "FailureReason": run.reason,
        "AttemptCount": 1,
        "Metadata": {"Callback": callback},
    }))
}
