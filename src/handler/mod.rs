//! The contract with the code that does a step's work.

mod completion;
mod context;
mod error;
mod factory;
mod function;
mod host;
mod registry;

use std::future::Future;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use completion::{Completion, IntoCompletion};
pub use context::{CheckpointError, Context, Progress};
pub(crate) use context::{CheckpointSink, Task};
pub use error::HandlerError;
pub use factory::HandlerFactory;
pub use function::handler_fn;
pub use host::host_trouble;
pub(crate) use registry::decode;
pub use registry::{BuildError, DynHandler, Registry, RegistryError};

pub use crate::step::StopReason;

/// The result of a run: complete, or an error that says whether trying again can help.
pub type HandlerResult = Result<Completion, HandlerError>;

/// Something about a handler for operators to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Something should be done about it.
    pub warning: bool,
    pub text: String,
}

impl Remark {
    pub fn note(text: impl Into<String>) -> Self {
        Self { warning: false, text: text.into() }
    }

    pub fn warning(text: impl Into<String>) -> Self {
        Self { warning: true, text: text.into() }
    }
}

/// Work for callback steps, compiled in.
///
/// # Expected flow
/// [`run`](Handler::run) is called once the step is claimed in the ledger. What it returns is frozen and reported. Where the
/// pipeline is stopped, or the time limit is reached, [`Context::stopping`] resolves; the run has `stop_grace` to end by itself;
/// then its future is dropped; then [`cleanup`](Handler::cleanup) is called; then the stop is answered.
///
/// # Guarantees
/// - No two calls for one token overlap, among workers that share a ledger.
/// - What [`Context::save_checkpoint`] saved is there at the next attempt and in the cleanup, also after a crash.
/// - An outcome that was returned is never computed again once it is in the ledger, which is the next thing that happens to it.
/// - A panic is caught; it counts like an error that may go away.
///
/// # Assumptions
/// - `run` does not block its thread: use `tokio::task::spawn_blocking` for what does, and mind that dropping the future does not
///   end such a task.
/// - Dropping the future ends the work that it does here. Work that lives elsewhere is ended by `cleanup`.
/// - `cleanup` may be called more than once, and for a step whose `run` never began.
///
/// # Caveats
/// Side effects cannot be made to happen exactly once: the process may die between starting a job and saving that it did. Start
/// jobs under a name derived from the token, save a checkpoint at once, and let a repeated run look before it starts.
///
/// # Errors
/// Any error, through `?`, means *try again later*, `max_attempts` times in all. [`HandlerError::permanent`] fails the step.
/// [`HandlerError::host`] says that the machine is in the way, and counts as no attempt.
pub trait Handler: Send + Sync + 'static {
    /// The step's arguments. Where they do not decode, the step fails and says what is wrong with them.
    type Args: DeserializeOwned + Send;

    /// Does the step's work.
    fn run(&self, cx: Context, args: Self::Args) -> impl Future<Output = HandlerResult> + Send;

    /// Ends what a stopped step left behind elsewhere; [`Context::stop_reason`] says why. The step is answered whatever comes of it.
    fn cleanup(&self, cx: Context, args: Self::Args) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (cx, args);
        async { Ok(()) }
    }

    /// What operators should know of how the handler works on this machine; said at start and by `check`. Nothing is changed by it, and it does
    /// not wait.
    fn remarks(&self) -> Vec<Remark> {
        Vec::new()
    }

    /// Ends what an earlier run left running on this machine when the worker died; called at start, before any step runs.
    fn reap(&self, cx: Context) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// A shared handler is a handler, so that a test can look at one that runs.
impl<H: Handler> Handler for Arc<H> {
    type Args = H::Args;

    fn run(&self, cx: Context, args: H::Args) -> impl Future<Output = HandlerResult> + Send {
        (**self).run(cx, args)
    }

    fn cleanup(&self, cx: Context, args: H::Args) -> impl Future<Output = Result<(), HandlerError>> + Send {
        (**self).cleanup(cx, args)
    }

    fn remarks(&self) -> Vec<Remark> {
        (**self).remarks()
    }

    fn reap(&self, cx: Context) -> impl Future<Output = ()> + Send {
        (**self).reap(cx)
    }
}
