//! `callbackd reconcile` beside a fleet whose ledger is in a table.

use std::process::Output;

use serde_json::json;

use crate::fleet::Fleet;
use crate::output::printed;
use crate::reconcile::{code, finding, findings, lost};
use crate::sagemaker::{FAILURE, LIST, LIST_EXECUTIONS};
use crate::scene::until;

const GATED: &str = "until_there gate; echo done=1 >> $STEP_OUTPUT";
const LOOK: [&str; 4] = ["reconcile", "--pipeline", "p", "--json"];
const FAIL: [&str; 5] = ["reconcile", "--pipeline", "p", "--json", "--fail-lost"];

/// On the machine of the second worker.
fn run(fleet: &Fleet, arguments: &[&str]) -> Output {
    fleet.environment(1).run(&fleet.config(1), arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_no_record_of_the_table_has_is_answered_and_no_other_whoever_lives() {
    let fleet = Fleet::new(2, GATED).await;
    let scene = &fleet.scene;
    let gone = lost(scene);
    let mut daemon = fleet.start(0);
    let held = scene.step_sent().await;
    until("it runs", async || !scene.runs().is_empty()).await;
    scene.sagemaker.has_waited(&held.arn, 3);
    // A message that another consumer holds and no record accounts for may be the lost step's own.
    scene.queue.send("anyone's").await;
    until("it is hidden", async || scene.queue.visible().await == 0).await;
    let output = run(&fleet, &FAIL);
    let found = findings(&output);
    assert_eq!(finding(&found, &gone)["verdict"], "unclear", "{}", printed(&output));
    assert_eq!(finding(&found, &held)["verdict"], "held");
    assert_eq!((code(&output), scene.sagemaker.requests(FAILURE).len()), (1, 0));

    daemon.kill();
    scene.queue.purge().await;
    let output = run(&fleet, &FAIL);
    let found = findings(&output);
    assert_eq!(finding(&found, &gone)["action"], "failed", "{}", printed(&output));
    assert_eq!(finding(&found, &held)["verdict"], "held");
    assert_eq!((code(&output), scene.sagemaker.reports(&held.token).len()), (0, 0));
    assert_eq!(scene.sagemaker.reports(&gone.token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_a_worker_claims_right_before_the_failure_is_the_workers() {
    let fleet = Fleet::new(2, GATED).await;
    let scene = &fleet.scene;
    let daemon = fleet.start(0);
    until("it is up", async || daemon.is_up()).await;
    let step = lost(scene);
    // What reconcile alone asks of the queue: it has read the table once, and will once more.
    let to_queue = &fleet.ways[1].to_sqs;
    to_queue.hold("getqueueattributes");
    let (environment, config) = (fleet.environment(1), fleet.config(1));
    let reconciling = tokio::task::spawn_blocking(move || {
        environment.run(&config, &[&FAIL[..], &["--assume-not-queued"]].concat())
    });
    until("the queue is looked at", async || to_queue.seen("getqueueattributes") > 0).await;
    scene.queue.send(&step.executing()).await;
    until("it runs", async || !scene.runs().is_empty()).await;
    to_queue.let_go("getqueueattributes");
    let output = reconciling.await.expect("it ends");
    assert_eq!(finding(&findings(&output), &step)["action"], "held", "{}", printed(&output));
    assert_eq!((code(&output), scene.sagemaker.requests(FAILURE).len()), (0, 0));
    scene.open("gate");
    assert_eq!(scene.answered_once(&step).await.outputs()["done"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_by_its_index_and_by_the_records_of_the_steps_that_wait() {
    let fleet = Fleet::new(2, "exit 0").await;
    let scene = &fleet.scene;
    let (step, newer, settled) = (lost(scene), lost(scene), lost(scene));
    let mut daemon = fleet.start(0);
    scene.queue.send(&settled.executing()).await;
    scene.answered_once(&settled).await;
    until("the record is settled", async || {
        fleet.record_seen_by(1, &settled).is_some_and(|record| record["status"] == "settled")
    })
    .await;
    daemon.kill();
    scene.sagemaker.reopen(&settled.arn);
    let scans = fleet.ways[1].to_table.seen("scan");
    fleet
        .put(&json!({ "id": { "S": format!("step#{}", newer.token) }, "format": { "N": "99" } }))
        .await;
    let output = run(&fleet, &LOOK);
    let found = findings(&output);
    assert_eq!(finding(&found, &step)["verdict"], "lost", "{}", printed(&output));
    assert_eq!(finding(&found, &newer)["verdict"], "unusable");
    assert_eq!(finding(&found, &settled)["verdict"], "settled");
    let detail = finding(&found, &newer)["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("newer callbackd"), "{detail}");
    let to_table = &fleet.ways[1].to_table;
    assert_eq!(to_table.seen("scan"), scans);
    let reads = to_table.exchanges().into_iter().filter(|one| one.operation == "getitem");
    assert!(reads.map(|read| read.request["ConsistentRead"] == true).eq([true; 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_read_is_said_before_sagemaker_is_asked() {
    let fleet = Fleet::without_table(2, "exit 0", "").await;
    let scene = &fleet.scene;
    lost(scene);
    let refused = |says: &str| {
        let output = run(&fleet, &FAIL);
        assert_eq!(code(&output), 1, "{}", printed(&output));
        for part in [fleet.table.as_str(), says] {
            assert!(printed(&output).contains(part), "{part}: {}", printed(&output));
        }
    };
    refused("callbackd ledger create");
    fleet.create_table();
    for (operation, says) in [
        ("getitem", "allow dynamodb:GetItem on it"),
        ("query", "allow dynamodb:Query on its indexes"),
    ] {
        fleet.ways[1].to_table.deny(operation);
        refused(says);
        fleet.ways[1].to_table.heal();
    }
    let asked = [LIST, LIST_EXECUTIONS].map(|what| scene.sagemaker.requests(what).len());
    assert_eq!(asked, [0, 0]);
}
