//! What a program writes to its checkpoint is restored at its next attempt, whatever happens in
//! between.

use std::fs;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::scene::{Scene, until};

/// Prints what it found; then does what a test says, in its first attempt.
fn script(first: &str) -> String {
    format!(
        "echo \"$STEP_ATTEMPT [$(cat $STEP_CHECKPOINT)]\" >> $FOLDER/saw\n[ $STEP_ATTEMPT = 1 ] || \
         end 0\n{first}\n\
         echo > $FOLDER/written; until_there never"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_written_just_before_the_daemon_is_killed_is_there_at_the_next_attempt() {
    for write in [
        "echo job-7 > $STEP_CHECKPOINT",
        "echo job-7 > $STEP_CHECKPOINT.new; mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT",
    ] {
        let scene = Scene::new(&script(write)).await;
        let step = scene.step_sent().await;
        let mut daemon = scene.start(&scene.config());
        until("it is written", async || scene.path("written").exists()).await;
        daemon.kill();
        let _next = scene.start(&scene.config());
        scene.answered_once(&step).await;
        assert_eq!(scene.lines("saw"), ["1 []", "2 [job-7]"]);
        assert_eq!(fs::read_dir(scene.path("ledger/work")).expect("it is there").count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_written_while_the_ledger_fails_outlives_a_kill_and_a_shutdown() {
    for how in [Signal::SIGKILL, Signal::SIGTERM] {
        let scene = Scene::new(&script(
            "echo > $FOLDER/began; until_there locked; echo job-7 > $STEP_CHECKPOINT",
        ))
        .await;
        let step = scene.step_sent().await;
        let config = scene.config().with("worker.drain_timeout", "0s");
        let mut daemon = scene.start(&config);
        until("it has begun", async || scene.path("began").exists()).await;
        let lock = Connection::open(scene.ledger()).expect("it opens");
        lock.execute_batch("BEGIN IMMEDIATE").expect("it is free");
        scene.open("locked");
        until("it is written", async || scene.path("written").exists()).await;
        daemon.signal(how);
        until("it has ended", async || daemon.ended().is_some()).await;
        drop(lock);
        let _next = scene.start(&config);
        scene.answered_once(&step).await;
        assert_eq!(scene.lines("saw").last().map(String::as_str), Some("2 [job-7]"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_befalls_the_files_of_a_run_leaves_its_last_checkpoint_as_it_is() {
    for loss in [": > $STEP_CHECKPOINT", "rm -r $(dirname $STEP_CHECKPOINT)"] {
        let scene = Scene::new(&script(&format!(
            "echo job-7 > $STEP_CHECKPOINT; until_there saved; {loss}; sleep 0.3"
        )))
        .await;
        let step = scene.step_sent().await;
        let mut daemon = scene.start(&scene.config());
        let saved = async || {
            scene.record(&step).is_some_and(|record| record["checkpoint"]["file"] == "job-7\n")
        };
        until("it is saved", saved).await;
        scene.open("saved");
        until("it is lost", async || scene.path("written").exists()).await;
        daemon.kill();
        let _next = scene.start(&scene.config());
        scene.answered_once(&step).await;
        assert_eq!(scene.lines("saw"), ["1 []", "2 [job-7]"], "{loss}");
    }
}
