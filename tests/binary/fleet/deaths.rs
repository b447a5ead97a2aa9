//! The owner of a step is killed at every stage of it, beside two live workers.

use std::os::unix::process::ExitStatusExt;

use callbackd::crash::VARIABLE;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Fleet, HANDS_OVER, all};
use crate::scene::until;

/// Saves where it is; a second run finds that. Each run has another outcome.
const WORKS: &str = r#"
if [ -s $STEP_CHECKPOINT ]; then
    echo "$(cat $STEP_CHECKPOINT) $STEP_FENCE" >> $FOLDER/found
else
    echo here > $STEP_CHECKPOINT.new && mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT
    echo $STEP_FENCE >> $FOLDER/fence
fi
end 0
"#;

/// Where the owner dies, and what another worker must make of that.
#[derive(Clone, Copy, Debug)]
struct Stage {
    crash: &'static str,
    /// How often the step is run, by all workers.
    runs: usize,
    /// The other worker's run finds the checkpoint.
    handed_over: bool,
    /// How often the outcome is sent.
    reports: usize,
}

impl Stage {
    const fn new(crash: &'static str, runs: usize, handed_over: bool, reports: usize) -> Self {
        Self { crash, runs, handed_over, reports }
    }
}

const STAGES: [Stage; 11] = [
    Stage::new("after receive", 1, false, 1),
    Stage::new("after write.claimed", 1, false, 1),
    Stage::new("before run", 1, false, 1),
    // The program's checkpoint.
    Stage::new("before write.claimed 2", 2, false, 1),
    Stage::new("after write.claimed 2", 2, true, 1),
    Stage::new("before write.concluded", 2, true, 1),
    Stage::new("after write.concluded", 1, false, 1),
    Stage::new("after report", 1, false, 2),
    Stage::new("before write.settled", 1, false, 2),
    Stage::new("after write.settled", 1, false, 1),
    Stage::new("after delete", 1, false, 1),
];

async fn tell(stage: Stage) {
    let fleet = Fleet::new(3, WORKS).await;
    let _others = fleet.start_others(|config| config).await;
    let step = fleet.scene.step_sent().await;
    let mut owner = fleet.start_as(0, &fleet.config(0), &[(VARIABLE, stage.crash)]);
    until("the owner is killed", async || owner.ended().is_some()).await;
    let status = owner.ended().expect("it has ended");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    fleet.first_is_timed_out().await;
    fleet.let_receive();
    let answer = fleet.scene.answered_once(&step).await;
    fleet.recorded_as(&step, "settled").await;
    assert_eq!(fleet.scene.runs(), vec![step.attempt(1); stage.runs]);
    assert_eq!(fleet.scene.sagemaker.reports(&step.token).len(), stage.reports);
    let found = fleet.scene.lines("found");
    assert_eq!(found.len(), usize::from(stage.handed_over), "{found:?}");
    if let [found] = &found[..] {
        let (checkpoint, greater) = found.split_once(' ').expect("two words");
        let fence: u64 = fleet.scene.lines("fence")[0].parse().expect("a number");
        assert_eq!(checkpoint, "here");
        assert!(greater.parse::<u64>().expect("a number") > fence, "{greater} after {fence}");
    }
    // What was recorded is sent, and nothing is computed after it.
    let ends = fleet.scene.lines("ends");
    let last = ends.last().and_then(|line| line.rsplit(' ').next()).expect("an end");
    assert_eq!(answer.outputs(), json!({ "ended": last }));
}

#[test]
fn an_owner_that_is_killed_at_any_stage_leaves_its_step_to_one_of_two_others() {
    all(&STAGES, tell);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_leaves_its_step_and_its_checkpoint_to_another() {
    let fleet = Fleet::new(2, HANDS_OVER).await;
    let (mut first, step) = fleet.running().await;
    let _second = fleet.start(1);
    first.kill();
    fleet.handed_over(&step).await;
}
