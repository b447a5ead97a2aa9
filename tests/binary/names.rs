//! One queue under several URLs, and the records that belong to it.

use crate::moto::Queue;
use crate::sagemaker::{FAILURE, Fault};
use crate::scene::{Scene, Step, random_token, until};

/// A step is deferred, unless it is to fail.
const RUN: &str = "[ -e $FOLDER/fail-$STEP_TOKEN ] && exit 3\nexit 0";

async fn has_status(scene: &Scene, step: &Step, status: &str) {
    until("it is on record", async || {
        scene.record(step).is_some_and(|record| record["status"] == status)
    })
    .await;
}

async fn records_are_carried_on(
    before: impl Fn(&Scene) -> String,
    after: impl Fn(&Scene) -> String,
) {
    let scene = Scene::new(RUN).await;
    let config = scene.config().with("handlers.job.settings.deferred", true);
    let first = config
        .clone()
        .with("queues.0.url", before(&scene))
        .with("queues.0.stop_takeover_after", "10m");
    scene.sagemaker.always(FAILURE, Fault::Answer(503, "ServiceUnavailable"));
    let deferred = scene.step_sent().await;
    let concluded = scene.step();
    scene.open(&format!("fail-{}", concluded.token));
    scene.queue.send(&concluded.executing()).await;
    let owed = scene.step();
    scene.stop(&owed).await;
    let mut daemon = scene.start(&first);
    has_status(&scene, &deferred, "deferred").await;
    has_status(&scene, &concluded, "concluded").await;
    has_status(&scene, &owed, "owed").await;
    daemon.kill();
    // From here on only the records know of them.
    scene.queue.purge().await;
    scene.sagemaker.heal();
    let _next = scene.start(&config.with("queues.0.url", after(&scene)));
    assert!(scene.answer(&concluded).await.reason().contains("exit status 3"));
    scene.sagemaker.stop(&deferred.arn);
    for step in [&deferred, &owed] {
        assert!(scene.answer(step).await.reason().contains("the pipeline was stopped"));
        assert!(scene.cleanups().contains(&step.cleaned("pipeline_stopped")));
    }
    for step in [&deferred, &concluded, &owed] {
        scene.settled(step).await;
    }
}

fn name(scene: &Scene) -> &str {
    scene.queue.url.rsplit('/').next().expect("a name")
}

/// At the proxy's own address, under one of its names.
fn local(host: &'static str) -> impl Fn(&Scene) -> String {
    move |scene| {
        let port = scene.to_sqs.url().rsplit(':').next().expect("a port").to_owned();
        format!("http://{host}:{port}/123456789012/{}", name(scene))
    }
}

fn aws(host: &'static str) -> impl Fn(&Scene) -> String {
    move |scene| format!("https://{host}/123456789012/{}", name(scene))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_carried_on_however_the_queue_s_url_is_spelt() {
    tokio::join!(
        records_are_carried_on(local("127.0.0.1"), local("localhost")),
        records_are_carried_on(
            aws("us-east-1.queue.amazonaws.com"),
            aws("sqs.us-east-1.amazonaws.com")
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_queue_that_is_not_configured_is_said_once() {
    let scene = Scene::new(RUN).await;
    let config = scene.config().with("handlers.job.settings.deferred", true);
    let left = scene.step_sent().await;
    let mut daemon = scene.start(&config);
    has_status(&scene, &left, "deferred").await;
    daemon.kill();
    let other = Queue::create(&format!("sagemaker-{}", random_token())).await;
    let next = scene.start(&config.with("queues.0.url", other.url.as_str()));
    let said = async || next.complaints(&["WARN"], name(&scene)).len();
    until("it is said", async || said().await > 0).await;
    let step = scene.step();
    other.send(&step.executing()).await;
    has_status(&scene, &step, "deferred").await;
    assert_eq!(said().await, 1);
    assert!(
        scene.record(&left).is_some_and(|record| record["status"] == "deferred"),
        "it is left as it is"
    );
}
