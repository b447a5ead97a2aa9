//! The daemon is killed before and after every kind of outside call, once each, and its successor
//! repairs everything.

use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::thread;

use callbackd::crash::{BOUNDARIES, Boundary, VARIABLE};
use callbackd::lifecycle::Status;
use nix::sys::signal::Signal;
use tokio::runtime::Builder;

use crate::daemon::{Config, Daemon};
use crate::history::judge;
use crate::scene::{Scene, Step, until};

/// Concurrent stories: they wait most of the time, for a visibility timeout.
const AT_ONCE: usize = 12;

/// What must happen for a daemon to reach a boundary.
#[derive(Clone, Copy, Debug)]
enum Story {
    /// A step is run and answered.
    Success,
    /// The first attempt is to be tried again.
    Retry,
    /// The first attempt never ends.
    Long,
    /// A daemon was killed while a step ran.
    Restart,
    /// A step that runs is stopped.
    Stop,
    /// The stop comes, and the work never does.
    StopAlone,
    /// The step is deferred, and then stopped.
    Deferred,
    /// The step is deferred, and then answered through the ledger.
    Answered,
}

/// Where to kill it: before or after the boundary, at which passage.
#[derive(Clone, Copy, Debug)]
struct Place {
    story: Story,
    boundary: Boundary,
    after: bool,
    passing: usize,
}

impl Place {
    fn all() -> Vec<Self> {
        let mut places = Vec::new();
        for &boundary in BOUNDARIES {
            let stories: &[(Story, usize)] = match boundary {
                // Covered in `ledgers`, with a failing ledger.
                Boundary::ProbeLedger | Boundary::Write(Status::New) => &[],
                Boundary::Receive | Boundary::DeleteMessages => {
                    &[(Story::Success, 1), (Story::Stop, 1)]
                }
                Boundary::Report | Boundary::Write(Status::Settled) => {
                    &[(Story::Success, 1), (Story::Stop, 1), (Story::Answered, 1)]
                }
                Boundary::LoadRecord | Boundary::ListRecords | Boundary::PurgeRecords => {
                    &[(Story::Success, 1)]
                }
                Boundary::Run | Boundary::Write(Status::Concluded) => {
                    &[(Story::Success, 1), (Story::Stop, 1)]
                }
                // The claim; then the flag of the stop, and the claim for the cleanup.
                Boundary::Write(Status::Claimed) => {
                    &[(Story::Success, 1), (Story::Stop, 2), (Story::Stop, 3)]
                }
                Boundary::Write(Status::Waiting) => &[(Story::Retry, 1)],
                Boundary::SetVisibility | Boundary::SendMessage | Boundary::AskExecution => {
                    &[(Story::Long, 1)]
                }
                Boundary::Reap => &[(Story::Restart, 1)],
                Boundary::CleanUp => &[(Story::Stop, 1), (Story::StopAlone, 1)],
                Boundary::AskStep | Boundary::Write(Status::Owed) => &[(Story::StopAlone, 1)],
                Boundary::Write(Status::Deferred) => &[(Story::Deferred, 1)],
            };
            for (story, passing) in stories {
                for after in [false, true] {
                    places.push(Self { story: *story, boundary, after, passing: *passing });
                }
            }
        }
        places
    }

    /// The attempts whose programs began, in order; `None` if that is random.
    fn attempts(self) -> Option<&'static [u32]> {
        Some(match (self.story, self.boundary, self.after) {
            // Called beside the program, which may not have begun.
            (Story::Long, _, _) | (Story::Success, Boundary::PurgeRecords, _) => return None,
            // Of the messages of the step and of its stop, either may come back first.
            (Story::Stop, Boundary::Write(Status::Claimed), false) if self.passing == 2 => {
                return None;
            }
            (Story::StopAlone, _, _) => &[],
            (Story::Retry | Story::Restart, _, _) => &[1, 2],
            (Story::Success, Boundary::Write(Status::Claimed), false) => &[1],
            // It was claimed, and its program did not begin.
            (Story::Success, Boundary::Write(Status::Claimed), _) | (_, Boundary::Run, false) => {
                &[2]
            }
            // The result of the run is not recorded yet.
            (Story::Success, Boundary::Run, true)
            | (Story::Success, Boundary::Write(Status::Concluded), false)
            | (Story::Deferred, Boundary::Write(Status::Deferred), false) => &[1, 2],
            (Story::Success | Story::Stop | Story::Deferred | Story::Answered, _, _) => &[1],
        })
    }

    /// How often the cleanup began.
    fn cleanups(self) -> usize {
        match (self.story, self.boundary, self.after) {
            (
                Story::Success | Story::Retry | Story::Long | Story::Restart | Story::Answered,
                _,
                _,
            ) => 0,
            // That it was done is not recorded yet.
            (_, Boundary::CleanUp, true) | (_, Boundary::Write(Status::Concluded), false) => 2,
            (Story::Stop | Story::StopAlone | Story::Deferred, _, _) => 1,
        }
    }

    fn asked_for(self) -> String {
        format!(
            "{} {} {}",
            if self.after { "after" } else { "before" },
            self.boundary.name(),
            self.passing
        )
    }
}

/// A first attempt that waits, in the stories that need it; it reports what is alive of an earlier
/// run.
fn script(story: Story) -> &'static str {
    match story {
        Story::Success | Story::Deferred | Story::Answered => "end 0",
        Story::Retry => "[ $STEP_ATTEMPT = 1 ] && end 75\nend 0",
        Story::Long | Story::Restart => {
            "[ -e $FOLDER/pid ] && alive $(cat $FOLDER/pid) && echo $$ >> $FOLDER/alive\n\
             [ $STEP_ATTEMPT = 1 ] && { echo $$ > $FOLDER/pid; until_there never; }\nend 0"
        }
        Story::Stop | Story::StopAlone => "echo $$ > $FOLDER/pid; until_there never",
    }
}

const CLEANUP: &str =
    "[ -e $FOLDER/pid ] && alive $(cat $FOLDER/pid) && echo $$ >> $FOLDER/alive\nexit 0";

fn config(scene: &Scene, story: Story) -> Config {
    let config = scene.config().with("handlers.job.max_attempts", 5);
    match story {
        // Old records are looked for after a tenth of it.
        Story::Success => config.with("ledger.retention", "1m"),
        Story::Long => config.with("queues.0.repost_after", "10s"),
        Story::Deferred | Story::Answered => config.with("handlers.job.settings.deferred", true),
        _ => config,
    }
}

/// Makes the daemon reach the boundary.
async fn begin(scene: &Scene, story: Story) -> Step {
    match story {
        Story::StopAlone => {
            let step = scene.step();
            scene.stop(&step).await;
            step
        }
        _ => scene.step_sent().await,
    }
}

/// What happens while a daemon runs, the killed one or its successor.
async fn go_on(scene: &Scene, story: Story, step: &Step) {
    match story {
        Story::Stop => {
            until("it runs", async || !scene.lines("pid").is_empty()).await;
            scene.stop(step).await;
        }
        Story::Deferred => {
            until("it is deferred", async || {
                scene.record(step).is_some_and(|record| record["status"] == "deferred")
            })
            .await;
            scene.stop(step).await;
        }
        Story::Answered => {
            let answer = ["complete", &step.token, "--success"];
            let answered =
                async || scene.environment().run(&scene.config(), &answer).status.success();
            until("it takes the answer, which may be given again", answered).await;
        }
        _ => {}
    }
}

async fn killed(daemon: &mut Daemon) {
    until("it is killed", async || daemon.ended().is_some()).await;
    let status = daemon.ended().expect("it ended");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}: {}", daemon.log());
}

async fn tell(place: Place) {
    let scene = Scene::with_cleanup(script(place.story), CLEANUP).await;
    let config = config(&scene, place.story);
    let step = begin(&scene, place.story).await;
    if matches!(place.story, Story::Restart) {
        let mut first = scene.start(&config);
        until("it runs", async || !scene.lines("pid").is_empty()).await;
        first.kill();
    }
    let crash = [(VARIABLE, place.asked_for())];
    let mut daemon =
        scene.start_in(&config, &crash.each_ref().map(|(name, value)| (*name, value.as_str())));
    let mut gone_on = false;
    tokio::select! {
        () = killed(&mut daemon) => {}
        () = go_on(&scene, place.story, &step) => gone_on = true,
    }
    if gone_on {
        killed(&mut daemon).await;
    }
    scene.records();
    let _successor = scene.start(&config);
    if !gone_on {
        go_on(&scene, place.story, &step).await;
    }
    scene.answered_once(&step).await;
    scene.settled(&step).await;
    assert_eq!(scene.lines("alive"), Vec::<String>::new(), "of an earlier run");
    if let Some(attempts) = place.attempts() {
        assert_eq!(
            scene.runs(),
            attempts.iter().map(|attempt| step.attempt(*attempt)).collect::<Vec<_>>()
        );
    }
    assert_eq!(scene.cleanups(), vec![step.cleaned("pipeline_stopped"); place.cleanups()]);
    judge(&scene, &[step]).await;
}

#[test]
fn killed_at_any_boundary_the_daemon_breaks_no_promise() {
    let places = Place::all();
    for boundary in BOUNDARIES.iter().filter(|boundary| **boundary != Boundary::ProbeLedger) {
        assert!(
            places.iter().any(|place| place.boundary == *boundary),
            "{boundary:?} is in no story"
        );
    }
    let (number, waiting) = (places.len(), Mutex::new(places));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(place) = waiting.lock().unwrap().pop() else { return };
                    let story = move || {
                        Builder::new_multi_thread()
                            .enable_all()
                            .build()
                            .expect("a runtime")
                            .block_on(tell(place));
                    };
                    // A thread of its own, so that a failing one does not stop the others; it has
                    // printed its reason.
                    if thread::spawn(story).join().is_err() {
                        failed.lock().unwrap().push(format!("{place:?}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), number, failed.join("\n"));
    println!(
        "killed at {} places, at {} boundaries, before and after: nothing was lost",
        number,
        BOUNDARIES.len() - 1
    );
}
