//! Malicious messages and programs.

use crate::moto::Queue;
use crate::scene::{Scene, Step, until};

/// The bodies are kept on the queue and counted, none is run, and a valid step continues.
async fn is_kept(bodies: impl AsyncFnOnce(&Queue, &Step)) {
    let scene = Scene::new("").await;
    let step = scene.step();
    bodies(&scene.queue, &step).await;
    let count = scene.queue.size().await;
    assert!(count > 0);
    let mut daemon = scene.start(&scene.config().listening());
    let name = scene.queue.url.rsplit('/').next().expect("a name");
    let series = format!("callbackd_messages_unreadable_total{{queue=\"{name}\"}}");
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let all = async || daemon.metric(&series).await == Some(count as f64);
    until("all are counted", all).await;
    let good = scene.step_sent().await;
    scene.answer(&good).await;
    until("the good one is deleted", async || scene.queue.size().await == count).await;
    assert_eq!(scene.runs(), [good.attempt(1)]);
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    assert!(daemon.ended().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_of_a_callback_step_is_kept_and_counted() {
    is_kept(async |queue, step| {
        for body in [
            "garbage",
            "{",
            "[]",
            "null",
            r#"{"token": "abcdefghij"}"#,
            &step.executing().replace(&step.token, "too short"),
            &step.executing().replace("Executing", "Resting"),
        ] {
            queue.send(body).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_ten_thousand_deep_is_kept_and_counted() {
    is_kept(async |queue, step| {
        let deep =
            |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        queue.send(&deep("[", "]")).await;
        queue.send(&step.executing().replace(r#"{"n":1}"#, &deep("[", "]"))).await;
        queue.send(&step.executing().replace(r#"{"n":1}"#, &deep(r#"{"a":"#, "}"))).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_of_another_account_or_region_is_kept_and_counted() {
    is_kept(async |queue, step| {
        queue.send(&step.executing().replace("123456789012", "999999999999")).await;
        queue.send(&step.executing().replace("us-east-1", "eu-west-1")).await;
        queue.send(&step.stopping().replace("123456789012", "999999999999")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_of_an_account_that_is_allowed_is_worked_on() {
    let scene = Scene::new("").await;
    let mut step = scene.step();
    step.arn = step.arn.replace("123456789012", "999999999999");
    scene.sagemaker.begin(&step.arn, &step.token, &scene.queue.url);
    scene.queue.send(&step.executing()).await;
    let accounts = vec![toml::Value::from("999999999999")];
    let _daemon = scene.start(&scene.config().with("queues.0.accounts", accounts));
    until("it ran", async || scene.runs() == [step.attempt(1)]).await;
    scene.queue_is_empty().await;
}

async fn failure_of(script: &str) -> String {
    let scene = Scene::new(script).await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    let reason = scene.answered_once(&step).await.reason();
    assert_eq!(scene.runs(), [step.attempt(1)]);
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_one_outputs_fail_the_step_and_the_reason_says_so() {
    let reason = failure_of("for i in $(seq 51); do echo o$i=$i >> $STEP_OUTPUT; done").await;
    assert!(reason.contains("50"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_too_long_fails_the_step_and_is_named() {
    let reason = failure_of("printf 'model=%01025d\\n' 7 >> $STEP_OUTPUT").await;
    assert!(reason.contains("model") && reason.contains("1024"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_kilobytes_of_multibyte_stderr_become_a_reason_that_sagemaker_takes() {
    let reason =
        failure_of("for i in $(seq 128); do printf 'ß…漢🦀🦀' >&2; done; printf END >&2; exit 1")
            .await;
    assert!(reason.ends_with("END") && reason.contains('漢'), "the end of it matters: {reason}");
    // However SageMaker counts its 256 characters.
    assert!(reason.encode_utf16().count() > 240, "as much of it as fits: {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_no_text_and_has_no_end_of_line_does_no_harm() {
    let script = "head -c 3000000 /dev/urandom; head -c 3000000 /dev/urandom >&2; head -c 3000000 \
                  /dev/zero >&2; exit 1";
    let reason = failure_of(script).await;
    assert!(reason.contains("exit status 1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_by_a_signal_fails_its_step() {
    let reason = failure_of("kill -SEGV $$").await;
    assert!(reason.contains("signal 11"), "{reason}");
}
