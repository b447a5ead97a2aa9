//! Steps whose messages go to a dead-letter queue or are gone: the ledger holds everything that
//! they need.

use std::time::Duration;

use crate::daemon::{Config, Daemon};
use crate::sagemaker::LIST;
use crate::scene::{Scene, Step, never, until, until_within};

/// A job that is polled each second, and counts the polls in its checkpoint.
const POLLED: &str = r"
    n=$(($(cat $STEP_CHECKPOINT 2>/dev/null || echo 0) + 1)); echo $n > $STEP_CHECKPOINT
    [ -e $FOLDER/gate ] || exit 76
    echo looks=$n >> $STEP_OUTPUT";

fn config(scene: &Scene) -> Config {
    scene.config().with("handlers.job.settings.poll_interval", "1s")
}

/// How often the job was looked at when it was done.
async fn looks(scene: &Scene, step: &Step) -> u64 {
    scene.open("gate");
    let outputs = scene.answered_once(step).await.outputs();
    outputs["looks"].as_str().and_then(|looks| looks.parse().ok()).expect("a number")
}

async fn looked_at(scene: &Scene, more: usize) {
    let before = scene.runs().len();
    // A visibility timeout and half a minute, before a step goes on without its message.
    until_within(Duration::from_mins(4), "it is looked at", async || {
        scene.runs().len() >= before + more
    })
    .await;
}

/// Kills the daemon and makes what it held visible at once, so that the test need not wait for it.
async fn crash(scene: &Scene, daemon: &mut Daemon) {
    daemon.kill();
    for message in scene.to_sqs.received().iter().rev().take(2) {
        scene.queue.show(&message.receipt_handle).await;
    }
}

/// A job that was polled twice at least, its daemon dead and its message gone.
async fn purged(config: &Config, scene: &Scene) -> Step {
    let step = scene.step_sent().await;
    let mut daemon = scene.start(config);
    // The kill may hit the third look, and with it the third checkpoint.
    looked_at(scene, 3).await;
    daemon.kill();
    scene.queue.purge().await;
    step
}

async fn a_polled_job_is_restarted_six_times_on_a_queue_with_so_many_receives(most: u32) {
    let scene = Scene::new(POLLED).await;
    let dead = scene.queue.redrive(most).await;
    let step = scene.step_sent().await;
    // A kill may hit a look that is under way, and counts as an attempt then.
    let config = config(&scene).with("handlers.job.max_attempts", 20);
    for _ in 0..6 {
        let mut daemon = scene.start(&config);
        looked_at(&scene, 2).await;
        crash(&scene, &mut daemon).await;
    }
    let _last = scene.start(&config);
    looked_at(&scene, 1).await;
    assert!(
        looks(&scene, &step).await > 6,
        "each life goes on from the checkpoint of the one before"
    );
    // A poll of a daemon that died may receive the message too, so that three receives can be over
    // before a copy is sent.
    if most > 3 {
        assert_eq!(
            dead.size().await,
            0,
            "what is received too often goes to the dead-letter queue"
        );
    }
    scene.settled(&step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_job_lives_through_more_restarts_than_its_queue_allows_receives() {
    tokio::join!(
        a_polled_job_is_restarted_six_times_on_a_queue_with_so_many_receives(3),
        a_polled_job_is_restarted_six_times_on_a_queue_with_so_many_receives(5),
    );
}

async fn a_step_whose_message_was_purged_meanwhile_goes_on_once_sagemaker_was_asked() {
    let scene = Scene::new(POLLED).await;
    let config = config(&scene);
    let step = purged(&config, &scene).await;
    let (runs, asked) = (scene.runs().len(), scene.sagemaker.requests(LIST).len());
    let _next = scene.start(&config);
    until("it is looked at again", async || scene.runs().len() > runs).await;
    assert!(scene.sagemaker.requests(LIST).len() > asked, "it was started unasked");
    assert!(looks(&scene, &step).await > 2, "it goes on from its checkpoint");
    scene.settled(&step).await;
}

async fn a_step_whose_message_is_purged_while_it_is_held_goes_on() {
    let scene = Scene::new(POLLED).await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&config(&scene));
    looked_at(&scene, 1).await;
    scene.queue.purge().await;
    // Until a message that is gone was to be kept invisible.
    let kept = scene.to_sqs.seen("changemessagevisibilitybatch");
    until("that was noticed", async || scene.to_sqs.seen("changemessagevisibilitybatch") > kept)
        .await;
    looked_at(&scene, 3).await;
    // The fourth may have found the gate open.
    assert!(looks(&scene, &step).await > 3);
    scene.settled(&step).await;
}

async fn the_stop_of_a_step_without_its_message_is_noticed_and_answered() {
    let scene = Scene::new(POLLED).await;
    let config = config(&scene);
    let step = purged(&config, &scene).await;
    let runs = scene.runs().len();
    scene.sagemaker.stop(&step.arn);
    let _next = scene.start(&config);
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert_eq!(scene.runs().len(), runs, "a stopped step is not run again");
}

async fn a_step_that_was_closed_meanwhile_is_settled_and_not_run() {
    let scene = Scene::new(POLLED).await;
    let config = config(&scene);
    let step = purged(&config, &scene).await;
    let runs = scene.runs().len();
    scene.sagemaker.close(&step.arn, "Succeeded");
    let _next = scene.start(&config);
    scene.settled(&step).await;
    assert_eq!(scene.runs().len(), runs);
}

async fn where_others_read_the_queue_no_step_is_started_without_its_message() {
    let scene = Scene::new(POLLED).await;
    let step = purged(&config(&scene), &scene).await;
    let runs = scene.runs().len();
    let next = scene.start(&config(&scene).listening().with("queues.0.exclusive", false));
    let counted = async || next.sum("callbackd_steps_without_message").await == Some(1.0);
    until("it is counted", counted).await;
    // The step is named elsewhere too: the kill may have hit a look that was under way.
    let said = async || next.complaints(&["WARN"], "no message on the queue").len();
    until("it is said", async || said().await > 0).await;
    never("it is started", Duration::from_secs(5), async || scene.runs().len() > runs).await;
    assert_eq!(said().await, 1, "it is said once");
    assert!(
        scene.record(&step).is_some_and(|record| record["status"] != "settled"),
        "{:?}",
        scene.record(&step)
    );
    // It lacked only its message.
    scene.queue.send(&step.executing()).await;
    assert!(looks(&scene, &step).await > 2);
}

/// Each of two workers has a ledger of its own, and takes the queue for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_finds_its_step_answered_by_another_says_so_and_resumes_no_more() {
    let scene = Scene::new("[ -e $FOLDER/$STEP_TOKEN ] || exit 76").await;
    let often = config(&scene).listening();
    let mut first = scene.start(&often);
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let [answered, goes_on] = &steps;
    let ran = |step: &Step| scene.runs().contains(&step.attempt(1));
    until("both are looked at", async || steps.iter().all(ran)).await;
    crash(&scene, &mut first).await;

    scene.open(&answered.token);
    let ledger = scene.path("ledger/second.db");
    let second = config(&scene)
        .with("ledger.path", ledger.to_str().expect("UTF-8"))
        .with("handlers.job.settings.poll_interval", "1h");
    let runs = || scene.runs().iter().filter(|run| **run == goes_on.attempt(1)).count();
    let before = runs();
    let _second = scene.environment().start(&second, "second");
    scene.answer(answered).await;
    until("the other looks at the job", async || runs() > before).await;

    let first = scene.start(&often);
    let said = || first.complaints(&["ERROR"], "step_answered_elsewhere");
    until_within(Duration::from_mins(4), "it is said", async || !said().is_empty()).await;
    assert_eq!((said().len(), said()[0]["token"].as_str()), (1, Some(answered.token.as_str())));
    let counted = async || first.sum("callbackd_steps_without_message").await == Some(1.0);
    until("the step that the other one has is counted", counted).await;
    never("it is started twice", Duration::from_secs(10), async || runs() > before + 1).await;
}

/// At once: each waits until a message could have come.
#[tokio::test(flavor = "multi_thread")]
async fn steps_go_on_without_their_messages() {
    tokio::join!(
        a_step_whose_message_was_purged_meanwhile_goes_on_once_sagemaker_was_asked(),
        a_step_whose_message_is_purged_while_it_is_held_goes_on(),
        the_stop_of_a_step_without_its_message_is_noticed_and_answered(),
        a_step_that_was_closed_meanwhile_is_settled_and_not_run(),
        where_others_read_the_queue_no_step_is_started_without_its_message(),
    );
}
