//! `callbackd ledger`: the care of a ledger.

mod accept;
mod backup;
#[cfg(feature = "dynamodb")]
mod create;
mod forget;
mod inquiry;
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
    /// Accept an older copy of the ledger's file as the ledger, which a worker refuses.
    ///
    /// Asks SageMaker about each step that is not settled in it, one a second, prints what it says,
    /// and settles what has been answered since; the worker goes on with the rest. Starts nothing
    /// and answers nothing. Run it as the worker's user, with its configuration.
    Accept(accept::Arguments),
    /// End the record of a step that no one needs any more, such as one whose execution was
    /// deleted. The worker may be running.
    ///
    /// SageMaker is asked first: a step that it waits for is never forgotten. A cleanup does not
    /// run. The step's history names who had it forgotten.
    Forget(forget::Arguments),
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
        Command::Accept(options) => accept::run(options, file).await,
        Command::Forget(options) => Box::pin(forget::run(options, file)).await,
        Command::Verify(options) => verify::run(options, file).await,
    }
}
