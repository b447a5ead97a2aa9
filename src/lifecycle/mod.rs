//! The pure machine of one callback step: every decision about a step is made here, and nothing is
//! performed here.
//!
//! [`decide`] takes what is known ([`State`]), what happened ([`Event`]) and the circumstances
//! ([`View`]), and returns what to write to the ledger and what to do ([`Transition`]). It does no
//! I/O, reads no clock and awaits nothing.
//!
//! # What a driver does
//! - It writes first, then adopts [`Transition::local`] and performs the effects in order, then
//!   feeds back their results. If the write is [`Urgency::Along`], nothing waits for it: the record
//!   counts in memory at once. A crash is nothing but effects that did not happen.
//! - A write that finds the record changed is no failure: the driver reads the record again and
//!   decides on the same event again. While a write is not accepted, the event waits;
//!   [`Event::GraceOver`], [`Event::DeadlineReached`], [`Event::StopSeen`], [`Event::LeaseLost`]
//!   and [`Event::Phase`] need none for a run, and are decided meanwhile.
//! - It sends [`Event::Phase`] each time that the worker's [`Phase`] changes.
//! - It may forget a step whose [`Local::idle`] is true. It may drop the record, but not [`Local`],
//!   of a step that is [`Activity::Queued`] or [`Activity::Sleeping`], and reads it again before
//!   the next event; but not of a step that the ledger does not know ([`Status::New`]).

mod answer;
mod blame;
mod complete;
mod conclude;
mod effect;
mod elsewhere;
mod event;
mod forget;
mod history;
mod leave;
mod machine;
mod phase;
mod policy;
mod record;
mod resume;
mod retry;
mod settle;
mod sound;
mod state;
mod stop;
mod take;

#[cfg(test)]
mod tests;

pub use blame::Beside;
pub use complete::{Completed, Told, Unanswerable, Unclear, complete, meant};
pub use effect::Effect;
pub use elsewhere::shows_an_answer;
pub use event::{Answer, Arrival, Event, RunEnd, Via};
pub use forget::{Unforgettable, catch_up, forget};
pub use history::{Happened, Happening, History};
pub use machine::{Illegal, Transition, Urgency, View, Write, decide};
pub use phase::Phase;
pub use policy::{AnsweredBy, OnStop, Policy, Verify};
pub use record::{Ending, Record, Returned, Status, Stop, UnknownStatus, WorkerId};
pub use retry::{NotRetried, may_retry};
pub use sound::contradictions;
pub use state::{Activity, Lease, Local, State};
