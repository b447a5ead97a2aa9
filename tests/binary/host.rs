//! What ails the machine costs no step an attempt, is shown, and passes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::daemon::Daemon;
use crate::scene::{Scene, Step, until};

async fn is_impaired(daemon: &Daemon, what: &str) -> bool {
    let ready = daemon.status("/readyz").await.is_some_and(|(status, _)| status == 200);
    let series = format!("callbackd_impaired{{what=\"{what}\"}}");
    !ready && daemon.metric(&series).await == Some(1.0)
}

async fn is_well(daemon: &Daemon) -> bool {
    let ready = daemon.status("/readyz").await.is_some_and(|(status, _)| status == 200);
    ready && daemon.sum("callbackd_impaired").await == Some(0.0)
}

/// Steps are sent while something is amiss, and done once it is not, with one attempt each.
async fn passes(scene: &Scene, what: &str, ail: impl FnOnce(), mend: impl FnOnce()) {
    let config = scene.config().listening().with("handlers.job.max_attempts", 1);
    let daemon = scene.start(&config);
    until("it is up", async || is_well(&daemon).await).await;
    ail();
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..5 {
        steps.push(scene.step_sent().await);
    }
    until("it is impaired", async || is_impaired(&daemon, what).await).await;
    assert!(steps.iter().all(|step| scene.sagemaker.reports(&step.token).is_empty()));
    mend();
    for step in &steps {
        scene.answer(step).await.outputs();
    }
    until("it is well again", async || is_well(&daemon).await).await;
    let mut runs = scene.runs();
    runs.sort();
    let mut wanted: Vec<String> = steps.iter().map(|step| step.attempt(1)).collect();
    wanted.sort();
    assert_eq!(runs, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_absent_for_a_while_costs_no_attempt() {
    let scene = Scene::new("end 0").await;
    let (there, away) = (scene.path("run"), scene.path("gone"));
    let ail = || fs::rename(&there, &away).expect("it is ours");
    passes(&scene, "program", ail, || fs::rename(&away, &there).expect("it is ours")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_being_replaced_costs_no_attempt() {
    let scene = Scene::new("end 0").await;
    let writer = std::cell::RefCell::new(None);
    let ail = || *writer.borrow_mut() = fs::OpenOptions::new().append(true).open(scene.path("run")).ok();
    passes(&scene, "program", ail, || drop(writer.borrow_mut().take())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_for_programs_files_that_cannot_be_used_costs_no_attempt() {
    let scene = Scene::new("end 0").await;
    let work = scene.path("ledger/work");
    let ail = || fs::write(&work, "in the way").expect("it is ours");
    passes(&scene, "io", ail, || fs::remove_file(&work).expect("it is ours")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_program_is_absent_beyond_the_time_limit_fails_and_says_so() {
    let scene = Scene::new("end 0").await;
    let config = scene.config().with("handlers.job.time_limit", "3s");
    let daemon = scene.start(&config);
    until("it is up", async || daemon.is_up()).await;
    fs::set_permissions(scene.path("run"), fs::Permissions::from_mode(0o644)).expect("it is ours");
    let step = scene.step_sent().await;
    let answer = scene.answered_once(&step).await;
    let reason = answer.reason();
    assert!(reason.contains("the time limit of 3s was reached before it could be started: the program"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_run_out_as_a_program_ends_cost_neither_its_outcome_nor_its_checkpoint() {
    let scene = Scene::new(
        "echo rows=42 >> $STEP_OUTPUT; echo > $FOLDER/began; until_there go; echo job-7 > $STEP_CHECKPOINT; exit 0",
    )
    .await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&scene.config());
    until("it has begun", async || scene.path("began").exists()).await;
    let limit = |soft: u32| {
        let set = Command::new("prlimit")
            .args(["--pid", &daemon.pid().to_string(), &format!("--nofile={soft}:20000")])
            .status();
        assert!(set.expect("prlimit is there").success());
    };
    limit(4);
    scene.open("go");
    until("it is noticed", async || daemon.log().contains("Too many open files")).await;
    limit(20_000);
    assert_eq!(scene.answered_once(&step).await.outputs()["rows"], "42");
    assert_eq!(scene.runs(), [step.attempt(1)]);
}
