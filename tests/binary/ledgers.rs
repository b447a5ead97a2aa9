//! A ledger that fails while the daemon runs, and one that is damaged.

use std::fs;
#[cfg(debug_assertions)]
use std::os::unix::process::ExitStatusExt;

use rusqlite::Connection;

use crate::daemon::Config;
use crate::history::judge;
use crate::sagemaker::{Fault, LIST};
use crate::scene::{Scene, until};

async fn readiness(daemon: &crate::daemon::Daemon) -> u16 {
    daemon.status("/readyz").await.map_or(0, |(status, _)| status)
}

/// Programs have their files on another disk: what they free at their end would be space for the
/// ledger.
fn beside_a_full_disk(scene: &Scene) -> Config {
    scene.config().with("worker.work_dir", scene.path("work").to_str().expect("UTF-8"))
}

const WAITS: &str = "until_there gate; end 0";

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_nothing_is_reported_or_taken_until_there_is_space() {
    let scene = Scene::on_a_disk(WAITS, "1m").await;
    let first = scene.step_sent().await;
    let daemon = scene.start(&beside_a_full_disk(&scene).listening());
    until("it runs", async || scene.runs().len() == 1).await;
    scene.disk().fill();
    scene.open("gate");
    until("it is said not to be ready", async || readiness(&daemon).await == 503).await;
    let second = scene.step_sent().await;
    until("the ledger was tried again", async || {
        daemon.log().matches("the ledger did not accept").count() >= 2
    })
    .await;
    assert!(scene.sagemaker.reports(&first.token).is_empty(), "what is not frozen is not sent");
    assert_eq!(scene.runs(), [first.attempt(1)], "no new step is taken");
    scene.disk().free();
    for step in [&first, &second] {
        scene.answered_once(step).await;
        scene.settled(step).await;
    }
    until("it is said to be ready", async || readiness(&daemon).await == 200).await;
    assert_eq!(scene.runs(), [first.attempt(1), second.attempt(1)]);
    judge(&scene, &[first, second]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_tries_a_failing_ledger_the_daemon_breaks_no_promise() {
    for place in ["before probe", "after probe"] {
        let scene = Scene::on_a_disk(WAITS, "1m").await;
        let step = scene.step_sent().await;
        let mut daemon =
            scene.start_in(&beside_a_full_disk(&scene), &[(callbackd::crash::VARIABLE, place)]);
        until("it runs", async || scene.runs().len() == 1).await;
        scene.disk().fill();
        scene.open("gate");
        until("it is killed", async || daemon.ended().is_some()).await;
        assert_eq!(
            daemon.ended().expect("it ended").signal(),
            Some(nix::sys::signal::Signal::SIGKILL as i32),
            "{place}"
        );
        assert!(scene.sagemaker.reports(&step.token).is_empty(), "what is not frozen is not sent");
        scene.disk().free();
        let _successor = scene.start(&scene.config());
        scene.answered_once(&step).await;
        scene.settled(&step).await;
        judge(&scene, &[step]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_or_read_only_disk_the_daemon_does_not_begin_and_says_why() {
    let scene = Scene::on_a_disk(WAITS, "1m").await;
    scene.step_sent().await;
    let config = scene.config();
    let refused = |remedy: &str| {
        let output = scene.environment().run(&config, &["run"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("ledger.db") && told.contains(remedy), "{told}");
    };
    scene.disk().fill();
    refused("free some space");
    scene.disk().free();
    scene.disk().make_read_only();
    refused("make its file system writable");
    assert_eq!(scene.queue.visible().await, 1, "nothing was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_torn_is_refused_and_nothing_is_run_on_it() {
    let scene = Scene::new("end 0").await;
    let config = scene.config();
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let mut daemon = scene.start(&config);
    for step in &steps {
        scene.settled(step).await;
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    until("it ends", async || daemon.ended().is_some()).await;
    let path = scene.ledger();
    let whole = fs::read(&path).expect("the ledger");
    scene.step_sent().await;
    let mut torn = whole.clone();
    torn[4096..6144].fill(0xA5);
    for (what, bytes) in [
        ("truncated", &whole[..whole.len() - 1]),
        ("torn", &torn),
        ("overwritten", b"no ledger at all"),
    ] {
        fs::write(&path, bytes).expect("the folder is writable");
        for command in ["run", "steps"] {
            let output = scene.environment().run(&config, &[command]);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{what}: {told}");
            assert!(told.contains("ledger.db") && told.contains("damaged"), "{what}: {told}");
            assert!(output.stdout.is_empty(), "{what}: half of it was read");
        }
    }
    assert_eq!(scene.queue.visible().await, 1, "nothing was taken");
    fs::write(&path, whole).expect("the folder is writable");
    let _daemon = scene.start(&config);
    scene.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_ledger_moved_away_the_daemon_is_not_ready_and_takes_nothing_until_it_is_back() {
    let scene = Scene::new("end 0").await;
    let first = scene.step_sent().await;
    let daemon = scene.start(&scene.config().listening());
    scene.answered_once(&first).await;
    let away = scene.path("ledger/away.db");
    fs::rename(scene.ledger(), &away).expect("it is there");
    until("it is said not to be ready", async || readiness(&daemon).await == 503).await;
    until("a metric says so", async || {
        daemon.metric("callbackd_ledger_failing").await == Some(1.0)
    })
    .await;
    let said = daemon.complaints(&["ERROR"], "moved, removed or replaced");
    assert_eq!(said.len(), 1, "{said:?}");
    fs::rename(&away, scene.ledger()).expect("it is there");
    let second = scene.step_sent().await;
    scene.answered_once(&second).await;
    until("it is said to be ready", async || readiness(&daemon).await == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_process_holds_the_write_lock_runs_are_told_of_stops_and_limits() {
    let run = "trap 'echo $STEP_TOKEN >> $FOLDER/told; exit 143' TERM; echo >> $FOLDER/ready; \
               sleep 300 & wait";
    let scene = Scene::new(run).await;
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let _daemon = scene.start(&scene.config().with("handlers.job.time_limit", "40s"));
    until("both run", async || scene.lines("ready").len() == 2).await;
    let other = Connection::open(scene.ledger()).expect("a ledger");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock is free at times");
    scene.stop(&steps[0]).await;
    until("the stop is told", async || !scene.lines("told").is_empty()).await;
    assert_eq!(scene.lines("told"), [steps[0].token.as_str()]);
    until("the time limit is told", async || scene.lines("told").len() == 2).await;
    assert!(scene.sagemaker.reports(&steps[0].token).is_empty(), "what is not frozen is not sent");
    other.execute_batch("ROLLBACK").expect("it is held");
    for (step, reason) in steps.iter().zip(["the pipeline was stopped", "time limit of 40s"]) {
        let told = scene.answer(step).await.reason();
        assert!(told.contains(reason), "{told}");
    }
    scene.queue_is_empty().await;
    let mut cleanups = [steps[0].cleaned("pipeline_stopped"), steps[1].cleaned("time_limit")];
    cleanups.sort();
    let mut seen = scene.cleanups();
    seen.sort();
    assert_eq!(seen, cleanups);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_costs_its_own_step_alone() {
    let scene = Scene::new("[ -e $FOLDER/gate ] || exit 76\nend 0").await;
    let config = scene.config().with("handlers.job.settings.poll_interval", "1s");
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let mut daemon = scene.start(&config);
    until("both wait", async || {
        let waiting = scene.records().iter().filter(|record| record["status"] == "waiting").count();
        waiting == 2
    })
    .await;
    daemon.kill();
    let ledger = Connection::open(scene.ledger()).expect("a ledger");
    let damaged = &steps[0].token;
    let changed =
        ledger.execute("UPDATE steps SET body = substr(body, 1, 9) WHERE token = ?1", [damaged]);
    assert_eq!(changed.expect("a table of steps"), 1);
    drop(ledger);
    scene.open("gate");
    let runs = scene.runs();
    let next = scene.start(&config);
    scene.answer(&steps[1]).await;
    let fresh = scene.step_sent().await;
    scene.answer(&fresh).await;
    scene.settled(&fresh).await;
    until("it is said", async || !next.complaints(&["ERROR"], damaged).is_empty()).await;
    let output = scene.environment().run(&config, &["steps"]);
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for step in steps.iter().chain([&fresh]) {
        assert!(told.contains(&step.token), "{} is not shown: {told}", step.token);
    }
    let again = scene.runs().iter().skip(runs.len()).filter(|run| run.starts_with(damaged)).count();
    assert_eq!(again, 0, "nobody knows where it stands");
    assert!(scene.sagemaker.reports(damaged).is_empty());
    until("its message alone is kept", async || scene.queue.size().await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_beside_the_daemon_is_sound_and_a_worker_goes_on_with_it() {
    let scene = Scene::new("[ -e $FOLDER/gate ] || exit 75\nend 0").await;
    let config = scene.config().with("handlers.job.retry_delay", "1s");
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&config);
    until("it runs", async || scene.record(&step).is_some()).await;
    let copy = scene.path("copy.db").display().to_string();
    let run = |arguments: &[&str]| {
        let output = scene.environment().run(&config, arguments);
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&told).into_owned())
    };
    let (code, told) = run(&["ledger", "backup", &copy]);
    assert!(code == Some(0) && told.contains("1 records"), "{told}");
    let (code, told) = run(&["ledger", "backup", &copy]);
    let refused = told.contains("is not overwritten") && told.contains("[CBD526]");
    assert!(code == Some(1) && refused, "{told}");
    for arguments in [&["ledger", "verify"][..], &["ledger", "verify", &copy]] {
        let (code, told) = run(arguments);
        assert!(code == Some(0) && told.contains("nothing is wrong"), "{told}");
    }

    daemon.kill();
    for suffix in ["", "-wal", "-shm"] {
        // A log may be absent.
        let _ = fs::remove_file(scene.path(&format!("ledger/ledger.db{suffix}")));
    }
    fs::rename(&copy, scene.ledger()).expect("it is ours");
    scene.open("gate");
    let (code, told) = run(&["run"]);
    assert!(code == Some(1) && told.contains("CBD525"), "{told}");
    let (_, told) = run(&["check"]);
    assert!(told.contains("run `callbackd ledger accept`"), "{told}");
    scene.sagemaker.always(LIST, Fault::Answer(400, "AccessDeniedException"));
    let (code, told) = run(&["ledger", "accept"]);
    assert!(code == Some(1) && told.contains("not accepted"), "{told}");
    scene.sagemaker.heal();
    let (code, told) = run(&["ledger", "accept"]);
    assert!(code == Some(0) && told.contains("waits: the worker goes on with it"), "{told}");
    let (code, told) = run(&["ledger", "accept"]);
    assert!(code == Some(0) && told.contains("is no older copy"), "{told}");
    let _daemon = scene.start(&config);
    scene.answered_once(&step).await;
    let ledger = Connection::open(scene.ledger()).expect("a ledger");
    let spoil = "UPDATE steps SET body = '{}' WHERE token = ?1";
    until("it is spoilt", async || ledger.execute(spoil, [&step.token]) == Ok(1)).await;
    let (code, told) = run(&["ledger", "forget", &step.token]);
    assert!(code == Some(1) && told.contains("differs from what was written"), "{told}");
    let (code, told) = run(&["ledger", "verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, report["problems"][0]["token"].as_str()), (Some(1), Some(&*step.token)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_forgotten_beside_the_daemon_only_if_sagemaker_does_not_wait_for_it() {
    let scene = Scene::new("end 0").await;
    let config = scene.config().with("handlers.job.settings.deferred", true);
    let step = scene.step_sent().await;
    let daemon = scene.start(&config.clone().listening());
    let deferred = async || daemon.sum("callbackd_steps_deferred").await;
    until("it is deferred", async || deferred().await == Some(1.0)).await;
    let forget = |token: &str| {
        let output = scene.environment().run(&config, &["ledger", "forget", token]);
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&told).into_owned())
    };
    let refused = |wants: &str| {
        let (code, told) = forget(&step.token);
        assert!(code == Some(1) && told.contains(wants), "{told}");
    };
    refused("answer it with `callbackd complete`");
    scene.sagemaker.hide(&step.arn);
    refused("its execution goes on");
    scene.sagemaker.always(LIST, Fault::Answer(400, "AccessDeniedException"));
    refused("CBD018");
    scene.sagemaker.heal();
    scene.sagemaker.close(&step.arn, "Failed");
    let (code, told) = forget(&step.token);
    assert!(code == Some(0) && told.contains("its execution has ended (failed)"), "{told}");
    let (code, told) = forget(&step.token);
    assert!(code == Some(0) && told.contains("is settled"), "{told}");
    let (code, told) = forget("nosuchstep");
    assert!(code == Some(1) && told.contains("has no step"), "{told}");
    until("the daemon lets go of it", async || deferred().await == Some(0.0)).await;
    let shown = scene.environment().run(&config, &["show", "--json", &step.token]).stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    let last = shown["history"].as_array().and_then(|events| events.last()).expect("a history");
    assert_eq!(last["event"], "forgotten");
    assert!(last["detail"].as_str().is_some_and(|by| by.contains(" on ")), "{last}");
    assert!(scene.sagemaker.reports(&step.token).is_empty(), "nothing is reported");
}
