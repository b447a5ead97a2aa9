//! SQS: standard queues, and the operations on them.
//!
//! [`queue`] decides what happens to messages and does not know JSON; [`api`] turns requests into
//! calls of it.

pub(super) mod api;
mod attributes;
mod batch;
mod error;
mod message;
mod queue;
mod queues;
mod receipt;

pub(super) use api::{Receive, Waiting};
pub(super) use message::Content;
pub(super) use queues::Queues;
