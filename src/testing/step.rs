//! One callback step under test.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::instrument::WithSubscriber;

use super::kept::{Checkpoints, Kept, Lines, locked};
use super::{Progress, TestRun, broken};
use crate::handler::{
    Completion, Context, DynHandler, Erased, Handler, HandlerError, HandlerResult, StopReason, Task,
};
use crate::step::{CallbackToken, Step, TraceHeader};

const EXECUTION: &str =
    "arn:aws:sagemaker:us-east-1:123456789012:pipeline/test/execution/abcdefghijkl";
const QUEUE: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/test";
/// The worker's default.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// One callback step whose handler is under test. Clones refer to the same step.
#[derive(Clone)]
pub struct TestStep {
    step: Step,
    pub(super) stop_grace: Duration,
    work_dir: Arc<Path>,
    trace: Option<TraceHeader>,
    pub(super) kept: Arc<Kept>,
}

impl TestStep {
    /// A step with these arguments, at its first attempt and without a checkpoint.
    #[must_use]
    pub fn new(arguments: impl Into<Value>) -> Self {
        let name = format!("callbackd-test-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let work_dir: Arc<Path> = std::env::temp_dir().join(name).into();
        let kept = Kept {
            attempt: AtomicU32::new(1),
            claims: AtomicU64::new(0),
            checkpoints: watch::Sender::new(Checkpoints::default()),
            key: std::sync::Mutex::default(),
            progress: watch::Sender::new(Vec::new()),
            hindrance: std::sync::Mutex::default(),
            log: Arc::default(),
            work_dir: work_dir.clone(),
        };
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(10).collect();
        let step = Step {
            token: parsed(&token),
            execution: parsed(EXECUTION),
            arguments: Arc::new(arguments.into()),
        };
        Self { step, stop_grace: STOP_GRACE, work_dir, trace: None, kept: Arc::new(kept) }
    }

    /// Sets the step's token, which is random otherwise.
    ///
    /// # Panics
    /// If the text is not a callback token: ten of `a-z`, `A-Z`, `0-9`.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.step.token = parsed(token);
        self
    }

    /// Makes it a step of this execution.
    ///
    /// # Panics
    /// If the text is not the ARN of a pipeline execution.
    #[must_use]
    pub fn with_execution(mut self, arn: &str) -> Self {
        self.step.execution = parsed(arn);
        self
    }

    /// Makes it a part of the trace with this `AWSTraceHeader`.
    ///
    /// # Panics
    /// If the text is not a [`TraceHeader`].
    #[must_use]
    pub fn with_trace(mut self, header: &str) -> Self {
        self.trace = Some(parsed(header));
        self
    }

    /// The number of the next attempt.
    #[must_use]
    pub fn with_attempt(self, attempt: u32) -> Self {
        self.kept.attempt.store(attempt, Ordering::SeqCst);
        self
    }

    /// Sets the checkpoint that an earlier attempt saved.
    ///
    /// # Panics
    /// If it cannot be written as JSON.
    #[must_use]
    pub fn with_checkpoint(self, checkpoint: impl Serialize) -> Self {
        #[expect(clippy::expect_used, reason = "a mistake in the test")]
        let checkpoint =
            serde_json::to_value(checkpoint).expect("a checkpoint that can be written as JSON");
        self.kept.checkpoints.send_modify(|checkpoints| checkpoints.saved.push(checkpoint));
        self
    }

    /// How long a run may take to end after it is told to; 30 s otherwise.
    #[must_use]
    pub fn with_stop_grace(mut self, stop_grace: Duration) -> Self {
        self.stop_grace = stop_grace;
        self
    }

    /// Another directory for files of runs; the test is responsible for its content.
    #[must_use]
    pub fn with_work_dir(mut self, work_dir: impl AsRef<Path>) -> Self {
        self.work_dir = work_dir.as_ref().into();
        self
    }

    /// The step's token.
    #[must_use]
    pub fn token(&self) -> &CallbackToken {
        &self.step.token
    }

    /// The number of the next attempt: one more after each crash and each error that counts as an
    /// attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.kept.attempt.load(Ordering::SeqCst)
    }

    /// The worker's directory for files of runs. As with a worker, it need not be there yet. Unless
    /// the test has [chosen another](Self::with_work_dir), it is removed with the last clone of the
    /// step.
    #[must_use]
    pub fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// A context for a call of the handler's own functions. It is never told to stop.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context_until(watch::Sender::new(None).subscribe())
    }

    /// Calls the handler's `run` once, and waits for its end.
    ///
    /// # Errors
    /// What `run` returns; a permanent error if the arguments do not decode.
    ///
    /// # Panics
    /// If the handler does. A worker treats that as an error that may go away.
    pub async fn run<H: Handler>(&self, handler: &H) -> HandlerResult {
        let run = Erased::run(handler, self.context());
        self.counted(run.with_subscriber(self.logging()).await)
    }

    /// Like [`run`](Self::run), but calls again after each [`Completion::Again`], once the delay is
    /// over. With `#[tokio::test(start_paused = true)]` no time passes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_to_end<H: Handler>(&self, handler: &H) -> HandlerResult {
        loop {
            match self.run(handler).await? {
                Completion::Again(after) => sleep(after).await,
                completion => return Ok(completion),
            }
        }
    }

    /// Starts the handler's `run` as a task of its own.
    pub fn start(&self, handler: impl Handler) -> TestRun {
        let (stop, stopping) = watch::channel(None);
        let run = DynHandler::new(handler)
            .run(self.context_until(stopping))
            .with_subscriber(self.logging());
        TestRun::spawn(self.clone(), stop, run)
    }

    /// Runs the handler until the step has its `n`-th checkpoint, and simulates the death of the
    /// process at that moment: the checkpoint is durable, and nothing after it happens. The next
    /// call is the next attempt.
    ///
    /// # Panics
    /// If the run ends before that.
    pub async fn crash_at_checkpoint<H: Handler>(&self, n: usize, handler: &H) {
        self.kept.checkpoints.send_modify(|checkpoints| checkpoints.last = Some(n));
        let mut checkpoints = self.kept.checkpoints.subscribe();
        let run = Erased::run(handler, self.context()).with_subscriber(self.logging());
        tokio::select! {
            biased;
            result = run => broken(format_args!("the run ended before its checkpoint {n}: \
                {result:?}")),
            _ = checkpoints.wait_for(|checkpoints| checkpoints.saved.len() >= n) => {}
        }
        self.kept.checkpoints.send_modify(|checkpoints| checkpoints.last = None);
        self.kept.attempt.fetch_add(1, Ordering::SeqCst);
    }

    /// Calls the handler's `cleanup` once.
    ///
    /// # Errors
    /// What `cleanup` returns; a permanent error if the arguments do not decode.
    pub async fn clean_up<H: Handler>(
        &self,
        handler: &H,
        reason: StopReason,
    ) -> Result<(), HandlerError> {
        let cx = self.context_until(watch::Sender::new(Some(reason)).subscribe());
        Erased::cleanup(handler, cx).with_subscriber(self.logging()).await
    }

    /// The last checkpoint.
    ///
    /// # Errors
    /// A permanent error if there is one that is not a `T`.
    pub fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, HandlerError> {
        self.context().checkpoint()
    }

    /// All checkpoints, in the order in which they were saved.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<Value> {
        self.kept.checkpoints.borrow().saved.clone()
    }

    /// The key that the handler gave the step last.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        locked(&self.kept.key).as_ref().map(ToString::to_string)
    }

    /// The next `times` checkpoints and keys are not saved, as if the ledger could not be written.
    pub fn refuse_checkpoints(&self, times: usize) {
        self.kept.checkpoints.send_modify(|checkpoints| checkpoints.refusals = times);
    }

    /// Checkpoints and keys wait until [`release_checkpoints`](Self::release_checkpoints).
    pub fn hold_checkpoints(&self) {
        self.kept.checkpoints.send_modify(|checkpoints| checkpoints.held = true);
    }

    /// Saves what was held, and holds no more.
    pub fn release_checkpoints(&self) {
        self.kept.checkpoints.send_modify(|checkpoints| checkpoints.held = false);
    }

    /// The progress that the handler reported.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        self.kept.progress.borrow().clone()
    }

    /// What the handler last reported to keep it from working, unless it reported progress since.
    #[must_use]
    pub fn hindrance(&self) -> Option<String> {
        locked(&self.kept.hindrance).clone()
    }

    /// What the handler logged through `tracing`, one event per line. Tasks that it spawned log
    /// elsewhere.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&locked(&self.kept.log)).into_owned()
    }

    pub(super) fn counted(&self, result: HandlerResult) -> HandlerResult {
        if let Err(error) = &result
            && !error.is_permanent()
            && error.host_trouble().is_none()
        {
            self.kept.attempt.fetch_add(1, Ordering::SeqCst);
        }
        result
    }

    pub(crate) fn context_until(&self, stop: watch::Receiver<Option<StopReason>>) -> Context {
        let task = Task {
            step: self.step.clone(),
            queue_url: QUEUE.to_owned(),
            attempt: self.attempt(),
            fence: self.kept.claims.fetch_add(1, Ordering::SeqCst) + 1,
            stop_grace: self.stop_grace,
            checkpoint: self.kept.checkpoints.borrow().saved.last().cloned(),
            work_dir: self.work_dir.clone(),
            trace: self.trace.clone(),
        };
        Context::new(task, stop, self.kept.clone())
    }

    fn logging(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let log = self.kept.log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(move || Lines(log.clone()))
            .finish()
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| broken(format_args!("{error}")))
}
