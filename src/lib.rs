//! callbackd answers Amazon SageMaker Pipelines' callback steps: each message of an SQS queue is run once by a handler, and what came of
//! it is reported until SageMaker has taken it.
//!
//! # The life of a message
//! 1. `engine/pollers` receives it; `engine/delivery` reads it ([`step`]) and `engine/dispatch` hands it to the driver of its step.
//! 2. `engine/driver` loads the step's record ([`ledger`]) and asks [`lifecycle`] what follows.
//! 3. The step is claimed in the ledger, and `engine/running` runs its [`handler`]; `engine/messages` keeps the message invisible.
//! 4. What the handler came to is frozen in the ledger as an [`outcome`], with the client request token that names it.
//! 5. `engine/report` sends it, again and again until SageMaker accepts it or says that the step is closed.
//! 6. The record is settled, and then `engine/messages` deletes the message.
//!
//! A step that waits needs no driver: it is parked as a row (`engine/inbox`) until its time, its turn, a message or a stop reaches it. A
//! step whose message is gone goes on from the ledger (`engine/sweep`). A stop comes with a message, from `engine/watch`, or through a
//! shared ledger; the lifecycle treats all alike. A crash is nothing but an effect that did not happen: the record says where to go on.
//!
//! # Layers
//! ```text
//! cli  daemon                      commands; wiring
//! config  observe  process         settings; what is shown; the surroundings
//! aws  local                       the real seams; the look-alike
//! engine                           drives lifecycle, owns every task
//! ledger  lifecycle                records; decisions, pure
//! builtin  handler                 programs; the contract
//! seam  outcome  step  clock  backoff  duration
//! ```
//! Each uses only what stands below it; `tests/architecture.rs` holds the exact list.
//!
//! # What is deliberately absent
//! Workers know nothing of each other: SQS distributes, the ledger coordinates, SageMaker arbitrates. Nothing outside `lifecycle`
//! decides about a step. No AWS type leaves `aws`.

#[cfg(feature = "aws")]
pub mod aws;
pub mod backoff;
pub mod builtin;
#[cfg(feature = "aws")]
mod cli;
pub mod clock;
pub mod config;
#[cfg(all(feature = "aws", debug_assertions))]
#[doc(hidden)]
pub mod crash;
#[cfg(feature = "aws")]
pub mod daemon;
pub mod duration;
pub mod engine;
pub mod handler;
mod hex;
pub mod ledger;
pub mod lifecycle;
#[cfg(feature = "local")]
pub mod local;
pub mod observe;
pub mod outcome;
pub mod process;
pub mod seam;
pub mod step;
pub mod testing;

pub use handler::{Completion, Context, Handler, HandlerError, HandlerResult, Registry, StopReason, handler_fn};
pub use outcome::Outputs;

/// The README's own code compiles.
#[cfg(all(doctest, feature = "aws"))]
#[doc = include_str!("../README.md")]
struct Readme;
