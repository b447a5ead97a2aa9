//! What the engine needs from outside, as traits: the queue, the pipelines, and the observer.
//!
//! Nothing behind these traits decides anything about a step, and nothing in front of them knows
//! whether they are real.

mod fault;
mod observation;
mod pipelines;
mod queue;
mod role;
mod span;

pub use fault::{Fault, FaultKind};
pub use observation::{Observation, Observer};
pub use pipelines::{ExecutionStanding, Pipelines, Standing, StepResult};
pub use queue::{Entries, Queue, Received};
pub use role::{ExternalId, NotAnExternalId, Role};
pub use span::{Field, Span, Tracer};
