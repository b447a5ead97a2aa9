//! Stops that another worker than the owner hears of: it is alive, dead, or there never was one.

use super::{Fleet, was_told};
use crate::daemon::Daemon;
use crate::scene::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_another_worker_receives_reaches_the_owner_with_its_next_renewal() {
    let fleet = Fleet::new(2, "until_there never").await;
    let step = fleet.scene.step_sent().await;
    let first = fleet.start(0);
    until("it runs", async || fleet.scene.runs() == [step.attempt(1)]).await;
    // A poll that is open still ends, and brings nothing.
    fleet.ways[0].to_sqs.hold("receivemessage");
    let second = fleet.start(1);
    until("the other polls", async || second.is_up()).await;
    fleet.scene.stop(&step).await;
    fleet.scene.answered_once(&step).await;
    assert_eq!(fleet.scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert_eq!((was_told(&first), was_told(&second)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_of_a_dead_worker_s_step_is_cleaned_up_and_answered_by_one_of_the_others() {
    let fleet = Fleet::new(3, "until_there never").await;
    let _others = fleet.start_others(|config| config).await;
    let step = fleet.scene.step_sent().await;
    let mut owner = fleet.start_busy(0, &[]);
    until("it runs", async || fleet.scene.runs() == [step.attempt(1)]).await;
    owner.kill();
    fleet.first_is_timed_out().await;
    fleet.scene.stop(&step).await;
    fleet.let_receive();
    let reason = fleet.scene.answered_once(&step).await.reason();
    assert!(reason.contains("the pipeline was stopped"), "{reason}");
    assert_eq!(fleet.scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert_eq!(fleet.scene.runs(), [step.attempt(1)], "a stopped step is not run again");
    fleet.recorded_as(&step, "settled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_a_step_that_no_worker_ever_had_is_answered_by_one_of_them() {
    let fleet = Fleet::new(3, "end 0").await;
    let workers = [fleet.start(0), fleet.start(1), fleet.start(2)];
    until("all are up", async || workers.iter().all(Daemon::is_up)).await;
    let step = fleet.scene.step();
    fleet.scene.stop(&step).await;
    let reason = fleet.scene.answered_once(&step).await.reason();
    assert!(reason.contains("the pipeline was stopped"), "{reason}");
    assert_eq!(fleet.scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert!(fleet.scene.runs().is_empty());
    // Its work comes when all is over.
    fleet.scene.queue.send(&step.executing()).await;
    fleet.scene.queue_is_empty().await;
    assert!(fleet.scene.runs().is_empty());
}
