//! Which messages are believed, and what is asked first.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::sagemaker::{DESCRIBE, Fault, LIST, SUCCESS};
use crate::scene::{Scene, Step, never, random_token, until};

const THROTTLED: Fault = Fault::Answer(400, "ThrottlingException");
const CONCURRENCY: u32 = 2;
/// Messages of one receive.
const BATCH: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_cannot_be_verified_are_held_a_few_at_a_time_until_they_can() {
    let scene = Scene::new("").await;
    let dead = scene.queue.redrive(3).await;
    scene.sagemaker.always(LIST, THROTTLED);
    scene.sagemaker.always(DESCRIBE, THROTTLED);
    let mut steps = Vec::new();
    for _ in 0..60 {
        steps.push(scene.step_sent().await);
    }
    let config = scene.config().with("queues.0.verify", "always");
    let _daemon = scene.start(&config.with("queues.0.concurrency", i64::from(CONCURRENCY)));
    until("SageMaker is asked", async || !scene.sagemaker.requests(LIST).is_empty()).await;
    // The outage itself: three visibility timeouts.
    let (began, mut most) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(31) {
        most = most.max(scene.queue.invisible().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(most <= u64::from(CONCURRENCY) + BATCH, "{most} messages were held");
    assert_eq!(scene.runs(), Vec::<String>::new());
    let again =
        || scene.to_sqs.received().into_iter().filter(|message| message.receives > 1).count();
    assert_eq!(
        (again(), dead.size().await),
        (0, 0),
        "no answer is no reason to give a message back"
    );
    scene.sagemaker.heal();
    for step in &steps {
        scene.answer(step).await;
    }
    scene.queue_is_empty().await;
    assert_eq!((again(), dead.size().await), (0, 0));
    assert_eq!(scene.runs().len(), steps.len());
}

/// A message from someone who may send to the queue: a token and an execution that SageMaker does
/// not know.
fn forged(scene: &Scene) -> Step {
    let step = scene.step();
    let token = random_token();
    Step { arn: step.arn.replace(&step.token.to_lowercase(), &token.to_lowercase()), token, ..step }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_sagemaker_does_not_know_is_neither_run_nor_cleaned_up_after() {
    let scene = Scene::new("").await;
    let daemon = scene.start(&scene.config().with("queues.0.verify", "always"));
    let (work, stop) = (forged(&scene), forged(&scene));
    scene.queue.send(&work.executing()).await;
    scene.queue.send(&stop.stopping()).await;
    let asked = |step: &Step| {
        let asked =
            scene.sagemaker.requests(LIST).into_iter().chain(scene.sagemaker.requests(DESCRIBE));
        asked.filter(|request| request.body.contains(&step.arn)).count() > 0
    };
    until("SageMaker is asked about both", async || asked(&work) && asked(&stop)).await;
    // Longer than a stop is held before this worker answers it.
    let done = async || !scene.runs().is_empty() || !scene.cleanups().is_empty();
    never("a program is run for them", Duration::from_secs(8), done).await;
    for step in [&work, &stop] {
        assert!(!daemon.complaints(&["WARN", "ERROR"], &step.token).is_empty(), "it is said");
        assert!(scene.sagemaker.reports(&step.token).is_empty());
    }
    let good = scene.step_sent().await;
    scene.answer(&good).await;
    until("only the forged ones are left", async || scene.queue.size().await == 2).await;
    assert_eq!(scene.runs(), [good.attempt(1)]);
}

async fn a_message_with_a_running_step_s_token_and_another_execution_is_refused(verify: &str) {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.verify", verify));
    until("it runs", async || !scene.runs().is_empty()).await;
    // Of an execution that does not exist, and of one that is really being stopped.
    let other = scene.step();
    scene.sagemaker.stop(&other.arn);
    let unknown = Step { arn: format!("{}x", step.arn), ..step.clone() };
    let stopped = Step { arn: other.arn.clone(), ..step.clone() };
    for message in
        [unknown.stopping(), stopped.stopping(), unknown.executing(), stopped.executing()]
    {
        scene.queue.send(&message).await;
    }
    until("all are received", async || scene.to_sqs.received().len() >= 5).await;
    // Longer than the watch needs, and than a stop is held.
    let told =
        async || !scene.cleanups().is_empty() || !scene.sagemaker.reports(&step.token).is_empty();
    never("the step hears of it", Duration::from_secs(8), told).await;
    scene.open("gate");
    let answer = scene.answer(&step).await;
    assert_eq!(
        (answer.operation.as_str(), answer.outputs()),
        (SUCCESS, json!({})),
        "verify = {verify}"
    );
    assert_eq!(scene.runs(), [step.attempt(1)]);
    until("its own message is deleted", async || scene.queue.size().await == 4).await;
    assert!(scene.sagemaker.reports(&other.token).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_names_another_execution_than_the_step_s_own_is_refused_under_every_setting()
{
    tokio::join!(
        a_message_with_a_running_step_s_token_and_another_execution_is_refused("never"),
        a_message_with_a_running_step_s_token_and_another_execution_is_refused("redelivered"),
        a_message_with_a_running_step_s_token_and_another_execution_is_refused("always"),
    );
}
