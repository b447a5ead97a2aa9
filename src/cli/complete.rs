//! `callbackd complete`: answers a deferred step through the ledger.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
#[cfg(feature = "dynamodb")]
use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args};

use super::place::Place;
use super::user::who;
use super::{Failure, plain, say};
use crate::ledger::{self, Filter, Given, Ledger, NotGiven};
use crate::lifecycle::{Record, Status, Told, meant};
use crate::observe::events::coded;
use crate::outcome::{Outcome, Outputs, Reason};
use crate::step::{CallbackToken, StepKey};

#[derive(Args)]
#[command(
    group(ArgGroup::new("step").required(true).args(["token", "key"])),
    group(ArgGroup::new("answer").required(true).args(["outputs", "success", "failure"])),
)]
pub(super) struct Arguments {
    /// The callback token of the step.
    token: Option<CallbackToken>,
    /// Instead of the token: the key that the step's handler gave it.
    #[arg(long)]
    key: Option<StepKey>,
    /// The step succeeds, with this output; once for each.
    #[arg(long = "output", value_name = "NAME=VALUE")]
    outputs: Vec<String>,
    /// The step succeeds, without outputs.
    #[arg(long)]
    success: bool,
    /// The step fails, for this reason; SageMaker gets its first 256 characters.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    failure: Option<String>,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

/// Settled steps are many, so they are looked through only if no other step has the key.
const UNSETTLED: [Status; 5] =
    [Status::Deferred, Status::Concluded, Status::Claimed, Status::Waiting, Status::Owed];

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let answer = answer(&arguments)?;
    let store = match Place::find(arguments.ledger.as_deref(), file).await? {
        Place::File(path) => ledger::open_beside(&path)?,
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => Arc::new(*table),
    };
    let ledger = Ledger::beside(store);
    let token = match (arguments.token, &arguments.key) {
        (Some(token), _) => token,
        (None, Some(key)) => with_key(&ledger, key).await?,
        (None, None) => return Err(Failure::Usage("name the step by its token or key".to_owned())),
    };
    give(&ledger, &token, &answer).await?;
    Ok(ExitCode::SUCCESS)
}

/// The outcome that is asked for.
fn answer(arguments: &Arguments) -> Result<Outcome, Failure> {
    if let Some(text) = &arguments.failure {
        return Ok(Outcome::Failure(Reason::new(text)));
    }
    let mut outputs = Outputs::new();
    for text in &arguments.outputs {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::Usage(format!("--output is NAME=VALUE, not {text:?}")));
        };
        outputs
            .insert(name, value)
            .map_err(|error| Failure::Usage(plain(&format!("--output: {error}"))))?;
    }
    Ok(Outcome::Success(outputs))
}

async fn with_key(ledger: &Ledger, key: &StepKey) -> Result<CallbackToken, Failure> {
    let mut named = listed(ledger, key, &UNSETTLED).await?;
    if named.is_empty() {
        named = listed(ledger, key, &[Status::Settled]).await?;
    }
    meant(key, &named).map_err(|unclear| Failure::runtime(plain(&unclear.to_string())))
}

async fn listed(
    ledger: &Ledger,
    key: &StepKey,
    statuses: &[Status],
) -> Result<Vec<Record>, Failure> {
    let mut filter = Filter::of(statuses);
    let mut named = Vec::new();
    loop {
        let page = ledger.page(filter.clone()).await?;
        // A damaged record takes no answer.
        let steps = page.found.into_iter().flatten();
        named.extend(steps.filter(|step| step.key.as_ref() == Some(key)));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(named),
        }
    }
}

/// Freezes the answer in the ledger, unless the step takes none.
async fn give(ledger: &Ledger, token: &CallbackToken, answer: &Outcome) -> Result<(), Failure> {
    let given = ledger.give(token, answer, &who()).await.map_err(|error| match error {
        NotGiven::Unread(error) => error.into(),
        NotGiven::Unwritten(_) => Failure::Runtime(coded(error, "ledger_write_failed")),
        NotGiven::Untold(_) => Failure::Runtime(coded(error, "owner_not_told")),
        NotGiven::Unknown(_) | NotGiven::Refused { .. } | NotGiven::Changing(_) => {
            Failure::Runtime(plain(&error.to_string()))
        }
    })?;
    let (Given { name, before }, told) = (given, Told(answer.clone()));
    say(plain(&if before {
        format!("the step {name} was answered before, and the same: {told}")
    } else {
        format!(
            "the step {name} is answered, and its worker reports it, unless SageMaker has had \
             another answer: {told}"
        )
    }));
    Ok(())
}
