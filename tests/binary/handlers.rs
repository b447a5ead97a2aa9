//! What a program can report by its exit, and the limits that it runs under.

use serde_json::{Value, json};

use crate::daemon::Config;
use crate::scene::{Scene, until};

#[tokio::test(flavor = "multi_thread")]
async fn exit_75_is_tried_again_as_often_as_configured_and_then_fails_saying_so() {
    let scene = Scene::new("echo 'no licence free' >&2; exit 75").await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&scene.config().with("handlers.job.max_attempts", 2));
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("2 attempts") && reason.contains("no licence free"), "{reason}");
    assert_eq!(scene.runs(), [step.attempt(1), step.attempt(2)]);
    let said = daemon.complaints(&["WARN"], &step.token);
    assert_eq!(said.len(), 1, "the attempt that was not the last, once: {said:?}");
    assert!(
        said[0]["message"].as_str().is_some_and(|text| text.contains("tried again")),
        "{said:?}"
    );
    assert!(
        said[0]["error"].as_str().is_some_and(|text| text.contains("no licence free")),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_fails_is_said_whatever_the_stop_is_answered_with() {
    let scene = Scene::with_cleanup("until_there gate", "echo 'no such job' >&2; exit 3").await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&scene.config().with("handlers.job.on_stop", "success"));
    until("it runs", async || scene.runs().len() == 1).await;
    scene.stop(&step).await;
    scene.answered_once(&step).await;
    let said = daemon.complaints(&["WARN"], &step.token);
    let failed =
        said.iter().find(|line| line["message"] == "the cleanup failed").expect("it is said");
    assert!(failed["error"].as_str().is_some_and(|text| text.contains("no such job")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_76_runs_the_program_again_with_its_checkpoint_and_counts_no_attempt() {
    let script = r"
        n=$(($(cat $STEP_CHECKPOINT 2>/dev/null || echo 0) + 1)); echo $n > $STEP_CHECKPOINT
        [ $n -lt 3 ] && exit 76
        echo looks=$n >> $STEP_OUTPUT";
    let scene = Scene::new(script).await;
    let step = scene.step_sent().await;
    let config = scene.config().with("handlers.job.max_attempts", 1);
    let _daemon = scene.start(&config.with("handlers.job.settings.poll_interval", "1s"));
    assert_eq!(scene.answered_once(&step).await.outputs(), json!({ "looks": "3" }));
    assert_eq!(scene.runs(), vec![step.attempt(1); 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_limit_ends_the_program_cleans_up_and_fails_the_step() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("handlers.job.time_limit", "8s"));
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("time limit of 8s"), "{reason}");
    assert_eq!(scene.runs(), [step.attempt(1)]);
    assert_eq!(scene.cleanups(), [step.cleaned("time_limit")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_step_is_on_record_and_its_message_deleted() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    let config = scene.config().with("handlers.job.settings.deferred", true);
    let mut daemon = scene.start(&config);
    let deferred =
        async || scene.record(&step).is_some_and(|record| record["status"] == "deferred");
    until("it is deferred", deferred).await;
    scene.queue_is_empty().await;
    assert!(scene.sagemaker.reports(&step.token).is_empty());

    // Another worker's copy, and another process, change nothing.
    scene.queue.send(&step.executing()).await;
    scene.queue_is_empty().await;
    daemon.kill();
    let _next = scene.start(&config);
    scene.queue.send(&step.executing()).await;
    scene.queue_is_empty().await;
    assert!(deferred().await);
    assert_eq!(scene.runs(), [step.attempt(1)]);

    // And the watch sees it being stopped.
    scene.sagemaker.stop(&step.arn);
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_given_its_step_on_stdin_and_in_its_environment() {
    let scene = Scene::new("cat > $FOLDER/stdin; env | grep -v ^FOLDER > $FOLDER/env").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    let given: Value = serde_json::from_str(&scene.lines("stdin").join("\n")).expect("JSON");
    let wants = json!({
        "token": step.token, "pipelineExecutionArn": step.arn, "pipeline": "p", "queueUrl": scene.queue.url,
        "attempt": 1, "arguments": { "n": 1 },
    });
    assert_eq!(given, wants);
    let environment = scene.lines("env");
    for wanted in [
        format!("STEP_TOKEN={}", step.token),
        format!("STEP_EXECUTION_ARN={}", step.arn),
        "STEP_PIPELINE=p".to_owned(),
        format!("STEP_QUEUE_URL={}", scene.queue.url),
        "STEP_ATTEMPT=1".to_owned(),
    ] {
        assert!(environment.contains(&wanted), "{wanted} in {environment:?}");
    }
    assert!(
        !environment.iter().any(|line| line.starts_with("AWS_")),
        "the daemon's credentials are its own"
    );
}

/// The handler has another name, and does the same.
fn renamed(config: &Config) -> Config {
    let other = config.value("handlers.job");
    config
        .clone()
        .without("handlers.job")
        .with("handlers.other", other)
        .with("queues.0.handler", "other")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_has_begun_no_other_goes_on_with_and_a_stop_says_that_nothing_was_cleaned_up()
 {
    let scene = Scene::new("echo job-7 > $STEP_CHECKPOINT; exit 76").await;
    let config = scene.config().with("handlers.job.settings.poll_interval", "1s").listening();
    let (step, back) = (scene.step_sent().await, scene.step_sent().await);
    let mut daemon = scene.start(&config);
    until("both were begun", async || {
        scene.records().iter().filter(|record| record["checkpoint"]["file"] == "job-7\n").count()
            == 2
    })
    .await;
    daemon.kill();
    let runs = scene.runs();
    let mut daemon = scene.start(&renamed(&config));
    until("it is said", async || {
        !daemon.complaints(&["WARN"], "a handler that is not configured").is_empty()
    })
    .await;
    until("a metric says so", async || {
        daemon.metric("callbackd_impaired{what=\"handler\"}").await == Some(1.0)
    })
    .await;
    scene.stop(&step).await;
    let reason = scene.answer(&step).await.reason();
    assert!(
        reason.contains("the pipeline was stopped") && reason.contains("`job` is not configured"),
        "{reason}"
    );
    daemon.kill();
    assert_eq!((scene.runs(), scene.cleanups()), (runs, vec![]), "the other handler did nothing");
    scene.script("run", "end 0");
    let _daemon = scene.start(&config);
    scene.answered_once(&back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_a_program_outlives_its_step() {
    let scene = Scene::new("sleep 300 & echo $! > $FOLDER/pid").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.lines("pid")[0]))
        .unwrap_or_default();
    assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
}
