//! What an operator sees of the daemon: logs, metrics, the status server.
//!
//! Nothing here depends on the rest of the crate: it is given plain words and numbers, and asks
//! through [`server::Source`].

pub mod admin;
mod connections;
pub mod events;
mod labels;
mod ledger_size;
pub mod line;
pub mod listen;
pub mod log;
pub mod metrics;
mod page;
mod process_stat;
mod queue_stat;
pub mod server;
pub mod socket;
pub mod writer;
