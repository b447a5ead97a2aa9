//! Each token gets one answer, and SageMaker accepts it.

use serde_json::json;

use crate::moto::Queue;
use crate::sagemaker::{FAILURE, Fault, SUCCESS};
use crate::scene::{Scene, random_token, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_with_0_succeeds_its_step_with_its_outputs() {
    let scene =
        Scene::new("echo 'model=s3://bucket/model' >> $STEP_OUTPUT; echo n=7 >> $STEP_OUTPUT")
            .await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    let answer = scene.answered_once(&step).await;
    assert_eq!(answer.outputs(), json!({ "model": "s3://bucket/model", "n": "7" }));
    assert_eq!(scene.runs(), [step.attempt(1)]);
    until("the ledger has it settled", async || {
        scene.record(&step).is_some_and(|record| record["status"] == "settled")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_otherwise_fails_its_step_with_what_it_said_last() {
    let scene = Scene::new("echo noise >&2; echo 'the table is locked' >&2; exit 3").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("exit status 3") && reason.contains("the table is locked"), "{reason}");
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_sent_until_it_is_taken_and_is_the_same_request_each_time() {
    let scene = Scene::new("date +%N | sed s/^/at=/ >> $STEP_OUTPUT").await;
    let faults = [
        Fault::Answer(500, "InternalFailure"),
        Fault::Answer(400, "ThrottlingException"),
        Fault::CloseBefore,
        Fault::CloseAfter,
    ];
    scene.sagemaker.script(SUCCESS, faults);
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 5, "four that failed, and one more");
    assert_eq!(scene.runs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_sent_until_it_is_taken_too() {
    let scene = Scene::new("echo $$ >&2; exit 1").await;
    scene.sagemaker.script(FAILURE, [Fault::CloseAfter, Fault::Answer(503, "ServiceUnavailable")]);
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 3);
    assert_eq!(scene.runs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_copies_of_a_message_run_one_handler() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step();
    for _ in 0..5 {
        scene.queue.send(&step.executing()).await;
    }
    let _daemon = scene.start(&scene.config());
    until("all copies are held", async || scene.queue.invisible().await == 5).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_comes_after_the_answer_is_deleted_and_not_run() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    scene.queue.send(&step.executing()).await;
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_received_before_whose_step_is_closed_is_deleted_and_not_run() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    scene.queue.glance().await;
    scene.sagemaker.close(&step.arn, "Succeeded");
    let _daemon = scene.start(&scene.config());
    scene.queue_is_empty().await;
    assert!(scene.runs().is_empty());
    assert!(scene.sagemaker.reports(&step.token).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_message_is_on_two_queues_is_run_and_answered_once() {
    let scene = Scene::new("until_there gate").await;
    let other = Queue::create(&format!("sagemaker-{}", random_token())).await;
    let step = scene.step_sent().await;
    other.send(&step.executing()).await;
    let _daemon = scene.start(&scene.config().beside(&other.url));
    until("both are held", async || {
        scene.queue.invisible().await == 1 && other.invisible().await == 1
    })
    .await;
    // Both are kept invisible, each by its own receipt handle.
    let kept = || {
        let exchanges = scene.to_sqs.exchanges();
        let kept = exchanges
            .iter()
            .filter(|exchange| exchange.operation == "changemessagevisibilitybatch");
        let of =
            |url: &str| kept.clone().filter(|exchange| exchange.request["QueueUrl"] == url).count();
        (of(&scene.queue.url), of(&other.url))
    };
    until("both are kept", async || kept().0 >= 3 && kept().1 >= 3).await;
    assert_eq!(scene.to_sqs.received().len(), 2, "neither came back");
    scene.open("gate");
    scene.answered_once(&step).await;
    until("the other queue is empty", async || other.is_empty().await).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
    for exchange in
        scene.to_sqs.exchanges().iter().filter(|exchange| exchange.request["Entries"].is_array())
    {
        assert!(
            exchange.answer["Failed"].as_array().is_none_or(Vec::is_empty),
            "each queue has its own: {exchange:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_with_a_ledger_each_answer_every_step_once() {
    let scene = Scene::new("until_there gate").await;
    let steps: Vec<_> = (0..6).map(|_| scene.step()).collect();
    for step in &steps {
        scene.queue.send(&step.executing()).await;
    }
    let config = scene.config().with("queues.0.concurrency", 4);
    let environment = scene.environment();
    let _one = environment.start(&config, "one");
    until("the first worker is full", async || scene.runs().len() == 4).await;
    let ledger = scene.path("other.db").display().to_string();
    let _other = environment.start(&config.with("ledger.path", ledger), "other");
    until("the second has the rest", async || scene.runs().len() == 6).await;
    scene.open("gate");
    for step in &steps {
        scene.answered_once(step).await;
    }
    assert_eq!(scene.runs().len(), 6);
}
