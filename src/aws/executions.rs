//! Pipeline executions, as the commands start, stop and show them.

use std::fmt::Display;

use aws_sdk_sagemaker::types::{
    Parameter, PipelineExecutionStep, PipelineExecutionSummary, SortOrder, SortPipelineExecutionsBy,
};
use aws_smithy_types::DateTime;
use jiff::Timestamp;

use super::calls::{Failed, Limit};
use super::sagemaker::{SageMaker, ending, execution_standing};
use crate::seam::{ExecutionStanding, Fault, FaultKind, StepResult};
use crate::step::ExecutionArn;

/// One execution, as SageMaker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionView {
    pub standing: ExecutionStanding,
    /// `None` while it is in progress.
    pub ending: Option<StepResult>,
    /// In SageMaker's words.
    pub status: String,
    pub failure_reason: Option<String>,
}

/// One step of an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepView {
    pub name: String,
    /// In SageMaker's words: `Executing`, `Succeeded`.
    pub status: String,
    /// `None` while it is in progress.
    pub ending: Option<StepResult>,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub failure_reason: Option<String>,
    /// Only callback steps have it.
    pub callback: Option<Callback>,
}

/// One execution in the list of its pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionSummary {
    pub execution: ExecutionArn,
    pub standing: ExecutionStanding,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// The callback part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    pub token: Option<String>,
    pub queue_url: Option<String>,
    /// What was reported, if anything was.
    pub outputs: Vec<(String, String)>,
}

impl SageMaker {
    /// Starts an execution of a pipeline, by name or ARN. If a name is not found, the same name in
    /// other letter case is looked for, because ARNs contain it in lower case. The same `request`
    /// (32 to 128 characters) never starts a second execution.
    ///
    /// # Errors
    /// A [`Fault`]; a transient one may have started the execution all the same, so try again with
    /// the same `request`.
    pub async fn start_execution(
        &self,
        pipeline: &str,
        parameters: &[(String, String)],
        request: &str,
    ) -> Result<ExecutionArn, Fault> {
        let parameters: Vec<Parameter> = parameters
            .iter()
            .map(|(name, value)| Parameter::builder().name(name).value(value).build())
            .collect();
        let failed = match self.start(pipeline, parameters.clone(), request).await {
            Ok(arn) => return arn,
            Err(failed) => failed,
        };
        if failed.failure.is_not_found()
            && let Some(other) = self.name_in_another_case(pipeline).await
        {
            return self.start(&other, parameters, request).await?;
        }
        Err(failed.into())
    }

    async fn start(
        &self,
        pipeline: &str,
        parameters: Vec<Parameter>,
        request: &str,
    ) -> Result<Result<ExecutionArn, Fault>, Failed> {
        let call = self
            .client
            .start_pipeline_execution()
            .pipeline_name(pipeline)
            .set_pipeline_parameters((!parameters.is_empty()).then_some(parameters))
            .client_request_token(request)
            .send();
        let answer = self.calls.send("StartPipelineExecution", Limit::ANSWER, call).await?;
        let arn = answer.pipeline_execution_arn.unwrap_or_default();
        let wrong =
            |error| Fault::new(FaultKind::Transient, format!("StartPipelineExecution: {error}"));
        Ok(arn.parse().map_err(wrong))
    }

    /// The name of the pipeline that differs only in letter case; `None` if there is none, or if
    /// listing is not allowed.
    pub async fn name_in_another_case(&self, name: &str) -> Option<String> {
        let mut next = None;
        for _ in 0..Self::MAX_PAGES {
            let call = self.client.list_pipelines().max_results(100).set_next_token(next).send();
            let page = self.calls.send("ListPipelines", Limit::ANSWER, call).await.ok()?;
            let mut names = page
                .pipeline_summaries
                .unwrap_or_default()
                .into_iter()
                .filter_map(|one| one.pipeline_name);
            if let Some(found) =
                names.find(|other| other != name && other.eq_ignore_ascii_case(name))
            {
                return Some(found);
            }
            next = Some(page.next_token?);
        }
        None
    }

    /// Requests that an execution be stopped; its callback steps are told and must answer. The same
    /// `request` (32 to 128 characters) is one stop.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn stop_execution(
        &self,
        execution: &ExecutionArn,
        request: &str,
    ) -> Result<(), Fault> {
        let call = self
            .client
            .stop_pipeline_execution()
            .pipeline_execution_arn(execution.as_str())
            .client_request_token(request)
            .send();
        self.calls.send("StopPipelineExecution", Limit::ANSWER, call).await?;
        Ok(())
    }

    /// The details of an execution; `None` if it does not exist.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn describe(&self, execution: &ExecutionArn) -> Result<Option<ExecutionView>, Fault> {
        let call = self
            .client
            .describe_pipeline_execution()
            .pipeline_execution_arn(execution.as_str())
            .send();
        let answer = match self.calls.send("DescribePipelineExecution", Limit::ANSWER, call).await {
            Ok(answer) => answer,
            Err(failed) if failed.failure.is_not_found() => return Ok(None),
            Err(failed) => return Err(failed.into()),
        };
        let status = answer.pipeline_execution_status;
        let standing = execution_standing(status.as_ref());
        Ok(Some(ExecutionView {
            standing,
            ending: match standing {
                ExecutionStanding::Ended(how) => Some(how),
                _ => None,
            },
            status: status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
            failure_reason: answer.failure_reason,
        }))
    }

    /// A page of the executions of a pipeline, by name or ARN, the newest first; `None` if there is
    /// no such pipeline. Only those that were started after `since`, if it is given.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn executions_page(
        &self,
        pipeline: &str,
        since: Option<Timestamp>,
        next: Option<String>,
    ) -> Result<Option<Listed<ExecutionSummary>>, Fault> {
        const OPERATION: &str = "ListPipelineExecutions";
        let call = self
            .client
            .list_pipeline_executions()
            .pipeline_name(pipeline)
            .set_created_after(since.map(|since| DateTime::from_secs(since.as_second())))
            .sort_by(SortPipelineExecutionsBy::CreationTime)
            .sort_order(SortOrder::Descending)
            .max_results(100)
            .set_next_token(next)
            .send();
        let answer = match self.calls.send(OPERATION, Limit::ANSWER, call).await {
            Ok(answer) => answer,
            Err(failed) if failed.failure.is_not_found() => return Ok(None),
            Err(failed) => return Err(failed.into()),
        };
        let wrong =
            |what: &dyn Display| Fault::new(FaultKind::Transient, format!("{OPERATION}: {what}"));
        let listed = answer
            .pipeline_execution_summaries
            .ok_or_else(|| wrong(&"an answer without a list"))?;
        let summary = |one: PipelineExecutionSummary| {
            let arn = one.pipeline_execution_arn.unwrap_or_default();
            Ok(ExecutionSummary {
                execution: arn.parse().map_err(|error| wrong(&error))?,
                standing: execution_standing(one.pipeline_execution_status.as_ref()),
            })
        };
        Ok(Some(Listed {
            items: listed.into_iter().map(summary).collect::<Result<_, Fault>>()?,
            next: answer.next_token.filter(|next| !next.is_empty()),
        }))
    }

    /// A page of the steps of an execution that have begun; `None` if it does not exist.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn steps_page(
        &self,
        execution: &ExecutionArn,
        next: Option<String>,
    ) -> Result<Option<Listed<StepView>>, Fault> {
        match self.page(execution, next).await {
            Ok((Some(steps), next)) => {
                Ok(Some(Listed { items: steps.into_iter().map(view).collect(), next }))
            }
            Ok((None, _)) => Err(Self::listless()),
            Err(failed) if failed.failure.is_not_found() => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// All steps of an execution that have begun, in SageMaker's order.
    ///
    /// # Errors
    /// A [`Fault`], also if the execution does not exist.
    pub async fn steps(&self, execution: &ExecutionArn) -> Result<Vec<StepView>, Fault> {
        let mut steps = Vec::new();
        let mut next = None;
        for _ in 0..Self::MAX_PAGES {
            let (page, following) = self.page(execution, next).await?;
            steps.extend(page.into_iter().flatten().map(view));
            next = following;
            if next.is_none() {
                return Ok(steps);
            }
        }
        Err(Self::endless())
    }
}

fn view(step: PipelineExecutionStep) -> StepView {
    let callback = step.metadata.and_then(|metadata| metadata.callback).map(|callback| Callback {
        token: callback.callback_token,
        queue_url: callback.sqs_queue_url,
        outputs: callback
            .output_parameters
            .unwrap_or_default()
            .into_iter()
            .map(|output| (output.name.unwrap_or_default(), output.value.unwrap_or_default()))
            .collect(),
    });
    StepView {
        name: step.step_name.unwrap_or_default(),
        ending: ending(step.step_status.as_ref()),
        status: step.step_status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
        started: step.start_time.and_then(time),
        ended: step.end_time.and_then(time),
        failure_reason: step.failure_reason,
        callback,
    }
}

fn time(time: DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::server::{Reply, Server};

    const ARN: &str = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc";

    fn arn() -> ExecutionArn {
        ARN.parse().expect("an ARN")
    }

    /// SageMaker accepts no fewer than 32 characters.
    const REQUESTS: [&str; 3] = [
        "request-000000000000000000000001",
        "request-000000000000000000000002",
        "request-000000000000000000000003",
    ];

    #[tokio::test]
    async fn a_pipeline_is_started_by_its_name_in_another_case() {
        let not_found =
            || Reply::Json(400, json!({ "__type": "ResourceNotFound", "Message": "no" }));
        let list = |name: &str, next: Option<&str>| {
            Reply::Json(
                200,
                json!({ "PipelineSummaries": [{ "PipelineName": name }], "NextToken": next }),
            )
        };
        let started = Reply::Json(200, json!({ "PipelineExecutionArn": ARN }));
        let replies = [
            not_found(),
            list("other", Some("2")),
            list("Abalone", None),
            started,
            not_found(),
            list("x", None),
        ];
        let (server, sagemaker) = Server::with_sagemaker(replies).await;
        assert_eq!(sagemaker.start_execution("abalone", &[], REQUESTS[0]).await, Ok(arn()));
        let fault = sagemaker
            .start_execution("nothing", &[], REQUESTS[1])
            .await
            .expect_err("there is none");
        assert!(
            fault.kind == FaultKind::Refused && fault.detail.contains("ResourceNotFound"),
            "{fault:?}"
        );
        let requests = server.requests();
        assert_eq!(
            requests[3].json(),
            json!({ "PipelineName": "Abalone", "ClientRequestToken": REQUESTS[0] })
        );
        assert_eq!(requests[2].json(), json!({ "MaxResults": 100, "NextToken": "2" }));
    }

    #[tokio::test]
    async fn an_execution_is_started_and_stopped_under_the_callers_request_tokens() {
        let answer = || Reply::Json(200, json!({ "PipelineExecutionArn": ARN }));
        let (server, sagemaker) =
            Server::with_sagemaker([answer(), answer(), Reply::Json(200, json!({}))]).await;
        let parameters = [("b".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert_eq!(sagemaker.start_execution("p", &parameters, REQUESTS[0]).await, Ok(arn()));
        assert_eq!(sagemaker.stop_execution(&arn(), REQUESTS[1]).await, Ok(()));
        let fault = sagemaker.start_execution("p", &[], REQUESTS[2]).await.expect_err("no ARN");
        assert_eq!(fault.kind, FaultKind::Transient);
        let requests = server.requests();
        assert_eq!(
            requests[0].json(),
            json!({
                "PipelineName": "p", "ClientRequestToken": REQUESTS[0],
                "PipelineParameters": [{ "Name": "b", "Value": "1" }, { "Name": "a", "Value": "2" }],
            })
        );
        assert_eq!(
            requests[1].json(),
            json!({ "PipelineExecutionArn": ARN, "ClientRequestToken": REQUESTS[1] })
        );
        assert_eq!(
            requests[2].json(),
            json!({ "PipelineName": "p", "ClientRequestToken": REQUESTS[2] })
        );
    }

    #[tokio::test]
    async fn an_execution_is_described_in_sagemakers_words() {
        let failed =
            json!({ "PipelineExecutionStatus": "Failed", "FailureReason": "a step failed" });
        let (_server, sagemaker) = Server::with_sagemaker([
            Reply::Json(200, failed),
            Reply::Json(400, json!({ "__type": "ResourceNotFound" })),
        ])
        .await;
        let view = ExecutionView {
            standing: ExecutionStanding::Ended(StepResult::Failed),
            ending: Some(StepResult::Failed),
            status: "Failed".to_owned(),
            failure_reason: Some("a step failed".to_owned()),
        };
        assert_eq!(sagemaker.describe(&arn()).await, Ok(Some(view)));
        assert_eq!(sagemaker.describe(&arn()).await, Ok(None));
    }

    #[tokio::test]
    async fn the_executions_of_a_pipeline_come_in_pages_and_no_list_is_not_an_empty_one() {
        let one = json!({ "PipelineExecutionArn": ARN, "PipelineExecutionStatus": "Stopping" });
        let page = json!({ "PipelineExecutionSummaries": [one], "NextToken": "two" });
        let nameless = json!({ "PipelineExecutionSummaries": [{ "PipelineExecutionArn": "x" }] });
        let (server, sagemaker) = Server::with_sagemaker([
            Reply::Json(200, page),
            Reply::Json(200, json!({ "PipelineExecutionSummaries": [] })),
            Reply::Json(400, json!({ "__type": "ResourceNotFound" })),
            Reply::Json(200, json!({})),
            Reply::Json(200, nameless),
        ])
        .await;
        let summary = ExecutionSummary { execution: arn(), standing: ExecutionStanding::Stopping };
        let page = Listed { items: vec![summary], next: Some("two".to_owned()) };
        assert_eq!(sagemaker.executions_page("p", None, None).await, Ok(Some(page)));
        let since = Timestamp::from_second(1_700_000_000).ok();
        let last = Listed { items: vec![], next: None };
        let next = Some("two".to_owned());
        assert_eq!(sagemaker.executions_page("p", since, next).await, Ok(Some(last)));
        assert_eq!(sagemaker.executions_page("p", None, None).await, Ok(None));
        for _ in 0..2 {
            let fault = sagemaker.executions_page("p", None, None).await.expect_err("no list");
            assert_eq!(fault.kind, FaultKind::Transient);
        }
        assert_eq!(
            server.requests()[1].json(),
            json!({
                "PipelineName": "p", "CreatedAfter": 1_700_000_000, "SortBy": "CreationTime",
                "SortOrder": "Descending", "MaxResults": 100, "NextToken": "two",
            })
        );
    }

    #[tokio::test]
    async fn a_page_of_steps_says_whether_there_is_such_an_execution() {
        let step = json!({ "StepName": "train", "StepStatus": "Executing" });
        let (_server, sagemaker) = Server::with_sagemaker([
            Reply::Json(200, json!({ "PipelineExecutionSteps": [step], "NextToken": "two" })),
            Reply::Json(400, json!({ "__type": "ResourceNotFound" })),
            Reply::Json(200, json!({})),
        ])
        .await;
        let page = sagemaker.steps_page(&arn(), None).await.expect("a page").expect("it exists");
        assert_eq!((page.items.len(), page.next.as_deref()), (1, Some("two")));
        assert_eq!(sagemaker.steps_page(&arn(), None).await, Ok(None));
        sagemaker.steps_page(&arn(), None).await.expect_err("no list");
    }

    #[tokio::test]
    async fn the_steps_of_all_pages_are_shown() {
        let callback = json!({
            "StepName": "wait", "StepStatus": "Succeeded", "StartTime": 1_700_000_000.5, "EndTime": 1_700_000_001,
            "Metadata": { "Callback": {
                "CallbackToken": "abcdefghij", "SqsQueueUrl": "https://q", "OutputParameters": [{ "Name": "n", "Value": "v" }],
            } },
        });
        let plain = json!({ "StepName": "train", "StepStatus": "Executing" });
        let (_server, sagemaker) = Server::with_sagemaker([
            Reply::Json(200, json!({ "PipelineExecutionSteps": [callback], "NextToken": "two" })),
            Reply::Json(200, json!({ "PipelineExecutionSteps": [plain] })),
        ])
        .await;
        let steps = sagemaker.steps(&arn()).await.expect("steps");
        let names: Vec<(&str, &str, Option<StepResult>)> = steps
            .iter()
            .map(|step| (step.name.as_str(), step.status.as_str(), step.ending))
            .collect();
        assert_eq!(
            names,
            [("wait", "Succeeded", Some(StepResult::Succeeded)), ("train", "Executing", None)]
        );
        assert_eq!(steps[0].started, Timestamp::from_millisecond(1_700_000_000_500).ok());
        let callback = steps[0].callback.as_ref().expect("a callback");
        assert_eq!(callback.outputs, [("n".to_owned(), "v".to_owned())]);
        assert_eq!(callback.token.as_deref(), Some("abcdefghij"));
        assert_eq!(steps[1].callback, None);
    }
}
