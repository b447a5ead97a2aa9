//! callbackd answers the callback steps of Amazon SageMaker Pipelines. A pipeline that reaches such
//! a step sends a message with a token to an SQS queue and waits until someone reports success or
//! failure with that token. callbackd receives the messages, runs a handler for each step, and
//! reports the outcome until SageMaker has accepted it.
//!
//! Most handlers are programs, which the stock binary runs (`type = "exec"`), or services that it
//! calls (`type = "http"`); they do not need this crate. This is the documentation for handlers in
//! Rust.
//!
//! # Write one
//! A handler is an async function, or a type that implements [`Handler`] if it has settings, a
//! cleanup or a state of its own.
//!
//! ```
//! use callbackd::{Context, HandlerError, Outputs};
//!
//! #[derive(serde::Deserialize)]
//! struct Args {
//!     name: String,
//! }
//!
//! async fn greet(_cx: Context, args: Args) -> Result<Outputs, HandlerError> {
//!     Ok(Outputs::of([("greeting", format!("hello, {}", args.name))])?)
//! }
//! ```
//!
//! The step's arguments decode into `Args`. The [`Context`] has the token, saves checkpoints and
//! reports stops. Errors decide what follows: `?` on any error means *try again later*,
//! [`HandlerError::permanent`] fails the step.
//!
//! # Test one
//! [`testing`] runs a handler without AWS, a network or a worker, and can crash it, stop it or take
//! away its lease at a chosen moment.
//!
//! ```
//! # use callbackd::{Context, HandlerError, Outputs};
//! # #[derive(serde::Deserialize)]
//! # struct Args { name: String }
//! # async fn greet(_cx: Context, args: Args) -> Result<Outputs, HandlerError> {
//! #     Ok(Outputs::of([("greeting", format!("hello, {}", args.name))])?)
//! # }
//! use callbackd::handler_fn;
//! use callbackd::testing::TestStep;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), HandlerError> {
//! let done = TestStep::new(json!({"name": "Ada"})).run(&handler_fn(greet)).await?;
//! assert_eq!(done.outputs().and_then(|outputs| outputs.get("greeting")), Some("hello, Ada"));
//! # Ok(())
//! # }
//! ```
//!
//! # Run one
//! A worker of your own is the stock binary with your handlers beside the built-in ones.
//!
//! ```no_run
//! # use callbackd::{Context, HandlerError, Outputs, Registry};
//! # async fn greet(_cx: Context, _: serde_json::Value) -> Result<Outputs, HandlerError> {
//! #     Ok(Outputs::new())
//! # }
//! fn main() -> std::process::ExitCode {
//!     Registry::with_builtins().function("greet", greet).main()
//! }
//! ```
//!
//! Its configuration selects the handler by the name that it is registered under:
//! `[handlers.NAME] type = "greet"`. `examples/template` in the repository is a crate to copy.
//!
//! # The contract
//! What a handler can rely on and must do is described at [`Handler`]: the expected flow,
//! guarantees, assumptions, caveats and errors.
//!
//! # For contributors
//! The modules that are not listed here are the worker itself, and may change in any version.
//! `cargo doc --document-private-items` shows them; begin with `map`.

#![warn(missing_docs, unreachable_pub)]

// What handlers are written, tested and run with.
pub mod builtin;
pub mod duration;
pub mod handler;
pub mod outcome;
pub mod step;
pub mod testing;

// The parts of the worker: public for the tests and benchmarks of this repository, and subject to
// change in any version.
#[cfg(feature = "aws")]
#[doc(hidden)]
pub mod aws;
#[doc(hidden)]
pub mod backoff;
mod causes;
#[cfg(feature = "aws")]
mod cli;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod config;
#[cfg(all(feature = "aws", debug_assertions))]
#[doc(hidden)]
pub mod crash;
#[cfg(feature = "aws")]
#[doc(hidden)]
pub mod daemon;
#[doc(hidden)]
pub mod engine;
mod hex;
#[doc(hidden)]
pub mod ledger;
#[doc(hidden)]
pub mod lifecycle;
#[cfg(feature = "local")]
#[doc(hidden)]
pub mod local;
#[doc(hidden)]
pub mod observe;
#[doc(hidden)]
pub mod orders;
#[doc(hidden)]
pub mod process;
#[doc(hidden)]
pub mod seam;
mod secret;
#[cfg(any(feature = "aws", feature = "http-handler"))]
#[doc(hidden)]
pub mod trust;

pub use handler::{
    Completion, Context, Handler, HandlerError, HandlerResult, Registry, StopReason, handler_fn,
};
pub use outcome::Outputs;

/// Compiles the code in the README.
#[cfg(all(doctest, feature = "aws"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doc)]
mod map {
    //! The way of a message through the code, the layers, and the words.
    //!
    //! # From the message to its deletion
    //! 1. [`engine::pollers::poll`](crate::engine::pollers::poll) receives it,
    //!    [`engine::delivery::deliver`](crate::engine::delivery::deliver) parses it
    //!    ([`Message`](crate::step::Message)), and
    //!    [`engine::dispatch::send_or_start`](crate::engine::dispatch::send_or_start) hands it to
    //!    the step's driver.
    //! 2. [`engine::driver`](crate::engine::driver) loads the step's
    //!    [`Record`](crate::lifecycle::Record) from the [ledger](crate::ledger) and asks
    //!    [`lifecycle::decide`](crate::lifecycle::decide) what follows.
    //! 3. The step is claimed in the ledger, and
    //!    [`engine::running::Call`](crate::engine::running::Call) runs its
    //!    [`Handler`](crate::Handler). [`engine::messages`](crate::engine::messages) keeps the
    //!    message invisible.
    //! 4. The result is frozen in the ledger as an [`Outcome`](crate::outcome::Outcome), with the
    //!    [`ClientRequestToken`](crate::outcome::ClientRequestToken) that identifies it.
    //! 5. [`engine::report::once`](crate::engine::report::once) sends it, again and again until
    //!    SageMaker accepts it or says that the step is closed.
    //! 6. The record is settled, and then
    //!    [`engine::messages::Messages::delete`](crate::engine::messages::Messages::delete) deletes
    //!    the message.
    //!
    //! A step that waits needs no driver: it is parked as a row
    //! ([`engine::inbox`](crate::engine::inbox)) until its time, its turn, a message or a stop
    //! reaches it. A step without a message is resumed from the ledger
    //! ([`engine::sweep`](crate::engine::sweep)). A stop comes with a message, from
    //! [`engine::watch`](crate::engine::watch), or through a shared ledger; the lifecycle treats
    //! them alike. After a crash the record says where to continue.
    //!
    //! # Layers
    //! ```text
    //! cli  daemon                      commands; wiring
    //! config  observe  process  orders settings; what is shown; the surroundings; the operator
    //! aws  local                       the real seams; the local endpoint
    //! engine  crash                    drives lifecycle, owns every task; dies at chosen points
    //! ledger  lifecycle                records; decisions, pure
    //! builtin  testing  handler        programs and services; tests of handlers; the contract
    //! seam  outcome  step              what SQS and SageMaker must do; what all of them speak of
    //! clock  backoff  duration  causes  hex  secret  trust
    //! ```
    //!
    //! Each layer uses only those below it; `tests/architecture.rs` holds the exact list. Workers
    //! do not know of each other: SQS distributes, the ledger coordinates, SageMaker arbitrates.
    //! Nothing outside `lifecycle` decides about a step. No AWS type leaves `aws`.
    //!
    //! # Words
    //! | word | meaning |
    //! |---|---|
    //! | step | one callback step of one execution of a pipeline |
    //! | token | the callback token: SageMaker's name of the waiting step, and its identity here |
    //! | execution | the execution of the pipeline that waits for the step |
    //! | message | the SQS message of a step (`Executing`) or of its stop (`Stopping`) |
    //! | receipt handle | SQS's name of one receive of a message, used to extend and delete it |
    //! | claim | the right to run a step, recorded in the ledger for one worker |
    //! | lease | how long a worker's claims are valid without the worker renewing it, where workers share a ledger |
    //! | fence | to end the lease of a worker that does not renew it, before its steps are taken over |
    //! | attempt | one run of the handler that counts against `max_attempts` |
    //! | checkpoint | what a handler saved, for its next attempt and its cleanup |
    //! | outcome | success with outputs, or failure with a reason; computed once, then frozen |
    //! | report | the call that tells SageMaker the outcome |
    //! | settle | to record that a step needs nothing more; its message is deleted after that |
    //! | deferred | someone else, or the handler itself, answers the step; the worker only watches for its end |
    //! | key | what the handler calls the step, for those who answer it |
    //! | stop | the early end of a run: pipeline stopped, step settled elsewhere, time limit, shutdown, lost lease |
    //! | owed stop | a stop that must still be answered after its cleanup |
    //! | resume | to continue a step from the ledger, after a wait or without its message |
    //! | breaker | what leaves a handler alone for a while if its steps keep failing |
    //! | pause | the time in which a queue is not polled, by order, or a handler not started, by its breaker |
    //! | lane | one queue with its role and limits, as the engine works with it |
}
