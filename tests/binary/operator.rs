//! The admin socket: what an operator has the daemon do over it, and what a killed daemon leaves.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Config, Daemon};
use crate::operations::exit_code;
use crate::output::printed;
use crate::scene::{Scene, until};

/// A `drain` that has said what it waits for, up to `part`.
fn draining(scene: &Scene, config: &Config, part: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = scene.environment().begin(config, &["drain"]);
    let mut output = BufReader::new(command.stdout.take().expect("it is a pipe"));
    let mut text = String::new();
    while !text.contains(part) {
        let read = output.read_line(&mut text).expect("UTF-8");
        if read == 0 {
            let (text, code) = ended((command, output));
            panic!("it ended with {code:?}: {text}");
        }
    }
    (command, output)
}

/// What the command said in the end, and its exit code.
fn ended((mut command, mut output): (Child, BufReader<ChildStdout>)) -> (String, Option<i32>) {
    let (mut text, mut errors) = (String::new(), String::new());
    output.read_to_string(&mut text).expect("UTF-8");
    command.stderr.take().expect("it is a pipe").read_to_string(&mut errors).expect("UTF-8");
    (text + &errors, command.wait().expect("it ends").code())
}

async fn up(daemon: &Daemon) {
    until("it is up", async || daemon.is_up()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_reloaded_and_drained_by_commands_that_tell_what_came_of_it() {
    let scene = Scene::new("until_there gate; end 0").await;
    let config = scene.config().with("queues.0.poll_wait", "1s");
    let command = |what: &str| -> Output { scene.environment().run(&config, &[what]) };
    for what in ["drain", "reload"] {
        let nobody = command(what);
        assert_eq!(nobody.status.code(), Some(1));
        assert!(printed(&nobody).contains("no daemon listens at"), "{nobody:?}");
    }
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&config);
    until("it runs", async || scene.runs().len() == 1).await;

    let more = config.clone().with("queues.0.concurrency", 6).with("worker.drain_timeout", "99s");
    scene.environment().rewrite(&config, &more.text());
    let reloaded = command("reload");
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    let text = printed(&reloaded);
    assert!(text.contains("changed: queues[0].concurrency"), "{text}");
    assert!(text.contains("at the next start: worker.drain_timeout"), "{text}");

    let wrong = config.clone().with("queues.0.concurrency", 0);
    scene.environment().rewrite(&config, &wrong.text());
    let refused = command("reload");
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(printed(&refused).contains("queues[0].concurrency"), "{refused:?}");

    // Neither a file with mistakes nor a command that is ended keeps the daemon. A shell without
    // job control has what it starts in the background ignore SIGINT.
    let (mut first, output) = draining(&scene, &config, "1 step is unfinished");
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGTERM).expect("it is ours");
    first.wait().expect("it ends");
    drop(output);
    let second = draining(&scene, &config, &format!("{} running", step.token));
    assert!(daemon.ended().is_none(), "the second drain did not cut the first one short");
    let late = command("reload");
    assert_eq!(late.status.code(), Some(1));
    assert!(printed(&late).contains("the daemon drains"), "{late:?}");
    scene.open("gate");
    let (text, code) = ended(second);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the daemon has ended"), "{text}");
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert!(scene.sagemaker.accepted(&step.token).is_some());
    assert!(!scene.path("ledger/admin.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_drains_nothing_and_its_socket_is_the_next_ones() {
    let scene = Scene::new("until_there gate; end 0").await;
    let config = scene.config().with("queues.0.poll_wait", "1s");
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&config);
    until("it runs", async || scene.runs().len() == 1).await;
    let command = draining(&scene, &config, "1 step is unfinished");
    daemon.kill();
    let (text, code) = ended(command);
    assert_eq!(code, Some(1));
    assert!(text.contains("ended before it was drained"), "{text}");
    let nobody = scene.environment().run(&config, &["drain"]);
    assert!(printed(&nobody).contains("was killed"), "{nobody:?}");

    scene.open("gate");
    let mut next = scene.start(&config);
    up(&next).await;
    scene.answered_once(&step).await;
    let drained = scene.environment().run(&config, &["drain"]);
    assert_eq!(drained.status.code(), Some(0), "{drained:?}");
    assert_eq!(exit_code(&mut next).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_for_its_next_attempt_is_tried_again_at_once_and_no_other_is() {
    let scene = Scene::new("[ $STEP_ATTEMPT = 1 ] && end 75; until_there gate; end 0").await;
    let config = scene
        .config()
        .listening()
        .with("queues.0.poll_wait", "1s")
        .with("handlers.job.retry_delay", "10h")
        .with("handlers.job.retry_delay_max", "10h");
    let daemon = scene.start(&config);
    let step = scene.step_sent().await;
    let retry = |token: &str| -> Output { scene.environment().run(&config, &["retry", token]) };
    let waits = async || scene.record(&step).is_some_and(|record| record["status"] == "waiting");
    until("it waits for its next attempt", waits).await;
    let retried = retry(&step.token);
    assert_eq!(retried.status.code(), Some(0), "{retried:?}");
    until("it runs", async || scene.runs().len() == 2).await;
    assert_eq!(scene.runs(), [step.attempt(1), step.attempt(2)]);

    for (token, why) in
        [(step.token.as_str(), "under way already: running"), ("abcdefghij", "has no step")]
    {
        let refused = retry(token);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(printed(&refused).contains(why), "{refused:?}");
    }
    scene.open("gate");
    scene.answered_once(&step).await;
    scene.settled(&step).await;
    assert!(printed(&retry(&step.token)).contains("it is settled"));
    let shown = scene.environment().run(&config, &["show", &step.token]);
    assert!(printed(&shown).contains("retry asked"), "{shown:?}");

    // Its handler is paused by the same name, also for the next daemon.
    let order = |what: &str| scene.environment().run(&config, &[what, "job"]);
    let series = "callbackd_handler_paused{handler=\"job\"}";
    assert!(order("pause").status.success());
    until("it is paused", async || daemon.metric(series).await == Some(1.0)).await;
    let (status, body) = daemon.status("/readyz").await.expect("an answer");
    assert!(status == 200 && body.contains("paused by `callbackd pause`: job"), "{body}");
    let late = scene.step_sent().await;
    drop(daemon);
    let next = scene.start(&config);
    up(&next).await;
    assert_eq!(next.metric(series).await, Some(1.0), "from the first moment");
    for what in ["steps", "check"] {
        let told = printed(&scene.environment().run(&config, &[what]));
        assert!(told.contains("handler job") && told.contains("paused since"), "{told}");
    }
    assert!(order("resume").status.success());
    until("its first attempt has failed", async || scene.runs().contains(&late.attempt(1))).await;
    until("it waits", async || retry(&late.token).status.success()).await;
    scene.answered_once(&late).await;
}
