//! Steps that someone else answers: their own handler, which is to, or anyone who is faster.

use std::time::Duration;

use crate::daemon::Config;
use crate::sagemaker::LIST;
use crate::scene::{Scene, Step, never, until};

/// The handler answers its steps itself.
fn answering(scene: &Scene) -> Config {
    scene.config().with("handlers.job.answers", "handler").listening()
}

async fn has_status(scene: &Scene, step: &Step, status: &str) {
    until(status, async || scene.record(step).is_some_and(|record| record["status"] == status))
        .await;
}

/// It is settled, by someone else's answer.
async fn settled_by(scene: &Scene, step: &Step, ending: &str) {
    scene.settled(step).await;
    assert_eq!(scene.record(step).expect("a record")["ending"], ending);
    scene.queue_is_empty().await;
    assert!(scene.sagemaker.reports(&step.token).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_answers_its_step_while_it_runs_is_left_to_its_end() {
    let scene = Scene::new("until_there gate; end 0").await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&answering(&scene));
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.sagemaker.close(&step.arn, "Succeeded");
    let asked = scene.sagemaker.requests(LIST).len();
    until("the watch asks", async || scene.sagemaker.requests(LIST).len() > asked + 1).await;
    scene.open("gate");
    settled_by(&scene, &step, "answered_by_handler").await;
    assert_eq!(scene.lines("ends").len(), 1, "it was not stopped");
    assert_eq!((scene.runs(), scene.cleanups()), (vec![step.attempt(1)], vec![]));
    let count = "callbackd_steps_total{queue=\"";
    let series = format!(
        "{count}{}\",handler=\"job\",outcome=\"answered_by_handler\"}}",
        scene.queue.url.rsplit('/').next().expect("a name")
    );
    assert_eq!(daemon.metric(&series).await, Some(1.0));
    let listed = scene.environment().run(&scene.config(), &["steps"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("answered_by_handler"), "{listed}");
    let said = daemon.complaints(&["WARN"], &step.token);
    assert!(
        said.iter().any(|line| line["message"]
            .as_str()
            .is_some_and(|text| { text.contains("outputs of the run are not sent") })),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_what_a_handler_has_started_is_waited_for_across_a_kill() {
    let scene = Scene::new("end 0").await;
    let step = scene.step_sent().await;
    // Nothing else asks.
    let config = answering(&scene).with("queues.0.stop_watch", "0s");
    let mut daemon = scene.start(&config);
    has_status(&scene, &step, "deferred").await;
    scene.queue_is_empty().await;
    let listed = scene.environment().run(&config, &["steps"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("its handler is to answer it at SageMaker"), "{listed}");
    daemon.kill();
    scene.sagemaker.close(&step.arn, "Failed");
    let _next = scene.start(&config);
    settled_by(&scene, &step, "answered_by_handler").await;
    scene.queue.send(&step.executing()).await;
    scene.queue_is_empty().await;
    assert_eq!((scene.runs(), scene.cleanups()), (vec![step.attempt(1)], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_has_answered_as_its_worker_was_killed_is_not_run_again() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&answering(&scene));
    until("it runs", async || !scene.runs().is_empty()).await;
    daemon.kill();
    scene.sagemaker.close(&step.arn, "Succeeded");
    let _next = scene.start(&answering(&scene));
    settled_by(&scene, &step, "answered_by_handler").await;
    assert_eq!((scene.runs(), scene.cleanups()), (vec![step.attempt(1)], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_does_not_answer_fails_its_step_after_its_limit() {
    let scene = Scene::new("end 0").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&answering(&scene).with("handlers.job.deferred_limit", "2s"));
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("ended well but did not answer the step within 2s"), "{reason}");
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_and_a_stop_are_answered_for_a_handler_that_is_to_answer() {
    let scene = Scene::new("[ $STEP_ATTEMPT = 1 ] && ! [ -e $FOLDER/well ] && end 3; end 0").await;
    let failed = scene.step_sent().await;
    let _daemon = scene.start(&answering(&scene));
    assert!(scene.answered_once(&failed).await.reason().contains("ended at"));
    scene.open("well");
    let stopped = scene.step_sent().await;
    has_status(&scene, &stopped, "deferred").await;
    scene.stop(&stopped).await;
    assert!(scene.answered_once(&stopped).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [stopped.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_step_succeeds_elsewhere_is_told_so_and_so_is_its_cleanup() {
    let script = "trap 'cat $STEP_STOP_FILE > $FOLDER/why; exit 143' TERM; sleep 300 & echo > \
                  $FOLDER/ready; wait";
    let scene = Scene::new(script).await;
    let step = scene.step_sent().await;
    let config = scene.config().with("handlers.job.stop_grace", "30s");
    let _daemon = scene.start(&config);
    until("it runs", async || scene.path("ready").exists()).await;
    scene.sagemaker.close(&step.arn, "Succeeded");
    settled_by(&scene, &step, "settled_elsewhere").await;
    assert_eq!(scene.lines("why"), ["settled_elsewhere"]);
    assert_eq!(scene.cleanups(), [step.cleaned("settled_elsewhere")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_answers_its_step_between_two_polls_is_not_cleaned_up_after() {
    for (status, cleanups) in [("Succeeded", 0), ("Stopped", 1), ("Failed", 1)] {
        let scene = Scene::new("echo job-7 > $STEP_CHECKPOINT; exit 76").await;
        let step = scene.step_sent().await;
        let config = scene.config().with("handlers.job.settings.poll_interval", "1h");
        let _daemon = scene.start(&config);
        has_status(&scene, &step, "waiting").await;
        scene.sagemaker.close(&step.arn, status);
        settled_by(&scene, &step, "settled_elsewhere").await;
        let stopped = vec![step.cleaned("pipeline_stopped"); cleanups];
        assert_eq!(scene.cleanups(), stopped, "{status}");
        assert_eq!(scene.runs(), [step.attempt(1)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_handler_that_has_answered_is_not_called_again() {
    let scene = Scene::new("exit 76").await;
    let step = scene.step_sent().await;
    let config = answering(&scene)
        .with("queues.0.stop_watch", "0s")
        .with("handlers.job.settings.poll_interval", "1s");
    let _daemon = scene.start(&config);
    until("it polls", async || scene.runs().len() > 1).await;
    scene.sagemaker.close(&step.arn, "Succeeded");
    settled_by(&scene, &step, "answered_by_handler").await;
    let runs = scene.runs().len();
    never("it is run again", Duration::from_secs(2), async || scene.runs().len() > runs).await;
    assert!(scene.cleanups().is_empty());
}
