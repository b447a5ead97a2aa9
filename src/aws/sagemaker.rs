//! SageMaker, as far as callback steps need it.

use std::collections::BTreeSet;
use std::convert::Infallible;

use aws_sdk_sagemaker::types::{
    OutputParameter, PipelineExecutionStatus, PipelineExecutionStep, StepStatus,
};
use futures_util::future::BoxFuture;

use super::account::Account;
use super::calls::{Calls, Failed, Limit};
use crate::outcome::{ClientRequestToken, Outcome};
use crate::seam::{ExecutionStanding, Fault, FaultKind, Pipelines, Standing, StepResult};
use crate::step::{CallbackToken, ExecutionArn};

/// SageMaker in one account and region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SageMaker {
    pub(super) client: aws_sdk_sagemaker::Client,
    pub(super) calls: Calls,
    pub(super) region: String,
}

impl SageMaker {
    /// An execution has some dozens of steps; an answer with this many pages never ends.
    pub(super) const MAX_PAGES: usize = 100;

    pub(super) fn new(account: &Account) -> Self {
        Self {
            client: account.sagemaker.clone(),
            calls: account.calls("sagemaker"),
            region: account.region.clone(),
        }
    }

    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// One page of an execution's steps, if the answer contains a list, and the token of the next
    /// page.
    pub(super) async fn page(
        &self,
        execution: &ExecutionArn,
        next: Option<String>,
    ) -> Result<(Option<Vec<PipelineExecutionStep>>, Option<String>), Failed> {
        let call = self
            .client
            .list_pipeline_execution_steps()
            .pipeline_execution_arn(execution.as_str())
            .max_results(100)
            .set_next_token(next)
            .send();
        let answer = self.calls.send("ListPipelineExecutionSteps", Limit::ANSWER, call).await?;
        Ok((answer.pipeline_execution_steps, answer.next_token.filter(|next| !next.is_empty())))
    }

    /// An answer without a list of steps: that does not mean that the step does not exist.
    pub(super) fn listless() -> Fault {
        Fault::new(FaultKind::Transient, "ListPipelineExecutionSteps: an answer without a list")
    }

    pub(super) fn endless() -> Fault {
        Fault::new(
            FaultKind::Transient,
            format!("ListPipelineExecutionSteps: more than {} pages", Self::MAX_PAGES),
        )
    }

    /// The first answer about a step of the execution; `None` as well if it does not exist.
    async fn search<T>(
        &self,
        execution: &ExecutionArn,
        mut about: impl FnMut(&PipelineExecutionStep) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let mut next = None;
        for _ in 0..Self::MAX_PAGES {
            let (steps, following) = match self.page(execution, next).await {
                Ok(page) => page,
                Err(failed) if failed.failure.is_not_found() => return Ok(None),
                Err(failed) => return Err(failed.into()),
            };
            let Some(steps) = steps else { return Err(Self::listless()) };
            if let Some(found) = steps.iter().find_map(&mut about) {
                return Ok(Some(found));
            }
            next = following;
            if next.is_none() {
                return Ok(None);
            }
        }
        Err(Self::endless())
    }

    async fn send(
        &self,
        token: &CallbackToken,
        outcome: &Outcome,
        request: &ClientRequestToken,
    ) -> Result<(), Failed> {
        match outcome {
            Outcome::Success(outputs) => {
                // Sorted by name, so that every attempt sends the same bytes.
                let outputs = outputs.iter().map(|(name, value)| {
                    OutputParameter::builder().name(name).value(value).build()
                });
                let call = self
                    .client
                    .send_pipeline_execution_step_success()
                    .callback_token(token.as_str())
                    .set_output_parameters(Some(outputs.collect()))
                    .client_request_token(request.as_str())
                    .send();
                self.calls
                    .send("SendPipelineExecutionStepSuccess", Limit::ANSWER, call)
                    .await
                    .map(drop)
            }
            Outcome::Failure(reason) => {
                let call = self
                    .client
                    .send_pipeline_execution_step_failure()
                    .callback_token(token.as_str())
                    .failure_reason(reason.as_str())
                    .client_request_token(request.as_str())
                    .send();
                self.calls
                    .send("SendPipelineExecutionStepFailure", Limit::ANSWER, call)
                    .await
                    .map(drop)
            }
        }
    }
}

impl Pipelines for SageMaker {
    fn report<'a>(
        &'a self,
        token: &'a CallbackToken,
        outcome: &'a Outcome,
        request: &'a ClientRequestToken,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move { Ok(self.send(token, outcome, request).await?) })
    }

    fn step<'a>(
        &'a self,
        execution: &'a ExecutionArn,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Standing, Fault>> {
        Box::pin(async move {
            let found = self.search(execution, |step| standing(step, token)).await?;
            Ok(found.unwrap_or(Standing::NotFound))
        })
    }

    fn ended_steps<'a>(
        &'a self,
        execution: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<BTreeSet<CallbackToken>, Fault>> {
        Box::pin(async move {
            let mut ended = BTreeSet::new();
            self.search(execution, |step| {
                ended.extend(ended_callback(step));
                None::<Infallible>
            })
            .await?;
            Ok(ended)
        })
    }

    fn execution<'a>(
        &'a self,
        execution: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<ExecutionStanding, Fault>> {
        Box::pin(async move {
            let call = self
                .client
                .describe_pipeline_execution()
                .pipeline_execution_arn(execution.as_str())
                .send();
            match self.calls.send("DescribePipelineExecution", Limit::ANSWER, call).await {
                Ok(answer) => Ok(execution_standing(answer.pipeline_execution_status.as_ref())),
                Err(failed) if failed.failure.is_not_found() => Ok(ExecutionStanding::NotFound),
                Err(failed) => Err(failed.into()),
            }
        })
    }
}

/// Where a step stands, if it is the one with this token.
fn standing(step: &PipelineExecutionStep, token: &CallbackToken) -> Option<Standing> {
    let callback = step.metadata()?.callback()?;
    (callback.callback_token()? == token.as_str()).then(|| match ending(step.step_status()) {
        Some(ending) => Standing::Closed(ending),
        None => Standing::Open {
            stopping: step.step_status() == Some(&StepStatus::Stopping),
            // A URL that cannot be parsed cannot be a configured queue: there is nothing to
            // compare.
            queue_url: callback.sqs_queue_url().and_then(|url| url.parse().ok()),
        },
    })
}

/// The token of a callback step that has ended.
fn ended_callback(step: &PipelineExecutionStep) -> Option<CallbackToken> {
    let token = step.metadata()?.callback()?.callback_token()?;
    ending(step.step_status())?;
    token.parse().ok()
}

/// How a step ended. An unknown status counts as not ended: a step that is wrongly taken for closed
/// is never answered.
pub(super) fn ending(status: Option<&StepStatus>) -> Option<StepResult> {
    match status? {
        StepStatus::Succeeded => Some(StepResult::Succeeded),
        StepStatus::Failed => Some(StepResult::Failed),
        StepStatus::Stopped => Some(StepResult::Stopped),
        _ => None,
    }
}

/// Where an execution stands; an unknown status counts as in progress.
pub(super) fn execution_standing(status: Option<&PipelineExecutionStatus>) -> ExecutionStanding {
    match status {
        Some(PipelineExecutionStatus::Stopping) => ExecutionStanding::Stopping,
        Some(PipelineExecutionStatus::Succeeded) => ExecutionStanding::Ended(StepResult::Succeeded),
        Some(PipelineExecutionStatus::Failed) => ExecutionStanding::Ended(StepResult::Failed),
        Some(PipelineExecutionStatus::Stopped) => ExecutionStanding::Ended(StepResult::Stopped),
        _ => ExecutionStanding::Executing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::server::{Reply, Request, Server};
    use crate::outcome::{Outputs, Reason};

    const URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/q";
    const ARN: &str = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc";
    const TOKEN: &str = "abcdefghij";

    fn arn() -> ExecutionArn {
        ARN.parse().expect("an ARN")
    }

    fn token() -> CallbackToken {
        TOKEN.parse().expect("a token")
    }

    fn success() -> Outcome {
        let mut outputs = Outputs::new();
        for name in ["zeta", "alpha", "mid"] {
            outputs.insert(name, format!("of {name}")).expect("valid");
        }
        Outcome::Success(outputs)
    }

    async fn report(sagemaker: &SageMaker, outcome: &Outcome) -> Result<(), Fault> {
        sagemaker
            .report(&token(), outcome, &ClientRequestToken::of(&arn(), &token(), outcome))
            .await
    }

    fn step(status: &str, token: &str) -> Value {
        json!({
            "StepName": "s", "StepStatus": status, "StartTime": 1_700_000_000.5,
            "Metadata": { "Callback": { "CallbackToken": token, "SqsQueueUrl": URL } },
        })
    }

    fn steps(steps: &[Value], next: Option<&str>) -> Reply {
        let mut answer = json!({ "PipelineExecutionSteps": steps });
        if let Some(next) = next {
            answer["NextToken"] = next.into();
        }
        Reply::Json(200, answer)
    }

    fn error(code: &str) -> Reply {
        Reply::Json(400, json!({ "__type": code, "message": "why" }))
    }

    #[tokio::test]
    async fn every_send_of_an_outcome_is_the_identical_request() {
        let accepted = || Reply::Json(200, json!({ "PipelineExecutionArn": ARN }));
        let (server, sagemaker) = Server::with_sagemaker([
            Reply::Reset,
            error("ThrottlingException"),
            accepted(),
            accepted(),
        ])
        .await;
        let kind = |result: Result<(), Fault>| result.map_err(|fault| fault.kind);
        assert_eq!(kind(report(&sagemaker, &success()).await), Err(FaultKind::Transient));
        assert_eq!(kind(report(&sagemaker, &success()).await), Err(FaultKind::Transient));
        assert_eq!(report(&sagemaker, &success()).await, Ok(()));
        assert_eq!(report(&sagemaker, &success()).await, Ok(()));
        let requests = server.requests();
        assert_eq!(requests.len(), 4, "the SDK retried");
        let bodies: Vec<&str> = requests.iter().map(|request| request.body.as_str()).collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:#?}");
        let request = ClientRequestToken::of(&arn(), &token(), &success());
        assert_eq!(
            requests[0].json(),
            json!({
                "CallbackToken": TOKEN, "ClientRequestToken": request.as_str(),
                "OutputParameters": [
                    { "Name": "alpha", "Value": "of alpha" }, { "Name": "mid", "Value": "of mid" },
                    { "Name": "zeta", "Value": "of zeta" },
                ],
            })
        );
        assert_eq!(requests[0].target(), "SendPipelineExecutionStepSuccess");
    }

    #[tokio::test]
    async fn a_failure_is_sent_with_its_reason() {
        let (server, sagemaker) = Server::with_sagemaker([Reply::Json(200, json!({}))]).await;
        let outcome = Outcome::Failure(Reason::new("it broke"));
        assert_eq!(report(&sagemaker, &outcome).await, Ok(()));
        let request = ClientRequestToken::of(&arn(), &token(), &outcome);
        let sent = &server.requests()[0];
        assert_eq!(sent.target(), "SendPipelineExecutionStepFailure");
        assert_eq!(
            sent.json(),
            json!({ "CallbackToken": TOKEN, "ClientRequestToken": request.as_str(), "FailureReason": "it broke" })
        );
    }

    #[tokio::test]
    async fn only_sagemaker_itself_refuses_a_report() {
        use FaultKind::{Denied, Refused, Transient};
        let html = "content-type: text/html\r\n";
        for (reply, wants) in [
            (error("ConflictException"), Refused),
            (error("ResourceNotFound"), Refused),
            (error("com.amazon.coral.validate#ValidationException"), Refused),
            (error("ExpiredTokenException"), Transient),
            (error("AccessDeniedException"), Denied),
            (Reply::Json(503, json!({ "__type": "ServiceUnavailable" })), Transient),
            (Reply::Raw(200, html, "<html>sign in</html>"), Transient),
            (Reply::Raw(400, html, "<html>bad request</html>"), Transient),
            (Reply::Raw(400, "", ""), Transient),
            (Reply::Raw(400, "", "{}"), Transient),
            (Reply::Raw(400, "", "{\"code\":\"\"}"), Transient),
            (Reply::Raw(404, "", "not here"), Transient),
            (Reply::Raw(403, html, "<html>forbidden</html>"), Denied),
            (Reply::Raw(200, "", "{\"PipelineExecutionArn\": 7"), Transient),
        ] {
            let (server, sagemaker) = Server::with_sagemaker([reply]).await;
            let fault = report(&sagemaker, &success()).await.expect_err("a fault");
            assert_eq!(fault.kind, wants, "{fault}");
            assert_eq!(server.requests().len(), 1);
            assert!(fault.detail.starts_with("SendPipelineExecutionStepSuccess: "), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_step_is_looked_for_on_every_page() {
        let other = step("Executing", "0000000000");
        let no_callback = json!({ "StepName": "train", "StepStatus": "Executing", "Metadata": {} });
        let (server, sagemaker) = Server::with_sagemaker([
            steps(&[other, no_callback], Some("two")),
            steps(&[], Some("three")),
            steps(&[step("Stopping", TOKEN)], Some("four")),
        ])
        .await;
        let standing = sagemaker.step(&arn(), &token()).await;
        assert_eq!(standing, Ok(Standing::Open { stopping: true, queue_url: URL.parse().ok() }));
        let asked: Vec<Value> = server.requests().iter().map(Request::json).collect();
        assert_eq!(
            asked,
            [
                json!({ "PipelineExecutionArn": ARN, "MaxResults": 100 }),
                json!({ "PipelineExecutionArn": ARN, "MaxResults": 100, "NextToken": "two" }),
                json!({ "PipelineExecutionArn": ARN, "MaxResults": 100, "NextToken": "three" }),
            ]
        );
    }

    #[tokio::test]
    async fn a_step_is_closed_by_the_statuses_that_end_it_alone() {
        let open = |stopping| Standing::Open { stopping, queue_url: URL.parse().ok() };
        for (status, wants) in [
            ("Starting", open(false)),
            ("Executing", open(false)),
            ("Stopping", open(true)),
            ("InventedLater", open(false)),
            ("Stopped", Standing::Closed(StepResult::Stopped)),
            ("Failed", Standing::Closed(StepResult::Failed)),
            ("Succeeded", Standing::Closed(StepResult::Succeeded)),
        ] {
            let (_server, sagemaker) =
                Server::with_sagemaker([steps(&[step(status, TOKEN)], None)]).await;
            assert_eq!(sagemaker.step(&arn(), &token()).await, Ok(wants), "{status}");
        }
    }

    #[tokio::test]
    async fn the_callback_steps_that_have_ended_are_collected_from_every_page() {
        let no_callback = json!({ "StepName": "train", "StepStatus": "Failed", "Metadata": {} });
        let (server, sagemaker) = Server::with_sagemaker([
            steps(&[step("Failed", TOKEN), no_callback, step("Stopping", "stopping00")], Some("2")),
            steps(&[step("Executing", "executing0"), step("Succeeded", "succeeded0")], None),
            error("ResourceNotFound"),
        ])
        .await;
        let ended = ["succeeded0", TOKEN].map(|token| token.parse().expect("a token"));
        assert_eq!(sagemaker.ended_steps(&arn()).await, Ok(BTreeSet::from(ended)));
        assert_eq!(sagemaker.ended_steps(&arn()).await, Ok(BTreeSet::new()));
        assert_eq!(server.requests().len(), 3);
    }

    #[tokio::test]
    async fn what_sagemaker_does_not_know_is_not_found() {
        let (_server, sagemaker) = Server::with_sagemaker([
            steps(&[], None),
            error("ResourceNotFound"),
            error("ResourceNotFound"),
            error("ValidationException"),
        ])
        .await;
        assert_eq!(sagemaker.step(&arn(), &token()).await, Ok(Standing::NotFound));
        assert_eq!(sagemaker.step(&arn(), &token()).await, Ok(Standing::NotFound));
        assert_eq!(sagemaker.execution(&arn()).await, Ok(ExecutionStanding::NotFound));
        assert_eq!(
            sagemaker.execution(&arn()).await.map_err(|fault| fault.kind),
            Err(FaultKind::Refused)
        );
    }

    #[tokio::test]
    async fn an_answer_that_lists_nothing_does_not_say_that_there_is_no_such_step() {
        let (_server, sagemaker) =
            Server::with_sagemaker([Reply::Json(200, json!({})), Reply::Raw(200, "", "")]).await;
        for _ in 0..2 {
            assert_eq!(sagemaker.step(&arn(), &token()).await, Err(SageMaker::listless()));
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_given_up() {
        let (server, sagemaker) =
            Server::with_sagemaker((0..200).map(|_| steps(&[], Some("again")))).await;
        assert_eq!(sagemaker.step(&arn(), &token()).await, Err(SageMaker::endless()));
        assert_eq!(server.requests().len(), SageMaker::MAX_PAGES);
    }

    #[tokio::test]
    async fn an_execution_goes_on_until_a_status_ends_it() {
        use ExecutionStanding::{Ended, Executing, Stopping};
        for (answer, wants) in [
            (json!({ "PipelineExecutionStatus": "Executing" }), Executing),
            (json!({ "PipelineExecutionStatus": "Stopping" }), Stopping),
            (json!({ "PipelineExecutionStatus": "Stopped" }), Ended(StepResult::Stopped)),
            (json!({ "PipelineExecutionStatus": "Failed" }), Ended(StepResult::Failed)),
            (json!({ "PipelineExecutionStatus": "Succeeded" }), Ended(StepResult::Succeeded)),
            (json!({ "PipelineExecutionStatus": "InventedLater" }), Executing),
            (json!({}), Executing),
        ] {
            let (_server, sagemaker) = Server::with_sagemaker([Reply::Json(200, answer)]).await;
            assert_eq!(sagemaker.execution(&arn()).await, Ok(wants));
        }
    }
}
