//! What was found, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::action::Done;
use super::fleet::Fleet;
use super::survey::Waiting;
use super::verdict::Verdict;
use crate::cli::plain;
use crate::cli::steps::coarse;

/// A step that waits, and what is with it.
pub(super) struct Finding {
    pub step: Waiting,
    pub verdict: Verdict,
    pub done: Option<Done>,
}

impl Finding {
    /// Whether the step is accounted for, now that something may have been done about it.
    pub(super) fn is_well(&self) -> bool {
        self.done.as_ref().map_or(self.verdict.is_well(), Done::is_well)
    }

    pub(super) fn json(&self, fleet: &Fleet) -> Value {
        let Waiting { token, execution, step, status, since, queue, .. } = &self.step;
        json!({
            "token": token.as_str(),
            "verdict": self.verdict.as_str(),
            "detail": self.verdict.detail(),
            "pipeline": execution.pipeline(),
            "execution": execution.as_str(),
            "step": step,
            "status": status,
            "queue": fleet.queues[*queue].queue.url().as_str(),
            "waiting_since": since.map(|since| format!("{since:.3}")),
            "action": self.done.as_ref().map(Done::as_str),
            "action_detail": self.done.as_ref().map(Done::detail),
        })
    }

    pub(super) fn line(&self, now: Timestamp) -> String {
        let Waiting { token, execution, step, since, .. } = &self.step;
        let age = since
            .map(|since| coarse(Duration::try_from(now.duration_since(since)).unwrap_or_default()));
        row(
            token.as_str(),
            self.verdict.as_str(),
            age.as_deref().unwrap_or("-"),
            execution.pipeline(),
            step,
            &self.verdict.detail(),
        )
    }

    /// What was done, if anything was.
    pub(super) fn told(&self) -> Option<String> {
        let done = self.done.as_ref()?;
        let (token, execution) = (&self.step.token, &self.step.execution);
        Some(plain(&format!("{token} {}: {} ({execution})", done.as_str(), done.detail())))
    }
}

pub(super) fn head() -> String {
    row("TOKEN", "VERDICT", "WAITS", "PIPELINE", "STEP", "DETAIL")
}

fn row(token: &str, verdict: &str, age: &str, pipeline: &str, step: &str, detail: &str) -> String {
    plain(&format!("{token:<11} {verdict:<11} {age:>9}  {pipeline:<24} {step:<20} {detail}"))
}

/// How many steps there are of each verdict.
pub(super) fn summary(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "no callback step waits on the configured queues".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.verdict.as_str()).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.into_iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    format!("{} callback step(s) wait: {}", findings.len(), counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(step: &str, verdict: Verdict) -> Finding {
        let step = Waiting {
            token: "abcdefghij".parse().expect("a token"),
            execution: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/e"
                .parse()
                .expect("an ARN"),
            step: step.to_owned(),
            status: "Executing".to_owned(),
            since: "2026-11-26T10:00:00Z".parse().ok(),
            queue: 0,
            place: 0,
        };
        Finding { step, verdict, done: None }
    }

    #[test]
    fn names_from_outside_stay_within_their_line() {
        let hostile = "x\n\u{1b}[2J\r\u{7f}\u{9b}31m";
        let mut finding = finding(hostile, Verdict::Unusable(hostile.to_owned()));
        finding.done = Some(Done::Left(hostile.to_owned()));
        let now = "2026-11-26T12:30:00Z".parse().expect("a time");
        for text in [finding.line(now), finding.told().expect("done")] {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        assert!(finding.line(now).contains("2h30m"), "{}", finding.line(now));
    }

    #[test]
    fn the_summary_counts_by_verdict() {
        let all = [finding("a", Verdict::Lost), finding("b", Verdict::Recent)];
        assert_eq!(summary(&all), "2 callback step(s) wait: 1 lost, 1 recent");
        assert!(summary(&[]).starts_with("no callback step"));
    }

    #[test]
    fn a_step_is_well_by_what_was_done_about_it() {
        let mut finding = finding("a", Verdict::Lost);
        assert!(!finding.is_well());
        for (done, wants) in
            [(Done::Failed, true), (Done::Ended, true), (Done::Left(String::new()), false)]
        {
            finding.done = Some(done);
            assert_eq!(finding.is_well(), wants);
        }
    }
}
