//! How to test a handler without AWS or a network: crashes, a checkpoint that is not saved, a stop,
//! a lost lease.
//!
//! ```sh
//! cargo test --example testing
//! ```

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs, Registry};
use serde_json::Value;

fn main() -> ExitCode {
    Registry::with_builtins().handler("batch", Batch::default).main()
}

/// Submits a batch job by name, and polls it until it is done. The cluster is a list here, whose
/// jobs are done at the second poll.
#[derive(Default)]
struct Batch {
    jobs: Mutex<Vec<Job>>,
}

struct Job {
    name: String,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Done,
    Cancelled,
}

impl Batch {
    /// Does nothing if a job of this name exists already.
    fn submit(&self, name: &str) {
        let mut jobs = self.jobs();
        if !jobs.iter().any(|job| job.name == name) {
            jobs.push(Job { name: name.to_owned(), state: State::Running });
        }
    }

    fn look(&self, name: &str) -> Option<State> {
        let mut jobs = self.jobs();
        let job = jobs.iter_mut().find(|job| job.name == name)?;
        let state = job.state;
        if state == State::Running {
            job.state = State::Done;
        }
        Some(state)
    }

    fn cancel(&self, name: &str) {
        self.jobs()
            .iter_mut()
            .filter(|job| job.name == name)
            .for_each(|job| job.state = State::Cancelled);
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Handler for Batch {
    type Args = Value;

    async fn run(&self, cx: Context, _: Value) -> HandlerResult {
        // Every attempt derives the same name: after a crash before the checkpoint was saved, the
        // next attempt finds the same job.
        let name = format!("callback-{}", cx.token());
        if cx.checkpoint::<String>()?.is_none() {
            self.submit(&name);
            cx.save_checkpoint(&name).await?;
        }
        match self.look(&name) {
            Some(State::Done) => Ok(Outputs::of([("job", name)])?.into()),
            Some(State::Running) => Ok(Completion::Again(Duration::from_secs(30))),
            Some(State::Cancelled) | None => {
                Err(HandlerError::permanent(format!("the job {name} is gone")))
            }
        }
    }

    async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
        self.cancel(&format!("callback-{}", cx.token()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test says what it expected")]

    use callbackd::StopReason;
    use callbackd::testing::TestStep;
    use serde_json::json;

    use super::*;

    fn step() -> TestStep {
        TestStep::new(json!({"dataset": "penguins"})).with_token("abcdefghij")
    }

    #[tokio::test]
    async fn an_attempt_after_a_crash_follows_the_same_job() {
        let (batch, step) = (Batch::default(), step());
        step.crash_at_checkpoint(1, &batch).await;
        assert_eq!(
            step.run(&batch).await.expect("it runs"),
            Completion::Again(Duration::from_secs(30))
        );
        assert_eq!((batch.jobs().len(), step.attempt()), (1, 2));
    }

    /// The half minute between two polls takes no time: the clock is tokio's, and paused.
    #[tokio::test(start_paused = true)]
    async fn a_job_that_is_done_is_named_in_the_outputs() {
        let (batch, step) = (Batch::default(), step());
        let done = step.run_to_end(&batch).await.expect("done");
        assert_eq!(
            done.outputs().and_then(|outputs| outputs.get("job")),
            Some("callback-abcdefghij")
        );
        assert_eq!(step.attempt(), 1, "looking again is no new attempt");
    }

    #[tokio::test]
    async fn a_job_whose_checkpoint_was_not_saved_is_not_submitted_again() {
        let (batch, step) = (Batch::default(), step());
        step.refuse_checkpoints(1);
        let error = step.run(&batch).await.expect_err("not saved");
        assert_eq!(error.host_trouble(), Some("ledger"));
        assert_eq!(step.attempt(), 1, "the machine is at fault, not the step");
        step.run(&batch).await.expect("it runs");
        assert_eq!((batch.jobs().len(), step.checkpoints().len()), (1, 1));
    }

    #[tokio::test]
    async fn a_run_that_has_lost_its_lease_saves_nothing() {
        let step = step();
        let run = step.start(Batch::default());
        run.lose_lease();
        let error = run.end().await.expect("it ends").expect_err("not saved");
        assert_eq!((error.host_trouble(), step.checkpoints().len()), (Some("ledger"), 0));
    }

    #[tokio::test]
    async fn a_stopped_pipeline_cancels_the_job() {
        let (batch, step) = (Batch::default(), step());
        step.run(&batch).await.expect("submitted");
        step.clean_up(&batch, StopReason::PipelineStopped).await.expect("cancelled");
        assert!(batch.look("callback-abcdefghij") == Some(State::Cancelled));
    }
}
