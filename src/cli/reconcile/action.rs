//! What is done about a step: after a last look at everything that could still account for it.

use super::desk::Desk;
use super::knowledge::Knowledge;
use super::survey::Waiting;
use super::verdict::{Known, Verdict};
use crate::cli::executions::patiently;
use crate::lifecycle::Status;
use crate::outcome::{ClientRequestToken, Outcome, Reason};
use crate::seam::{FaultKind, Pipelines, Standing};

/// What was done about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// A copy of its message is on the queue.
    Redriven(String),
    /// It was answered with a failure.
    Failed,
    /// It does not wait any more.
    Ended,
    /// A worker has it now.
    Held(Status),
    /// Nothing, for this reason.
    Left(String),
}

impl Done {
    /// In JSON and in the table.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Redriven(_) => "redriven",
            Self::Failed => "failed",
            Self::Ended => "ended",
            Self::Held(_) => "held",
            Self::Left(_) => "left",
        }
    }

    pub(super) fn detail(&self) -> String {
        match self {
            Self::Redriven(what) | Self::Left(what) => what.clone(),
            Self::Failed => "SageMaker has its failure".to_owned(),
            Self::Ended => "it does not wait any more".to_owned(),
            Self::Held(status) => Verdict::Held(*status).detail(),
        }
    }

    /// Whether the step is accounted for now.
    pub(super) fn is_well(&self) -> bool {
        !matches!(self, Self::Left(_))
    }
}

/// Why the step fails. The same at each attempt, so that a repeated report is the same request.
fn reason(step: &Waiting) -> Reason {
    let since = step.since.map(|since| format!(" It has waited since {since:.0}."));
    Reason::new(&format!(
        "callbackd reconcile: the message of this step is lost (expired, purged or never \
         delivered). No ledger has it, and it is not in the dead-letter queue.{}",
        since.unwrap_or_default()
    ))
}

impl Desk<'_> {
    /// Brings the step's messages back from the dead-letter queue.
    pub(super) async fn redrive(&mut self, step: &Waiting) -> Done {
        self.tempo.turn(1).await;
        if let Some(done) = self.no_longer_open(step).await {
            return done;
        }
        match self.knowledge(step).await {
            Ok(knowledge) => {
                if let Some(Known::Open(status)) = knowledge.of(step) {
                    return Done::Held(*status);
                }
            }
            Err(why) => return Done::Left(why),
        }
        let to = self.fleet.queues[step.queue].queue.clone();
        match self.dead_letters_of(step.queue) {
            Some(dead) => dead.redrive(step, &to).await,
            None => Done::Left("its queue has no dead-letter queue any more".to_owned()),
        }
    }

    /// Answers the step with a failure.
    pub(super) async fn fail(&mut self, step: &Waiting) -> Done {
        // The question and the answer are one turn: nothing is to happen between the two.
        self.tempo.turn(2).await;
        if let Some(done) = self.no_longer_open(step).await {
            return done;
        }
        if let Err(why) = self.count(step.queue).await {
            return Done::Left(why);
        }
        let knowledge = match self.knowledge(step).await {
            Ok(knowledge) => knowledge,
            Err(why) => return Done::Left(why),
        };
        match self.judge(step, &knowledge) {
            Verdict::Held(status) => return Done::Held(status),
            verdict if !verdict.may_be_failed(self.assume_not_queued) => {
                return Done::Left(format!("it is {} now: {}", verdict.as_str(), verdict.detail()));
            }
            _ => {}
        }
        let outcome = Outcome::Failure(reason(step));
        let request = ClientRequestToken::of(&step.execution, &step.token, &outcome);
        let sagemaker = &self.fleet.places[step.place].sagemaker;
        let Err(fault) = patiently(|| sagemaker.report(&step.token, &outcome, &request)).await
        else {
            return Done::Failed;
        };
        if fault.kind == FaultKind::Refused
            && let Some(done @ Done::Ended) = self.no_longer_open(step).await
        {
            return done;
        }
        Done::Left(format!(
            "SageMaker did not take its failure: {fault}; fix that and ask again, or stop the \
             execution"
        ))
    }

    /// Whether the step has stopped waiting since SageMaker was first asked.
    pub(super) async fn has_ended(&mut self, step: &Waiting) -> bool {
        self.tempo.turn(1).await;
        matches!(self.no_longer_open(step).await, Some(Done::Ended))
    }

    /// Whether SageMaker still has the step as open; if not, what that means.
    async fn no_longer_open(&self, step: &Waiting) -> Option<Done> {
        let sagemaker = &self.fleet.places[step.place].sagemaker;
        match patiently(|| sagemaker.step(&step.execution, &step.token)).await {
            Ok(Standing::Open { .. }) => None,
            Ok(Standing::Closed(_)) => Some(Done::Ended),
            Ok(Standing::NotFound) => Some(Done::Left(
                "SageMaker does not find it now, which does not mean that it has ended; ask again"
                    .to_owned(),
            )),
            Err(fault) => Some(Done::Left(format!(
                "SageMaker did not say whether it still waits: {fault}; ask again"
            ))),
        }
    }

    async fn knowledge(&mut self, step: &Waiting) -> Result<Knowledge, String> {
        self.read(&[step]).await.map_err(|error| format!("the ledger cannot be read: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_fits_whole_and_is_the_same_each_time() {
        let step = Waiting {
            token: "abcdefghij".parse().expect("a token"),
            execution: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/e"
                .parse()
                .expect("an ARN"),
            step: "s".to_owned(),
            status: "Executing".to_owned(),
            since: "2026-11-26T10:11:12.345Z".parse().ok(),
            queue: 0,
            place: 0,
        };
        let text = reason(&step).to_string();
        assert!(text.ends_with("It has waited since 2026-11-26T10:11:12Z."), "{text}");
        assert_eq!(reason(&step), reason(&step.clone()));
    }
}
