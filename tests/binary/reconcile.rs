//! `callbackd reconcile`: steps that wait, and that nothing accounts for.

use std::process::Output;

use serde_json::{Value, json};

use crate::daemon::{Config, Daemon};
use crate::output::printed;
use crate::sagemaker::{FAILURE, LIST, LIST_EXECUTIONS};
use crate::scene::{Scene, Step, random_token, until};

/// Runs until the test opens the gate.
const GATED: &str = "until_there gate; echo done=1 >> $STEP_OUTPUT";

fn reconcile(scene: &Scene, config: &Config, arguments: &[&str]) -> Output {
    let all: Vec<&str> =
        ["reconcile", "--pipeline", "p"].iter().chain(arguments).copied().collect();
    scene.environment().run(config, &all)
}

/// What `--json` says of each waiting step.
pub fn findings(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(output)))
}

pub fn finding<'a>(findings: &'a [Value], step: &Step) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["token"] == step.token.as_str())
        .unwrap_or_else(|| panic!("{} is not among {findings:?}", step.token))
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", printed(output)))
}

/// A daemon that has made its ledger.
async fn started(scene: &Scene, config: &Config) -> Daemon {
    let daemon = scene.start(config);
    until("the daemon is up", async || daemon.is_up()).await;
    daemon
}

/// The ledger is there, and no worker.
async fn begun(scene: &Scene) {
    started(scene, &scene.config()).await.kill();
}

/// A step that waits without a message.
pub fn lost(scene: &Scene) -> Step {
    let step = scene.step();
    scene.sagemaker.has_waited(&step.arn, 3);
    step
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_message_was_purged_is_lost_beside_one_that_runs_and_is_answered_once() {
    let scene = Scene::new(GATED).await;
    let config = scene.config();
    let purged = scene.step_sent().await;
    scene.queue.purge().await;
    let _daemon = started(&scene, &config).await;
    let held = scene.step_sent().await;
    until("it runs", async || !scene.runs().is_empty()).await;
    for step in [&purged, &held] {
        scene.sagemaker.has_waited(&step.arn, 3);
    }
    // One execution to a page.
    scene.sagemaker.page_size(1);

    let output = reconcile(&scene, &config, &[]);
    let table = printed(&output);
    assert_eq!(code(&output), 1, "{table}");
    let line = table.lines().find(|line| line.starts_with(&purged.token)).expect("its line");
    assert!(line.contains(" lost ") && line.contains("3h0m") && line.contains("--fail-lost"));
    assert!(!table.contains(&held.token), "{table}");
    assert!(table.contains("2 callback step(s) wait: 1 held, 1 lost"), "{table}");
    assert_eq!(scene.sagemaker.requests(LIST_EXECUTIONS).len(), 2);
    assert_eq!(scene.sagemaker.reports(&purged.token).len(), 0, "nobody asked for that");

    let output = reconcile(&scene, &config, &["--json"]);
    let found = findings(&output);
    assert_eq!((code(&output), found.len()), (1, 2));
    let known = finding(&found, &purged);
    let since = known["waiting_since"].as_str().expect("a time").to_owned();
    let detail = known["detail"].as_str().expect("a text").to_owned();
    let whole = json!({
        "token": purged.token, "verdict": "lost", "detail": detail, "pipeline": "p",
        "execution": purged.arn, "step": "s", "status": "Executing", "queue": scene.queue.url,
        "waiting_since": since, "action": null, "action_detail": null,
    });
    assert_eq!(known, &whole);
    assert_eq!(finding(&found, &held)["verdict"], "held");

    let output = reconcile(&scene, &config, &["--fail-lost"]);
    assert_eq!(code(&output), 0, "{}", printed(&output));
    assert!(printed(&output).contains(&format!("{} failed", purged.token)), "{}", printed(&output));
    let answer = scene.sagemaker.accepted(&purged.token).expect("an answer");
    let reason = answer.reason();
    assert!(reason.contains("lost") && reason.contains("It has waited since"), "{reason}");
    let request = answer.json()["ClientRequestToken"].as_str().expect("a token").to_owned();
    assert!(request.len() == 64 && request.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(scene.sagemaker.accepted(&held.token).map(|answer| answer.body), None);

    let output = reconcile(&scene, &config, &["--fail-lost", "--json"]);
    assert_eq!(code(&output), 0, "{}", printed(&output));
    assert_eq!(findings(&output).len(), 1, "what is answered waits no more");
    assert_eq!(scene.sagemaker.reports(&purged.token).len(), 1);
    scene.open("gate");
    scene.answered_once(&held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_the_dead_letter_queue_is_brought_back_only_for_its_step_and_answered() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    let _daemon = started(&scene, &config).await;
    let dead = scene.queue.redrive(5).await;
    let (step, other) = (lost(&scene), lost(&scene));
    let answered = lost(&scene);
    scene.sagemaker.close(&answered.arn, "Succeeded");
    let forged = json!({ "token": other.token, "pipelineExecutionArn": step.arn, "arguments": {} });
    for body in [&step.executing(), &answered.executing(), &forged.to_string(), "\u{202e}{\n"] {
        dead.send(body).await;
    }

    let output = reconcile(&scene, &config, &["--json"]);
    let found = findings(&output);
    assert_eq!((code(&output), found.len()), (1, 2));
    assert_eq!(finding(&found, &step)["verdict"], "dead_letter");
    assert_eq!(finding(&found, &other)["verdict"], "lost", "a message of another execution");
    assert_eq!((dead.visible().await, dead.invisible().await), (4, 0), "all are given back");

    // A copy that cannot be sent leaves the message where it is.
    scene.to_sqs.refuse("sendmessage");
    let output = reconcile(&scene, &config, &["--redrive", "--json"]);
    assert_eq!(finding(&findings(&output), &step)["action"], "left");
    assert_eq!((code(&output), dead.visible().await), (1, 4));
    scene.to_sqs.heal();

    let output = reconcile(&scene, &config, &["--redrive"]);
    assert!(printed(&output).contains(&format!("{} redriven", step.token)), "{}", printed(&output));
    assert_eq!(code(&output), 1, "the other one is still lost");
    assert_eq!((dead.visible().await, dead.invisible().await), (3, 0));
    scene.answered_once(&step).await;
    scene.settled(&step).await;
    assert_eq!(scene.runs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_on_the_queue_before_its_message_leaves_the_dead_letter_queue() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    begun(&scene).await;
    let dead = scene.queue.redrive(5).await;
    let step = lost(&scene);
    dead.send(&step.executing()).await;
    // A search that fails proves nothing, whatever the user knows of the queue.
    scene.to_sqs.refuse("receivemessage");
    let arguments = ["--fail-lost", "--assume-not-queued", "--json"];
    let output = reconcile(&scene, &config, &arguments);
    let found = findings(&output);
    assert_eq!(finding(&found, &step)["verdict"], "unclear", "{}", printed(&output));
    assert_eq!((code(&output), scene.sagemaker.requests(FAILURE).len()), (1, 0));
    scene.to_sqs.heal();

    scene.to_sqs.refuse("deletemessagebatch");
    let output = reconcile(&scene, &config, &["--redrive", "--json"]);
    let found = findings(&output);
    let detail = finding(&found, &step)["action_detail"].as_str().unwrap_or_default();
    assert!(detail.contains("could not be deleted"), "{}", printed(&output));
    assert_eq!((scene.queue.size().await, dead.size().await), (1, 1));
    scene.to_sqs.heal();
    let _daemon = scene.start(&config);
    scene.answered_once(&step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ends_between_the_look_and_the_failure_is_left_as_it_ended() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    begun(&scene).await;
    // After the list that finds it, and after the question right before the failure.
    for (lists, reports) in [(1, 0), (2, 1)] {
        let step = lost(&scene);
        scene.sagemaker.close_after(&step.arn, lists, "Succeeded");
        let output = reconcile(&scene, &config, &["--fail-lost", "--json"]);
        let found = findings(&output);
        assert_eq!(finding(&found, &step)["action"], "ended", "{lists}: {}", printed(&output));
        assert_eq!(code(&output), 0, "{}", printed(&output));
        assert_eq!(scene.sagemaker.reports(&step.token).len(), reports);
        assert_eq!(scene.sagemaker.accepted(&step.token).map(|answer| answer.body), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_a_worker_takes_between_the_look_and_the_failure_is_the_workers() {
    let scene = Scene::new(GATED).await;
    let config = scene.config();
    let _daemon = started(&scene, &config).await;
    let step = lost(&scene);
    // The ledger is read before the queue is looked at.
    scene.to_sqs.hold("getqueueattributes");
    let environment = scene.environment();
    let reconciling = tokio::task::spawn_blocking(move || {
        let arguments =
            ["reconcile", "--pipeline", "p", "--fail-lost", "--assume-not-queued", "--json"];
        environment.run(&config, &arguments)
    });
    until("the queue is looked at", async || scene.to_sqs.seen("getqueueattributes") > 0).await;
    scene.queue.send(&step.executing()).await;
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.to_sqs.let_go("getqueueattributes");
    let output = reconciling.await.expect("it ends");
    assert_eq!(finding(&findings(&output), &step)["action"], "held", "{}", printed(&output));
    assert_eq!(code(&output), 0);
    assert_eq!(scene.sagemaker.requests(FAILURE).len(), 0);
    scene.open("gate");
    assert_eq!(scene.answered_once(&step).await.outputs()["done"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_message_may_be_on_the_queue_is_failed_only_on_the_users_word() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    begun(&scene).await;
    let step = lost(&scene);
    scene.queue.send("anyone's").await;
    let output = reconcile(&scene, &config, &["--fail-lost", "--json"]);
    let found = findings(&output);
    assert_eq!(finding(&found, &step)["verdict"], "unclear", "{}", printed(&output));
    assert_eq!(finding(&found, &step)["action"], Value::Null);
    assert_eq!((code(&output), scene.sagemaker.requests(FAILURE).len()), (1, 0));
    let output = reconcile(&scene, &config, &["--fail-lost", "--assume-not-queued"]);
    assert_eq!(code(&output), 0, "{}", printed(&output));
    scene.sagemaker.accepted(&step.token).expect("an answer");
    assert_eq!(scene.queue.size().await, 1, "no message of the queue is touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_began_to_wait_recently_is_not_called_lost() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    begun(&scene).await;
    let (young, old) = (scene.step(), lost(&scene));
    let arguments = ["--fail-lost", "--older-than", "2h", "--json"];
    let output = reconcile(&scene, &config, &arguments);
    let found = findings(&output);
    assert_eq!(finding(&found, &young)["verdict"], "recent");
    assert_eq!(finding(&found, &old)["action"], "failed");
    assert_eq!((code(&output), scene.sagemaker.reports(&young.token).len()), (0, 0));
    // However little the user asks for.
    let output = reconcile(&scene, &config, &["--fail-lost", "--older-than", "0s"]);
    assert_eq!((code(&output), scene.sagemaker.reports(&young.token).len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_step_that_waits_is_a_finding_of_its_own() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    let mut daemon = started(&scene, &config).await;
    let step = scene.step_sent().await;
    scene.answered_once(&step).await;
    scene.settled(&step).await;
    daemon.kill();
    scene.sagemaker.reopen(&step.arn);
    scene.sagemaker.has_waited(&step.arn, 3);
    let output = reconcile(&scene, &config, &["--fail-lost", "--json"]);
    let found = findings(&output);
    assert_eq!(finding(&found, &step)["verdict"], "settled", "{}", printed(&output));
    assert_eq!((code(&output), scene.sagemaker.requests(FAILURE).len()), (1, 0));
    // It was answered while SageMaker was asked.
    scene.sagemaker.close_after(&step.arn, 1, "Succeeded");
    let output = reconcile(&scene, &config, &["--json"]);
    assert_eq!((code(&output), findings(&output).len()), (0, 0), "{}", printed(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_ledger_proves_nothing_no_step_is_called_lost_and_none_is_failed() {
    let scene = Scene::new("exit 0").await;
    begun(&scene).await;
    let step = lost(&scene);
    let memory = scene.config().without("ledger.path").with("ledger.type", "memory");
    let shared = scene.config().with("queues.0.exclusive", false);
    for (config, says) in [(memory, "memory"), (shared, "exclusive = false")] {
        let output = reconcile(&scene, &config, &["--fail-lost"]);
        assert_eq!(code(&output), 1, "{}", printed(&output));
        assert!(printed(&output).contains(says), "{}", printed(&output));
        assert_eq!(scene.sagemaker.requests(LIST).len(), 0, "it is refused before any call");
    }
    let shared = scene.config().with("queues.0.exclusive", false);
    let output = reconcile(&scene, &shared, &["--json"]);
    assert_eq!(finding(&findings(&output), &step)["verdict"], "unknown");
    assert_eq!((code(&output), scene.sagemaker.requests(FAILURE).len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_said_with_what_to_do() {
    let scene = Scene::new("exit 0").await;
    let config = scene.config();
    let run = |arguments: &[&str]| {
        let all: Vec<&str> = ["reconcile"].iter().chain(arguments).copied().collect();
        scene.environment().run(&config, &all)
    };
    // Without a ledger nothing is known, and nothing is asked.
    let output = run(&["--pipeline", "p"]);
    assert_eq!(code(&output), 1, "{}", printed(&output));
    assert!(printed(&output).contains("ledger.path"), "{}", printed(&output));
    begun(&scene).await;
    let step = scene.step();
    for (arguments, status, says) in [
        (&["--pipeline", "wrong"][..], 1, "no pipeline wrong in us-east-1"),
        (&["--pipeline", "arn:aws:sagemaker:eu-west-1:123456789012:pipeline/p"], 1, "account"),
        (&["--pipeline", "p", "--queue", "x"], 1, "no queue \"x\" is configured; there are: "),
        (&[], 2, "--pipeline"),
        (&["--pipeline", "p\u{1b}[2J"], 2, "letters, digits and hyphens"),
        (&["--pipeline", "p", "--assume-not-queued"], 2, "--fail-lost"),
        (&["--pipeline", "p", "--older-than", "90"], 2, "\"90s\""),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), status, "{arguments:?}: {}", printed(&output));
        assert!(printed(&output).contains(says), "{arguments:?}: {}", printed(&output));
    }
    // By ARN, twice, and in another letter case: it is asked about once.
    let arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p";
    let output = run(&["--pipeline", "P", "p", arn, "--json"]);
    assert_eq!((code(&output), findings(&output).len()), (0, 1), "{}", printed(&output));
    assert_eq!(finding(&findings(&output), &step)["verdict"], "recent");
    // A step on a queue that is not ours is none of our business, but worth a word.
    let elsewhere = "https://sqs.us-east-1.amazonaws.com/123456789012/other";
    let token = random_token();
    let execution = format!("{arn}/execution/{}", token.to_lowercase());
    scene.sagemaker.begin(&execution, &token, elsewhere);
    let output = run(&["--pipeline", "p", "--json"]);
    assert_eq!((code(&output), findings(&output).len()), (0, 1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1 callback step(s) wait on queues that are not looked at"), "{said}");
}
