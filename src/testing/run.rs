//! A handler's run in progress.

use std::future::Future;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Progress, TestStep, broken};
use crate::handler::{HandlerResult, StopReason};

/// A run in progress, from [`TestStep::start`]. Dropping it aborts it.
pub struct TestRun {
    step: TestStep,
    tell: watch::Sender<Option<StopReason>>,
    task: JoinHandle<HandlerResult>,
    /// How many checkpoints and how much progress the test has waited for.
    saved: usize,
    told: usize,
}

impl TestRun {
    pub(super) fn spawn(
        step: TestStep,
        tell: watch::Sender<Option<StopReason>>,
        run: impl Future<Output = HandlerResult> + Send + 'static,
    ) -> Self {
        let (saved, told) =
            (step.kept.checkpoints.borrow().saved.len(), step.kept.progress.borrow().len());
        Self { step, tell, task: tokio::spawn(run), saved, told }
    }

    /// Tells the run to end, as the worker does if the pipeline is stopped, the time limit is
    /// reached or the worker shuts down.
    pub fn stop(&self, reason: StopReason) {
        self.tell.send_replace(Some(reason));
    }

    /// Takes the step away from this worker: the run is told so, and its checkpoints are refused.
    pub fn lose_lease(&self) {
        self.step.refuse_checkpoints(usize::MAX);
        self.stop(StopReason::LeaseLost);
    }

    /// Waits for the next checkpoint that the run saves.
    ///
    /// # Panics
    /// If the run ends without one.
    pub async fn checkpointed(&mut self) {
        let mut checkpoints = self.step.kept.checkpoints.subscribe();
        let saved = self.saved;
        tokio::select! {
            _ = checkpoints.wait_for(|checkpoints| checkpoints.saved.len() > saved) => self.saved += 1,
            result = &mut self.task => broken(format_args!("the run ended without another \
                checkpoint: {result:?}")),
        }
    }

    /// Waits for the next progress that the run reports.
    ///
    /// # Panics
    /// If the run ends without it.
    pub async fn progressed(&mut self) -> Progress {
        let mut progress = self.step.kept.progress.subscribe();
        let told = self.told;
        tokio::select! {
            _ = progress.wait_for(|progress| progress.len() > told) => self.told += 1,
            result = &mut self.task => broken(format_args!("the run ended without further \
                progress: {result:?}")),
        }
        self.step.kept.progress.borrow()[told].clone()
    }

    /// Simulates the death of the process: the run's future is dropped at its next await. The next
    /// call is the next attempt.
    pub async fn crash(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.step.kept.attempt.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits for the end of the run: what it returned, or `None` if it was dropped because it did
    /// not end within the `stop_grace` after it had been told to.
    ///
    /// # Panics
    /// If the handler does. A worker treats that as an error that may go away.
    pub async fn end(mut self) -> Option<HandlerResult> {
        let mut stop = self.tell.subscribe();
        let ended = tokio::select! {
            ended = &mut self.task => Some(ended),
            _ = stop.wait_for(Option::is_some) => timeout(self.step.stop_grace, &mut self.task).await.ok(),
        };
        match ended? {
            // A run that gives up because it was told to is no attempt.
            Ok(result) if self.tell.borrow().is_some() => Some(result),
            Ok(result) => Some(self.step.counted(result)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        self.task.abort();
    }
}
