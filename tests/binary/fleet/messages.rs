//! Steps whose messages are gone, or come twice.

use std::time::Duration;

use super::{Fleet, HANDS_OVER};
use crate::clocks::Clocks;
use crate::daemon::{Config, Daemon};
use crate::sagemaker::{Fault, SUCCESS};
use crate::scene::{never, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_deferred_step_is_enforced_by_whichever_worker_lives() {
    let fleet = Fleet::new(3, "end 0").await;
    let config = |worker| {
        fleet
            .config(worker)
            .with("handlers.job.settings.deferred", true)
            .with("handlers.job.deferred_limit", "20s")
    };
    let step = fleet.scene.step_sent().await;
    let mut first = fleet.start_as(0, &config(0), &[]);
    fleet.recorded_as(&step, "deferred").await;
    fleet.scene.queue_is_empty().await;
    first.kill();
    for worker in 0..3 {
        let seen = fleet.record_seen_by(worker, &step).expect("every worker sees it");
        assert_eq!(seen["status"], "deferred", "{seen}");
    }
    let _others = [1, 2].map(|worker| fleet.start_as(worker, &config(worker), &[]));
    let reason = fleet.scene.answered_once(&step).await.reason();
    assert!(reason.contains("nobody completed the deferred step within 20s"), "{reason}");
    fleet.recorded_as(&step, "settled").await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
    assert_eq!(fleet.scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_step_of_a_dead_worker_is_watched_by_another_for_a_stop_without_a_message() {
    let fleet = Fleet::new(3, "end 0").await;
    let config = |worker| {
        fleet
            .config(worker)
            .with("handlers.job.settings.deferred", true)
            .with("queues.0.stop_watch", "1s")
    };
    let step = fleet.scene.step_sent().await;
    let mut first = fleet.start_as(0, &config(0), &[]);
    fleet.recorded_as(&step, "deferred").await;
    let _others = [1, 2].map(|worker| fleet.start_as(worker, &config(worker), &[]));
    first.kill();
    fleet.scene.sagemaker.stop(&step.arn);
    let reason = fleet.scene.answered_once(&step).await.reason();
    assert!(reason.contains("the pipeline was stopped"), "{reason}");
    assert_eq!(fleet.scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    fleet.recorded_as(&step, "settled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_a_handler_is_asked_for_by_another_worker_once_its_own_is_dead() {
    let fleet = Fleet::new(2, "end 0").await;
    // Nothing else asks.
    let config = |worker| {
        fleet
            .config(worker)
            .with("handlers.job.answers", "handler")
            .with("queues.0.stop_watch", "0s")
    };
    let step = fleet.scene.step_sent().await;
    let mut first = fleet.start_as(0, &config(0), &[]);
    fleet.recorded_as(&step, "deferred").await;
    fleet.scene.queue_is_empty().await;
    let second = fleet.start_as(1, &config(1), &[]);
    until("the other is up", async || second.is_up()).await;
    first.kill();
    fleet.scene.sagemaker.close(&step.arn, "Succeeded");
    fleet.recorded_as(&step, "settled").await;
    let seen = fleet.record_seen_by(1, &step).expect("it is there");
    assert_eq!(seen["ending"], "answered_by_handler");
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
    assert!(fleet.scene.sagemaker.reports(&step.token).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_s_step_whose_message_is_gone_is_resumed_by_one_of_the_others() {
    let fleet = Fleet::new(3, HANDS_OVER).await;
    let clocks = Clocks::ahead(fleet.scene.folder(), "clocks", 0);
    let start = |worker| {
        // A lease outlives the seconds in which the clocks run fast.
        let config = fleet.config(worker).with("ledger.lease", "15s");
        fleet.start_as(worker, &config, &clocks.variables())
    };
    let step = fleet.scene.step_sent().await;
    let mut owner = start(0);
    fleet.checkpoint_is_recorded(&step).await;
    let others = [start(1), start(2)];
    until("the others are up", async || others.iter().all(Daemon::is_up)).await;
    fleet.scene.queue.purge().await;
    owner.kill();
    for seconds in 1.. {
        if fleet.scene.runs().len() > 1 {
            break;
        }
        assert!(seconds < 300, "it is not resumed");
        clocks.run_ahead_to(seconds);
        // Time for what is due to be done.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    fleet.handed_over(&step).await;
    let resumed =
        |other: &Daemon| other.complaints(&["WARN"], "the step is resumed from the ledger").len();
    assert_eq!(others.iter().map(resumed).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_s_outcome_is_reported_by_another_although_its_message_is_gone() {
    let fleet = Fleet::new(2, "end 0").await;
    fleet.scene.sagemaker.always(SUCCESS, Fault::Hang);
    let step = fleet.scene.step_sent().await;
    let mut owner = fleet.start_busy(0, &[]);
    fleet.recorded_as(&step, "concluded").await;
    fleet.scene.queue.purge().await;
    let other = fleet.start(1);
    until("the other is up", async || other.is_up()).await;
    owner.kill();
    fleet.scene.sagemaker.heal();
    fleet.scene.answered_once(&step).await;
    fleet.recorded_as(&step, "settled").await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
    assert!(fleet.ways[1].to_sqs.received().is_empty(), "nothing was there to be received");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fresh_copy_of_a_long_step_s_message_never_starts_a_second_run() {
    let fleet = Fleet::new(3, "until_there gate; end 0").await;
    let reposts = |config: Config| config.with("queues.0.repost_after", "10s");
    let _others = fleet.start_others(reposts).await;
    let step = fleet.scene.step_sent().await;
    let _owner = fleet.start_as(0, &reposts(fleet.config(0)), &[]);
    until("it runs", async || fleet.scene.runs() == [step.attempt(1)]).await;
    // From now on only the others receive.
    fleet.ways[0].to_sqs.hold("receivemessage");
    for way in &fleet.ways[1..] {
        way.to_sqs.let_go("receivemessage");
    }
    let received = async || fleet.ways[1..].iter().any(|way| !way.to_sqs.received().is_empty());
    until("another worker has the copy", received).await;
    assert!(fleet.ways[0].to_sqs.seen("sendmessage") >= 1);
    never("it is run again", Duration::from_secs(5), async || fleet.scene.runs().len() > 1).await;
    until("the old one is deleted", async || fleet.scene.queue.size().await == 1).await;
    fleet.scene.open("gate");
    fleet.scene.answered_once(&step).await;
    fleet.recorded_as(&step, "settled").await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
}
