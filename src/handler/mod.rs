//! The contract with the code that does a step's work.

mod arguments;
mod completion;
mod context;
mod error;
mod factory;
mod function;
mod host;
mod leftover;
mod registry;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use arguments::Misfit;
pub use completion::{Completion, IntoCompletion};
pub use context::{CheckpointError, Context, KeyError, Progress};
pub(crate) use context::{CheckpointSink, Task};
pub use error::HandlerError;
pub use factory::HandlerFactory;
pub use function::handler_fn;
pub use host::host_trouble;
pub use leftover::Leftover;
pub(crate) use registry::Erased;
pub use registry::{BuildError, DynHandler, Registry, RegistryError};

pub use crate::step::{InvalidKey, StepKey, StopReason};

/// The result of a run: complete, or an error that says whether trying again can help.
pub type HandlerResult = Result<Completion, HandlerError>;

/// Something about a handler for operators to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remark {
    /// How urgent it is.
    pub severity: Severity,
    /// One line.
    pub text: String,
}

/// How urgent a [`Remark`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Note,
    /// Something should be done about it.
    Warning,
    /// The handler cannot work until something is done about it. `check` fails; the daemon starts
    /// all the same, because the machine may become ready later.
    Error,
}

impl Remark {
    /// Something good to know.
    pub fn note(text: impl Into<String>) -> Self {
        Self { severity: Severity::Note, text: text.into() }
    }

    /// Something that will cause trouble.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, text: text.into() }
    }

    /// Something that prevents the handler from working until it is changed.
    pub fn error(text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, text: text.into() }
    }
}

/// Work for callback steps, in Rust.
///
/// # Expected flow
/// 1. A message brings a step. It is claimed in the ledger, and [`run`](Handler::run) is called
///    with its arguments.
/// 2. `run` saves a checkpoint as soon as there is something to find again, such as the id of a
///    job.
/// 3. What `run` returns is frozen in the ledger and reported to SageMaker until it is accepted.
/// 4. If `run` returns [`Completion::Again`] or an error that may go away, it is called again
///    later, with the checkpoint.
/// 5. If the pipeline is stopped or the time limit is reached, [`Context::stopping`] resolves. The
///    run has `stop_grace` to end; then its future is dropped. [`cleanup`](Handler::cleanup) is
///    called, and the step is answered.
///    The same happens without an answer if SageMaker shows the step closed meanwhile; the reason
///    is [`StopReason::SettledElsewhere`] if it has succeeded.
/// 6. If the worker shuts down, `stopping` resolves too, with the same grace. There is no cleanup:
///    another worker, or this one after a restart, calls `run` again, with the checkpoint. After a
///    crash the same happens without a warning.
///
/// A success or a permanent error that `run` returns after it was told to end is still the step's
/// outcome, and no cleanup follows, unless the lease was lost or the step is closed already. A run
/// that merely gives up returns any other error.
///
/// # Guarantees
/// - No two calls for one token overlap, among workers that share a ledger.
/// - A checkpoint saved with [`Context::save_checkpoint`] is available at the next attempt and in
///   the cleanup, also after a crash.
/// - An outcome in the ledger is never computed again. It gets there right after `run` has returned
///   it.
/// - A panic is caught. It counts like an error that may go away.
///
/// # Assumptions
/// - `run` does not block its thread. Blocking work belongs in `tokio::task::spawn_blocking`;
///   dropping the future does not end it there.
/// - Dropping the future ends the work that it does on this machine. Work elsewhere is ended by
///   `cleanup`.
/// - `cleanup` may be called more than once, and for a step whose `run` never began.
///
/// # Caveats
/// Side effects cannot be made to happen exactly once: the process may die between starting a job
/// and saving that it did. Start jobs under a name derived from the token, save a checkpoint at
/// once, and let a repeated run look for the job before it starts one.
///
/// # Errors
/// An error through `?` means *try again later*, up to `max_attempts` times in total;
/// [`HandlerError`] lists the exceptions. [`HandlerError::permanent`] fails the step.
/// [`HandlerError::host`] says that the machine is at fault, and counts as no attempt. If the
/// process dies, that counts as an attempt of a step that ran alone, or that was on trial because
/// it had been in two such deaths before.
///
/// # Examples
/// A job on a cluster, submitted once under a name derived from the token, and looked at every half
/// minute:
/// ```
/// # mod cluster {
/// #     use callbackd::HandlerError;
/// #     pub async fn submit(_: &str) -> Result<(), HandlerError> { Ok(()) }
/// #     pub async fn is_done(_: &str) -> Result<bool, HandlerError> { Ok(true) }
/// #     pub async fn cancel(_: &str) -> Result<(), HandlerError> { Ok(()) }
/// # }
/// use std::time::Duration;
///
/// use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs};
/// use serde_json::Value;
///
/// struct Cluster;
///
/// impl Handler for Cluster {
///     type Args = Value;
///
///     async fn run(&self, cx: Context, _: Value) -> HandlerResult {
///         let job = format!("callback-{}", cx.token());
///         if cx.checkpoint::<String>()?.is_none() {
///             // Does nothing if there is a job of this name: an attempt may have died right here.
///             cluster::submit(&job).await?;
///             cx.save_checkpoint(&job).await?;
///         }
///         if cluster::is_done(&job).await? {
///             return Ok(Outputs::of([("job", job)])?.into());
///         }
///         Ok(Completion::Again(Duration::from_secs(30)))
///     }
///
///     async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
///         cluster::cancel(&format!("callback-{}", cx.token())).await
///     }
/// }
/// # use callbackd::testing::TestStep;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), HandlerError> {
/// # let step = TestStep::new(Value::Null);
/// # assert!(step.run(&Cluster).await?.outputs().is_some());
/// # step.clean_up(&Cluster, callbackd::StopReason::PipelineStopped).await
/// # }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// The step's arguments. If they do not decode, the step fails with a reason that names the
    /// argument, what was expected and what was found. `callbackd route` shows it beforehand.
    type Args: DeserializeOwned + Send;

    /// Does the step's work.
    fn run(&self, cx: Context, args: Self::Args) -> impl Future<Output = HandlerResult> + Send;

    /// Ends what a stopped step left behind elsewhere; [`Context::stop_reason`] says why. The step
    /// is answered even if this fails. It is not called for a step that has succeeded by someone
    /// else's answer while nothing of it ran.
    fn cleanup(
        &self,
        cx: Context,
        args: Self::Args,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (cx, args);
        async { Ok(()) }
    }

    /// What operators should know about how the handler works on this machine, where runs have
    /// their files in `work_dir`; reported at start and by `check`. It changes nothing and does not
    /// wait.
    fn remarks(&self, work_dir: &Path) -> Vec<Remark> {
        let _ = work_dir;
        Vec::new()
    }

    /// What runs of killed workers may have left in `work_dir` and no live process uses. Called at
    /// start and regularly; leftovers of settled steps are [removed](Leftover::remove).
    fn leftovers(&self, work_dir: &Path) -> Vec<Leftover> {
        let _ = work_dir;
        Vec::new()
    }

    /// Ends what an earlier run left running on this machine when the worker died; called at start,
    /// before any step runs.
    fn reap(&self, cx: Context) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// A shared handler is a handler, so that a test can observe one that runs.
impl<H: Handler> Handler for Arc<H> {
    type Args = H::Args;

    fn run(&self, cx: Context, args: H::Args) -> impl Future<Output = HandlerResult> + Send {
        (**self).run(cx, args)
    }

    fn cleanup(
        &self,
        cx: Context,
        args: H::Args,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        (**self).cleanup(cx, args)
    }

    fn remarks(&self, work_dir: &Path) -> Vec<Remark> {
        (**self).remarks(work_dir)
    }

    fn leftovers(&self, work_dir: &Path) -> Vec<Leftover> {
        (**self).leftovers(work_dir)
    }

    fn reap(&self, cx: Context) -> impl Future<Output = ()> + Send {
        (**self).reap(cx)
    }
}
