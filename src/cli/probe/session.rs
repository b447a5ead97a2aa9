//! One probe from its first call to its last: the experiments, then the removal.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::caller::{Caller, Setback};
use super::experiments::Experiment;
use super::lab::{Lab, Waits};
use super::notes::Notes;
use super::plan::Plan;
use super::question::Question;
use super::redaction::Redaction;
use super::removal::{Leftover, Remains, end_execution};
use crate::aws::probe::Services;

/// How a session is run.
pub(super) struct Session {
    pub services: Services,
    pub plan: Plan,
    pub waits: Waits,
    /// The least time between two calls.
    pub pace: Duration,
    pub redaction: Redaction,
    pub signals: Interruptions,
}

/// How a session is cut short.
#[derive(Clone, Debug, Default)]
pub(super) struct Interruptions {
    /// The experiments end, and the removal begins.
    pub experiments: CancellationToken,
    /// The removal ends too.
    pub removal: CancellationToken,
}

/// What a session ends with.
pub(super) struct Outcome {
    pub notes: Notes,
    pub left: Vec<Leftover>,
    pub redaction: Redaction,
    pub was_interrupted: bool,
}

/// How often an experiment is begun in which a call had no answer.
const ATTEMPTS: u32 = 3;

impl Session {
    /// Never fails: what goes wrong is in the outcome. `tell` hears of the progress.
    pub(super) async fn run(self, tell: impl Fn(&str)) -> Outcome {
        let experiments = self.signals.experiments.clone();
        let caller = Caller::new(self.services, self.pace, experiments.clone());
        let mut lab = Lab::new(caller, self.plan, self.waits, self.redaction);
        let mut notes = Notes::default();
        match lab.open().await {
            Ok(()) => {
                for (index, experiment) in Experiment::ALL.into_iter().enumerate() {
                    if experiments.is_cancelled() {
                        break;
                    }
                    let count = Experiment::ALL.len();
                    tell(&format!("experiment {} of {count}: {experiment:?}", index + 1));
                    conduct(experiment, &mut lab, &mut notes).await;
                }
            }
            Err(setback) => {
                for question in Question::ALL {
                    notes.leave(question, None, format!("there was no queue: {setback}"));
                }
            }
        }
        tell("removing everything that was created");
        lab.caller.heed(self.signals.removal);
        let left = remove(&mut lab).await;
        let was_interrupted = experiments.is_cancelled();
        Outcome { notes, left, redaction: lab.redaction, was_interrupted }
    }
}

/// Runs an experiment, again if a call had no answer, and ends what it started.
async fn conduct(experiment: Experiment, lab: &mut Lab, notes: &mut Notes) {
    let mut attempt = 1;
    let setback = loop {
        let ended = experiment.run(lab, notes).await;
        tidy(lab).await;
        match ended {
            Ok(()) => return,
            Err(Setback::Unanswered(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(setback) => break setback,
        }
    };
    for question in experiment.questions() {
        if notes.get(*question).is_none() {
            notes.leave(*question, None, setback.to_string());
        }
    }
}

/// Ends the executions of the last experiment; the removal ends what stays.
async fn tidy(lab: &mut Lab) {
    for execution in lab.take_running() {
        let end = Instant::now() + lab.waits.surplus;
        let _ = end_execution(&mut lab.caller, &execution, end).await;
    }
}

async fn remove(lab: &mut Lab) -> Vec<Leftover> {
    let mut remains = Remains { pipelines: lab.pipelines_begun(), queues: Vec::new() };
    match lab.queue() {
        Some(url) => remains.queues.push(url.to_owned()),
        // Whether it was created is unknown.
        None => {
            let name = lab.plan.queue().to_owned();
            let find = async |services: &Services| services.queues(&name).await;
            remains.queues = lab.caller.ask(find).await.unwrap_or_default();
        }
    }
    remains.remove(&mut lab.caller, lab.waits.patience).await
}
