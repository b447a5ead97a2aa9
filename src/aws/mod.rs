//! The real implementations of the seams: Amazon SQS and Amazon SageMaker through the AWS SDK,
//! whose types never leave this module.
//!
//! | file | holds |
//! |---|---|
//! | `config` | the settings |
//! | `clients` | one set of clients for each region and role, created once and cloned |
//! | `account` | such a set |
//! | `outside` | the network, the clock and the credentials below them |
//! | `http`, `roots` | the connections, and the authorities they trust |
//! | `credentials` | our credentials, renewed ahead of time |
//! | `chain`, `profile`, `helper`, `role` | where credentials come from |
//! | `calls` | every call: its timeout, our bound around it, its count |
//! | `faults` | what to do about an error |
//! | `sqs`, `sagemaker` | [`Queue`](crate::seam::Queue) and [`Pipelines`](crate::seam::Pipelines) |
//! | `dynamodb` | the ledger's [`Store`](crate::ledger::Store) in a table |
//! | `executions` | executions that the commands start, stop, list and show |
//! | `backlog` | how many messages a queue has, and its dead-letter queue |
//! | `spot` | the notice before EC2 takes an instance back |
//! | `doctor` | whether everything exists and is allowed |
//! | `probe` | the calls of experiments, with the services' own errors |

mod account;
mod backlog;
mod calls;
mod chain;
mod clients;
mod config;
mod credentials;
pub mod doctor;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod executions;
mod faults;
mod helper;
mod http;
mod outside;
pub mod probe;
mod profile;
mod role;
mod roots;
mod sagemaker;
mod spot;
mod sqs;

#[cfg(test)]
mod server;

pub use backlog::Backlog;
pub use clients::{Clients, NoEndpoint};
pub use config::Config;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{Created, DynamoDb, Unusable};
pub use executions::{Callback, ExecutionSummary, ExecutionView, Listed, StepView};
pub use http::Connections;
pub use outside::Outside;
pub use roots::NoBundle;
pub use sagemaker::SageMaker;
pub use spot::SpotNotices;
pub use sqs::Sqs;
