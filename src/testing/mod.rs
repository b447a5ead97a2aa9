//! Tests of handlers: a step without SQS, SageMaker or a worker around it.
//!
//! A [`TestStep`] is one callback step. It keeps what the worker would keep of it between calls:
//! the checkpoint and the number of the attempt. [`run`](TestStep::run) calls a handler once, as
//! the worker does; [`start`](TestStep::start) leaves it running, so that the test can stop it,
//! take away its lease or crash it.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use callbackd::testing::TestStep;
//! use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs, StopReason};
//! use serde_json::{Value, json};
//!
//! /// Submits a job once, and polls it until it is done.
//! struct Jobs;
//!
//! impl Handler for Jobs {
//!     type Args = Value;
//!
//!     async fn run(&self, cx: Context, _: Value) -> HandlerResult {
//!         let Some(job) = cx.checkpoint::<String>()? else {
//!             cx.save_checkpoint(&format!("job-{}", cx.token())).await?;
//!             return Ok(Completion::Again(Duration::from_secs(30)));
//!         };
//!         Ok(Outputs::of([("job", job)])?.into())
//!     }
//!
//!     async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
//!         assert_eq!(cx.stop_reason(), Some(StopReason::PipelineStopped));
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), HandlerError> {
//! let step = TestStep::new(json!({"dataset": "penguins"})).with_token("abcdefghij");
//!
//! // The worker dies right after the job's name was saved; the next attempt finds it.
//! step.crash_at_checkpoint(1, &Jobs).await;
//! assert_eq!(step.attempt(), 2);
//! let done = step.run(&Jobs).await?;
//! assert_eq!(done.outputs().and_then(|outputs| outputs.get("job")), Some("job-abcdefghij"));
//!
//! step.clean_up(&Jobs, StopReason::PipelineStopped).await?;
//! # Ok(())
//! # }
//! ```

mod kept;
mod run;
mod step;
#[cfg(test)]
mod tests;

pub use run::TestRun;
pub use step::TestStep;

pub use crate::handler::Progress;

#[expect(clippy::panic, reason = "it fails a test")]
fn broken(what: std::fmt::Arguments<'_>) -> ! {
    panic!("{what}")
}
