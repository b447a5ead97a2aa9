//! `callbackd ledger verify`: what is wrong with the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Failure, complain, plain, say};
use crate::cli::place::Place;
use crate::ledger::{Census, Flaw, verify_file};
use crate::lifecycle::Status;

#[derive(Args)]
pub(super) struct Arguments {
    /// The file to examine, such as a copy; else the ledger in the configuration. Of a DynamoDB
    /// table everything but arguments and checkpoints is read, at the cost of a scan.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    ledger: &'a str,
    records: u64,
    statuses: BTreeMap<&'static str, u64>,
    problems: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    token: Option<&'a str>,
    status: Option<Status>,
    problem: &'a str,
}

/// Problems that are told: of a file that is damaged everywhere, more say nothing.
const TOLD: usize = 10_000;

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut flaws = Vec::new();
    let (name, census) = match Place::find(arguments.file.as_deref(), file).await? {
        Place::File(path) => {
            let name = path.display().to_string();
            // A disk that hangs blocks only this thread.
            let examined = spawn_blocking(move || {
                let census = verify_file(&path, |flaw| keep(&mut flaws, flaw));
                census.map(|census| (census, flaws))
            });
            let examined = match examined.await.map_err(Failure::runtime)? {
                // Nothing of it can be read, which is a finding too.
                Err(error) if arguments.json && error.is_damaged() => {
                    let what = error.to_string();
                    let census = Census { flaws: 1, ..Census::default() };
                    Ok((census, vec![Flaw { token: None, status: None, what }]))
                }
                examined => examined,
            };
            let census;
            (census, flaws) = examined?;
            (name, census)
        }
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => {
            let census = crate::ledger::verify(&*table, |flaw| keep(&mut flaws, flaw)).await;
            let name = format!("the table {} in {}", table.name(), table.region());
            (name, census?)
        }
    };
    if arguments.json {
        json(&name, &census, &flaws)?;
    } else {
        table(&name, &census, &flaws);
    }
    if census.flaws > flaws.len() as u64 {
        complain(format_args!("only the first {TOLD} of {} problems are told", census.flaws));
    }
    Ok(if census.flaws == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn keep(flaws: &mut Vec<Flaw>, flaw: Flaw) {
    if flaws.len() < TOLD {
        flaws.push(flaw);
    }
}

fn json(ledger: &str, census: &Census, flaws: &[Flaw]) -> Result<(), Failure> {
    let statuses = census.statuses.iter().map(|(status, count)| (status.as_str(), *count));
    let problems = flaws.iter().map(|flaw| Finding {
        token: flaw.token.as_deref(),
        status: flaw.status,
        problem: &flaw.what,
    });
    let report = Report {
        ledger,
        records: census.records,
        statuses: statuses.collect(),
        problems: problems.collect(),
    };
    say(serde_json::to_string_pretty(&report).map_err(Failure::runtime)?);
    Ok(())
}

fn table(name: &str, census: &Census, flaws: &[Flaw]) {
    if !flaws.is_empty() {
        say(format_args!("{:<11} {:<10} PROBLEM", "TOKEN", "STATUS"));
    }
    for flaw in flaws {
        let token = flaw.token.as_deref().unwrap_or("-");
        let status = flaw.status.map_or("-", Status::as_str);
        say(plain(&format!("{token:<11} {status:<10} {}", flaw.what)));
    }
    let statuses: Vec<String> = census
        .statuses
        .iter()
        .map(|(status, count)| format!("{count} {}", status.as_str()))
        .collect();
    let statuses =
        if statuses.is_empty() { String::new() } else { format!(" ({})", statuses.join(", ")) };
    let verdict = match census.flaws {
        0 => "nothing is wrong".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    say(plain(&format!("{name}: {} records{statuses}: {verdict}", census.records)));
}
