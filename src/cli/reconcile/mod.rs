//! `callbackd reconcile`: callback steps that wait, and that nothing accounts for.
//!
//! It starts from what SageMaker has as waiting, takes away what the ledger has, and looks for the
//! rest in the dead-letter queues. It runs beside the workers: it reads their ledger, never
//! receives from their queue, and acts only after it has looked once more.
//!
//! | file | holds |
//! |---|---|
//! | `survey` | what waits, according to SageMaker |
//! | `knowledge` | what the ledger has |
//! | `dead_letters` | what lies in the dead-letter queues |
//! | `verdict` | what that means for a step |
//! | `desk` | all of it, at hand |
//! | `action` | what is done about a step |
//! | `report` | the table and the JSON |

mod action;
mod dead_letters;
mod desk;
mod knowledge;
mod report;
mod survey;
mod verdict;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use self::action::Done;
use self::desk::Desk;
use self::knowledge::Source;
use self::report::{Finding, head, summary};
use self::survey::{Survey, Waiting};
use self::verdict::Verdict;
use super::fleet::{self, Fleet};
use super::{Failure, complain, say};
use crate::aws::Clients;
use crate::config::Config;
use crate::duration;
use crate::ledger::{self, Kind};

#[derive(Args)]
pub(super) struct Arguments {
    /// The pipelines, by name or ARN.
    #[arg(
        long = "pipeline",
        value_name = "NAME",
        required = true,
        num_args = 1..,
        value_parser = pipeline
    )]
    pipelines: Vec<String>,
    /// Only executions that were started within this time, such as "30d"; by default all.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    since: Option<Duration>,
    /// Steps that began to wait more recently are "recent", not "lost": their messages may be on
    /// the way. By default twice the queue's visibility timeout and 10 minutes; at least the
    /// timeout and 5 minutes.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    older_than: Option<Duration>,
    /// Only this configured queue, by its name.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Print an array of objects, one for each waiting step, also those that a worker has.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    actions: Actions,
}

/// What is done beyond looking.
#[derive(Args)]
struct Actions {
    /// Answer lost steps with a failure that says why.
    #[arg(long)]
    fail_lost: bool,
    /// With --fail-lost: also answer steps whose message may be among those on the queue, because
    /// you know that none of them is.
    #[arg(long, requires = "fail_lost")]
    assume_not_queued: bool,
    /// Bring messages of waiting steps back from the dead-letter queue: a copy is put on the queue,
    /// then the message is deleted.
    #[arg(long)]
    redrive: bool,
}

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let config = Config::load(file, std::env::vars_os())?;
    let clients = Clients::new(config.aws.clone(), "reconcile", Arc::new(()));
    let ledger = source(&config.ledger, &clients).await?;
    let fleet = Fleet::of(config, arguments.queue.as_deref(), &clients).await?;
    if arguments.actions.fail_lost {
        refuse_if_blind(&fleet, &ledger)?;
    }
    let mut desk =
        Desk::new(&fleet, ledger, arguments.older_than, arguments.actions.assume_not_queued);
    // If it cannot be read, that is said before SageMaker is asked for minutes.
    desk.ledger.check(&fleet).await?;
    let since = arguments.since.and_then(|within| desk.ledger.now().checked_sub(within).ok());
    let survey = Survey::of(&fleet, &arguments.pipelines, since, &mut desk.tempo).await?;
    let (elsewhere, nameless) = (survey.elsewhere, survey.nameless);
    let mut findings = judged(survey, &mut desk).await?;
    if !arguments.json {
        table(&findings, desk.ledger.now());
    }
    act(&mut findings, &mut desk, &arguments.actions, arguments.json).await;
    if arguments.json {
        let all: Vec<Value> = findings.iter().map(|finding| finding.json(&fleet)).collect();
        say(format_args!("{:#}", Value::Array(all)));
    } else {
        say(summary(&findings));
    }
    if elsewhere > 0 {
        complain(format_args!(
            "{elsewhere} callback step(s) wait on queues that are not looked at here: configure \
             them, or check the pipelines' SqsQueueUrl"
        ));
    }
    if nameless > 0 {
        complain(format_args!(
            "SageMaker shows no token of {nameless} waiting callback step(s): ask again"
        ));
    }
    let is_well = nameless == 0 && findings.iter().all(Finding::is_well);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn source(ledger: &ledger::Config, clients: &Clients) -> Result<Source, Failure> {
    match ledger.kind {
        Kind::Memory => Ok(Source::Memory),
        Kind::Sqlite => Ok(Source::File(ledger.path.clone())),
        #[cfg(feature = "dynamodb")]
        Kind::Dynamodb => {
            let table = clients.table(&ledger.table, ledger.retention).await;
            Ok(Source::Shared(Arc::new(table?)))
        }
        #[cfg(not(feature = "dynamodb"))]
        Kind::Dynamodb => {
            let _ = clients;
            Err(Failure::Runtime(
                "this build has no feature `dynamodb`, which reads a table: use one that has it"
                    .to_owned(),
            ))
        }
    }
}

/// A failure cannot be taken back: it is not sent where absence from the ledger proves nothing.
fn refuse_if_blind(fleet: &Fleet, ledger: &Source) -> Result<(), Failure> {
    if matches!(ledger, Source::Memory) {
        return Err(Failure::Runtime(
            "--fail-lost needs a ledger that can be read, and this one is in the worker's memory: \
             ask its /steps over HTTP what it has, and stop the executions of lost steps"
                .to_owned(),
        ));
    }
    if fleet.queues.iter().all(|ours| !ours.exclusive) {
        return Err(Failure::Runtime(
            "--fail-lost is refused for queues with exclusive = false: another worker's ledger may \
             have what this one lacks; reconcile without it on each worker, and stop the \
             executions of steps that none of them has"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The verdict on each step that waits, the longest-waiting first.
async fn judged(survey: Survey, desk: &mut Desk<'_>) -> Result<Vec<Finding>, Failure> {
    let mut waiting = survey.waiting;
    waiting.sort_by(|one, other| (one.since, &one.token).cmp(&(other.since, &other.token)));
    // After SageMaker was asked: a step that a worker has taken meanwhile is in it.
    let all: Vec<&Waiting> = waiting.iter().collect();
    let knowledge = desk.read(&all).await?;
    let open: Vec<_> = waiting
        .iter()
        .filter(|step| !matches!(knowledge.of(step), Some(verdict::Known::Open(_))))
        .collect();
    desk.search(&open).await;
    let mut findings = Vec::new();
    for step in waiting {
        let verdict = desk.judge(&step, &knowledge);
        // It may have been answered since SageMaker was asked.
        if matches!(verdict, Verdict::Settled(_)) && desk.has_ended(&step).await {
            continue;
        }
        findings.push(Finding { step, verdict, done: None });
    }
    Ok(findings)
}

async fn act(findings: &mut [Finding], desk: &mut Desk<'_>, actions: &Actions, quietly: bool) {
    if actions.redrive {
        desk.hold().await;
        for finding in findings.iter_mut().filter(|one| one.verdict == Verdict::DeadLetter) {
            let done = desk.redrive(&finding.step).await;
            tell(finding, done, quietly);
        }
    }
    // Before steps are failed: that takes a while, and others may look for these messages.
    desk.give_back().await;
    if actions.fail_lost {
        let assumed = actions.assume_not_queued;
        for finding in findings.iter_mut().filter(|one| one.verdict.may_be_failed(assumed)) {
            let done = desk.fail(&finding.step).await;
            tell(finding, done, quietly);
        }
    }
}

fn tell(finding: &mut Finding, done: Done, quietly: bool) {
    finding.done = Some(done);
    if let Some(told) = finding.told().filter(|_| !quietly) {
        say(told);
    }
}

/// Steps that a worker has are only counted: on call, they are noise.
fn table(findings: &[Finding], now: Timestamp) {
    let mut shown = findings.iter().filter(|one| !matches!(one.verdict, Verdict::Held(_)));
    if let Some(first) = shown.next() {
        say(head());
        say(first.line(now));
    }
    for finding in shown {
        say(finding.line(now));
    }
}

/// A pipeline's name, or its ARN, as SageMaker takes it.
fn pipeline(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    let fits = !text.is_empty() && text.len() <= 2048 && text.chars().all(is_plain);
    let name = text.rsplit_once(":pipeline/").map_or(text, |(_, name)| name);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 256
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let is_arn = text.starts_with("arn:");
    if fits && is_name && (is_arn || name == text) {
        Ok(text.to_owned())
    } else {
        Err("a pipeline is named by letters, digits and hyphens, or by its ARN".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_a_name_or_an_arn() {
        for good in ["p", "Abalone-2", "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p"] {
            assert_eq!(pipeline(good), Ok(good.to_owned()));
        }
        for wrong in ["", "-p", "p q", "p\n", "x:pipeline/p", "pipeline/p", "arn:aws:x:pipeline/"] {
            assert!(pipeline(wrong).is_err(), "{wrong:?}");
        }
    }
}
