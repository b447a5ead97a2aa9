//! What the engine needs of the outside world, as traits: the queue, the pipelines, the ledger's
//! storage, and who watches.
//!
//! Nothing behind these traits decides anything about a step, and nothing before them knows whether
//! they are real.

mod fault;
mod observation;
mod pipelines;
mod queue;
mod store;

pub use fault::{Fault, FaultKind};
pub use observation::{Observation, Observer};
pub use pipelines::{Ending, ExecutionStanding, Pipelines, Standing};
pub use queue::{Entries, Queue, Received};
pub use store::{Put, Row, Store, StoreError};
