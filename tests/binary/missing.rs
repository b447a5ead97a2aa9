//! Outcomes of steps that SageMaker does not find: not found is not closed.

use std::time::Duration;

use crate::sagemaker::LIST;
use crate::scene::{Scene, never, until};

async fn kept_until_it_is_found() {
    let scene = Scene::new("date +%N | sed s/^/at=/ >> $STEP_OUTPUT").await;
    let step = scene.step_sent().await;
    scene.sagemaker.hide(&step.arn);
    let daemon = scene.start(&scene.config().listening());
    until("it was asked for again and again", async || scene.sagemaker.requests(LIST).len() >= 4)
        .await;
    assert_eq!(scene.queue.invisible().await, 1, "the message is kept");
    assert!(
        scene.record(&step).is_some_and(|record| record["status"] == "concluded"),
        "{:?}",
        scene.record(&step)
    );
    assert!(!daemon.complaints(&["ERROR"], &step.token).is_empty(), "it is said");
    assert!(daemon.sum("callbackd_reports_not_found_total").await >= Some(1.0), "it is counted");
    scene.sagemaker.show(&step.arn);
    scene.answered_once(&step).await;
    scene.settled(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

async fn kept_for_as_long_as_is_configured() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    scene.sagemaker.hide(&step.arn);
    let daemon = scene.start(&scene.config().with("queues.0.gone_after", "1m"));
    until("SageMaker does not find it", async || !scene.sagemaker.requests(LIST).is_empty()).await;
    let gone = async || scene.queue.size().await == 0;
    never("it is given up before", Duration::from_secs(50), gone).await;
    assert!(
        scene.record(&step).is_some_and(|record| record["status"] == "concluded"),
        "{}",
        daemon.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_step_that_is_not_found_is_kept_with_its_message() {
    tokio::join!(kept_until_it_is_found(), kept_for_as_long_as_is_configured());
}
