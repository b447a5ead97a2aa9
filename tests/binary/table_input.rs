//! A ledger's table that is not as it should be: another one, without rights, deleted under its
//! workers, with items of a newer version or without room.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::fleet::{Fleet, Way};
use crate::output::printed;
use crate::scene::{Step, never, until};

fn start(fleet: &Fleet) -> Daemon {
    fleet.environment(0).start(&fleet.config(0).listening(), "worker0")
}

/// The step's message is the only one on the queue, and nobody has answered it.
async fn is_kept(fleet: &Fleet, step: &Step) -> bool {
    fleet.scene.sagemaker.reports(&step.token).is_empty() && fleet.scene.queue.size().await == 1
}

/// What `/readyz` says is wrong with the ledger; `None` if nothing is, or it does not answer.
async fn ailment(daemon: &Daemon) -> Option<String> {
    let (status, body) = daemon.status("/readyz").await?;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let checks = body["checks"].as_array().expect("an array");
    let ledger = checks.iter().find(|check| check["name"] == "ledger").expect("a check of it");
    let detail = ledger["detail"].as_str().expect("a text").to_owned();
    (status == 503 && ledger["ok"] == false).then_some(detail)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_keys_is_refused_with_what_is_expected_and_what_was_found() {
    let fleet = Fleet::without_table(2, "exit 0", "").await;
    let step = fleet.scene.step_sent().await;
    let other = json!({
        "TableName": fleet.table, "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            { "AttributeName": "pk", "AttributeType": "N" },
            { "AttributeName": "sk\u{1b}[2J", "AttributeType": "S" },
        ],
        "KeySchema": [
            { "AttributeName": "pk", "KeyType": "HASH" },
            { "AttributeName": "sk\u{1b}[2J", "KeyType": "RANGE" },
        ],
    });
    fleet.dynamodb("CreateTable", &other).await;
    for arguments in [&["run"][..], &["check", "--online"], &["ledger", "create"]] {
        let output = fleet.environment(0).run(&fleet.config(0), arguments);
        let said = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        for part in [
            fleet.table.as_str(),
            "its key is `pk` (a number) and `sk\\u{1b}[2J` (a string), not `id` (a string) alone",
            "it has no index `unsettled`",
            "callbackd ledger create",
        ] {
            assert!(said.contains(part), "{arguments:?}: {part}: {said}");
        }
        assert!(!said.contains('\u{1b}'), "{arguments:?}: {said:?}");
    }
    assert!(is_kept(&fleet, &step).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_write_its_table_does_not_start_and_says_what_to_allow() {
    let fleet = Fleet::new(2, "end 0").await;
    let step = fleet.scene.step_sent().await;
    fleet.ways[0].to_table.deny("putitem");
    let output = fleet.environment(0).run(&fleet.config(0), &["run"]);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    for part in [fleet.table.as_str(), "allow dynamodb:PutItem on it"] {
        assert!(printed(&output).contains(part), "{part}: {}", printed(&output));
    }
    assert!(is_kept(&fleet, &step).await);
    fleet.ways[0].to_table.heal();
    let _daemon = start(&fleet);
    fleet.scene.answered_once(&step).await;
}

/// A worker loses the right to do `operation`, and gets it back. `by_itself`: it finds out without
/// a step.
async fn a_right_is_lost(operation: &str, remedy: &str, ails: &str, by_itself: bool) {
    let fleet = Fleet::new(2, "end 0").await;
    let Way { to_sqs: to_queue, to_table } = &fleet.ways[0];
    // A poll that is open when the right is lost may bring a step, which then runs if it can.
    to_queue.refuse("receivemessage");
    let daemon = start(&fleet);
    until("it has its lease", async || to_table.seen("updateitem") > 0).await;
    to_table.deny(operation);
    let step = fleet.scene.step_sent().await;
    if !by_itself {
        to_queue.heal();
    }
    until("it is said", async || !daemon.complaints(&["ERROR"], remedy).is_empty()).await;
    until("it is shown", async || ailment(&daemon).await.is_some()).await;
    assert_eq!(ailment(&daemon).await.as_deref(), Some(ails));
    if by_itself {
        // The SDK tries a refused poll again for so long.
        let polls = || to_queue.seen("receivemessage");
        until("it polls no more", async || {
            let before = polls();
            tokio::time::sleep(Duration::from_secs(3)).await;
            polls() == before
        })
        .await;
    }
    to_queue.heal();
    let unwell = Duration::from_secs(4);
    never("it is well", unwell, async || ailment(&daemon).await.as_deref() != Some(ails)).await;
    assert!(fleet.scene.runs().is_empty() && is_kept(&fleet, &step).await);
    let said = daemon.complaints(&["ERROR"], &fleet.table);
    assert_eq!(said.len(), 1, "{said:#?}");
    to_table.heal();
    fleet.scene.answered_once(&step).await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
    until("it is well", async || ailment(&daemon).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_put_items_no_step_is_started_or_lost() {
    let ails = "it cannot be written; see the log";
    a_right_is_lost("putitem", "allow dynamodb:PutItem on it", ails, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_items_no_step_is_started_or_lost() {
    let ails = "it cannot be read; see the log";
    a_right_is_lost("getitem", "allow dynamodb:GetItem on it", ails, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_update_items_no_step_is_started_or_lost() {
    let ails = "this worker's lease in it cannot be renewed; see the log";
    a_right_is_lost("updateitem", "allow dynamodb:UpdateItem on it", ails, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_list_items_no_step_is_started_or_lost() {
    let ails = "it cannot be read; see the log";
    a_right_is_lost("query", "allow dynamodb:Query on its indexes", ails, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_deleted_under_its_worker_and_created_again_loses_no_step() {
    let fleet = Fleet::new(2, "until_there gate-$STEP_TOKEN; end 0").await;
    let scene = &fleet.scene;
    let (running, ending) = (scene.step_sent().await, scene.step_sent().await);
    let mut daemon = start(&fleet);
    until("both run", async || scene.runs().len() == 2).await;
    fleet.dynamodb("DeleteTable", &json!({ "TableName": fleet.table })).await;
    scene.open(&format!("gate-{}", ending.token));
    let waiting = scene.step_sent().await;
    until("it is said", async || {
        let gone = format!("the ledger's table {} in us-east-1: does not exist", fleet.table);
        !daemon.complaints(&["ERROR"], &gone).is_empty()
    })
    .await;
    until("it is shown", async || ailment(&daemon).await.is_some()).await;
    let told = async || !daemon.complaints(&["INFO"], "lease_lost").is_empty();
    until("the run is told to end", told).await;
    assert_eq!((scene.runs().len(), scene.queue.size().await), (2, 3));
    fleet.create_table();
    for step in [&running, &ending, &waiting] {
        scene.open(&format!("gate-{}", step.token));
        let answer = scene.answer(step).await;
        assert!(answer.outputs()["ended"].is_string(), "{:?}", answer.json());
    }
    for step in [&running, &ending, &waiting] {
        scene.answered_once(step).await;
    }
    until("it is well", async || ailment(&daemon).await.is_none()).await;
    // What the first two did is forgotten with the table, and the third was not begun before.
    let mut runs = scene.runs();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), 3, "attempts begin anew: {runs:?}");
    assert_eq!(scene.runs().iter().filter(|run| **run == waiting.attempt(1)).count(), 1);
    assert_eq!(daemon.ended(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_of_a_newer_version_is_left_alone_and_said_once_while_other_steps_run() {
    let fleet = Fleet::new(2, "end 0").await;
    let scene = &fleet.scene;
    let step = scene.step();
    let newer = json!({
        "id": { "S": format!("step#{}", step.token) }, "format": { "N": "99" },
        "version": { "N": "3" }, "shard": { "S": "0" }, "due": { "N": "5" },
        "status": { "S": "novel" }, "body": { "M": {} },
    });
    fleet.put(&newer).await;
    for _ in 0..2 {
        scene.queue.send(&step.executing()).await;
    }
    let other = scene.step_sent().await;
    let daemon = start(&fleet);
    scene.answer(&other).await;
    until("only its messages are left", async || scene.queue.size().await == 2).await;
    until("both were received", async || fleet.ways[0].to_sqs.received().len() >= 3).await;
    assert_eq!((scene.runs(), ailment(&daemon).await), (vec![other.attempt(1)], None));
    let said = daemon.complaints(&["ERROR"], &step.token);
    assert_eq!(said.len(), 1, "{said:#?}");
    for part in ["written by a newer callbackd", "update this worker"] {
        assert!(said[0].to_string().contains(part), "{part}: {said:#?}");
    }
    assert_eq!(fleet.item(&step).await, newer);
    assert!(scene.sagemaker.reports(&step.token).is_empty());

    let shown = printed(&fleet.environment(1).run(&fleet.config(1), &["steps"]));
    let line = shown.lines().find(|line| line.starts_with(&step.token)).expect("its line");
    assert!(line.contains("damaged") && line.contains("newer callbackd (form 99"), "{shown}");
    let error = &fleet.record_seen_by(1, &step).expect("an object")["error"];
    assert!(error.as_str().is_some_and(|error| error.contains("newer callbackd")), "{error}");
}

/// As text of this many bytes takes no more.
const TOO_LARGE: usize = 210_000;

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_an_item_has_no_room_for_reach_the_next_owner_too() {
    let fleet = Fleet::new(2, "wc -c >> $FOLDER/sizes; until_there go; end 0").await;
    let text = "x".repeat(TOO_LARGE);
    let step = fleet.scene.step_sent_with(json!({ "text": text })).await;
    let sizes = || fleet.scene.lines("sizes");
    let mut first = fleet.start(0);
    until("it runs", async || sizes().len() == 1).await;
    assert!(fleet.item(&step).await["arguments"].is_null());
    first.kill();
    let _second = fleet.start(1);
    until("it runs elsewhere", async || sizes().len() == 2).await;
    fleet.scene.open("go");
    fleet.scene.answered_once(&step).await;
    let [first, second] = &sizes()[..] else { panic!("{:?}", sizes()) };
    assert_eq!(first, second);
    assert!(first.parse::<usize>().expect("a number") > TOO_LARGE, "{first}");
    until("it is settled", async || fleet.item(&step).await["status"]["S"] == "settled").await;
    let all = fleet.dynamodb("Scan", &json!({ "TableName": fleet.table })).await;
    let items = all["Items"].as_array().expect("items");
    let large =
        |item: &&Value| item["id"]["S"].as_str().is_some_and(|id| id.starts_with("arguments#"));
    let parts: Vec<_> = items.iter().filter(large).collect();
    assert!(parts.len() == 1 && parts[0]["expires"]["N"].is_string(), "{}", parts.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_the_table_has_no_room_for_is_said_and_its_run_ends_well() {
    let script = format!(
        "head -c {TOO_LARGE} /dev/zero | tr '\\0' x > $STEP_CHECKPOINT.new\n\
         mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT\nuntil_there gate\nend 0"
    );
    let fleet = Fleet::new(2, &script).await;
    let step = fleet.scene.step_sent().await;
    let daemon = start(&fleet);
    let said = "bytes, and the ledger keeps at most 204800; one that was saved before is kept";
    let complaints = || daemon.complaints(&["WARN"], said);
    until("it is said", async || !complaints().is_empty()).await;
    fleet.scene.open("gate");
    let answer = fleet.scene.answered_once(&step).await;
    assert!(answer.outputs()["ended"].is_string(), "{:?}", answer.json());
    assert_eq!((fleet.scene.runs(), complaints().len()), (vec![step.attempt(1)], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_from_a_checkpoint_that_cannot_be_kept_fails_its_step() {
    let script = format!(
        "head -c {TOO_LARGE} /dev/zero | tr '\\0' x > $STEP_CHECKPOINT.new\n\
         mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT\nexit 76"
    );
    let fleet = Fleet::new(2, &script).await;
    let step = fleet.scene.step_sent().await;
    let _daemon = start(&fleet);
    let answer = fleet.scene.answered_once(&step).await;
    assert!(answer.reason().contains("the ledger keeps at most 204800"), "{}", answer.reason());
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
}
