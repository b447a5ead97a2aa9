//! A problem of the machine costs no step an attempt, is shown, and passes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;

use crate::daemon::{Config, Daemon};
use crate::scene::{Scene, Step, never, until};

async fn is_impaired(daemon: &Daemon, what: &str) -> bool {
    let ready = daemon.status("/readyz").await.is_some_and(|(status, _)| status == 200);
    let series = format!("callbackd_impaired{{what=\"{what}\"}}");
    !ready && daemon.metric(&series).await == Some(1.0)
}

async fn is_well(daemon: &Daemon) -> bool {
    let ready = daemon.status("/readyz").await.is_some_and(|(status, _)| status == 200);
    ready && daemon.sum("callbackd_impaired").await == Some(0.0)
}

/// With one attempt for each step.
fn config(scene: &Scene) -> Config {
    scene.config().listening().with("handlers.job.max_attempts", 1)
}

async fn passes(scene: &Scene, what: &str, ail: impl FnOnce(), mend: impl FnOnce()) {
    passes_for(scene, &scene.start(&config(scene)), what, ail, mend).await;
}

/// Steps are sent while the problem exists, and finish after it, with one attempt each.
async fn passes_for(
    scene: &Scene,
    daemon: &Daemon,
    what: &str,
    ail: impl FnOnce(),
    mend: impl FnOnce(),
) {
    until("it is up", async || is_well(daemon).await).await;
    ail();
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..5 {
        steps.push(scene.step_sent().await);
    }
    until("it is impaired", async || is_impaired(daemon, what).await).await;
    assert!(steps.iter().all(|step| scene.sagemaker.reports(&step.token).is_empty()));
    mend();
    for step in &steps {
        scene.answer(step).await.outputs();
    }
    until("it is well again", async || is_well(daemon).await).await;
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

/// A restart in the middle of a deployment, or before a mount.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_starts_though_a_program_is_absent_and_its_steps_wait() {
    let scene = Scene::new("end 0").await;
    let config = scene.config().listening().with("handlers.job.max_attempts", 1);
    fs::rename(scene.path("run"), scene.path("gone")).expect("it is ours");
    for (command, wants) in [("check", 78), ("config", 0)] {
        let told = scene.environment().run(&config, &[command]);
        assert_eq!(told.status.code(), Some(wants), "{command}: {told:?}");
    }
    let step = scene.step_sent().await;
    let daemon = scene.start(&config);
    until("it is impaired", async || is_impaired(&daemon, "program").await).await;
    assert!(daemon.log().contains("there is no executable program"), "{}", daemon.log());
    fs::rename(scene.path("gone"), scene.path("run")).expect("it is ours");
    scene.answer(&step).await.outputs();
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_being_replaced_costs_no_attempt() {
    let scene = Scene::new("end 0").await;
    let writer = std::cell::RefCell::new(None);
    let ail =
        || *writer.borrow_mut() = fs::OpenOptions::new().append(true).open(scene.path("run")).ok();
    passes(&scene, "program", ail, || drop(writer.borrow_mut().take())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_for_programs_files_that_cannot_be_used_costs_no_attempt() {
    let scene = Scene::new("end 0").await;
    let work = scene.path("ledger/work");
    let ail = || fs::write(&work, "in the way").expect("it is ours");
    passes(&scene, "io", ail, || fs::remove_file(&work).expect("it is ours")).await;
}

/// Its `worker.work_dir` is the disk.
async fn daemon_on_its_disk(scene: &Scene) -> Daemon {
    let work = scene.path("work").display().to_string();
    let daemon = scene.start(&config(scene).with("worker.work_dir", work.as_str()));
    until("it is up", async || is_well(&daemon).await).await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_disk_for_programs_files_costs_no_attempt() {
    let full = async {
        let scene = Scene::working_on_a_disk("end 0", "4m").await;
        let daemon = daemon_on_its_disk(&scene).await;
        passes_for(&scene, &daemon, "space", || scene.disk().fill(), || scene.disk().free()).await;
    };
    let read_only = async {
        let scene = Scene::working_on_a_disk("end 0", "4m").await;
        let daemon = daemon_on_its_disk(&scene).await;
        let disk = scene.disk();
        passes_for(&scene, &daemon, "io", || disk.make_read_only(), || disk.make_writable()).await;
    };
    tokio::join!(full, read_only);
}

/// The disk is full while the programs run, and an attempt that fails because of it is not counted,
/// although some space is free again by then: what the other run freed, and what the program itself
/// removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_while_a_program_runs_costs_neither_usual_outputs_nor_an_attempt() {
    let run = "size=$(grep -o 'small\\|large'); echo > $FOLDER/began-$size; until_there go-$size
        file=${STEP_OUTPUT%output}large
        [ $size = large ] && ! head -c 256k /dev/zero > $file && { rm $file; exit 3; }
        echo rows=42 >> $STEP_OUTPUT";
    let scene = Scene::working_on_a_disk(run, "4m").await;
    let daemon = daemon_on_its_disk(&scene).await;
    let sent = |size| scene.step_sent_with(serde_json::json!({ "size": size }));
    let steps = [sent("small").await, sent("large").await];
    until("both run", async || {
        scene.path("began-small").exists() && scene.path("began-large").exists()
    })
    .await;
    scene.disk().fill();
    scene.open("go-small");
    assert_eq!(scene.answer(&steps[0]).await.outputs()["rows"], "42");
    scene.open("go-large");
    until("it is impaired", async || is_impaired(&daemon, "space").await).await;
    scene.disk().free();
    assert_eq!(scene.answered_once(&steps[1]).await.outputs()["rows"], "42");
    assert!(scene.runs().iter().all(|run| run.ends_with(" 1")), "{:?}", scene.runs());
    until("it is well again", async || is_well(&daemon).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fills_the_disk_itself_fails_its_own_step() {
    let scene =
        Scene::working_on_a_disk("cat /dev/zero > ${STEP_OUTPUT%output}all || exit 3", "4m").await;
    let daemon = daemon_on_its_disk(&scene).await;
    let step = scene.step_sent().await;
    let reason = scene.answered_once(&step).await.reason().clone();
    assert!(reason.starts_with("exit status 3"), "{reason}");
    assert_eq!(scene.runs(), [step.attempt(1)]);
    assert!(is_well(&daemon).await);
}

/// A library that refuses a daemon processes and threads while a file exists, and that file.
fn scarce(scene: &Scene) -> (PathBuf, PathBuf) {
    let (library, file) = (scene.path("scarce.so"), scene.path("scarce"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/scarce.c");
    let built = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .status();
    assert!(built.expect("a C compiler, as rustc needs one").success());
    (library, file)
}

fn variables((library, file): &(PathBuf, PathBuf)) -> [(&'static str, &str); 2] {
    [("LD_PRELOAD", library.to_str().expect("text")), ("SCARCE", file.to_str().expect("text"))]
}

async fn is_refused(errno: Errno, what: &str) {
    let scene = Scene::new("end 0").await;
    let scarce = scarce(&scene);
    let daemon = scene.start_in(&config(&scene), &variables(&scarce));
    let file = &scarce.1;
    let ail = || fs::write(file, (errno as i32).to_string()).expect("the folder is writable");
    let mend = || fs::remove_file(file).expect("it is there");
    passes_for(&scene, &daemon, what, ail, mend).await;
    // Idle threads end after a while; the work continues without others. The scene verifies that
    // none panicked.
    ail();
    let answers = async || daemon.status("/healthz").await.is_some_and(|(status, _)| status == 200);
    never("it does not answer", Duration::from_secs(32), async || !answers().await).await;
    mend();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_memory_or_room_for_another_process_costs_no_attempt() {
    tokio::join!(is_refused(Errno::ENOMEM, "memory"), is_refused(Errno::EAGAIN, "processes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_not_given_the_threads_that_it_needs_ends_and_says_so() {
    let scene = Scene::new("").await;
    let scarce = scarce(&scene);
    for given in 0..4 {
        fs::write(&scarce.1, format!("{} {given}", Errno::EAGAIN as i32))
            .expect("the folder is writable");
        let mut daemon = scene.environment().start_in(
            &scene.config(),
            &format!("given-{given}"),
            &variables(&scarce),
        );
        until("it ends", async || daemon.ended().is_some()).await;
        let told = daemon.log();
        assert_eq!(daemon.ended().expect("it has ended").code(), Some(1), "{told}");
        assert!(told.contains("Resource temporarily unavailable"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_leave_the_daemon_the_descriptors_that_it_needs_itself() {
    let scene = Scene::new("until_there gate; end 0").await;
    let mut environment = scene.environment();
    environment.prefix.extend(["prlimit", "--nofile=120:120"].map(str::to_owned));
    let daemon = environment.start(&config(&scene).with("queues.0.concurrency", 60), "daemon");
    until("it is up", async || is_well(&daemon).await).await;
    let mut steps = Vec::new();
    for _ in 0..60 {
        steps.push(scene.step_sent().await);
    }
    until("it is impaired", async || is_impaired(&daemon, "descriptors").await).await;
    let open = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it is alive").count();
    // Each try uses some for a moment. For longer than a visibility timeout, so that messages are
    // kept.
    let lacks = async || {
        daemon.status("/healthz").await.is_none_or(|(status, _)| status != 200) || open() > 120 - 8
    };
    never("it lacks descriptors", Duration::from_secs(12), lacks).await;
    assert_eq!(daemon.sum("callbackd_heartbeats_failed_total").await, Some(0.0));
    scene.open("gate");
    for step in &steps {
        scene.answer(step).await.outputs();
    }
    until("it is well again", async || is_well(&daemon).await).await;
    assert!(scene.runs().iter().all(|run| run.ends_with(" 1")), "{:?}", scene.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_server_answers_though_no_descriptor_is_left() {
    let scene = Scene::new("end 0").await;
    let daemon = scene.start(&config(&scene));
    until("it is up", async || is_well(&daemon).await).await;
    let folder = format!("/proc/{}/fd", daemon.pid());
    let taken = |fd: &u64| fs::symlink_metadata(format!("{folder}/{fd}")).is_ok();
    // New ones must be below the limit, where all are in use.
    let first_free = (0..u64::MAX).find(|fd| !taken(fd)).expect("one");
    let limit = format!("--nofile={first_free}:20000");
    let set = Command::new("prlimit").args(["--pid", &daemon.pid().to_string(), &limit]).status();
    assert!(set.expect("prlimit is there").success());
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(20), daemon.status("/healthz")).await;
        assert_eq!(answer.expect("it answers").map(|(status, _)| status), Some(200));
    }
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
    assert!(
        reason.contains("the time limit of 3s was reached before it could be started: the program"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_run_out_as_a_program_ends_cost_neither_its_outcome_nor_its_checkpoint() {
    let scene = Scene::new(
        "echo rows=42 >> $STEP_OUTPUT; echo > $FOLDER/began; until_there go; echo job-7 > \
         $STEP_CHECKPOINT; exit 0",
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

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_whose_program_is_absent_holds_up_no_other_of_its_queue() {
    let scene = Scene::new("end 0").await;
    scene.script("other", "end 0");
    let settings: toml::Table =
        format!("command = [\"{}\"]", scene.path("other").display()).parse().expect("TOML");
    let other: toml::Table = "type = \"exec\"\nmax_attempts = 1".parse().expect("TOML");
    let routes: toml::Table =
        "routes = [{ arguments = { to = \"other\" }, handler = \"other\" }]".parse().expect("TOML");
    let config = scene
        .config()
        .listening()
        .with("handlers.other", other)
        .with("handlers.other.settings", settings)
        .with("queues.0.concurrency", 2)
        .with("queues.0.routes", routes["routes"].clone());
    let daemon = scene.start(&config);
    until("it is up", async || is_well(&daemon).await).await;
    fs::rename(scene.path("other"), scene.path("gone")).expect("it is ours");
    let mut hindered = Vec::new();
    for _ in 0..3 {
        let step = Step { arguments: serde_json::json!({ "to": "other" }), ..scene.step() };
        scene.queue.send(&step.executing()).await;
        hindered.push(step);
    }
    until("it is impaired", async || is_impaired(&daemon, "program").await).await;
    // This many take minutes if each waits for the other handler's back-off.
    let mut well = Vec::new();
    for _ in 0..20 {
        well.push(scene.step_sent().await);
    }
    for step in &well {
        scene.answer(step).await.outputs();
    }
    assert!(hindered.iter().all(|step| scene.sagemaker.reports(&step.token).is_empty()));
    fs::rename(scene.path("gone"), scene.path("other")).expect("it is ours");
    for step in &hindered {
        scene.answered_once(step).await.outputs();
    }
}
