//! `callbackd ledger accept`: an older copy of the ledger's file becomes the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::inquiry::Inquiry;
use super::{Failure, complain, plain, say};
use crate::cli::place::Place;
use crate::config::Config;
use crate::ledger::{self, Commit, Ledger, Sqlite};
use crate::lifecycle::{Record, Status, catch_up};
use crate::seam::{Standing, StepResult};
use crate::step::CallbackToken;

#[derive(Args)]
pub(super) struct Arguments {
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Accept it without asking SageMaker, for example because it does not answer: the worker asks
    /// about each step before it goes on with it, unless the step's message comes first.
    #[arg(long)]
    unasked: bool,
}

/// How often the user is told how far a long list has got.
const TOLD: usize = 100;
/// So many steps without an answer: the others have none either.
const ENOUGH: usize = 10;

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let Arguments { ledger: named, unasked } = arguments;
    let path = match Place::find(named.as_deref(), file).await? {
        Place::File(path) => path,
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => {
            return Err(Failure::Runtime(format!(
                "the ledger is the table {} in {}, of which DynamoDB restores a copy under another \
                 name: only a file can be an older copy",
                table.name(),
                table.region()
            )));
        }
    };
    if Sqlite::refused_as_older(&path)?.is_none() {
        say(plain(&format!("{} is no older copy: a worker uses it as it is", path.display())));
        return Ok(ExitCode::SUCCESS);
    }
    let answered = if unasked {
        BTreeMap::new()
    } else {
        let mut inquiry = Inquiry::new(Config::load(file, std::env::vars_os())?).await?;
        ask(&unsettled(&path)?, &mut inquiry).await?
    };
    let ledger = Ledger::beside(ledger::accept(&path)?);
    for (token, how) in answered {
        settle(&ledger, &token, how).await?;
    }
    say(plain(&format!("{} is the ledger now: start the worker", path.display())));
    Ok(ExitCode::SUCCESS)
}

fn unsettled(path: &Path) -> Result<Vec<Record>, Failure> {
    let mut steps = Vec::new();
    ledger::read(path, |record| match record {
        Ok(record) if record.status != Status::Settled => steps.push(record),
        Ok(_) => {}
        Err(damaged) => complain(plain(&format!(
            "the record of {} cannot be read, and is left alone: {}",
            damaged.token.as_deref().unwrap_or("a step"),
            damaged.detail
        ))),
    })?;
    Ok(steps)
}

/// Prints where each step stands; returns those that are closed.
async fn ask(
    steps: &[Record],
    inquiry: &mut Inquiry,
) -> Result<BTreeMap<CallbackToken, StepResult>, Failure> {
    let (mut closed, mut unknown) = (BTreeMap::new(), 0);
    if !steps.is_empty() {
        say(format_args!("{:<11} {:<10} SAGEMAKER", "TOKEN", "STATUS"));
    }
    for (count, step) in (1..).zip(steps) {
        let told = match inquiry.step(step).await {
            Ok(Standing::Open { .. }) => "waits: the worker goes on with it".to_owned(),
            Ok(Standing::Closed(how)) => {
                closed.insert(step.token.clone(), how);
                let caught_up = catch_up(step, how, step.first_seen);
                let settles = caught_up.is_some_and(|left| left.status == Status::Settled);
                let what = if settles { "it is settled" } else { "the worker cleans up after it" };
                format!("closed ({}): {what}", how.as_str())
            }
            Ok(Standing::NotFound) => "does not find it: the worker asks again".to_owned(),
            Err(why) => {
                unknown += 1;
                why
            }
        };
        say(plain(&format!("{:<11} {:<10} {told}", step.token, step.status.as_str())));
        if unknown == ENOUGH {
            break;
        }
        if count % TOLD == 0 {
            complain(format_args!("{count} of {} steps are asked about", steps.len()));
        }
    }
    if unknown == 0 {
        return Ok(closed);
    }
    Err(Failure::Runtime(format!(
        "SageMaker did not say where {unknown} of {} steps stand, so the copy is not accepted: fix \
         that and ask again, or accept it with --unasked",
        steps.len()
    )))
}

async fn settle(ledger: &Ledger, token: &CallbackToken, how: StepResult) -> Result<(), Failure> {
    let Some(record) = ledger.load(token).await? else { return Ok(()) };
    let Some(mut caught_up) = catch_up(&record, how, ledger.now()) else { return Ok(()) };
    caught_up.remember(&record, ledger.now());
    // Nothing else writes it: no worker has the file open.
    ledger.write(caught_up, Commit::Now).await?;
    Ok(())
}
