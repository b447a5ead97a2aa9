//! The real lifecycle under every order of events within bounds: one worker, two with a ledger
//! each, two that share one.
//!
//! Stateright explores everything that can happen to one step. Steps share only slots and a
//! ledger's file, and a slot may take any time, so one step is enough.
//! [`decide`](callbackd::lifecycle::decide) is the real one; the rest is modelled:
//! - SQS: a message is visible, or invisible until it is deleted or comes back, at any moment if no
//!   worker holds it; a deletion by an old receipt handle may or may not take effect. It may be
//!   purged, and the redrive policy takes one that was received too often. Messages arrive in any
//!   order, and some are forged.
//! - SageMaker: reports are accepted, accepted with the reply lost, refused, not permitted, lost,
//!   or arrive when their worker is long dead; answers are late or missing, or say that a step or
//!   execution does not exist although it does. A listing may say that a step waits while its
//!   execution is being stopped. An execution may be deleted, and a settled token may come back.
//! - A ledger: a version, conditional writes, and failures before and after the effect. If it is
//!   shared, each worker has a record that another may remove, and a set of stops. Someone may
//!   answer the step in it when it is deferred, and its workers notice at any later time.
//! - Time does not pass: each limit is ahead or over, and may be over at any moment. What must hold
//!   between limits is stated where a claim lapses (`World::may_see_lapse`).
//! - A worker's phase changes before its drivers hear of it.
//!
//! Repeated from the engine: an event is decided; the record is written first, and if it has
//! changed, it is read again and the same event decided again; if the ledger fails, the event
//! waits, and only those are decided meanwhile that write nothing or something along; what is
//! written along counts in memory at once and reaches the ledger at any later time, or never; a
//! lease that is lost is lost for all claims, and the next ones have another id; a stop found in
//! the record reaches a run through its inbox; a wake reads the record again if the ledger
//! is shared; an idle driver leaves; one whose ledger fails as the worker leaves abandons its step.
//! Effects only start what ends in another action, so a crash between two effects, or between a
//! write and its effects, is a crash right after all of them.
//!
//! `judge` decides about safety, in addition to what [`Broken`](world::Broken) names: no event is
//! illegal, no step is started that neither a message nor SageMaker says to wait, nothing is
//! stopped without a stop, and more. That everything ends is proved by a path: from every reachable
//! world, some course of events without any further fault leads to a closed step, an empty queue
//! and idle workers. On that path, handlers that are to end do not until they are dropped, and a
//! stop is noticed in one way only, so that no step ends by luck. That is sound where stateright's
//! `eventually` is not (it misses circles), and it is enough: the worlds are finite, and honest
//! circles (a retry, a redelivery) are left by any fair scheduler.
//!
//! Short bounds run with every test.
//! `CALLBACKD_MODEL=large cargo test --no-default-features --test model further -- --nocapture`
//! explores far larger ones, and `CALLBACKD_MODEL="0 0 stops=1 crashes=1"` two workers of ledger 0
//! with this budget of faults (`always` in it: they verify).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test target"
)]

mod action;
mod approval;
mod driver;
mod explorations;
mod happening;
#[path = "../support/judge.rs"]
mod judge;
mod known;
mod mutant;
mod mutants;
mod note;
mod setup;
mod trouble;
mod turn;
mod witness;
mod world;
