//! The built binary as its users meet it: configured by a file, stopped by signals, between moto's SQS and a scripted SageMaker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "../support/account.rs"]
mod account;
#[path = "../support/judge.rs"]
mod judge;
#[path = "../support/service_model.rs"]
mod service_model;
#[path = "../support/venv.rs"]
mod venv;

mod daemon;
mod disk;
mod history;
mod http;
mod moto;
mod proxy;
mod sagemaker;
mod scene;

mod answers;
#[cfg(debug_assertions)]
mod boundaries;
mod crashes;
mod handlers;
mod kills;
mod ledgers;
mod operations;
mod outages;
mod stops;
mod untrusted;
