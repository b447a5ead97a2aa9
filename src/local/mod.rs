//! SQS and SageMaker Pipelines on loopback, for unmodified AWS SDKs: behind `demo` and `local`, and
//! in tests.
//!
//! ```text
//! endpoint    starts and stops it all; owns the tasks
//!  └ server   connections, bodies, faults that break them; control: the API under /_local/
//!     └ service    one lock around all state; long polls
//!        ├ sqs         queues and messages
//!        └ sagemaker   pipelines, executions, answers; its messages go into the queues
//! ```
//!
//! [`Service`] by itself serves whoever needs no network: a simulation.
//!
//! Everything lives in memory and ends with the endpoint. There is no authentication. Where AWS
//! leaves open what happens, [`Undocumented`] has a switch; what goes wrong on demand is a fault
//! [`Rule`].
//!
//! Not here: FIFO queues, the older XML protocol, other step types than callback steps, caching and
//! retrying of steps, and SQS's delays before a deleted queue's name is free or a purge is done.
#![doc = "\n"]
#![doc = include_str!("README.md")]

mod call;
pub mod clock;
mod control;
mod endpoint;
pub mod events;
pub mod faults;
mod ids;
mod options;
mod page;
mod protocol;
mod sagemaker;
mod server;
mod service;
mod sqs;
mod sts;
pub mod undocumented;

pub use endpoint::Endpoint;
pub use events::{Event, EventKind};
pub use faults::{Fault, Rule};
pub use options::Options;
pub use service::{Dropped, Service};
pub use undocumented::Undocumented;
