//! Limits and breakers of handlers, and `callbackd pause` and `resume`, as an operator sees them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Duration;

use toml::Table;

use crate::daemon::{Config, Daemon};
use crate::logs::free_port;
use crate::scene::{Scene, Step, never, until};

fn config(scene: &Scene) -> Config {
    scene.config().listening().with("queues.0.poll_wait", "1s")
}

fn table(text: &str) -> Table {
    text.parse().expect("TOML")
}

/// The name of the scene's queue.
fn name(scene: &Scene) -> String {
    scene.queue.url.rsplit('/').next().expect("a name").to_owned()
}

fn command(scene: &Scene, arguments: &[&str]) -> Output {
    scene.environment().run(&config(scene), arguments)
}

fn obeyed(scene: &Scene, order: &str, queue: &str) {
    let told = command(scene, &[order, queue]);
    assert!(told.status.success(), "{told:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn is_paused(scene: &Scene, daemon: &Daemon, why: &str) -> bool {
    let series = format!("callbackd_queue_paused{{queue=\"{}\",why=\"{why}\"}}", name(scene));
    daemon.metric(&series).await == Some(1.0)
}

async fn ready(daemon: &Daemon) -> Option<(u16, String)> {
    daemon.status("/readyz").await
}

async fn is_ready(daemon: &Daemon) -> bool {
    ready(daemon).await.is_some_and(|(status, _)| status == 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_is_left_alone_across_a_restart_until_it_is_resumed() {
    let scene = Scene::new("end 0").await;
    let mut daemon = scene.start(&config(&scene));
    until("it is up", async || is_ready(&daemon).await).await;
    obeyed(&scene, "pause", &name(&scene));
    until("it is paused", async || is_paused(&scene, &daemon, "order").await).await;
    let (status, body) = ready(&daemon).await.expect("it answers");
    assert!(status == 200 && body.contains("paused by `callbackd pause`"), "{status} {body}");
    let step = scene.step_sent().await;
    let started = async || !scene.runs().is_empty();
    never("a step is started", Duration::from_secs(4), started).await;

    daemon.kill();
    let daemon = scene.start(&config(&scene));
    until("it is up again", async || is_ready(&daemon).await).await;
    assert!(is_paused(&scene, &daemon, "order").await, "from the first moment");
    never("a step is started", Duration::from_secs(4), started).await;

    let folder = scene.path("ledger/orders");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions();
    assert_eq!(mode(&folder).mode() & 0o777, 0o700);
    for entry in fs::read_dir(&folder).expect("it is ours") {
        assert_eq!(mode(&entry.expect("it is ours").path()).mode() & 0o777, 0o600);
    }
    let said = format!("{} is paused since", name(&scene));
    assert!(text(&command(&scene, &["steps"]).stderr).contains(&said));
    let check = command(&scene, &["check"]);
    assert!(text(&check.stdout).contains("is paused since"), "{check:?}");
    assert!(check.status.success(), "it is no mistake: {check:?}");

    obeyed(&scene, "resume", &scene.queue.url);
    scene.answered_once(&step).await.outputs();
    until("it shows", async || !is_paused(&scene, &daemon, "order").await).await;
    assert!(!text(&command(&scene, &["steps"]).stderr).contains("is paused"));
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_queue_is_paused_a_step_goes_on_and_another_ones_stop_is_answered() {
    let scene = Scene::new("until_there go; end 0").await;
    let daemon = scene.start(&config(&scene));
    let (goes_on, stopped) = (scene.step_sent().await, scene.step_sent().await);
    until("both run", async || scene.runs().len() == 2).await;
    obeyed(&scene, "pause", &name(&scene));
    until("it is paused", async || is_paused(&scene, &daemon, "order").await).await;
    scene.stop(&stopped).await;
    assert_eq!(scene.answer(&stopped).await.reason(), "the pipeline was stopped");
    scene.open("go");
    scene.answer(&goes_on).await.outputs();
    obeyed(&scene, "resume", &name(&scene));
    scene.queue_is_empty().await;
    assert_eq!(scene.cleanups(), [stopped.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_keeps_failing_is_left_alone_until_an_order_or_a_success() {
    let scene = Scene::new("[ -e $FOLDER/well ] && end 0; end 75").await;
    let config = config(&scene)
        .with("http.listen", free_port().to_string())
        .with("queues.0.concurrency", 1)
        .with("handlers.job.max_attempts", 3)
        .with("handlers.job.breaker", table("failures = 2\npause = '1h'"));
    let daemon = scene.start(&config);
    daemon.listens_at(config.value("http.listen").as_str().expect("text").parse().expect("it is"));
    until("it is up", async || is_ready(&daemon).await).await;
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..6 {
        steps.push(scene.step_sent().await);
    }
    until("it is left alone", async || is_paused(&scene, &daemon, "breaker").await).await;
    assert_eq!(daemon.metric("callbackd_breaker_open{handler=\"job\"}").await, Some(1.0));
    let (status, body) = ready(&daemon).await.expect("it answers");
    assert!(status == 503 && body.contains("job: its steps failed"), "{status} {body}");
    let told = scene.environment().run(&config, &["steps"]);
    let told = text(&told.stderr);
    assert!(told.contains("the daemon is not ready: breakers: job: its steps failed"), "{told}");
    let runs = scene.runs().len();
    never("more are started", Duration::from_secs(3), async || scene.runs().len() > runs).await;
    assert!(steps.iter().all(|step| scene.sagemaker.reports(&step.token).is_empty()));
    assert_eq!(daemon.complaints(&["ERROR"], "`callbackd resume QUEUE` ends it").len(), 1);

    scene.open("well");
    let resumed = scene.environment().run(&config, &["resume", &name(&scene)]);
    assert!(resumed.status.success(), "{resumed:?}");
    for step in &steps {
        scene.answer(step).await.outputs();
    }
    scene.queue_is_empty().await;
    until("it is ready again", async || is_ready(&daemon).await).await;
    assert_eq!(daemon.sum("callbackd_breaker_open").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_runs_no_more_often_at_once_than_it_may() {
    // A second one would find the directory.
    let scene =
        Scene::new("mkdir $FOLDER/busy || end 9; sleep 0.3; rmdir $FOLDER/busy; end 0").await;
    let config = config(&scene)
        .with("queues.0.concurrency", 4)
        .with("handlers.job.max_running", 1)
        .with("handlers.job.rate", "1000/1m");
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..6 {
        steps.push(scene.step_sent().await);
    }
    let daemon = scene.start(&config);
    for step in &steps {
        scene.answered_once(step).await.outputs();
    }
    assert_eq!(scene.runs().len(), 6);
    until("none waits", async || daemon.sum("callbackd_steps_queued").await == Some(0.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_limits_that_make_no_sense_are_refused_with_a_remedy() {
    let scene = Scene::new("end 0").await;
    let told = command(&scene, &["pause", "no-such-queue"]);
    assert_eq!(told.status.code(), Some(2));
    assert!(text(&told.stderr).contains(&scene.queue.url), "{told:?}");
    let memory = config(&scene).with("ledger.type", "memory").without("ledger.path");
    let told = scene.environment().run(&memory, &["pause", &name(&scene)]);
    assert_eq!(told.status.code(), Some(1));
    assert!(text(&told.stderr).contains("memory"), "{told:?}");
    fs::write(scene.path("ledger/orders"), "in the way").expect("it is ours");
    let told = command(&scene, &["pause", &name(&scene)]);
    assert_eq!(told.status.code(), Some(1));
    assert!(text(&told.stderr).contains("ledger/orders"), "{told:?}");

    let wrong = config(&scene)
        .with("handlers.job.max_running", 0)
        .with("handlers.job.rate", "10 per minute")
        .with("handlers.job.breaker", table("failures = 0\npause = '5m'"));
    let told = scene.environment().run(&wrong, &["check"]);
    assert_eq!(told.status.code(), Some(78));
    let said = text(&told.stderr);
    for part in [
        "handlers.job.max_running",
        "1 to 100000",
        "handlers.job.rate",
        "\"10/1m\"",
        "handlers.job.breaker.failures",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}
