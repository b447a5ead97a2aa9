//! `callbackd probe`: finds out, in the user's own account, what AWS leaves undocumented.
//!
//! It creates a queue and pipelines of callback steps, runs experiments one after another, and
//! removes everything. An experiment that fails leaves its questions open; nothing is concluded
//! from it. Nothing is concluded from a call without an answer either: its experiment begins again.
//!
//! | file | holds |
//! |---|---|
//! | `plan` | names and pipelines, and what is said before |
//! | `question` | what is asked, and what callbackd assumes |
//! | `notes` | what was observed |
//! | `caller` | the pace of the calls |
//! | `letter` | a step's message |
//! | `lab` | queue, pipelines and messages, as the experiments use them |
//! | `experiments` | the experiments |
//! | `session` | all of them, and the removal after |
//! | `removal` | the end of what was created |
//! | `redaction` | what is not published |
//! | `report` | Markdown and JSON |

mod caller;
mod experiments;
mod lab;
mod letter;
mod notes;
mod plan;
mod question;
mod redaction;
mod removal;
mod report;
mod session;

#[cfg(test)]
mod tests;

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::caller::Caller;
use self::lab::Waits;
use self::plan::Plan;
use self::redaction::Redaction;
use self::removal::Remains;
use self::report::Report;
use self::session::{Interruptions, Session};
use super::executions::patiently;
use super::{Failure, complain, say};
use crate::aws::Clients;
use crate::aws::probe::Services;
use crate::config::Config;
use crate::duration;
use crate::process::signals::Signals;

#[derive(Args)]
pub(super) struct Arguments {
    /// The role that the pipelines run as; it must be allowed to send to the queue
    /// (deploy/iam/probe-role-policy.json).
    #[arg(
        long,
        value_name = "ARN",
        required_unless_present = "clean_up",
        value_parser = role
    )]
    role_arn: Option<String>,
    /// What the names of the queue and the pipelines begin with. Amazon's managed policy lets
    /// pipelines send only to queues with "sagemaker" in their name.
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "sagemaker-callbackd-probe",
        value_parser = plan::prefix
    )]
    name_prefix: String,
    /// Create, or with --clean-up delete, without asking.
    #[arg(long)]
    yes: bool,
    /// Print an object instead of Markdown.
    #[arg(long, conflicts_with = "clean_up")]
    json: bool,
    /// Delete what earlier probes with this prefix left when they were killed, and do nothing else.
    #[arg(long, conflicts_with = "role_arn")]
    clean_up: bool,
    /// How long to wait for a message, and for the end of a step: 5s to 1h. For what should not
    /// happen, such as a second message, it waits a minute at most.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = patience)]
    patience: Duration,
    /// The least time between two calls, at least 10ms; throttled calls slow down by themselves.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = pace)]
    pace: Duration,
}

/// How long the experiments wait for what should not happen.
const SURPLUS: Duration = Duration::from_mins(1);

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let aws = Config::section("aws", file, std::env::vars_os())?.aws;
    let clients = Clients::new(aws, "command", Arc::new(()));
    let services = Services::of(&clients).await?;
    let account = patiently(|| services.account_id()).await.map_err(|fault| {
        let text = format!("it is unknown whose account this would be: {fault}");
        Failure::call(&fault, text)
    })?;
    match &arguments.role_arn {
        Some(role) => probe(services, &account, role, &arguments).await,
        None => clean_up(services, &account, &arguments).await,
    }
}

async fn probe(
    services: Services,
    account: &str,
    role: &str,
    arguments: &Arguments,
) -> Result<ExitCode, Failure> {
    if role.split(':').nth(4) != Some(account) {
        return Err(Failure::Usage(format!(
            "the role {role} is not in account {account}, whose credentials these are: a pipeline \
             runs as a role of its own account"
        )));
    }
    let plan = Plan::new(&arguments.name_prefix, role);
    let (region, has_own_endpoint) = (services.region().to_owned(), services.has_own_endpoint());
    complain(plan.told(account, &region, arguments.patience));
    if !agreed(arguments.yes, "nothing was created")? {
        return Ok(ExitCode::FAILURE);
    }
    let mut redaction = Redaction::default();
    redaction.learn(&plan.run, "RUN");
    redaction.learn(role, "ROLE");
    let waits = Waits { patience: arguments.patience, surplus: SURPLUS.min(arguments.patience) };
    let (signals, pace) = (Interruptions::default(), arguments.pace);
    let session = Session { services, plan, waits, pace, redaction, signals: signals.clone() };
    let outcome = heeding(&signals, session.run(|progress| complain(progress))).await?;
    let report = Report {
        notes: &outcome.notes,
        redaction: &outcome.redaction,
        region: &region,
        date: Timestamp::now(),
        has_own_endpoint,
    };
    if arguments.json {
        say(format_args!("{:#}", report.json()));
    } else {
        say(report.markdown().trim_end());
    }
    if outcome.left.is_empty() {
        complain("everything that was created is removed");
    } else {
        complain(removal::told(&outcome.left, &arguments.name_prefix));
    }
    let is_well =
        outcome.left.is_empty() && !outcome.was_interrupted && outcome.notes.has_any_settled();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn clean_up(
    services: Services,
    account: &str,
    arguments: &Arguments,
) -> Result<ExitCode, Failure> {
    let (prefix, region) = (&arguments.name_prefix, services.region().to_owned());
    let mut caller = Caller::new(services, arguments.pace, CancellationToken::new());
    let remains = Remains::find(&mut caller, prefix).await.map_err(|setback| {
        Failure::Runtime(format!("what probes have left could not be listed: {setback}"))
    })?;
    if remains.is_empty() {
        say(format_args!("no probe with {prefix} left anything in account {account}, {region}"));
        return Ok(ExitCode::SUCCESS);
    }
    complain(removal::found(&remains, arguments.patience));
    if !agreed(arguments.yes, "nothing was deleted")? {
        return Ok(ExitCode::FAILURE);
    }
    let signals = Interruptions::default();
    caller.heed(signals.experiments.clone());
    let left = heeding(&signals, remains.remove(&mut caller, arguments.patience)).await?;
    if left.is_empty() {
        say("everything is removed");
        return Ok(ExitCode::SUCCESS);
    }
    complain(removal::told(&left, prefix));
    Ok(ExitCode::FAILURE)
}

/// Awaits `work`; the first signal ends what it does, the second also its removal.
async fn heeding<T>(signals: &Interruptions, work: impl Future<Output = T>) -> Result<T, Failure> {
    let mut caught = Signals::listen().map_err(Failure::runtime)?;
    let heed = async {
        caught.next_end().await;
        complain("ending, and removing what was created; a second signal leaves it there");
        signals.experiments.cancel();
        caught.next_end().await;
        signals.removal.cancel();
        std::future::pending().await
    };
    tokio::select! {
        biased;
        ended = Box::pin(work) => Ok(ended),
        never = heed => never,
    }
}

/// Asks the user, unless `yes` was said already.
fn agreed(yes: bool, otherwise: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "there is no terminal to ask on, so {otherwise}: pass --yes to agree to the above"
        )));
    }
    complain("go on? [y/N]");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(Failure::runtime)?;
    let is_yes = is_yes(&answer);
    if !is_yes {
        complain(otherwise);
    }
    Ok(is_yes)
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

/// The ARN of a role.
fn role(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let is_role = matches!(
        parts.as_slice(),
        ["arn", _, "iam", "", account, name]
            if account.len() == 12
                && account.bytes().all(|byte| byte.is_ascii_digit())
                && name.starts_with("role/")
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "/+=,.@_-".contains(c))
    );
    if is_role {
        Ok(text.to_owned())
    } else {
        Err("a role is given by its ARN: arn:aws:iam::ACCOUNT:role/NAME".to_owned())
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(5))
}

fn pace(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(10))
}

fn within(text: &str, least: Duration) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_hours(1);
    let given = duration::parse(text)?;
    if (least..=MOST).contains(&given) {
        Ok(given)
    } else {
        Err(format!("it is {} to {}", duration::text(least), duration::text(MOST)))
    }
}
