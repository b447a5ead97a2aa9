//! Deferred steps that someone answers: with `callbackd complete`, or at SageMaker.

use std::process::Output;

use serde_json::{Value, json};

use crate::daemon::Config;
use crate::fleet::Fleet;
use crate::scene::{Scene, Step, until};

/// Names its step after the token, and defers it.
const ASKS: &str = "echo \"ORDER-$STEP_TOKEN\" > $STEP_KEY";

fn approvals(scene: &Scene) -> Config {
    scene.config().with("handlers.job.settings.deferred", true)
}

fn key(step: &Step) -> String {
    format!("ORDER-{}", step.token)
}

async fn deferred(scene: &Scene, step: &Step) {
    let is_so = async || scene.record(step).is_some_and(|record| record["status"] == "deferred");
    until("it is deferred", is_so).await;
}

fn run(scene: &Scene, arguments: &[&str]) -> Output {
    scene.environment().run(&scene.config(), arguments)
}

/// What a command printed; it succeeded.
fn done(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command complained of; it failed with this code.
fn refused(output: &Output, code: i32) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    complaint
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_by_token_or_key_is_reported_by_the_running_daemon() {
    let scene = Scene::new(ASKS).await;
    let (yes, no) = (scene.step_sent().await, scene.step_sent().await);
    let _daemon = scene.start(&approvals(&scene));
    for step in [&yes, &no] {
        deferred(&scene, step).await;
        assert_eq!(scene.record(step).expect("a record")["key"], key(step));
    }
    let outputs = ["--output", "approved_by=ada=lovelace", "--output", "note="];
    let told = done(&run(&scene, &[&["complete", &yes.token][..], &outputs].concat()));
    assert!(told.contains("is answered") && told.contains(&key(&yes)), "{told}");
    done(&run(&scene, &["complete", "--key", &key(&no), "--failure", "it is biased"]));
    let answer = scene.answered_once(&yes).await;
    assert_eq!(answer.outputs(), json!({ "approved_by": "ada=lovelace", "note": "" }));
    assert_eq!(scene.answered_once(&no).await.reason(), "it is biased");
    for (step, ending) in [(&yes, "success"), (&no, "failure")] {
        scene.settled(step).await;
        let record = scene.record(step).expect("a record");
        assert_eq!((&record["ending"], &record["key"]), (&json!(ending), &json!(key(step))));
    }
    assert_eq!(scene.runs().len(), 2, "no step is run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_counts_whether_a_daemon_runs_or_not() {
    let scene = Scene::new(ASKS).await;
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&approvals(&scene));
    deferred(&scene, &step).await;
    daemon.kill();
    let told = done(&run(&scene, &["complete", "--key", &key(&step), "--success"]));
    assert!(told.contains("is answered"), "{told}");
    let again = done(&run(&scene, &["complete", &step.token, "--success"]));
    assert!(again.contains("was answered before, and the same: success"), "{again}");
    let other = run(&scene, &["complete", &step.token, "--failure", "no"]);
    let complaint = refused(&other, 1);
    assert!(complaint.contains("answered before, and differently: success"), "{complaint}");
    assert!(scene.sagemaker.reports(&step.token).is_empty());

    let _daemon = scene.start(&approvals(&scene));
    assert_eq!(scene.answered_once(&step).await.outputs(), json!({}));
    scene.settled(&step).await;
    assert!(
        done(&run(&scene, &["complete", "--key", &key(&step), "--success"])).contains("before")
    );
    refused(&run(&scene, &["complete", "--key", &key(&step), "--output", "a=b"]), 1);
    assert_eq!(scene.sagemaker.reports(&step.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_deferred_step_takes_an_answer_and_each_refusal_says_why() {
    let run_or_ask = format!("{ASKS}\nif [ -e $FOLDER/wait ]; then until_there gate; fi");
    let scene = Scene::new(&run_or_ask).await;
    let complete = |arguments: &[&str]| run(&scene, &[&["complete"][..], arguments].concat());
    let absent = refused(&complete(&["abcdefghij", "--success"]), 1);
    assert!(absent.contains("the file does not exist"), "{absent}");

    let _daemon = scene.start(&approvals(&scene));
    let waits = scene.step_sent().await;
    deferred(&scene, &waits).await;
    scene.open("wait");
    let runs = scene.step_sent().await;
    until("the key of the run is saved", async || {
        scene.record(&runs).is_some_and(|record| record["key"] == key(&runs))
    })
    .await;
    for (arguments, code, wants) in [
        (vec!["abcdefghij", "--success"], 1, "the ledger has no step abcdefghij"),
        (vec!["--key", "ORDER-0", "--success"], 1, "no step with the key ORDER-0"),
        (vec![&*runs.token, "--success"], 1, "it is not deferred: it is claimed"),
        (vec!["--key", &key(&runs), "--failure", "no"], 1, "it is not deferred: it is claimed"),
        (vec!["--success"], 2, "required"),
        (vec![&*waits.token], 2, "required"),
        (vec![&*waits.token, "--key", "ORDER-0", "--success"], 2, "cannot be used with"),
        (vec![&*waits.token, "--success", "--failure", "no"], 2, "cannot be used with"),
        (vec!["abc", "--success"], 2, "ten characters"),
        (vec!["--key", "", "--success"], 2, "1 to 256 characters"),
        (vec![&*waits.token, "--failure", ""], 2, "a value is required"),
        (vec![&*waits.token, "--output", "novalue"], 2, "NAME=VALUE"),
        (vec![&*waits.token, "--output", "a=1", "--output", "a=2"], 2, "`a` is set twice"),
        (vec![&*waits.token, "--output", &format!("a={}", "x".repeat(1025))], 2, "at most 1024"),
    ] {
        let complaint = refused(&complete(&arguments), code);
        assert!(complaint.contains(wants), "{arguments:?}: {complaint}");
    }
    scene.open("gate");
    deferred(&scene, &runs).await;
    done(&complete(&[&runs.token, "--success"]));
    done(&complete(&[&waits.token, "--success"]));
    for step in [&runs, &waits] {
        scene.answered_once(step).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_two_deferred_steps_have_is_ambiguous_until_one_is_answered() {
    let scene = Scene::new("echo ORDER-17 > $STEP_KEY").await;
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let _daemon = scene.start(&approvals(&scene));
    for step in &steps {
        deferred(&scene, step).await;
    }
    let listed = done(&run(&scene, &["steps", "--deferred"]));
    assert_eq!(listed.matches("key ORDER-17").count(), 2, "{listed}");
    let complaint = refused(&run(&scene, &["complete", "--key", "ORDER-17", "--success"]), 1);
    assert!(complaint.contains("ambiguous"), "{complaint}");
    assert!(steps.iter().all(|step| complaint.contains(&step.token)), "{complaint}");
    done(&run(&scene, &["complete", &steps[0].token, "--success"]));
    scene.answered_once(&steps[0]).await;
    let listed = done(&run(&scene, &["steps", "--deferred", "--json"]));
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(
        (&listed[0]["token"], &listed[0]["key"]),
        (&json!(steps[1].token), &json!("ORDER-17"))
    );
    done(&run(&scene, &["complete", "--key", "ORDER-17", "--success"]));
    scene.answered_once(&steps[1]).await;
    let none = done(&run(&scene, &["steps", "--deferred"]));
    assert!(none.contains("the ledger holds no deferred steps"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_wait_at_once_and_an_answer_after_it_is_refused() {
    let scene = Scene::with_cleanup(ASKS, "until_there gate").await;
    let step = scene.step_sent().await;
    // The Stopping message alone tells of it.
    let _daemon = scene.start(&approvals(&scene).with("queues.0.stop_watch", "0s"));
    deferred(&scene, &step).await;
    scene.stop(&step).await;
    until("it is cleaned up after", async || scene.cleanups().len() == 1).await;
    let complaint = refused(&run(&scene, &["complete", &step.token, "--success"]), 1);
    assert!(complaint.contains("it is being stopped"), "{complaint}");
    scene.open("gate");
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    scene.settled(&step).await;
    let complaint = refused(&run(&scene, &["complete", "--key", &key(&step), "--success"]), 1);
    assert!(complaint.contains("its pipeline was stopped"), "{complaint}");
    assert_eq!(scene.cleanups(), [step.cleaned("pipeline_stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_answered_at_sagemaker_is_settled_and_shown_as_what_it_was() {
    let scene = Scene::new(ASKS).await;
    let (yes, no) = (scene.step_sent().await, scene.step_sent().await);
    let _daemon = scene.start(&approvals(&scene));
    for (step, how) in [(&yes, "Succeeded"), (&no, "Failed")] {
        deferred(&scene, step).await;
        scene.sagemaker.close(&step.arn, how);
    }
    for (step, how) in [(&yes, "succeeded"), (&no, "failed")] {
        scene.settled(step).await;
        let record = scene.record(step).expect("a record");
        assert_eq!(
            (&record["ending"], &record["closed_as"]),
            (&json!("settled_elsewhere"), &json!(how))
        );
        let shown = format!("key {}: settled_elsewhere ({how})", key(step));
        let listed = done(&run(&scene, &["steps"]));
        assert!(listed.contains(&shown), "{listed}");
        let complaint = refused(&run(&scene, &["complete", &step.token, "--success"]), 1);
        let why = format!("closed at SageMaker already, and not by this ledger: it has {how}");
        assert!(complaint.contains(&why), "{complaint}");
    }
    assert!(scene.cleanups().is_empty() && scene.sagemaker.reports(&yes.token).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_at_sagemaker_is_noticed_while_its_execution_and_its_siblings_wait_on() {
    let scene = Scene::new(ASKS).await;
    let yes = scene.step_sent().await;
    let (no, open) = (scene.sibling_sent(&yes).await, scene.sibling_sent(&yes).await);
    let _daemon = scene.start(&approvals(&scene));
    for step in [&yes, &no, &open] {
        deferred(&scene, step).await;
    }
    for (step, how) in [(&yes, "Succeeded"), (&no, "Failed")] {
        scene.sagemaker.close_step(&step.arn, &step.token, how);
    }
    for (step, how) in [(&yes, "succeeded"), (&no, "failed")] {
        scene.settled(step).await;
        assert_eq!(scene.record(step).expect("a record")["closed_as"], how);
    }
    assert_eq!(scene.record(&open).expect("a record")["status"], "deferred");
    done(&run(&scene, &["complete", &open.token, "--success"]));
    assert_eq!(scene.answered_once(&open).await.outputs(), json!({}));
    assert!(scene.cleanups().is_empty() && scene.runs().len() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_kept_fails_the_step_that_nobody_could_find() {
    let scene = Scene::new("head -c 300 /dev/zero | tr '\\0' x > $STEP_KEY").await;
    let step = scene.step_sent().await;
    let _daemon = scene.start(&approvals(&scene));
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("STEP_KEY: a key is 1 to 256 characters"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_live_worker_of_a_fleet_reports_an_answer_to_a_step_that_another_deferred() {
    let fleet = Fleet::new(2, ASKS).await;
    let config = |worker| fleet.config(worker).with("handlers.job.settings.deferred", true);
    let start =
        |worker| fleet.environment(worker).start(&config(worker), &format!("worker{worker}"));
    let complete = |arguments: &[&str]| {
        let arguments = [&["complete"][..], arguments].concat();
        fleet.environment(1).run(&config(1), &arguments)
    };
    let mut first = start(0);
    let steps = [fleet.scene.step_sent().await, fleet.scene.step_sent().await];
    for step in &steps {
        fleet.recorded_as(step, "deferred").await;
    }
    let _second = start(1);
    done(&complete(&["--key", &key(&steps[0]), "--output", "approved_by=ada"]));
    let answer = fleet.scene.answered_once(&steps[0]).await;
    assert_eq!(answer.outputs(), json!({ "approved_by": "ada" }));
    fleet.recorded_as(&steps[0], "settled").await;

    first.kill();
    done(&complete(&[&steps[1].token, "--failure", "no"]));
    assert_eq!(fleet.scene.answered_once(&steps[1]).await.reason(), "no");
    fleet.recorded_as(&steps[1], "settled").await;
    let complaint = refused(&complete(&["--key", &key(&steps[1]), "--success"]), 1);
    assert!(complaint.contains("differently: failure: no"), "{complaint}");
}
