//! SQS: standard queues, and the operations on them.
//!
//! [`queue`] decides what happens to messages and knows nothing of JSON; [`api`] turns requests into calls on it.

pub mod api;
mod attributes;
mod batch;
mod error;
mod message;
mod queue;
mod queues;
mod receipt;

pub use api::{Receive, Waiting};
pub use message::Content;
pub use queues::Queues;
