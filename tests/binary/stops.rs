//! Every stop is answered, after the cleanup, whether its message arrives, arrives first, or never
//! arrives.

use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::sagemaker::{FAILURE, LIST, SUCCESS};
use crate::scene::{Scene, Step, never, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_step_is_stopped_cleaned_up_after_and_answered() {
    // The program would run forever, and would report it if it were not stopped before the cleanup.
    let run = "trap 'echo told >> $FOLDER/told; exit 143' TERM; sh -c 'echo $$ > $0/pid; sleep \
               300' $FOLDER & wait";
    let cleanup = "if alive $(cat $FOLDER/pid); then echo alive >> $FOLDER/alive; fi";
    let scene = Scene::with_cleanup(run, cleanup).await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.stop_watch", "0s"));
    until("it runs", async || !scene.lines("pid").is_empty()).await;
    scene.stop(&step).await;
    let answer = scene.answered_once(&step).await;
    assert_eq!(answer.operation, FAILURE);
    assert!(answer.reason().contains("the pipeline was stopped"), "{}", answer.reason());
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert_eq!(scene.lines("told"), ["told"], "SIGTERM first");
    assert!(!scene.path("alive").exists(), "nothing of the run is alive in the cleanup");
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_answered_with_success_where_that_is_configured() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("handlers.job.on_stop", "success"));
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.stop(&step).await;
    let answer = scene.answered_once(&step).await;
    assert_eq!((answer.operation.as_str(), answer.outputs()), (SUCCESS, json!({})));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_after_sigterm_has_no_outcome_and_is_cleaned_up_after() {
    for exit in [0, 1] {
        let script = format!(
            "trap 'cat $STEP_STOP_FILE > $FOLDER/why; exit {exit}' TERM; sleep 300 & echo > \
             $FOLDER/ready; wait"
        );
        let scene = Scene::new(&script).await;
        let step = scene.step_sent().await;
        let _daemon = scene.start(&scene.config().with("handlers.job.stop_grace", "30s"));
        until("it runs", async || scene.path("ready").exists()).await;
        scene.stop(&step).await;
        assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
        assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
        assert_eq!(scene.lines("why"), ["pipeline_stopped"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_within_the_grace_keeps_its_outcome_where_that_is_set() {
    let scene = Scene::new(
        "trap 'echo saved=yes >> $STEP_OUTPUT; exit 0' TERM; sleep 300 & echo > \
                    $FOLDER/ready; wait",
    )
    .await;
    let step = scene.step_sent().await;
    let config = scene.config().with("handlers.job.stop_grace", "30s");
    let _daemon = scene.start(&config.with("handlers.job.settings.exit_after_sigterm", "kept"));
    until("it runs", async || scene.path("ready").exists()).await;
    scene.stop(&step).await;
    assert_eq!(scene.answered_once(&step).await.outputs(), json!({ "saved": "yes" }));
    assert_eq!(scene.cleanups(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_after_sigterm_at_the_time_limit_is_cleaned_up_after() {
    let scene = Scene::new("trap 'exit 0' TERM; sleep 300 & echo > $FOLDER/ready; wait").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(
        &scene
            .config()
            .with("handlers.job.time_limit", "8s")
            .with("handlers.job.stop_grace", "30s"),
    );
    assert!(scene.answered_once(&step).await.reason().contains("the time limit of 8s was reached"));
    assert_eq!(scene.cleanups(), [step.cleaned("time_limit")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_after_sigterm_at_a_shutdown_goes_on_in_the_next_life() {
    for exit in [0, 1] {
        let first = format!("trap 'exit {exit}' TERM; sleep 300 & echo > $FOLDER/ready; wait");
        let scene = Scene::new(&format!("[ ! -e $FOLDER/told ] || end 0; {first}")).await;
        let step = scene.step_sent().await;
        let config = scene
            .config()
            .with("handlers.job.stop_grace", "30s")
            .with("worker.drain_timeout", "0s");
        let mut daemon = scene.start(&config);
        until("it runs", async || scene.path("ready").exists()).await;
        scene.open("told");
        daemon.signal(Signal::SIGTERM);
        until("it has ended", async || daemon.ended().is_some()).await;
        assert!(
            scene.sagemaker.reports(&step.token).is_empty(),
            "exit {exit} after our signal is no outcome"
        );
        let _next = scene.start(&config);
        assert!(scene.answered_once(&step).await.outputs()["ended"].is_string());
        assert_eq!(scene.runs(), [step.attempt(1), step.attempt(1)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ignores_sigterm_is_killed_after_the_grace() {
    let scene = Scene::new("trap '' TERM; until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.stop(&step).await;
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_stop_came_first_is_cleaned_up_after_and_never_run() {
    let scene = Scene::new("").await;
    let step = scene.step();
    // Long enough that only the Executing message can bring the answer.
    let _daemon = scene.start(&scene.config().with("queues.0.stop_takeover_after", "10m"));
    scene.stop(&step).await;
    until("the stop is on record", async || {
        scene.record(&step).is_some_and(|record| record["status"] == "owed")
    })
    .await;
    scene.queue.send(&step.executing()).await;
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert!(scene.runs().is_empty());
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_an_unknown_step_is_held_while_sagemaker_is_asked_and_then_taken_over() {
    let scene = Scene::new("").await;
    let step = scene.step();
    let _daemon = scene.start(&scene.config());
    scene.stop(&step).await;
    let answer = scene.answered_once(&step).await;
    let asked = scene.sagemaker.requests(LIST);
    assert!(
        asked.first().is_some_and(|question| question.at < answer.at),
        "the stop was answered blindly"
    );
    assert!(scene.runs().is_empty());
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_stop_of_a_step_that_its_owner_answers_is_dropped_without_another_answer() {
    let scene = Scene::new("").await;
    let step = scene.step();
    let _daemon = scene.start(&scene.config().with("queues.0.stop_takeover_after", "10m"));
    scene.stop(&step).await;
    until("SageMaker is asked", async || !scene.sagemaker.requests(LIST).is_empty()).await;
    scene.sagemaker.close(&step.arn, "Stopped");
    scene.queue_is_empty().await;
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    assert!(scene.cleanups().is_empty() && scene.runs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_message_is_lost_is_noticed_by_the_watch() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.sagemaker.stop(&step.arn);
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_noticed_with_every_slot_busy() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.concurrency", 1));
    until("the slot is taken", async || !scene.runs().is_empty()).await;
    scene.stop(&step).await;
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_received_by_another_worker_reaches_the_one_that_runs_the_step() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let config = scene.config().with("queues.0.concurrency", 1);
    let environment = scene.environment();
    let _owner = environment.start(&config, "owner");
    until("the only slot of the owner is taken", async || !scene.runs().is_empty()).await;
    let other = config.with("ledger.path", scene.path("other.db").display().to_string());
    let _other = environment.start(&other.with("queues.0.stop_takeover_after", "10m"), "other");
    scene.stop(&step).await;
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_answered_even_if_the_cleanup_fails_and_says_so() {
    let scene =
        Scene::with_cleanup("until_there gate", "echo 'no right to delete' >&2; exit 4").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.stop(&step).await;
    let reason = scene.answered_once(&step).await.reason();
    for part in
        ["the pipeline was stopped", "cleanup failed", "exit status 4", "no right to delete"]
    {
        assert!(reason.contains(part), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_answered_even_if_the_cleanup_never_ends() {
    let scene = Scene::with_cleanup("until_there gate", "until_there never").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("handlers.job.cleanup_limit", "1s"));
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.stop(&step).await;
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("the pipeline was stopped") && reason.contains("cleanup"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ends_elsewhere_while_it_runs_is_cancelled_and_not_answered() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&scene.config());
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.sagemaker.close(&step.arn, "Failed");
    scene.queue_is_empty().await;
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    assert!(scene.sagemaker.reports(&step.token).is_empty());
}

/// When the ledger recorded an owed stop.
fn owed_since(scene: &Scene, step: &Step) -> Option<Timestamp> {
    let record = scene.record(step).filter(|record| record["status"] == "owed")?;
    record["stop_requested"]["at"].as_str()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_its_owner_closes_just_before_it_would_be_taken_over_is_not_cleaned_up_after() {
    let scene = Scene::new("").await;
    let takeover = Duration::from_secs(25);
    let _daemon = scene.start(&scene.config().with("queues.0.stop_takeover_after", "25s"));
    // Many, since each is looked at in times of its own.
    let steps: Vec<Step> = (0..12).map(|_| scene.step()).collect();
    for step in &steps {
        scene.stop(step).await;
    }
    let mut owed = Vec::new();
    for step in &steps {
        let mut since = None;
        until("the stop is on record", async || {
            since = owed_since(&scene, step);
            since.is_some()
        })
        .await;
        owed.push((since.expect("it is on record") + takeover, step));
    }
    owed.sort_by_key(|(at, _)| *at);
    let mut closed = Vec::new();
    for (at, step) in owed {
        let just_before = at - Duration::from_millis(500);
        tokio::time::sleep(
            just_before.duration_since(Timestamp::now()).try_into().unwrap_or_default(),
        )
        .await;
        scene.sagemaker.close(&step.arn, "Stopped");
        // On a busy machine it may have come too late, which would prove nothing.
        if Timestamp::now() < at - Duration::from_millis(100) {
            closed.push(step);
        }
    }
    scene.queue_is_empty().await;
    assert!(!closed.is_empty(), "the machine is too busy for this test");
    for step in closed {
        assert!(
            !scene.cleanups().contains(&step.cleaned("pipeline_stopped")),
            "its owner has cleaned up"
        );
        assert!(scene.sagemaker.reports(&step.token).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_stops_at_once_a_few_are_cleaned_up_after_at_a_time_and_none_holds_up_a_running_step()
 {
    let run =
        "trap 'echo told >> $FOLDER/told; exit 143' TERM; echo > $FOLDER/ready; sleep 300 & wait";
    let cleanup = "echo +1 >> $FOLDER/cleaning; until_there gate; echo -1 >> $FOLDER/cleaning";
    let scene = Scene::with_cleanup(run, cleanup).await;
    let running = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.concurrency", 2));
    until("a step runs", async || scene.path("ready").exists()).await;
    let steps: Vec<Step> = (0..50).map(|_| scene.step()).collect();
    for step in &steps {
        scene.stop(step).await;
    }
    until("the first are cleaned up after", async || !scene.lines("cleaning").is_empty()).await;
    scene.stop(&running).await;
    until("the running one is told", async || scene.lines("told") == ["told"]).await;
    // None of the cleanups has ended: what is begun is begun at once.
    let many = async || scene.lines("cleaning").len() > 4;
    never("more are cleaned up after at once", Duration::from_secs(6), many).await;
    scene.open("gate");
    for step in steps.iter().chain([&running]) {
        scene.answer(step).await;
    }
    scene.queue_is_empty().await;
    let most = scene.lines("cleaning").iter().fold((0, 0), |(now, most): (i32, i32), line| {
        let now = now + line.parse::<i32>().expect("a number");
        (now, most.max(now))
    });
    assert!(most.1 <= 4, "{} cleanups at once", most.1);
    assert_eq!(scene.cleanups().len(), 51, "one for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_of_a_step_that_waits_for_a_slot_is_answered_while_the_slot_is_taken() {
    let scene = Scene::new("until_there go; end 0").await;
    let runs = scene.step_sent().await;
    let _daemon = scene.start(&scene.config().with("queues.0.concurrency", 1));
    until("one runs", async || !scene.runs().is_empty()).await;
    let waits = scene.step_sent().await;
    scene.stop(&waits).await;
    assert!(scene.answer(&waits).await.reason().contains("the pipeline was stopped"));
    assert_eq!(scene.runs(), [runs.attempt(1)], "its program was not started");
    assert_eq!(scene.cleanups(), [waits.cleaned("pipeline_stopped")]);
    scene.open("go");
    scene.answered_once(&runs).await.outputs();
}
