//! `callbackd ledger`: the care of a ledger.

mod backup;
#[cfg(feature = "dynamodb")]
mod create;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, complain, plain, say};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the configured DynamoDB table unless it exists, wait until it can be used, and switch
    /// its time to live on. The permissions that it needs are in
    /// deploy/iam/ledger-operator-policy.json.
    #[cfg(feature = "dynamodb")]
    Create,
    /// Copy the ledger's file to a new one. The worker may be running, and is not delayed.
    ///
    /// The copy has the ledger as it was at one moment, is on the disk when the command ends, and
    /// can be read only by the user who runs it. It is examined as `verify` does before it gets its
    /// name; exits 1 if something in it is wrong.
    Backup(backup::Arguments),
    /// Examine everything that the ledger holds, and print what is wrong. The worker may be
    /// running. Changes nothing.
    ///
    /// Exits 0 only if nothing is wrong.
    Verify(verify::Arguments),
}

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    match arguments.command {
        #[cfg(feature = "dynamodb")]
        Command::Create => create::run(file).await,
        Command::Backup(options) => backup::run(options, file).await,
        Command::Verify(options) => verify::run(options, file).await,
    }
}
