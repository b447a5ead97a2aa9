//! The owner of a step stands still at a boundary of it for longer than its lease, beside another
//! worker.

use std::time::Duration;

use callbackd::crash::FREEZE;
use nix::sys::signal::Signal;

use super::frozen::state;
use super::{Fleet, all, has_lost};
use crate::daemon::{Config, Daemon};
use crate::scene::{never, until};

/// The answer has the fence of its run.
const FENCED: &str = r#"
echo $STEP_FENCE >> $FOLDER/fences
echo "fence=$STEP_FENCE" >> $STEP_OUTPUT
end 0
"#;

/// Where the owner stands still: all boundaries of a step that ends well.
const PLACES: [&str; 10] = [
    "after receive",
    "before write.claimed",
    "after write.claimed",
    "before run",
    "after run",
    "before write.concluded",
    "after write.concluded",
    "after report",
    "after write.settled",
    "before delete",
];

/// Runs of the step have growing fences, and the greatest one's outcome is the answer: the owner
/// that wakes up late may have begun another, but nothing of it counts.
async fn stand_still(place: &str) {
    const LEASE: Duration = Duration::from_secs(3);
    let fleet = Fleet::new(2, FENCED).await;
    let short = |config: Config| config.with("ledger.lease", "3s");
    let _other = fleet.start_others(short).await;
    let step = fleet.scene.step_sent().await;
    let mut owner = fleet.start_as(0, &short(fleet.config(0)), &[(FREEZE, place)]);
    let stands = |owner: &Daemon| state(&owner.pid().to_string()) == Some('T');
    until("the owner stands still", async || stands(&owner)).await;
    never("it goes on within its lease", LEASE * 4 / 3, async || !stands(&owner)).await;
    fleet.first_is_timed_out().await;
    fleet.let_receive();
    let answer = fleet.scene.answered_once(&step).await;
    fleet.recorded_as(&step, "settled").await;
    owner.signal(Signal::SIGCONT);
    until("it knows that its lease is lost", async || has_lost(&owner)).await;
    owner.signal(Signal::SIGTERM);
    until("it drains", async || owner.ended().is_some()).await;
    assert!(owner.ended().is_some_and(|status| status.success()), "{}", owner.log());
    let fences = fleet.scene.lines("fences");
    let fences: Vec<u64> = fences.iter().map(|fence| fence.parse().expect("a number")).collect();
    assert!((1..=2).contains(&fences.len()), "{fences:?}");
    assert!(fences.len() < 2 || fences[0] != fences[1], "{fences:?}");
    let greatest = fences.iter().max().expect("a run").to_string();
    assert_eq!(answer.outputs()["fence"], greatest.as_str(), "of {fences:?}");
    fleet.scene.answered_once(&step).await;
    fleet.recorded_as(&step, "settled").await;
}

#[test]
fn an_owner_that_stands_still_at_any_boundary_of_a_step_leaves_one_answer_by_fence() {
    all(&PLACES, stand_still);
}
