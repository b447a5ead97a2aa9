//! Which handler a message gets: as `callbackd route` tells it, and as the daemon then does.

use std::fs;
use std::process::Output;

use serde_json::Value;
use toml::Table;

use crate::daemon::Config;
use crate::output::printed;
use crate::scene::{Scene, Step};

/// No handler of the queue's own, and two routes.
fn routed(scene: &Scene) -> Config {
    let route = |text: &str| text.parse::<Table>().expect("TOML");
    let routes: Vec<Table> = vec![
        route("pipeline = \"train-*\"\nhandler = \"job\""),
        route("arguments = { task = \"spark\", size = 4 }\nhandler = \"job\""),
    ];
    scene.config().without("queues.0.handler").with("queues.0.routes", routes)
}

fn route(scene: &Scene, config: &Config, step: &Step, more: &[&str]) -> Output {
    fs::write(scene.path("message"), step.executing()).expect("the folder is writable");
    let message = scene.path("message");
    let arguments = ["route", "--message", message.to_str().expect("text")];
    scene.environment().run(config, &[&arguments, more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_route_matches_fails_its_step_with_the_handlers_that_there_are() {
    let scene = Scene::new("").await;
    let step = scene.step_sent_with(serde_json::json!({ "task": "spark", "size": 5 })).await;
    let config = routed(&scene);
    let output = route(&scene, &config, &step, &[]);
    let told = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for says in [
        "routes[0], handler job: the pipeline p does not match \"train-*\"",
        "routes[1], handler job: `arguments.size`: expected 4, found 5\n",
        "none: the step would fail; there are: job",
    ] {
        assert!(told.contains(says), "{told}");
    }
    let _daemon = scene.start(&config);
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("no handler is configured for the pipeline p"), "{reason}");
    assert!(reason.ends_with("the queue's routes lead to: job"), "{reason}");
    assert!(scene.runs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_that_is_told_is_the_one_that_is_taken() {
    let scene = Scene::new("").await;
    let step = scene.step_sent_with(serde_json::json!({ "task": "spark", "size": 4 })).await;
    let config = routed(&scene);
    let output = route(&scene, &config, &step, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["handler"], &json["type"]), (&"job".into(), &"exec".into()));
    assert_eq!(json["routes"][1]["chosen"], true);
    let _daemon = scene.start(&config);
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_route_is_asked_wrongly_is_a_mistake_in_its_usage_or_in_the_configuration() {
    let scene = Scene::new("").await;
    let (step, config) = (scene.step(), scene.config());
    let two = config.clone().beside("https://sqs.us-east-1.amazonaws.com/123456789012/other");
    let wrong = config.clone().with("queues.0.handler", "jobb");
    for (config, more, code, says) in [
        (&two, &[][..], 2, "choose one with --queue"),
        (&two, &["--queue", "third"], 2, "no configured queue is third"),
        (&two, &["--queue", "other"], 0, "of type exec"),
        (&config, &["--queue", &scene.queue.url], 0, "of type exec"),
        (&config, &["--queu"], 2, "--queue"),
        (&wrong, &[], 78, "jobb"),
    ] {
        let output = route(&scene, config, &step, more);
        let told = printed(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {told}");
        assert!(told.contains(says), "{more:?}: {told}");
    }
    let absent = scene.environment().run(&config, &["route", "--message", "/nowhere/message"]);
    assert_eq!(absent.status.code(), Some(2), "{}", printed(&absent));
    assert!(printed(&absent).contains("/nowhere/message"), "{}", printed(&absent));
    fs::write(scene.path("hostile"), "\u{1b}[2J{\"token\":\u{9b}").expect("it is writable");
    let hostile = scene.path("hostile");
    let hostile = ["route", "--message", hostile.to_str().expect("text")];
    let output = scene.environment().run(&config, &hostile);
    let told = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("not accepted") && !told.contains(['\u{1b}', '\u{9b}']), "{told:?}");
}
