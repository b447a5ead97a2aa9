//! The real seams: Amazon SQS and Amazon SageMaker through the AWS SDK, none of whose types leave
//! this module.
//!
//! | file | holds |
//! |---|---|
//! | `config` | what can be set |
//! | `clients` | one set of clients for each region and role, made once and cloned |
//! | `account` | such a set |
//! | `outside` | the network, the clock and the credentials that they meet |
//! | `http`, `roots` | the connections under them, and whom they trust |
//! | `credentials` | who we are, kept fresh ahead of time |
//! | `chain`, `profile`, `helper`, `role` | where that comes from |
//! | `calls` | every call: its time-out, our bound around it, its count |
//! | `faults` | what to do about an error |
//! | `sqs`, `sagemaker` | [`Queue`](crate::seam::Queue) and [`Pipelines`](crate::seam::Pipelines) |
//! | `executions` | executions started, stopped and shown by the commands |
//! | `doctor` | whether all of it is there and allowed |

mod account;
mod calls;
mod chain;
mod clients;
mod config;
mod credentials;
pub mod doctor;
mod executions;
mod faults;
mod helper;
mod http;
mod outside;
mod profile;
mod role;
mod roots;
mod sagemaker;
mod sqs;

#[cfg(test)]
mod server;

pub use clients::{Clients, NoEndpoint};
pub use config::Config;
pub use executions::{Callback, ExecutionView, StepView};
pub use http::Connections;
pub use outside::Outside;
pub use roots::NoBundle;
pub use sagemaker::SageMaker;
pub use sqs::Sqs;
