//! The real seams: Amazon SQS and Amazon SageMaker through the AWS SDK, none of whose types leave this module.
//!
//! | file | holds |
//! |---|---|
//! | `config` | what can be set |
//! | `clients` | one set of clients for each region and role, made once and cloned |
//! | `account` | such a set |
//! | `outside` | the network, the clock and the credentials that they meet |
//! | `http` | the connections under them |
//! | `credentials`, `role` | who we are, kept fresh ahead of time |
//! | `calls` | every call: its time-out, our bound around it, its count |
//! | `faults` | what to do about an error |
//! | `sqs`, `sagemaker` | [`Queue`](crate::seam::Queue) and [`Pipelines`](crate::seam::Pipelines) |
//! | `executions` | executions started, stopped and shown by the commands |
//! | `doctor` | whether all of it is there and allowed |

mod account;
mod calls;
mod clients;
mod config;
mod credentials;
pub mod doctor;
mod executions;
mod faults;
mod http;
mod outside;
mod role;
mod sagemaker;
mod sqs;

#[cfg(test)]
mod server;

pub use clients::{Clients, NoRegion};
pub use config::Config;
pub use executions::{Callback, ExecutionView, StepView};
pub use http::Connections;
pub use outside::Outside;
pub use sagemaker::SageMaker;
pub use sqs::Sqs;
