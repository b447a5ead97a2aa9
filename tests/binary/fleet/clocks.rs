//! Workers whose wall clocks are five minutes ahead and behind. Claims do not depend on them; the
//! limits in a step's record do, once another worker reads it.

use std::time::Duration;

use super::{Fleet, HANDS_OVER, all, has_lost};
use crate::clocks::Clocks;
use crate::daemon::Daemon;
use crate::scene::{never, until};

const OFFSETS: [i64; 3] = [-300, 0, 300];

/// The worker with this place among the offsets owns the step.
async fn tell(owner: usize) {
    let fleet = Fleet::new(3, HANDS_OVER).await;
    let clocks: Vec<Clocks> = (0..3)
        .map(|at| {
            let at_worker = (at + owner) % 3;
            Clocks::ahead(fleet.scene.folder(), &format!("clocks{at}"), OFFSETS[at_worker])
        })
        .collect();
    let start = |at: usize| {
        if at > 0 {
            fleet.ways[at].to_sqs.hold("receivemessage");
        }
        fleet.start_busy(at, &clocks[at].variables())
    };
    let mut workers = [start(1), start(2), start(0)];
    until("all are up", async || workers.iter().all(Daemon::is_up)).await;
    let step = fleet.scene.step_sent().await;
    fleet.checkpoint_is_recorded(&step).await;
    fleet.let_receive();
    never("it is run again", Duration::from_secs(8), async || fleet.scene.runs().len() > 1).await;
    assert!(!workers.iter().any(has_lost));
    workers[2].kill();
    fleet.first_is_timed_out().await;
    fleet.handed_over(&step).await;
    assert!(!workers[..2].iter().any(has_lost));
}

#[test]
fn clocks_that_are_five_minutes_off_neither_end_a_claim_nor_prolong_one() {
    all(&[0, 1, 2], tell);
}
