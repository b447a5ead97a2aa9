//! `callbackd config`: the configuration in force, or everything that can be configured.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, say};
use crate::config::{Config, DEFAULTS};

#[derive(Args)]
pub(super) struct Arguments {
    /// Print the JSON Schema of the configuration file instead.
    #[arg(long, conflicts_with = "defaults")]
    schema: bool,
    /// Print the reference manual instead: every key with its default, unit and range.
    #[arg(long)]
    defaults: bool,
}

pub(super) fn run(arguments: &Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    if arguments.schema {
        say(format_args!("{:#}", Config::schema()));
    } else if arguments.defaults {
        say(DEFAULTS.trim_end());
    } else {
        say(Config::load(file, std::env::vars_os())?.to_toml().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
