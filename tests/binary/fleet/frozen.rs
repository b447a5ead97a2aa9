//! The owner of a step stands still for longer than its lease, beside two workers that do not.

use std::fs;

use nix::sys::signal::Signal;

use super::{Fleet, HANDS_OVER, all, has_lost};
use crate::daemon::Daemon;
use crate::sagemaker::{Fault, SUCCESS};
use crate::scene::{Step, until};

/// What the owner was doing.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Running,
    /// The outcome is recorded, and its report is not answered.
    Reporting,
    Cleaning,
}

impl Stage {
    fn script(self) -> &'static str {
        match self {
            Self::Running => HANDS_OVER,
            Self::Reporting => "end 0",
            Self::Cleaning => "until_there never",
        }
    }

    /// The owner gets there; nobody else is asked for anything yet.
    async fn reached(self, fleet: &Fleet, step: &Step) {
        let scene = &fleet.scene;
        match self {
            Self::Running => fleet.checkpoint_is_recorded(step).await,
            Self::Reporting => {
                let hangs = async || !scene.sagemaker.reports(&step.token).is_empty();
                until("the report hangs", hangs).await;
            }
            Self::Cleaning => {
                until("it runs", async || !scene.runs().is_empty()).await;
                scene.stop(step).await;
                until("it cleans up", async || !scene.lines("pids").is_empty()).await;
            }
        }
    }

    async fn finished(self, fleet: &Fleet, step: &Step) {
        let scene = &fleet.scene;
        match self {
            Self::Running => fleet.handed_over(step).await,
            Self::Reporting => {
                scene.answered_once(step).await;
                assert_eq!(scene.lines("ends").len(), 1, "it is not computed again");
            }
            Self::Cleaning => {
                let reason = scene.answered_once(step).await.reason();
                assert!(reason.contains("the pipeline was stopped"), "{reason}");
                assert_eq!(scene.cleanups(), vec![step.cleaned("pipeline_stopped"); 2]);
            }
        }
        fleet.recorded_as(step, "settled").await;
    }
}

/// The first cleanup does not end.
const CLEANUP: &str =
    "mkdir $FOLDER/first 2>/dev/null && { echo $$ >> $FOLDER/pids; until_there never; }\nexit 0";

async fn tell(stage: Stage) {
    let fleet = Fleet::with_cleanup(3, stage.script(), CLEANUP).await;
    fleet.scene.sagemaker.always(SUCCESS, Fault::Hang);
    let _others = fleet.start_others(|config| config).await;
    let step = fleet.scene.step_sent().await;
    let owner = match stage {
        Stage::Running | Stage::Reporting => fleet.start_busy(0, &[]),
        Stage::Cleaning => fleet.start(0),
    };
    stage.reached(&fleet, &step).await;
    owner.signal(Signal::SIGSTOP);
    fleet.scene.sagemaker.heal();
    fleet.first_is_timed_out().await;
    fleet.let_receive();
    stage.finished(&fleet, &step).await;
    let runs = fleet.scene.runs();
    owner.signal(Signal::SIGCONT);
    until("it knows that its lease is lost", async || has_lost(&owner)).await;
    until("nothing of it is alive", async || {
        !fleet.scene.lines("pids").iter().any(|pid| alive(pid))
    })
    .await;
    works_on(&fleet, &owner).await;
    assert_eq!(fleet.scene.runs(), runs);
    // Whatever it sends once more is what was accepted.
    fleet.scene.answered_once(&step).await;
}

/// The woken worker takes another step, as another.
async fn works_on(fleet: &Fleet, owner: &Daemon) {
    let starts = || owner.complaints(&["INFO"], "the step is started").len();
    let before = starts();
    fleet.scene.script("run", "exit 0");
    until("it runs another step", async || {
        fleet.scene.answered_once(&fleet.scene.step_sent().await).await;
        starts() > before
    })
    .await;
}

fn alive(pid: &str) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// As the kernel has it: `T` for a stopped process.
pub(super) fn state(pid: &str) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    status.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_worker_that_stood_still_for_longer_than_its_lease_gives_up_what_another_has_taken() {
    all(&[Stage::Running, Stage::Reporting, Stage::Cleaning], tell);
}
