#[cfg(feature = "aws")]
pub mod aws;
pub mod backoff;
pub mod config;
pub mod duration;
pub mod engine;
pub mod handler;
pub mod ledger;
pub mod lifecycle;
#[cfg(feature = "local")]
pub mod local;
pub mod observe;
pub mod outcome;
pub mod process;
pub mod seam;
pub mod step;

pub use handler::{
    Completion, Context, Handler, HandlerError, HandlerResult, Registry, RegistryError, StopReason, handler_fn,
};
pub use outcome::Outputs;
