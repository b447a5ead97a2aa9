//! What a handler knows about its step and can ask for.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use crate::handler::HandlerError;
use crate::step::{
    CallbackToken, ExecutionArn, InvalidKey, Step, StepKey, StopReason, TraceHeader,
};

/// The progress of a run, as reported by the handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// 0.0 to 1.0, if the handler can tell.
    pub fraction: Option<f64>,
    /// A description for people, of at most 200 characters.
    pub text: String,
}

impl Progress {
    /// What is kept of a description: a line on a screen.
    pub(crate) const TEXT: usize = 200;
}

/// The subject of one call of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) step: Step,
    pub(crate) queue_url: String,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
    /// Greater with each claim of the step.
    pub(crate) fence: u64,
    /// How long the run may continue after it is told to stop. The engine drops it a second later.
    pub(crate) stop_grace: Duration,
    /// What an earlier attempt saved.
    pub(crate) checkpoint: Option<Value>,
    /// Where the handler may keep files of the run.
    pub(crate) work_dir: Arc<Path>,
    /// The trace that the step belongs to.
    pub(crate) trace: Option<TraceHeader>,
}

/// Receives checkpoints, keys and progress.
pub(crate) trait CheckpointSink: Send + Sync {
    /// Durable when it returns.
    fn save(&self, checkpoint: Value) -> BoxFuture<'_, Result<(), CheckpointError>>;
    /// Durable when it returns.
    fn set_key(&self, key: StepKey) -> BoxFuture<'_, Result<(), CheckpointError>>;
    fn progress(&self, progress: Progress);

    /// Its program has printed a line.
    fn printed(&self, stream: &'static str, line: &str) {
        let _ = (stream, line);
    }

    /// The machine keeps the run from continuing, or no longer does.
    fn hindered(&self, by: Option<(&'static str, &str)>) {
        let _ = by;
    }
}

/// A checkpoint was not saved. The last one that was is still there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The ledger failed, or the step is no longer this worker's.
    #[error("the checkpoint was not saved: {0}")]
    Failed(String),
    /// It never can be: it is too large for the ledger, or cannot be encoded.
    #[error("the checkpoint cannot be kept: {0}")]
    Unfit(String),
}

/// A key was not saved. The last one that was is still there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The ledger failed, or the step is no longer this worker's.
    #[error("the key was not saved: {0}")]
    Failed(String),
    /// The text cannot be a key.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
}

/// A handler's access to its step; cheap to clone.
#[derive(Clone)]
pub struct Context {
    task: Arc<Task>,
    latest: Arc<Mutex<Option<Value>>>,
    stop: watch::Receiver<Option<StopReason>>,
    sink: Arc<dyn CheckpointSink>,
}

impl Context {
    /// A context for one call.
    pub(crate) fn new(
        task: Task,
        stop: watch::Receiver<Option<StopReason>>,
        sink: Arc<dyn CheckpointSink>,
    ) -> Self {
        let latest = Arc::new(Mutex::new(task.checkpoint.clone()));
        Self { task: Arc::new(task), latest, stop, sink }
    }

    /// The callback token that the step is answered with; use it in the names of jobs that the
    /// handler starts.
    #[must_use]
    pub fn token(&self) -> &CallbackToken {
        &self.task.step.token
    }

    /// The execution that waits for the step.
    #[must_use]
    pub fn execution(&self) -> &ExecutionArn {
        &self.task.step.execution
    }

    /// The pipeline's name.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        self.task.step.execution.pipeline()
    }

    /// The queue that the step came from.
    #[must_use]
    pub fn queue_url(&self) -> &str {
        &self.task.queue_url
    }

    /// The step's arguments as they were received.
    #[must_use]
    pub fn arguments(&self) -> &Value {
        &self.task.step.arguments
    }

    /// 1 for the first attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.task.attempt
    }

    /// A number that is greater for each claim of the step than for all before, whichever worker
    /// made them. A system that keeps the greatest that it has seen for a step, and refuses smaller
    /// ones, is safe from a run whose worker was frozen, or cut off, while another took over.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.task.fence
    }

    /// The trace that the step belongs to: the `AWSTraceHeader` of its message, if it has one that
    /// can be read. Pass it on to what the handler calls. The sender of the message chose it. If
    /// the worker exports traces, it names the span of this run.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceHeader> {
        self.task.trace.as_ref()
    }

    /// How long a run may take to end after [`stopping`](Self::stopping) has resolved.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        self.task.stop_grace
    }

    /// The worker's directory for files of runs; it outlives the process. It may not exist yet.
    #[must_use]
    pub fn work_dir(&self) -> &Path {
        &self.task.work_dir
    }

    /// Resolves with the reason when the run must end; never otherwise.
    ///
    /// ```
    /// # use callbackd::{Context, HandlerError, Outputs};
    /// # async fn train() -> Result<f64, HandlerError> { Ok(0.97) }
    /// async fn score(cx: Context, _: serde_json::Value) -> Result<Outputs, HandlerError> {
    ///     tokio::select! {
    ///         score = train() => Ok(Outputs::of([("score", score?)])?),
    ///         reason = cx.stopping() => Err(format!("given up: {}", reason.as_str()).into()),
    ///     }
    /// }
    /// # use callbackd::{handler_fn, testing::TestStep};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), HandlerError> {
    /// # let done = TestStep::new(()).run(&handler_fn(score)).await?;
    /// # assert_eq!(done.outputs().and_then(|outputs| outputs.get("score")), Some("0.97"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stopping(&self) -> StopReason {
        let mut stop = self.stop.clone();
        match stop.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Why the run must end, if it must; in a cleanup, why it is called.
    #[must_use]
    pub fn stop_reason(&self) -> Option<StopReason> {
        *self.stop.borrow()
    }

    /// The checkpoint that this or an earlier attempt saved last.
    ///
    /// # Errors
    /// A permanent error if there is a checkpoint that is not a `T`.
    pub fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, HandlerError> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        latest.map(serde_json::from_value).transpose().map_err(|error| {
            HandlerError::permanent(format_args!("the checkpoint does not decode: {error}"))
        })
    }

    /// Saves a checkpoint; it is durable when this returns. Only the last one is kept.
    ///
    /// # Errors
    /// [`CheckpointError`] if it was not saved. Continue or give up, as the work requires.
    pub async fn save_checkpoint<T: Serialize + Sync>(
        &self,
        checkpoint: &T,
    ) -> Result<(), CheckpointError> {
        let value = serde_json::to_value(checkpoint)
            .map_err(|error| CheckpointError::Unfit(error.to_string()))?;
        self.sink.save(value.clone()).await?;
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// Names the step for those who answer it, once the run is [`Deferred`]: a step with the key
    /// `ORDER-17` by `callbackd complete --key ORDER-17`. A key has 1 to 256 characters in one
    /// line. It is durable when this returns, so set it before you ask for the answer. Only the
    /// last one is kept. Use a key for one question: a repeated answer is meant for the step that
    /// has it then.
    ///
    /// [`Deferred`]: crate::Completion::Deferred
    ///
    /// # Errors
    /// [`KeyError`] if it was not saved.
    pub async fn set_key(&self, key: &str) -> Result<(), KeyError> {
        self.sink.set_key(key.parse()?).await.map_err(|error| match error {
            CheckpointError::Failed(why) | CheckpointError::Unfit(why) => KeyError::Failed(why),
        })
    }

    /// Tells operators that the machine keeps the run from continuing, while the run keeps trying:
    /// like [`HandlerError::host`], but for a run that has already done work.
    pub fn hindered_by(&self, what: &'static str, error: &str) {
        self.sink.hindered(Some((what, error)));
    }

    /// Keeps a line that the run's program has printed, for those who look at the step.
    pub(crate) fn printed(&self, stream: &'static str, line: &str) {
        self.sink.printed(stream, line);
    }

    /// The run is making progress, so whatever kept its handler from working is over.
    pub fn is_under_way(&self) {
        self.sink.hindered(None);
    }

    /// Tells operators how far the run is; `fraction` from 0.0 to 1.0, `text` up to 200 characters.
    /// It is shown by `callbackd steps` and at `/steps`, and logged at most once a minute. Kept in
    /// memory only, also while the step waits after [`Again`](crate::Completion::Again).
    ///
    /// `callbackd_progress_age_seconds` is the time since the running step that has been silent for
    /// longest last reported something new: alert on it to find runs that hang.
    pub fn progress(&self, fraction: impl Into<Option<f64>>, text: impl Into<String>) {
        let fraction = fraction.into().filter(|f: &f64| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().nth(Progress::TEXT) {
            text.truncate(end);
        }
        self.sink.progress(Progress { fraction, text });
    }
}
