//! Whether everything in the demo went as promised.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::stage::{Stage, Workplace};
use super::{Failure, say};
use crate::local::EventKind;

/// What was observed, and how it ended.
pub(super) struct Verdict {
    cancelled: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    tokens: BTreeMap<String, String>,
    accepted: BTreeMap<String, usize>,
    outputs: BTreeMap<String, BTreeMap<String, String>>,
    checks: Vec<(bool, String)>,
}

/// Deletes are batched, a moment behind the answers.
const PATIENCE: Duration = Duration::from_secs(5);

impl Verdict {
    pub(super) fn new(workplace: &Workplace) -> Self {
        Self { cancelled: workplace.path().join("cancelled"), seen: Mutex::default() }
    }

    pub(super) fn note(&self, event: &EventKind) {
        let mut seen = self.seen();
        match event {
            EventKind::StepStarted { step, token, .. } => {
                drop(seen.tokens.insert(token.clone(), step.clone()));
            }
            EventKind::AnswerAccepted { token, repeated: false, .. } => {
                *seen.accepted.entry(token.clone()).or_default() += 1;
            }
            EventKind::StepEnded { step, outputs, .. } if !outputs.is_empty() => {
                seen.outputs.insert(step.clone(), outputs.clone());
            }
            _ => {}
        }
    }

    /// Checks how everything ended.
    pub(super) async fn settle(
        &self,
        stage: &Stage,
        queue: &str,
        first: &str,
        second: &str,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let mut messages = stage.messages(queue).await?;
        while messages > 0 && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50)).await;
            messages = stage.messages(queue).await?;
        }
        let (first, second) = (stage.status(first).await?, stage.status(second).await?);
        let cancelled = std::fs::read_to_string(&self.cancelled).unwrap_or_default();
        let mut seen = self.seen();
        let answered =
            seen.tokens.keys().filter(|token| seen.accepted.get(*token) == Some(&1)).count();
        let output = |step: &str, name: &str| {
            seen.outputs
                .get(step)
                .and_then(|outputs| outputs.get(name))
                .cloned()
                .unwrap_or_default()
        };
        let registered = output("register", "registered");
        let stopped = seen
            .tokens
            .iter()
            .filter(|(token, step)| *step == "train" && cancelled.contains(*token))
            .count();
        let checks = vec![
            (first == "Succeeded", format!("the first execution is {first}")),
            (
                registered == "s3://models/demo-1200",
                format!("outputs went from step to step: {registered}"),
            ),
            (second == "Stopped", format!("the second execution is {second}")),
            (
                stopped == 1 && cancelled.lines().count() == 1,
                format!("its job was cancelled by the cleanup: {}", cancelled.trim()),
            ),
            (
                seen.tokens.len() == 5 && answered == 5,
                format!(
                    "{answered} of {} tokens got exactly one accepted answer",
                    seen.tokens.len()
                ),
            ),
            (messages == 0, format!("{messages} messages are left on the queue")),
        ];
        seen.checks = checks;
        Ok(())
    }

    /// Prints the summary; returns whether everything went as promised.
    pub(super) fn tell(&self) -> bool {
        let seen = self.seen();
        for (holds, what) in &seen.checks {
            say(format_args!(
                "{} {what}",
                if *holds { "  as promised  " } else { "  NOT PROMISED " }
            ));
        }
        let all = !seen.checks.is_empty() && seen.checks.iter().all(|(holds, _)| *holds);
        say(if all {
            "\nAll as promised. README.md tells how to bring your own handler."
        } else {
            "\nNot all was as promised."
        });
        all
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
