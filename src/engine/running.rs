//! One call of a handler: a task of its own, with its stop signal, time limit and caught panics.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::inbox::Seat;
use super::lane::Lane;
use super::printed::PrintedLine;
use super::progress::Progressed;
use super::shared::Shared;
use crate::handler::{
    CheckpointError, CheckpointSink, Completion, Context, DynHandler, HandlerResult, Progress, Task,
};
use crate::lifecycle::{Event, RunEnd};
use crate::step::{CallbackToken, StepKey, StopReason};

/// How soon a cleanup is tried again that the machine hindered.
const CLEANUP_AGAIN: Duration = Duration::from_secs(1);

/// A handler's run or cleanup in progress.
pub(crate) struct Call {
    stop: watch::Sender<Option<StopReason>>,
    task: JoinHandle<Event>,
    pub(crate) cleanup: bool,
    /// The fence of its step.
    pub(crate) fence: u64,
    /// When it was started.
    pub(crate) begun: Instant,
    /// How long it may take once it is told to end.
    pub(crate) grace: Duration,
}

impl Call {
    /// Starts a run.
    pub(crate) fn run(
        tasks: &TaskTracker,
        handler: &DynHandler,
        task: Task,
        sink: Arc<dyn CheckpointSink>,
    ) -> Self {
        let (grace, (stop, stopping)) = (task.stop_grace, watch::channel(None));
        let fence = task.fence;
        let told = stopping.clone();
        let run = handler.run(Context::new(task, stopping, sink));
        let call = async move {
            // It was told to end before it began: nothing is started only to be stopped.
            if told.borrow().is_some() {
                return Event::Ended(RunEnd::Aborted);
            }
            Event::Ended(end_of(run.await))
        };
        Self {
            stop,
            task: tasks.spawn(call.in_current_span()),
            cleanup: false,
            fence,
            begun: Instant::now(),
            grace,
        }
    }

    /// Starts a cleanup, which may take `limit`.
    pub(crate) fn cleanup(
        tasks: &TaskTracker,
        handler: &DynHandler,
        task: Task,
        sink: Arc<dyn CheckpointSink>,
        reason: StopReason,
        limit: Duration,
    ) -> Self {
        let (grace, (stop, stopping)) = (task.stop_grace, watch::channel(Some(reason)));
        let fence = task.fence;
        let (handler, cx) = (handler.clone(), Context::new(task, stopping, sink));
        let call = async move {
            let mut hindrance = None;
            let cleaning = async {
                loop {
                    let Err(error) = handler.cleanup(cx.clone()).await else { return Ok(()) };
                    let Some(what) = error.host_trouble() else { return Err(error) };
                    // What is left elsewhere must not stay because this machine was in the way for
                    // a moment.
                    cx.hindered_by(what, error.message());
                    hindrance = Some(error.message().to_owned());
                    sleep(CLEANUP_AGAIN).await;
                }
            };
            Event::Cleaned(match timeout(limit, cleaning).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.message().to_owned()),
                Err(_) => {
                    let why = hindrance.map(|error| format!(": {error}")).unwrap_or_default();
                    Err(format!("it took longer than {}{why}", crate::duration::text(limit)))
                }
            })
        };
        Self {
            stop,
            task: tasks.spawn(call.in_current_span()),
            cleanup: true,
            fence,
            begun: Instant::now(),
            grace,
        }
    }

    /// Tells the handler to end.
    pub(crate) fn tell(&self, reason: StopReason) {
        self.stop.send_replace(Some(reason));
    }

    /// Drops the handler's future at its next await; [`ended`](Self::ended) then reports it.
    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    /// Resolves when the handler has ended, panicked or been dropped. Cancel safe.
    pub(crate) async fn ended(&mut self) -> Event {
        match (&mut self.task).await {
            Ok(event) => event,
            Err(error) => lost(error, self.cleanup),
        }
    }
}

fn end_of(result: HandlerResult) -> RunEnd {
    match result {
        Ok(Completion::Success(outputs)) => RunEnd::Success(outputs),
        Ok(Completion::Again(after)) => RunEnd::Again(after),
        Ok(Completion::Deferred) => RunEnd::Deferred,
        Err(error) if error.is_permanent() => RunEnd::Failure(error.message().to_owned()),
        Err(error) => {
            let (after, error, what) =
                (error.delay(), error.message().to_owned(), error.host_trouble());
            match what {
                // The engine knows how long: it is the same for all runs of the handler.
                Some(what) => RunEnd::Hindered { what, after: Duration::ZERO, error },
                None => RunEnd::Retry { after, error },
            }
        }
    }
}

fn lost(error: JoinError, cleanup: bool) -> Event {
    let panic = error
        .try_into_panic()
        .ok()
        .map(|panic| format!("the handler panicked: {}", panic_text(panic.as_ref())));
    match (panic, cleanup) {
        (Some(text), false) => Event::Ended(RunEnd::Retry { after: None, error: text }),
        (Some(text), true) => Event::Cleaned(Err(text)),
        (None, false) => Event::Ended(RunEnd::Aborted),
        (None, true) => Event::CleanupAborted,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Connects a handler's context with its step's driver.
pub(crate) struct ToDriver {
    pub(crate) seat: Arc<Seat>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lane: Arc<Lane>,
    /// The token and the attempt.
    pub(crate) step: (CallbackToken, u32),
    /// The handler's name.
    pub(crate) handler: String,
    pub(crate) cleanup: bool,
}

impl ToDriver {
    async fn saved(&self, what: Event) -> Result<(), CheckpointError> {
        let gone = |_| CheckpointError::Failed("this worker no longer runs the step".to_owned());
        self.seat.save(what).await.map_err(gone)?
    }
}

impl CheckpointSink for ToDriver {
    fn save(&self, checkpoint: Value) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(self.saved(Event::Checkpoint(checkpoint)))
    }

    fn set_key(&self, key: StepKey) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(self.saved(Event::Key(key)))
    }

    fn progress(&self, progress: Progress) {
        let ((token, attempt), now) = (&self.step, self.shared.clock.now());
        let next = self.seat.show(|face| {
            let (next, logs) =
                Progressed::after(face.progress.as_deref(), progress, *attempt, now)?;
            let next = Arc::new(next);
            face.progress = Some(next.clone());
            Some((next, logs))
        });
        let Some((next, logs)) = next else { return };
        if let Some(moments) = self.lane.progress.get(&self.handler) {
            moments.move_to(token, now);
        }
        let Progress { fraction, text } = &next.progress;
        match logs.then(|| self.shared.progress_lines.take()).flatten() {
            Some(more) => tracing::info!(
                event = "progress_made",
                fraction,
                text,
                more,
                "the step makes progress"
            ),
            None => tracing::debug!(fraction, text, "the step makes progress"),
        }
    }

    fn printed(&self, stream: &'static str, line: &str) {
        let ((token, attempt), at) = (&self.step, self.shared.clock.now());
        let (attempt, text) = (*attempt, line.into());
        self.shared.printed.add(token, PrintedLine { at, attempt, stream, text });
    }

    fn hindered(&self, by: Option<(&'static str, &str)>) {
        match by {
            // Runs need not be affected by the same problem: a cleanup's program is a different
            // one.
            Some((what, error)) if self.cleanup => {
                if let Some(more) = self.shared.said.again("cleanup hindered") {
                    tracing::error!(
                        event = "cleanup_impaired",
                        handler = self.handler,
                        what,
                        error,
                        more,
                        "this machine keeps a cleanup from working; it is tried again within \
                         `cleanup_limit`"
                    );
                }
            }
            None if self.cleanup => {}
            Some((what, error)) => drop(self.shared.impaired.strike(&self.handler, what, error)),
            None => self.shared.impaired.works(&self.handler, Instant::now()),
        }
    }
}
