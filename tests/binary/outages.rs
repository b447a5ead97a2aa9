//! Services that are unavailable for a while, and answers that are lost on the way.

use std::time::Duration;

use crate::sagemaker::{Fault, LIST, SUCCESS};
use crate::scene::{Scene, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_three_visibility_timeouts_runs_once() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    // One every half of a visibility timeout.
    until("it was kept invisible six times", async || {
        scene.to_sqs.seen("changemessagevisibilitybatch") >= 6
    })
    .await;
    scene.open("gate");
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sagemaker_gone_for_a_while_costs_time_alone() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.to_sagemaker.go_down();
    let before = scene.to_sagemaker.seen("refused");
    scene.open("gate");
    // The wait between them grows, so that these take some ten seconds.
    until("it was tried again and again", async || {
        scene.to_sagemaker.seen("refused") >= before + 5
    })
    .await;
    assert_eq!(scene.queue.invisible().await, 1, "the message is kept");
    scene.to_sagemaker.heal();
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_gone_for_eight_seconds_costs_time_alone() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.to_sqs.go_down();
    // The outage itself; less than a visibility timeout, so that the message need not come back.
    tokio::time::sleep(Duration::from_secs(8)).await;
    scene.to_sqs.heal();
    let second = scene.step_sent().await;
    until("the next step runs", async || scene.runs().len() >= 2).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    scene.answered_once(&second).await;
    assert_eq!(scene.runs(), [step.attempt(1), second.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_gone_for_longer_than_a_visibility_timeout_runs_no_step_twice() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.to_sqs.go_down();
    until("the message is visible again", async || scene.queue.visible().await == 1).await;
    scene.to_sqs.heal();
    until("the message is held again", async || scene.queue.invisible().await == 1).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_whose_answer_never_comes_is_sent_again() {
    let scene = Scene::new("").await;
    scene.sagemaker.script(SUCCESS, [Fault::Hang]);
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 2);
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_whose_receipt_is_lost_on_the_way_are_run_once() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    scene.to_sqs.cut_the_answer_of("receivemessage");
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    assert!(scene.to_sqs.seen("receivemessage") >= 2);
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_whose_answer_is_lost_does_no_harm() {
    let scene = Scene::new("").await;
    scene.to_sqs.cut_the_answer_of("deletemessagebatch");
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    until("it was deleted again", async || scene.to_sqs.seen("deletemessagebatch") >= 2).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_grows_old_is_replaced_and_its_job_runs_once() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.repost_after", "10s"));
    until("a fresh copy was sent", async || scene.to_sqs.seen("sendmessage") >= 1).await;
    until("the old one was deleted", async || scene.to_sqs.seen("deletemessagebatch") >= 1).await;
    until("the copy is held", async || {
        scene.queue.invisible().await == 1 && scene.queue.visible().await == 0
    })
    .await;
    scene.open("gate");
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_denied_for_ever_is_done_with_once_its_step_is_closed() {
    let scene = Scene::new("").await;
    scene.sagemaker.always(SUCCESS, Fault::Answer(400, "AccessDeniedException"));
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.stop_watch", "0s"));
    until("a report is denied", async || !scene.sagemaker.reports(&step.token).is_empty()).await;
    assert_eq!(scene.queue.invisible().await, 1, "the message is kept");
    scene.sagemaker.close(&step.arn, "Stopped");
    scene.settled(&step).await;
    scene.queue_is_empty().await;
    assert!(!scene.sagemaker.requests(LIST).is_empty(), "SageMaker was asked");
    assert_eq!(scene.runs(), [step.attempt(1)]);
}
