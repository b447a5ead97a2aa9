//! The built binary as its users run it: configured by a file, stopped by signals, between moto's
//! SQS and a scripted SageMaker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "../support/account.rs"]
mod account;
#[path = "../support/exposition.rs"]
mod exposition;
#[path = "../support/judge.rs"]
mod judge;
#[path = "../support/lines.rs"]
mod lines;
#[path = "../support/output.rs"]
mod output;
#[path = "../support/service_model.rs"]
mod service_model;
#[path = "../support/venv.rs"]
mod venv;

mod clocks;
mod daemon;
mod disk;
mod history;
mod http;
mod http_server;
mod moto;
mod proxy;
mod sagemaker;
mod scene;
#[cfg(feature = "http-handler")]
mod service;

mod answers;
mod approval;
mod blame;
#[cfg(debug_assertions)]
mod boundaries;
mod checkpoints;
mod circumstances;
mod commands;
mod crashes;
#[cfg(feature = "local")]
mod crowds;
mod deletes;
mod elsewhere;
mod fleet;
mod handlers;
mod health;
mod host;
mod jobs;
mod kills;
mod ledgers;
mod limits;
mod logs;
mod missing;
mod names;
mod operations;
mod operator;
mod outages;
mod page;
mod progress;
mod reconcile;
mod reconcile_table;
mod redrive;
mod reload;
#[cfg(feature = "local")]
mod retried;
#[cfg(feature = "local")]
mod rights;
#[cfg(feature = "local")]
mod roles;
mod route;
#[cfg(feature = "http-handler")]
mod services;
mod show;
mod silence;
mod spot;
mod stops;
mod surroundings;
mod table_input;
mod untrusted;
mod verify;
mod wall_clock;
mod workspaces;
