//! A table that is out of reach, refuses writes, is slow or throttles; and what it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Fleet, HANDS_OVER, has_lost, was_told};
use crate::daemon::Daemon;
use crate::proxy::{Exchange, Proxy};
use crate::scene::{Step, never, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cut_off_from_the_table_ends_its_runs_before_another_starts_them() {
    let fleet = Fleet::new(2, HANDS_OVER).await;
    let (first, step) = fleet.running().await;
    fleet.ways[0].to_table.go_down();
    until("its run is told to end", async || was_told(&first) > 0).await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
    let _second = fleet.start(1);
    // The first does not keep the message from the second, which has no other way to the step
    // before the message counts as lost.
    fleet.handed_over(&step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_written_stops_new_work_and_loses_nothing() {
    let fleet = Fleet::new(2, "end 0").await;
    let daemon = fleet.start(0);
    until("it is up", async || daemon.is_up()).await;
    fleet.ways[0].to_table.refuse("updateitem");
    fleet.ways[0].to_table.refuse("putitem");
    let step = fleet.scene.step_sent().await;
    never("a step is started", Duration::from_secs(3), async || !fleet.scene.runs().is_empty())
        .await;
    fleet.ways[0].to_table.heal();
    fleet.scene.answered_once(&step).await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
}

/// Three workers with this lease, whose table gets worse once they are up; some steps.
async fn all_goes_well(lease: &str, steps: usize, worse: impl Fn(&Proxy)) {
    let run = "echo here > $STEP_CHECKPOINT.new && mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT\nend 0";
    let fleet = Fleet::new(3, run).await;
    let workers: Vec<Daemon> = (0..3)
        .map(|worker| {
            fleet.start_as(worker, &fleet.config(worker).with("ledger.lease", lease), &[])
        })
        .collect();
    until("all are up", async || workers.iter().all(Daemon::is_up)).await;
    fleet.ways.iter().for_each(|way| worse(&way.to_table));
    let mut sent: Vec<Step> = Vec::new();
    for _ in 0..steps {
        sent.push(fleet.scene.step_sent().await);
    }
    for step in &sent {
        fleet.scene.answer(step).await;
    }
    fleet.scene.queue_is_empty().await;
    let mut runs = fleet.scene.runs();
    runs.sort();
    let mut once: Vec<String> = sent.iter().map(|step| step.attempt(1)).collect();
    once.sort();
    assert_eq!(runs, once);
    for step in &sent {
        fleet.scene.answered_once(step).await;
    }
    for worker in &workers {
        assert!(!has_lost(worker), "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_table_that_takes_two_seconds_for_everything_no_lease_and_no_step_is_lost() {
    all_goes_well("30s", 3, |table| table.slow_down(Duration::from_secs(2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_table_that_throttles_half_of_everything_no_lease_and_no_step_is_lost() {
    const CODES: &[&str] = &["ProvisionedThroughputExceededException", "ThrottlingException"];
    all_goes_well("30s", 12, |table| table.throttle(CODES)).await;
}

/// What one worker writes of steps, by the status that it writes.
fn writes(table: &Proxy) -> BTreeMap<String, usize> {
    let mut writes = BTreeMap::new();
    for exchange in table.exchanges() {
        if !["putitem", "updateitem", "deleteitem"].contains(&&*exchange.operation) {
            continue;
        }
        let Exchange { request, .. } = &exchange;
        let text = |value: &Value| value["S"].as_str().unwrap_or_default().to_owned();
        let id = text(&request["Key"]["id"]) + &text(&request["Item"]["id"]);
        if !id.starts_with("step#") {
            continue;
        }
        *writes.entry(text(&request["Item"]["status"])).or_default() += 1;
    }
    writes
}

/// A claim, an outcome and its settlement; and each checkpoint of the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_costs_three_writes_and_each_checkpoint_one_more() {
    const STEPS: usize = 100;
    const CHECKPOINT: &str =
        "echo here > $STEP_CHECKPOINT.new && mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT\nend 0";
    for (script, claimed) in [("end 0", 1), (CHECKPOINT, 2)] {
        let fleet = Fleet::new(1, script).await;
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            steps.push(fleet.scene.step_sent().await);
        }
        // Neither a lost lease nor a repeated call, which a slow table leads to, is counted.
        let config = fleet.config(0).with("ledger.lease", "30s").with("queues.0.concurrency", 4);
        let _daemon = fleet.start_as(0, &config, &[]);
        for step in &steps {
            fleet.scene.answer(step).await;
        }
        fleet.scene.queue_is_empty().await;
        until("every call is over", async || !fleet.ways[0].to_table.is_busy()).await;
        let writes = writes(&fleet.ways[0].to_table);
        println!("writes for {STEPS} short steps: {writes:?}");
        let of_each = [("claimed", claimed), ("concluded", 1), ("settled", 1)];
        assert_eq!(writes, of_each.map(|(what, count)| (what.to_owned(), count * STEPS)).into());
    }
}
