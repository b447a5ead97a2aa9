//! `callbackd ledger backup`: a copy of the ledger's file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tokio::task::spawn_blocking;

use super::{Failure, complain, plain, say};
use crate::cli::place::Place;
use crate::ledger::{Sqlite, verify_file};

#[derive(Args)]
pub(super) struct Arguments {
    /// The file to create. It must not exist.
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let Arguments { to, ledger } = arguments;
    let path = match Place::find(ledger.as_deref(), file).await? {
        Place::File(path) => path,
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => {
            return Err(Failure::Runtime(format!(
                "the ledger is the table {} in {}: DynamoDB copies it by itself; switch \
                 point-in-time recovery on, or make an on-demand backup of the table",
                table.name(),
                table.region()
            )));
        }
    };
    let copied = to.clone();
    let copy = move || Sqlite::copy(&path, &copied, |part| verify_file(part, |_| ()));
    // A disk that hangs blocks only this thread.
    let census = spawn_blocking(copy).await.map_err(Failure::runtime)??;
    let bytes = to.metadata().map_or(0, |file| file.len());
    say(plain(&format!(
        "{} has the ledger: {} records, {bytes} bytes",
        to.display(),
        census.records
    )));
    if census.flaws == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let things = match census.flaws {
        1 => "1 thing in it is".to_owned(),
        many => format!("{many} things in it are"),
    };
    complain(plain(&format!(
        "{things} wrong, as in the ledger itself, so keep older copies: `callbackd ledger verify \
         {}` names what",
        to.display()
    )));
    Ok(ExitCode::FAILURE)
}
