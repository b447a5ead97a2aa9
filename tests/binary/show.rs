//! One step with its history, and some of many, as `callbackd show` and `steps` tell them.

use serde_json::{Value, json};

use crate::daemon::Config;
use crate::logs::free_port;
use crate::scene::{Scene, Step, until};

fn printed(scene: &Scene, config: &Config, arguments: &[&str]) -> String {
    let output = scene.environment().run(config, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn events(step: &Value) -> Vec<&str> {
    let history = step["history"].as_array().expect("a list");
    history.iter().filter_map(|it| it["event"].as_str()).collect()
}

async fn settled(scene: &Scene, step: &Step) {
    scene.answered_once(step).await;
    scene.settled(step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_step_outlives_its_worker_and_is_told_by_command_and_server() {
    let script = "if [ $STEP_ATTEMPT = 1 ]; then echo 7 > $STEP_CHECKPOINT.new; \
                  mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT; printf 'no\\033[2Jluck' >&2; \
                  exit 75; fi; until_there gate";
    let scene = Scene::new(script).await;
    let config = scene
        .config()
        .with("http.listen", free_port().to_string())
        .with("handlers.job.retry_delay", "1s");
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&config);
    let shown = |arguments: &[&str]| -> Value {
        let text = printed(&scene, &config, &[&["show", &step.token][..], arguments].concat());
        serde_json::from_str(&text).expect("JSON")
    };
    until("it is tried again", async || scene.runs().len() == 2).await;
    let begun = ["claimed", "checkpointed", "attempt_failed", "claimed"];
    until("it is told", async || events(&shown(&["--json"])) == begun).await;
    let (status, body) =
        daemon.status(&format!("/steps/{}", step.token)).await.expect("it answers");
    let served: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &served["history"]), (200, &shown(&["--json"])["history"]));
    assert_eq!(served["history"][0].as_object().map(serde_json::Map::len), Some(2), "{served}");

    daemon.kill();
    let _daemon = scene.start(&config);
    scene.open("gate");
    settled(&scene, &step).await;
    let ended = shown(&["--json"]);
    let told = events(&ended);
    assert_eq!(told[..4], begun);
    assert!(told[4..].starts_with(&["left_behind"]), "{told:?}");
    assert!(told.ends_with(&["concluded", "reported"]), "{told:?}");
    assert_eq!(ended["history"][told.len() - 1]["detail"], "success");

    let text = printed(&scene, &config, &["show", &step.token]);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    for part in ["status        settled", "attempt failed: ", "left behind: ", "reported: success"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let absent = scene.environment().run(&config, &["show", "abcdefghij"]);
    let complaint = String::from_utf8_lossy(&absent.stderr);
    assert_eq!(absent.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("the ledger has no step abcdefghij"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_selected_by_what_is_known_of_them() {
    let scene = Scene::new("echo \"ORDER-$STEP_TOKEN\" > $STEP_KEY").await;
    let config = scene.config().with("handlers.job.settings.deferred", true);
    let (open, done) = (scene.step_sent().await, scene.step_sent().await);
    let _daemon = scene.start(&config);
    for step in [&open, &done] {
        until("it is deferred", async || {
            scene.record(step).is_some_and(|record| record["status"] == "deferred")
        })
        .await;
    }
    printed(&scene, &config, &["complete", &done.token, "--success"]);
    settled(&scene, &done).await;
    let key = format!("ORDER-{}", open.token);
    let mut both = [open.token.clone(), done.token.clone()];
    both.sort();
    for (arguments, expected) in [
        (vec!["--status", "deferred"], vec![&open.token]),
        (vec!["--status", "settled,waiting"], vec![&done.token]),
        (vec!["--key", &key], vec![&open.token]),
        (vec!["--pipeline", "P", "--handler", "job", "--since", "1h"], both.iter().collect()),
        (vec!["--queue", scene.queue.url.as_str(), "--status", "deferred"], vec![&open.token]),
        (vec!["--pipeline", "q"], vec![]),
        (vec!["--handler", "other"], vec![]),
        (vec!["--queue", "other"], vec![]),
        (vec!["--since", "2999-01-01T00:00:00Z"], vec![]),
    ] {
        let text = printed(&scene, &config, &[&["steps", "--json"][..], &arguments].concat());
        let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        let mut tokens: Vec<&str> = rows.iter().filter_map(|row| row["token"].as_str()).collect();
        tokens.sort_unstable();
        assert_eq!(json!(tokens), json!(expected), "{arguments:?}");
    }
    let limited = scene.environment().run(&config, &["steps", "--limit", "1"]);
    assert_eq!(String::from_utf8_lossy(&limited.stdout).lines().count(), 2, "a head and a step");
    assert!(String::from_utf8_lossy(&limited.stderr).contains("1 more"), "{limited:?}");
    for wrong in [["--status", "gone"], ["--since", "lately"], ["--limit", "0"]] {
        let output = scene.environment().run(&config, &[&["steps"][..], &wrong].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {told}");
        assert!(told.contains(wrong[0]), "{told}");
    }
}
