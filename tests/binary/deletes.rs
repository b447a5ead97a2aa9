//! Settled messages are deleted, whatever happens to the delete calls.

use crate::scene::{Scene, until};

const DELETE: &str = "deletemessagebatch";
const HIDE: &str = "changemessagevisibilitybatch";
const SEND: &str = "sendmessage";

/// No call may name one message twice: SQS is not known to accept that.
fn no_batch_was_refused(scene: &Scene) {
    let exchanges = scene.to_sqs.exchanges();
    let refused = exchanges
        .iter()
        .find(|exchange| exchange.operation == DELETE && !exchange.answer["__type"].is_null());
    assert!(refused.is_none(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_received_again_while_its_delete_hangs_holds_up_no_other() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    scene.to_sqs.hold(DELETE);
    scene.to_sqs.refuse(HIDE);
    let _daemon = scene.start(&scene.config());
    scene.answer(&step).await;
    until("it is received again", async || scene.to_sqs.received().len() >= 2).await;
    let before = scene.to_sqs.seen(DELETE);
    until("its delete is tried again", async || scene.to_sqs.seen(DELETE) > before).await;
    scene.to_sqs.heal();
    let other = scene.step_sent().await;
    scene.answered_once(&other).await;
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1), other.attempt(1)]);
    no_batch_was_refused(&scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_replaced_as_its_step_settles_is_deleted_with_its_copy() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    scene.to_sqs.hold(SEND);
    let _daemon = scene.start(&scene.config().with("queues.0.repost_after", "10s"));
    until("a copy is about to be sent", async || scene.to_sqs.seen(SEND) == 1).await;
    scene.to_sqs.refuse(DELETE);
    scene.open("gate");
    scene.answer(&step).await;
    until("the message is to be deleted", async || scene.to_sqs.seen(DELETE) >= 1).await;
    let copies = scene.to_sqs.seen(SEND);
    scene.to_sqs.let_go(SEND);
    let sent = async || scene.to_sqs.exchanges().iter().any(|exchange| exchange.operation == SEND);
    until("the copy is sent", sent).await;
    scene.to_sqs.heal();
    scene.answered_once(&step).await;
    assert_eq!(scene.to_sqs.seen(SEND), copies, "what is settled is not sent again");
    assert_eq!(scene.runs(), [step.attempt(1)]);
    no_batch_was_refused(&scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_message_that_cannot_be_deleted_is_not_replaced() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    scene.to_sqs.refuse(DELETE);
    let _daemon = scene.start(&scene.config().with("queues.0.repost_after", "10s"));
    scene.answer(&step).await;
    // One each five seconds.
    until("it is held past the time of a copy", async || scene.to_sqs.seen(HIDE) >= 3).await;
    scene.to_sqs.heal();
    scene.answered_once(&step).await;
    assert_eq!(scene.to_sqs.seen(SEND), 0);
}
