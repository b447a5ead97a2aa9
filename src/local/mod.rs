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
//! [`Service`] can be used alone if no network is needed, as in a simulation.
//!
//! Everything is in memory and ends with the endpoint. There is no authentication. For behaviour
//! that AWS leaves open, [`Undocumented`] has a switch; failures on demand are fault [`Rule`]s.
//!
//! Not included: FIFO queues, the older XML protocol, other step types than callback steps, caching
//! and retrying of steps, and SQS's delays before a deleted queue's name is free or a purge is
//! done.
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
pub use sts::ExternalIds;
pub use undocumented::Undocumented;
