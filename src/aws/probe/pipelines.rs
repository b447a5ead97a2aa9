//! Pipelines and their executions, in the service's own words.

use aws_sdk_sagemaker::types::{OutputParameter, Tag};

use super::{Services, TAG, Tried, Unserved};
use crate::aws::calls::Limit;

/// A pipeline as SageMaker names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadePipeline {
    pub name: String,
    pub arn: String,
}

/// A step that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepState {
    pub name: String,
    /// In SageMaker's words: `Executing`, `Stopped`.
    pub status: String,
    /// Of a callback step.
    pub token: Option<String>,
    pub failure_reason: Option<String>,
}

/// More pages than a probe's lists have; an answer with this many never ends.
const MAX_PAGES: usize = 100;

impl Services {
    /// Creates a pipeline; the same `request` creates one. `run` is the value of its tag.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn create_pipeline(
        &self,
        name: &str,
        definition: &str,
        role: &str,
        run: &str,
        request: &str,
    ) -> Tried<MadePipeline> {
        const OPERATION: &str = "CreatePipeline";
        let call = self
            .account
            .sagemaker
            .create_pipeline()
            .pipeline_name(name)
            .pipeline_definition(definition)
            .pipeline_description("created by callbackd probe, which deletes it")
            .role_arn(role)
            .tags(Tag::builder().key(TAG).value(run).build())
            .client_request_token(request)
            .send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        let arn = answer.pipeline_arn.ok_or_else(|| Unserved::lacking(OPERATION, "ARN"))?;
        Ok(MadePipeline { name: name.to_owned(), arn })
    }

    /// Finds a pipeline by its name.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn describe_pipeline(&self, name: &str) -> Tried<MadePipeline> {
        const OPERATION: &str = "DescribePipeline";
        let call = self.account.sagemaker.describe_pipeline().pipeline_name(name).send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        let name = answer.pipeline_name.ok_or_else(|| Unserved::lacking(OPERATION, "name"))?;
        Ok(MadePipeline { name, arn: answer.pipeline_arn.unwrap_or_default() })
    }

    /// Deletes a pipeline; SageMaker refuses while an execution of it runs.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn delete_pipeline(&self, name: &str, request: &str) -> Tried<()> {
        let call = self
            .account
            .sagemaker
            .delete_pipeline()
            .pipeline_name(name)
            .client_request_token(request)
            .send();
        self.sagemaker.send("DeletePipeline", Limit::ANSWER, call).await?;
        Ok(())
    }

    /// The names of the pipelines that begin with `prefix`.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn pipelines(&self, prefix: &str) -> Tried<Vec<String>> {
        let mut names = Vec::new();
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let call = self
                .account
                .sagemaker
                .list_pipelines()
                .pipeline_name_prefix(prefix)
                .max_results(100)
                .set_next_token(next)
                .send();
            let page = self.sagemaker.send("ListPipelines", Limit::ANSWER, call).await?;
            let page_names = page.pipeline_summaries.unwrap_or_default().into_iter();
            names.extend(page_names.filter_map(|one| one.pipeline_name));
            next = page.next_token.filter(|next| !next.is_empty());
            if next.is_none() {
                break;
            }
        }
        Ok(names)
    }

    /// Starts an execution and returns its ARN; the same `request` starts one.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn start(&self, pipeline: &str, request: &str) -> Tried<String> {
        const OPERATION: &str = "StartPipelineExecution";
        let call = self
            .account
            .sagemaker
            .start_pipeline_execution()
            .pipeline_name(pipeline)
            .client_request_token(request)
            .send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        answer.pipeline_execution_arn.ok_or_else(|| Unserved::lacking(OPERATION, "ARN"))
    }

    /// Stops an execution.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn stop(&self, execution: &str, request: &str) -> Tried<()> {
        let call = self
            .account
            .sagemaker
            .stop_pipeline_execution()
            .pipeline_execution_arn(execution)
            .client_request_token(request)
            .send();
        self.sagemaker.send("StopPipelineExecution", Limit::ANSWER, call).await?;
        Ok(())
    }

    /// Starts the failed and stopped steps of an execution again, and returns its ARN.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn retry(&self, execution: &str, request: &str) -> Tried<String> {
        const OPERATION: &str = "RetryPipelineExecution";
        let call = self
            .account
            .sagemaker
            .retry_pipeline_execution()
            .pipeline_execution_arn(execution)
            .client_request_token(request)
            .send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        answer.pipeline_execution_arn.ok_or_else(|| Unserved::lacking(OPERATION, "ARN"))
    }

    /// The status of an execution: `Executing`, `Stopping`, `Failed`.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn execution_status(&self, execution: &str) -> Tried<String> {
        const OPERATION: &str = "DescribePipelineExecution";
        let call = self
            .account
            .sagemaker
            .describe_pipeline_execution()
            .pipeline_execution_arn(execution)
            .send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        let status = answer.pipeline_execution_status;
        let status = status.ok_or_else(|| Unserved::lacking(OPERATION, "status"))?;
        Ok(status.as_str().to_owned())
    }

    /// The ARN and the status of the latest hundred executions of a pipeline.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn executions(&self, pipeline: &str) -> Tried<Vec<(String, String)>> {
        const OPERATION: &str = "ListPipelineExecutions";
        let call = self
            .account
            .sagemaker
            .list_pipeline_executions()
            .pipeline_name(pipeline)
            .max_results(100)
            .send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        let listed = answer.pipeline_execution_summaries;
        let listed = listed.ok_or_else(|| Unserved::lacking(OPERATION, "list"))?;
        let one = listed.into_iter().filter_map(|one| {
            let status = one.pipeline_execution_status.map(|status| status.as_str().to_owned());
            Some((one.pipeline_execution_arn?, status.unwrap_or_default()))
        });
        Ok(one.collect())
    }

    /// The steps of an execution that have begun; a probe's executions have few.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn step_states(&self, execution: &str) -> Tried<Vec<StepState>> {
        const OPERATION: &str = "ListPipelineExecutionSteps";
        let call = self
            .account
            .sagemaker
            .list_pipeline_execution_steps()
            .pipeline_execution_arn(execution)
            .max_results(100)
            .send();
        let answer = self.sagemaker.send(OPERATION, Limit::ANSWER, call).await?;
        let listed = answer.pipeline_execution_steps;
        let listed = listed.ok_or_else(|| Unserved::lacking(OPERATION, "list"))?;
        let state = |step: aws_sdk_sagemaker::types::PipelineExecutionStep| StepState {
            name: step.step_name.unwrap_or_default(),
            status: step.step_status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
            token: step.metadata.and_then(|it| it.callback).and_then(|it| it.callback_token),
            failure_reason: step.failure_reason,
        };
        Ok(listed.into_iter().map(state).collect())
    }

    /// Answers a step with success, with exactly these parameters.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn succeed(&self, token: &str, outputs: &[(&str, &str)], request: &str) -> Tried<()> {
        let outputs = outputs
            .iter()
            .map(|(name, value)| OutputParameter::builder().name(*name).value(*value).build());
        let call = self
            .account
            .sagemaker
            .send_pipeline_execution_step_success()
            .callback_token(token)
            .set_output_parameters(Some(outputs.collect()))
            .client_request_token(request)
            .send();
        self.sagemaker.send("SendPipelineExecutionStepSuccess", Limit::ANSWER, call).await?;
        Ok(())
    }

    /// Answers a step with failure, with exactly these parameters.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn fail(&self, token: &str, reason: &str, request: &str) -> Tried<()> {
        let call = self
            .account
            .sagemaker
            .send_pipeline_execution_step_failure()
            .callback_token(token)
            .failure_reason(reason)
            .client_request_token(request)
            .send();
        self.sagemaker.send("SendPipelineExecutionStepFailure", Limit::ANSWER, call).await?;
        Ok(())
    }
}
