//! A handler that kills the daemon, and the steps beside it.

use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Config, Daemon};
use crate::scene::{Scene, Step, until_within};

/// Either kills the daemon, the highest of its ancestors that are callbackd's, or works for a
/// while.
const SCRIPT: &str = r#"
kill_the_daemon() {
    pid=$$; daemon=
    while [ "$pid" -gt 1 ]; do
        pid=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$pid/status)
        if tr '\0' ' ' < /proc/$pid/cmdline | grep -q -- ' run $'; then daemon=$pid; fi
    done
    kill -9 $daemon
}
case $(cat) in
    *'"kind":"killer"'*) sleep 1; kill_the_daemon; until_there never ;;
    *) sleep 3; end 0 ;;
esac
"#;
const NEIGHBOURS: usize = 8;
const ATTEMPTS: usize = 3;
/// How many crashes a killer may share with others before it is put on trial.
const SPARED: usize = 2;

/// Restarts the daemon whenever it has died, until all these steps are answered. Returns how often
/// it died.
async fn keep_up(scene: &Scene, config: &Config, steps: &[Step]) -> (Daemon, usize) {
    let mut daemon = scene.start(config);
    let mut deaths = 0;
    until_within(Duration::from_secs(400), "all steps are answered", async || {
        if daemon.ended().is_some() {
            deaths += 1;
            // Records what the ledger holds meanwhile.
            scene.records();
            daemon = scene.start(config);
        }
        steps.iter().all(|step| scene.sagemaker.accepted(&step.token).is_some())
    })
    .await;
    (daemon, deaths)
}

/// What was logged about the steps that were running when a daemon died.
fn judged(daemon: &Daemon) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_it = |line: &Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("a step was running when this worker last died"))
    };
    lines.filter(of_it).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_kills_the_daemon_fails_its_own_step_and_none_beside_it() {
    let scene = Scene::new(SCRIPT).await;
    let config =
        scene.config().with("queues.0.concurrency", 20).with("handlers.job.max_attempts", 3);
    let mut steps = vec![scene.step_sent_with(serde_json::json!({ "kind": "killer" })).await];
    for _ in 0..NEIGHBOURS {
        steps.push(scene.step_sent_with(serde_json::json!({ "kind": "neighbour" })).await);
    }
    let (daemon, deaths) = keep_up(&scene, &config, &steps).await;
    let (killer, neighbours) = (&steps[0], &steps[1..]);
    for neighbour in neighbours {
        let answer = scene.answered_once(neighbour).await;
        assert!(answer.operation.ends_with("Success"), "{}", answer.body);
    }
    let reason = scene.answered_once(killer).await.reason();
    assert_eq!(
        reason,
        "gave up after 3 attempts: the worker that ran the last one died, and this step was the \
         only possible cause"
    );
    let runs = scene.runs().iter().filter(|run| run.starts_with(&killer.token)).count();
    assert!(
        (ATTEMPTS..=ATTEMPTS + SPARED).contains(&runs) && runs == deaths,
        "{runs} runs, {deaths} deaths"
    );
    let judged = judged(&daemon);
    let charged: Vec<&Value> = judged.iter().filter(|line| line["charged"] == true).collect();
    assert!(
        charged.len() == ATTEMPTS && charged.iter().all(|line| line["token"] == killer.token),
        "{judged:#?}"
    );
    let tried = scene.readings(killer).iter().any(|reading| reading.record["suspicion"] == SPARED);
    assert!(tried, "what is suspected is shown");
    assert!(
        scene.records().iter().all(|record| record["suspicion"].is_null()),
        "and nothing is in the end"
    );
}
