//! The pure machine of one callback step: every decision about a step is made here, and nothing is done here.
//!
//! [`decide`] takes what is known ([`State`]), what happened ([`Event`]) and the circumstances ([`View`]), and says what to write to
//! the ledger and what to do once that is durable ([`Transition`]). It does no I/O, reads no clock and awaits nothing. Whoever drives it
//! writes first, then performs the effects in order, then feeds back what came of them; a crash is nothing but effects that did not
//! happen. A write that finds the record changed is no failure: the driver reads the record anew and asks again.

mod answer;
mod conclude;
mod effect;
mod event;
mod leave;
mod machine;
mod phase;
mod policy;
mod record;
mod resume;
mod settle;
mod state;
mod stop;
mod take;

#[cfg(test)]
mod tests;

pub use effect::Effect;
pub use event::{Answer, Arrival, End, Event, Via};
pub use machine::{Illegal, Transition, Urgency, View, Write, decide};
pub use phase::Phase;
pub use policy::{OnStop, Policy, Verify};
pub use record::{Ending, Record, Returned, Status, Stop, WorkerId};
pub use state::{Here, Lease, Local, State};
