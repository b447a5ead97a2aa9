//! `SIGHUP`: what a running daemon takes over from its changed configuration file.

use std::time::Duration;

use nix::sys::signal::Signal;
use toml::{Table, Value};

use crate::daemon::{Config, Daemon};
use crate::scene::{Scene, Step, never, until};

const RELOADED: &str = "the configuration is reloaded";
const REFUSED: &str = "the configuration is not reloaded";

/// Reloads this text, and returns what the log then says of it.
async fn reload(scene: &Scene, daemon: &Daemon, config: &Config, text: &str) -> String {
    scene.environment().rewrite(config, text);
    let said = || {
        let line = |part| daemon.complaints(&["INFO", "ERROR"], part);
        [line(RELOADED), line(REFUSED)].concat()
    };
    let before = said();
    daemon.signal(Signal::SIGHUP);
    until("it has reloaded", async || said().len() > before.len()).await;
    let new = said().into_iter().find(|line| !before.contains(line)).expect("a line");
    new.to_string()
}

async fn last_was_good(daemon: &Daemon) -> bool {
    daemon.metric("callbackd_config_last_reload_successful").await == Some(1.0)
}

fn routed_to(handler: &str) -> Value {
    let route: Table = format!("pipeline = 'p'\nhandler = '{handler}'").parse().expect("TOML");
    Value::Array(vec![route.into()])
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_limits_routes_and_the_logs_level_are_taken_over_while_steps_run() {
    let scene = Scene::new("until_there gate; end 0").await;
    let config = scene.config();
    let settings = config.value("handlers.job.settings");
    let other: Table = "type = 'exec'".parse().expect("TOML");
    let config = config
        .listening()
        .with("handlers.other", other)
        .with("handlers.other.settings", settings)
        .with("queues.0.concurrency", 1)
        .with("queues.0.poll_wait", "1s");
    let daemon = scene.start(&config);
    let mut steps: Vec<Step> = vec![scene.step_sent().await, scene.step_sent().await];
    until("one runs", async || scene.runs().len() == 1).await;
    assert!(last_was_good(&daemon).await);

    let more = config.clone().with("queues.0.concurrency", 6);
    let said = reload(&scene, &daemon, &config, &more.text()).await;
    assert!(said.contains("queues[0].concurrency"), "{said}");
    until("both run", async || scene.runs().len() == 2).await;

    // What runs is not counted by its handler's first limit, so this bounds the two that come.
    let limited = more.with("handlers.job.max_running", 1);
    reload(&scene, &daemon, &config, &limited.text()).await;
    steps.push(scene.step_sent().await);
    until("a third runs", async || scene.runs().len() == 3).await;
    steps.push(scene.step_sent().await);
    let runs = async || scene.runs().len();
    never("a fourth runs", Duration::from_secs(3), async || runs().await > 3).await;
    let limited = limited.with("handlers.job.max_running", 2);
    reload(&scene, &daemon, &config, &limited.text()).await;
    until("a fourth runs", async || runs().await == 4).await;

    let new: Table = "type = 'exec'\nsettings = { command = ['/bin/true'] }".parse().expect("TOML");
    let routed = limited
        .with("log.level", "debug")
        .with("queues.0.routes", routed_to("other"))
        .with("handlers.new", new)
        .with("worker.drain_timeout", "7s");
    let said = reload(&scene, &daemon, &config, &routed.text()).await;
    assert!(said.contains("log.level") && said.contains("queues[0].routes"), "{said}");
    let waits = daemon.complaints(&["WARN"], "take effect at the next start");
    let waits = waits.last().expect("a line").to_string();
    assert!(waits.contains("handlers.new") && waits.contains("worker.drain_timeout"), "{waits}");
    let elsewhere = scene.step_sent().await;
    until("the other handler has it", async || {
        scene.record(&elsewhere).is_some_and(|record| record["handler"] == "other")
    })
    .await;
    steps.push(elsewhere);

    let fewer = routed.with("queues.0.concurrency", 1);
    reload(&scene, &daemon, &config, &fewer.text()).await;
    until("what runs beyond the slots runs on", async || runs().await == 5).await;
    scene.open("gate");
    for step in &steps {
        scene.answered_once(step).await;
    }
    assert_eq!(runs().await, steps.len());
    until("debug lines are written", async || daemon.log().contains("\"level\":\"DEBUG\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_mistakes_is_refused_and_the_old_one_stays_in_force() {
    let scene = Scene::new("until_there gate; end 0").await;
    let config = scene.config().listening();
    let daemon = scene.start(&config);
    let step = scene.step_sent().await;
    until("it runs", async || scene.runs().len() == 1).await;
    for (text, mistake) in [
        ("[[queues", "TOML"),
        ("", "queues"),
        (&config.clone().with("queues.0.concurrency", 0).text(), "queues[0].concurrency"),
        (&config.clone().with("queues.0.routes", routed_to("nobody")).text(), "nobody"),
        (&config.clone().with("log.level", "loud").text(), "log.level"),
    ] {
        let said = reload(&scene, &daemon, &config, text).await;
        assert!(said.contains(REFUSED) && said.contains(mistake), "{mistake}: {said}");
        assert!(!last_was_good(&daemon).await);
    }
    let same = reload(&scene, &daemon, &config, &config.text()).await;
    assert!(same.contains(RELOADED), "{same}");
    until("that is counted", async || last_was_good(&daemon).await).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}
