//! A daemon that is killed at the worst moments, and its successor on the same ledger.

use serde_json::json;

use crate::sagemaker::{Fault, SUCCESS};
use crate::scene::{Scene, until};

/// Leaves a grandchild behind, saves a checkpoint, and waits. A second run reports what is alive of
/// the first, and its checkpoint.
const RESUMABLE: &str = r#"
if [ "$STEP_ATTEMPT" = 1 ]; then
    sh -c 'sleep 300 & echo $! >> "$1/pids"; wait' sh "$FOLDER" &
    echo $$ >> $FOLDER/pids; echo $! >> $FOLDER/pids
    until [ "$(wc -l < $FOLDER/pids)" = 3 ]; do sleep 0.05; done
    printf job-17 > $STEP_CHECKPOINT
    until_there never
fi
for pid in $(cat $FOLDER/pids); do
    if alive $pid; then echo $pid >> $FOLDER/alive; fi
done
echo "resumed=$(cat $STEP_CHECKPOINT)" >> $STEP_OUTPUT
"#;

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_program_runs_it_is_run_again_with_its_checkpoint_and_nothing_of_the_first_alive()
 {
    let scene = Scene::new(RESUMABLE).await;
    let step = scene.step_sent().await;
    let config = scene.config();
    let mut first = scene.start(&config);
    let saved =
        async || scene.record(&step).is_some_and(|record| record["checkpoint"]["file"] == "job-17");
    until("the checkpoint is in the ledger", saved).await;
    first.kill();
    let _second = scene.start(&config);
    let answer = scene.answered_once(&step).await;
    assert_eq!(answer.outputs(), json!({ "resumed": "job-17" }));
    assert_eq!(scene.runs(), [step.attempt(1), step.attempt(2)]);
    assert_eq!(scene.lines("pids").len(), 3, "a shell, its child and its grandchild");
    assert_eq!(scene.lines("alive"), Vec::<String>::new(), "still alive beside the second run");
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_report_is_taken_it_sends_the_same_outcome_and_runs_nothing_again() {
    let scene = Scene::new("date +%N | sed s/^/at=/ >> $STEP_OUTPUT").await;
    scene.sagemaker.always(SUCCESS, Fault::Answer(503, "ServiceUnavailable"));
    let step = scene.step_sent().await;
    let config = scene.config();
    let mut first = scene.start(&config);
    until("a report was refused", async || !scene.sagemaker.reports(&step.token).is_empty()).await;
    first.kill();
    scene.sagemaker.heal();
    let _second = scene.start(&config);
    scene.answered_once(&step).await;
    assert!(scene.sagemaker.reports(&step.token).len() >= 2);
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_its_report_is_under_way_it_sends_the_same_again() {
    let scene = Scene::new("date +%N | sed s/^/at=/ >> $STEP_OUTPUT").await;
    // Accepted, but the answer is lost.
    scene.sagemaker.script(SUCCESS, [Fault::CloseAfter]);
    scene.sagemaker.always(SUCCESS, Fault::Hang);
    let step = scene.step_sent().await;
    let config = scene.config();
    let mut first = scene.start(&config);
    until("the report hangs", async || scene.sagemaker.reports(&step.token).len() == 2).await;
    first.kill();
    scene.sagemaker.heal();
    let _second = scene.start(&config);
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_report_and_before_the_delete_it_only_deletes() {
    let scene = Scene::new("").await;
    scene.to_sqs.refuse("deletemessagebatch");
    scene.to_sqs.refuse("deletemessage");
    let step = scene.step_sent().await;
    let config = scene.config();
    let mut first = scene.start(&config);
    scene.answer(&step).await;
    let deleting =
        async || scene.to_sqs.seen("deletemessagebatch") + scene.to_sqs.seen("deletemessage") > 0;
    until("it tries to delete", deleting).await;
    first.kill();
    assert_eq!(scene.queue.size().await, 1, "it is still there");
    scene.to_sqs.heal();
    let _second = scene.start(&config);
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1, "the ledger had it settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_a_stop_and_its_answer_it_answers_the_stop() {
    let scene = Scene::with_cleanup("until_there gate", "until_there cleaned").await;
    let step = scene.step_sent().await;
    let config = scene.config();
    let mut first = scene.start(&config);
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.stop(&step).await;
    until("it cleans up", async || !scene.cleanups().is_empty()).await;
    first.kill();
    scene.open("cleaned");
    let _second = scene.start(&config);
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("the pipeline was stopped"), "{reason}");
    assert_eq!(scene.runs(), [step.attempt(1)], "a stopped step is not run again");
    assert_eq!(
        scene.cleanups(),
        [step.cleaned("pipeline_stopped"), step.cleaned("pipeline_stopped")]
    );
}
