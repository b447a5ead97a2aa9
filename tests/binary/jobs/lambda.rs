//! Unmodified handlers of Lambdas, by the shim of `examples/lambda`.

use std::path::Path;

use serde_json::{Value, json};

use super::Site;
use super::services::Service;
use crate::daemon::Daemon;
use crate::sagemaker::SUCCESS;
use crate::scene::{Scene, Step, until};

/// A step for the handler, which finds Glue and SageMaker at moto: what the shim let through to
/// SageMaker would not be the daemon's report.
struct Stage {
    scene: Scene,
    glue: Service,
    step: Step,
    daemon: Daemon,
}

impl Stage {
    async fn new(handler: &str, arguments: impl AsyncFnOnce(&Service) -> Value) -> Self {
        Self::of(handler, arguments, false).await
    }

    /// With `answers`, the handler sends its answers itself.
    async fn of(
        handler: &str,
        arguments: impl AsyncFnOnce(&Service) -> Value,
        answers: bool,
    ) -> Self {
        let glue = Service::new("glue").await;
        let scene = Scene::new("").await;
        let step = scene.step_sent_with(arguments(&glue).await).await;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let shim = root.join("examples/lambda/shim.py").display().to_string();
        let handlers = root.join("tests/binary/jobs/handlers").display().to_string();
        let mut variables = glue.variables();
        // The shim takes it from the execution's ARN.
        variables.remove("AWS_REGION");
        variables.insert("LAMBDA_TASK_ROOT".to_owned(), handlers.into());
        variables.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into());
        if answers {
            let sagemaker = format!("http://{}", scene.sagemaker.address);
            variables.insert("AWS_ENDPOINT_URL_SAGEMAKER".to_owned(), sagemaker.into());
            variables.insert("LAMBDA_ANSWERS".to_owned(), "handler".into());
        }
        let command = [shim, handler.to_owned()];
        let cleanup = command.iter().cloned().chain(["cleanup".to_owned()]);
        let config = scene
            .config()
            .with("handlers.job.max_attempts", 100)
            .with("handlers.job.answers", if answers { "handler" } else { "callbackd" })
            .with("handlers.job.settings.command", command.to_vec())
            .with("handlers.job.settings.cleanup", cleanup.collect::<Vec<_>>())
            .with("handlers.job.settings.env", variables);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", glue.path());
        let daemon = scene.start_in(&config, &[("PATH", &path)]);
        Self { scene, glue, step, daemon }
    }

    async fn polling() -> Self {
        let arguments =
            async |glue: &Service| json!({ "job_run_id": glue.submit("by itself").await });
        let stage = Self::new("polls.lambda_handler", arguments).await;
        // The program's log, so it polled again after it had raised.
        let polled = async || !stage.daemon.complaints(&["INFO"], "receive 2:").is_empty();
        until("it polls again", polled).await;
        stage
    }

    async fn end(&self, message: Option<&str>) {
        let jobs = self.glue.jobs().await;
        self.glue.end(&jobs[0], message).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_polls_by_raising_is_called_until_it_answers() {
    let stage = Stage::polling().await;
    stage.end(None).await;
    let answer = stage.scene.answered_once(&stage.step).await;
    assert_eq!(answer.operation, SUCCESS, "{answer:?}");
    assert_eq!(answer.outputs(), json!({ "status": "SUCCEEDED" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_a_handler_sends_is_the_step_s() {
    let stage = Stage::polling().await;
    stage.end(Some("no such column: age")).await;
    let reason = stage.scene.answered_once(&stage.step).await.reason();
    assert!(reason.contains("no such column: age"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_comes_to_the_handler_as_the_message_that_it_knows() {
    let stage = Stage::polling().await;
    stage.scene.stop(&stage.step).await;
    let reason = stage.scene.answered_once(&stage.step).await.reason();
    assert!(reason.contains("the pipeline was stopped"), "{reason}");
    assert_eq!(stage.glue.jobs().await[0].state, "STOPPED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_answers_at_once_is_called_once() {
    let arguments = async |_: &Service| json!({ "endpoint": "search" });
    let stage = Stage::new("at_once.handler", arguments).await;
    let outputs = stage.scene.answered_once(&stage.step).await.outputs();
    assert_eq!(outputs, json!({ "endpoint": "search", "status": "ok" }));
    let said = stage.daemon.complaints(&["INFO"], "updating");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(stage.glue.calls().await, Vec::<String>::new(), "the answer is the daemon's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_s_own_exception_is_the_reason_if_it_sends_that() {
    let stage = Stage::new("at_once.handler", async |_: &Service| json!({})).await;
    let reason = stage.scene.answered_once(&stage.step).await.reason();
    assert!(reason.contains("no 'endpoint'"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_sends_its_answers_itself_is_not_answered_for() {
    let arguments = async |_: &Service| json!({ "endpoint": "search" });
    let stage = Stage::of("at_once.handler", arguments, true).await;
    stage.scene.settled(&stage.step).await;
    let record = stage.scene.record(&stage.step).expect("a record");
    assert_eq!(record["ending"], "answered_by_handler");
    let sent = stage.scene.sagemaker.reports(&stage.step.token);
    assert_eq!(sent.len(), 1, "the handler's own: {sent:?}");
    assert_eq!(sent[0].outputs(), json!({ "endpoint": "search", "status": "ok" }));
    stage.scene.queue_is_empty().await;
}
