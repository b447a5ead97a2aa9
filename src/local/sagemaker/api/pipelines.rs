//! Create, update, describe, delete and list pipelines.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::SageMaker;
use super::super::answer::reused;
use super::super::definition::Definition;
use super::super::pipelines::{MAX_PIPELINES, Pipeline};
use super::super::requests::{Fingerprint, Seen};
use super::super::shape::{
    Constraints, PIPELINE_NAME, PIPELINE_NAME_OR_ARN, Pattern, ROLE_ARN, conflict, invalid,
    unserved,
};
use super::{REQUEST_TOKEN, check_list, listed, without_nulls};
use crate::local::call::Call;
use crate::local::clock::Time;
use crate::local::events::EventKind;
use crate::local::protocol::{ApiError, input};
use crate::local::undocumented::{PipelineArns, PipelineNames};

/// The scope of `CreatePipeline`'s client request tokens.
const SCOPE: &str = "CreatePipeline";

/// Members that AWS acts on but the local endpoint does not.
const UNSERVED: [&str; 2] = ["PipelineDefinitionS3Location", "PipelineVersionAliases"];

/// `CreatePipeline` and `UpdatePipeline`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    pipeline_name: Option<String>,
    pipeline_display_name: Option<String>,
    pipeline_definition: Option<String>,
    pipeline_description: Option<String>,
    client_request_token: Option<String>,
    role_arn: Option<String>,
    parallelism_configuration: Option<Parallelism>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Parallelism {
    max_parallel_execution_steps: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    pipeline_name: Option<String>,
    client_request_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    pipeline_name_prefix: Option<String>,
    created_after: Option<f64>,
    created_before: Option<f64>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    next_token: Option<String>,
    max_results: Option<i64>,
}

impl Parallelism {
    pub(super) fn check(self, constraints: &mut Constraints) {
        let member = "parallelismConfiguration.maxParallelExecutionSteps";
        let most = self.max_parallel_execution_steps;
        constraints.required(member, most.as_ref()).number(member, most, 1, None);
    }

    pub(super) fn most(self) -> Option<usize> {
        self.max_parallel_execution_steps.and_then(|most| usize::try_from(most).ok())
    }
}

impl Written {
    fn check(&self, creates: bool) -> Result<(), ApiError> {
        let mut constraints = Constraints::default();
        constraints.required("pipelineName", self.pipeline_name.as_ref());
        if creates {
            constraints
                .required("clientRequestToken", self.client_request_token.as_ref())
                .required("roleArn", self.role_arn.as_ref());
        }
        constraints
            .text("pipelineName", self.pipeline_name.as_ref(), (1, 256), Some(PIPELINE_NAME))
            .text(
                "pipelineDisplayName",
                self.pipeline_display_name.as_ref(),
                (1, 256),
                Some(PIPELINE_NAME),
            )
            .text("pipelineDefinition", self.pipeline_definition.as_ref(), (1, 1_048_576), None)
            .text("pipelineDescription", self.pipeline_description.as_ref(), (0, 3_072), None)
            .text("clientRequestToken", self.client_request_token.as_ref(), REQUEST_TOKEN, None)
            .text("roleArn", self.role_arn.as_ref(), (20, 2_048), Some(ROLE_ARN));
        if let Some(parallelism) = self.parallelism_configuration {
            parallelism.check(&mut constraints);
        }
        constraints.check()
    }
}

pub(super) fn create(
    body: &Value,
    sagemaker: &mut SageMaker,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    unserved(body, &UNSERVED)?;
    let written: Written = input(body.clone())?;
    written.check(true)?;
    let fingerprint = Fingerprint::of(SCOPE, body);
    let token = written.client_request_token.unwrap_or_default();
    match sagemaker.requests.seen(SCOPE, &token, &fingerprint) {
        Seen::Never => {}
        Seen::Same(answer) => return Ok(answer),
        Seen::Other(answer) => return reused(call.undocumented).map_or(Ok(answer), Err),
    }
    let name = written.pipeline_name.unwrap_or_default();
    let pipelines = &mut sagemaker.pipelines;
    let (arns, names) = (call.undocumented.pipeline_arns, call.undocumented.pipeline_names);
    // Two names with one ARN cannot both exist.
    let apart = arns == PipelineArns::AsNamed && names == PipelineNames::Exact;
    let is_there = if apart {
        pipelines.by_name.contains_key(&name)
    } else {
        pipelines.alike(&name).is_some()
    };
    if is_there {
        let message = format!(
            "Pipeline names must be unique within an AWS account and region. Pipeline with name \
             ({name}) already exists."
        );
        return Err(invalid(message));
    }
    if pipelines.by_name.len() >= MAX_PIPELINES {
        let message = format!("the local endpoint has at most {MAX_PIPELINES} pipelines");
        return Err(ApiError::new("ResourceLimitExceeded", message));
    }
    let text = written.pipeline_definition.ok_or_else(|| {
        invalid("Either PipelineDefinition or PipelineDefinitionS3Location must be given.")
    })?;
    let arn = pipelines.arn(&name, arns);
    let pipeline = Pipeline {
        arn: arn.clone(),
        name: name.clone(),
        display_name: written.pipeline_display_name,
        description: written.pipeline_description,
        role: written.role_arn.unwrap_or_default(),
        definition: read(&text)?,
        text,
        parallelism: written.parallelism_configuration.and_then(Parallelism::most),
        created: call.now,
        modified: call.now,
        last_run: None,
        version: 1,
    };
    pipelines.by_name.insert(name.clone(), pipeline);
    call.tell(|| EventKind::PipelineCreated { pipeline: name });
    let output = json!({"PipelineArn": arn});
    sagemaker.requests.remember(SCOPE, &token, fingerprint, output.clone());
    Ok(output)
}

pub(super) fn update(
    body: &Value,
    sagemaker: &mut SageMaker,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    unserved(body, &UNSERVED)?;
    let written: Written = input(body.clone())?;
    written.check(false)?;
    let pipeline = sagemaker
        .pipelines
        .get(&written.pipeline_name.unwrap_or_default(), call.undocumented.pipeline_names)?;
    if let Some(text) = written.pipeline_definition {
        pipeline.definition = read(&text)?;
        pipeline.text = text;
        pipeline.version += 1;
    }
    if let Some(parallelism) = written.parallelism_configuration {
        pipeline.parallelism = parallelism.most();
    }
    pipeline.display_name = written.pipeline_display_name.or(pipeline.display_name.take());
    pipeline.description = written.pipeline_description.or(pipeline.description.take());
    pipeline.role = written.role_arn.unwrap_or_else(|| std::mem::take(&mut pipeline.role));
    pipeline.modified = call.now;
    call.tell(|| EventKind::PipelineUpdated { pipeline: pipeline.name.clone() });
    Ok(json!({"PipelineArn": pipeline.arn, "PipelineVersionId": pipeline.version}))
}

pub(super) fn describe(
    body: &Value,
    sagemaker: &mut SageMaker,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    unserved(body, &["PipelineVersionId", "PipelineVersionAlias"])?;
    let named: Named = input(body.clone())?;
    let name = check_name(&named, 2_048, PIPELINE_NAME_OR_ARN)?;
    let pipeline = sagemaker.pipelines.get(&name, call.undocumented.pipeline_names)?;
    Ok(without_nulls(json!({
        "PipelineArn": pipeline.arn,
        "PipelineName": pipeline.name,
        "PipelineDisplayName": pipeline.display_name.as_ref().unwrap_or(&pipeline.name),
        "PipelineDefinition": pipeline.text,
        "PipelineDescription": pipeline.description,
        "RoleArn": pipeline.role,
        "PipelineStatus": "Active",
        "CreationTime": pipeline.created.seconds(),
        "LastModifiedTime": pipeline.modified.seconds(),
        "LastRunTime": pipeline.last_run.map(Time::seconds),
        "ParallelismConfiguration": pipeline.parallelism.map(|most| json!({"MaxParallelExecutionSteps": most})),
    })))
}

pub(super) fn delete(
    body: &Value,
    sagemaker: &mut SageMaker,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    let named: Named = input(body.clone())?;
    let mut constraints = Constraints::default();
    constraints
        .required("clientRequestToken", named.client_request_token.as_ref())
        .text("clientRequestToken", named.client_request_token.as_ref(), REQUEST_TOKEN, None)
        .check()?;
    let name = check_name(&named, 256, PIPELINE_NAME)?;
    let pipeline = sagemaker.pipelines.get(&name, call.undocumented.pipeline_names)?;
    let (arn, name) = (pipeline.arn.clone(), pipeline.name.clone());
    if sagemaker.executions.of_pipeline(&arn).any(|execution| !execution.status.is_terminal()) {
        return Err(conflict(format!("Pipeline '{arn}' has executions that have not ended.")));
    }
    sagemaker.pipelines.by_name.remove(&name);
    call.tell(|| EventKind::PipelineDeleted { pipeline: name });
    Ok(json!({"PipelineArn": arn}))
}

pub(super) fn list(body: &Value, sagemaker: &SageMaker) -> Result<Value, ApiError> {
    let list: List = input(body.clone())?;
    let mut constraints = Constraints::default();
    constraints
        .text(
            "pipelineNamePrefix",
            list.pipeline_name_prefix.as_ref(),
            (1, 256),
            Some(PIPELINE_NAME),
        )
        .one_of("sortBy", list.sort_by.as_ref(), &["Name", "CreationTime"]);
    check_list(
        &mut constraints,
        list.max_results,
        list.sort_order.as_ref(),
        list.next_token.as_ref(),
    )?;
    let prefix = list.pipeline_name_prefix.unwrap_or_default();
    let mut found: Vec<&Pipeline> = sagemaker
        .pipelines
        .by_name
        .values()
        .filter(|pipeline| pipeline.name.starts_with(&prefix))
        .filter(|pipeline| list.created_after.is_none_or(|time| pipeline.created.seconds() > time))
        .filter(|pipeline| list.created_before.is_none_or(|time| pipeline.created.seconds() < time))
        .collect();
    if list.sort_by.as_deref() != Some("Name") {
        found.sort_by_key(|pipeline| pipeline.created);
    }
    let (found, next) =
        listed(found, list.sort_order.as_ref(), false, list.max_results, list.next_token.as_ref())?;
    let summary = |pipeline: &Pipeline| {
        without_nulls(json!({
            "PipelineArn": pipeline.arn,
            "PipelineName": pipeline.name,
            "PipelineDisplayName": pipeline.display_name.as_ref().unwrap_or(&pipeline.name),
            "PipelineDescription": pipeline.description,
            "RoleArn": pipeline.role,
            "CreationTime": pipeline.created.seconds(),
            "LastModifiedTime": pipeline.modified.seconds(),
            "LastExecutionTime": pipeline.last_run.map(Time::seconds),
        }))
    };
    let summaries: Vec<Value> = found.into_iter().map(summary).collect();
    Ok(without_nulls(json!({"PipelineSummaries": summaries, "NextToken": next})))
}

fn check_name(named: &Named, most: usize, pattern: Pattern) -> Result<String, ApiError> {
    let name = named.pipeline_name.as_ref();
    Constraints::default()
        .required("pipelineName", name)
        .text("pipelineName", name, (1, most), Some(pattern))
        .check()?;
    Ok(name.cloned().unwrap_or_default())
}

fn read(text: &str) -> Result<Arc<Definition>, ApiError> {
    Definition::parse(text)
        .map(Arc::new)
        .map_err(|reason| invalid(format!("Unable to parse pipeline definition: {reason}")))
}
