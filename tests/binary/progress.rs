//! How far steps are, as `callbackd steps`, `/steps`, the log and the metrics tell it.

use serde_json::Value;

use crate::daemon::Config;
use crate::logs::free_port;
use crate::scene::{Scene, until};

/// The address is fixed, so that a command with the same configuration finds the daemon.
fn listening(scene: &Scene) -> Config {
    scene.config().with("http.listen", free_port().to_string())
}

fn printed(scene: &Scene, config: &Config, arguments: &[&str]) -> String {
    let output = scene.environment().run(config, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_by_the_command_the_log_and_a_metric_while_the_daemon_runs() {
    let script = r"printf '0.4 epoch 4 of 10\033[2J' > $STEP_PROGRESS; until_there gate";
    let scene = Scene::new(script).await;
    let step = scene.step_sent().await;
    let config = listening(&scene);
    let mut daemon = scene.start(&config);
    let rows = || -> Value {
        serde_json::from_str(&printed(&scene, &config, &["steps", "--json"])).expect("JSON")
    };
    until("it runs", async || !scene.runs().is_empty()).await;
    until("it is told", async || rows()[0]["progress"]["fraction"] == 0.4).await;
    let row = &rows()[0];
    assert_eq!((&row["token"], &row["status"]), (&step.token.as_str().into(), &"claimed".into()));
    assert!(row["started_at"].is_string() && row["progressed_at"].is_string(), "{row}");

    let table = printed(&scene, &config, &["steps"]);
    assert!(table.contains("running for ") && table.contains(", 40 % epoch 4 of 10"), "{table}");
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let ledger = scene.ledger();
    let of_file = ["steps", "--ledger", ledger.to_str().expect("text")];
    assert!(
        !printed(&scene, &config, &of_file).contains("epoch"),
        "another file is not asked about"
    );

    daemon.listens_at(config.value("http.listen").as_str().expect("text").parse().expect("it is"));
    let queue = scene.queue.url.rsplit('/').next().expect("a name");
    let age = format!("callbackd_progress_age_seconds{{queue=\"{queue}\",handler=\"job\"}}");
    until("it grows", async || daemon.metric(&age).await > Some(0.5)).await;
    let said = daemon.complaints(&["INFO"], "epoch 4 of 10");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["message"], "the step makes progress");

    // Without a daemon the ledger alone is shown.
    daemon.kill();
    let table = printed(&scene, &config, &["steps"]);
    assert!(table.contains(&step.token) && !table.contains("epoch"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_progress_of_a_polled_job_is_read_however_short_its_looks_are() {
    let scene = Scene::new("echo 0.7 > $STEP_PROGRESS; [ -e $FOLDER/gate ] || exit 76").await;
    let step = scene.step_sent().await;
    let config = scene.config().listening().with("handlers.job.settings.poll_interval", "1h");
    let daemon = scene.start(&config);
    until("it is told between two looks", async || {
        let Some(rows) = daemon.steps().await else { return false };
        rows[0]["status"] == "waiting" && rows[0]["progress"]["fraction"] == 0.7
    })
    .await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}
