//! `callbackd ledger forget`: ends the record of a step that no one needs any more.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
#[cfg(feature = "dynamodb")]
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use nix::unistd::{Uid, User, gethostname};

use super::inquiry::Inquiry;
use super::{Failure, complain, plain, say};
use crate::cli::place::Place;
use crate::config::Config;
use crate::ledger::{self, Commit, Ledger, Sqlite, Written};
use crate::lifecycle::{Lease, Record, Status, Unforgettable, forget};
use crate::seam::{ExecutionStanding, Standing};
use crate::step::CallbackToken;

#[derive(Args)]
pub(super) struct Arguments {
    /// The callback token of the step.
    token: CallbackToken,
    /// The ledger's file; else the one in the configuration.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

/// How often the record may change between its read and the write.
const TRIES: usize = 5;

pub(super) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let Arguments { token, ledger: named } = arguments;
    let config = Config::load(file, std::env::vars_os())?;
    let mut path = None;
    let store = match Place::find(named.as_deref(), file).await? {
        Place::File(at) => ledger::open_beside(path.insert(at))?,
        #[cfg(feature = "dynamodb")]
        Place::Table(table) => Arc::new(*table),
    };
    let ledger = Ledger::beside(store);
    let mut inquiry = Inquiry::new(config).await?;
    for _ in 0..TRIES {
        let Some(record) = ledger.load(&token).await? else {
            return Err(Failure::Runtime(format!(
                "the ledger has no step {token}: check the token, and that this is the ledger of \
                 its worker"
            )));
        };
        let claim = claim(&ledger, &record, path.as_deref())?;
        let Some((left, why)) = decide(&record, claim, &mut inquiry, ledger.now()).await? else {
            say(format_args!("the step {token} is settled: no worker does anything more for it"));
            return Ok(ExitCode::SUCCESS);
        };
        let written = ledger.write(left, Commit::Now).await?;
        if let Written::Done(_) = written {
            tell(&ledger, &record, &why).await;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::Runtime(format!("the step {token} changes all the time: try again")))
}

/// Whether a worker may run the step. Of a file that a daemon has open it is not known whose claims
/// are its own.
fn claim(ledger: &Ledger, record: &Record, file: Option<&Path>) -> Result<Lease, Failure> {
    match file {
        Some(path) if Sqlite::look(path)?.in_use => Ok(Lease::Until(Timestamp::MAX)),
        Some(_) => Ok(Lease::Over),
        None => Ok(ledger.foreign_lease(record)),
    }
}

/// The record to write, and what SageMaker says; none if the step is settled.
async fn decide(
    record: &Record,
    claim: Lease,
    inquiry: &mut Inquiry,
    now: Timestamp,
) -> Result<Option<(Record, String)>, Failure> {
    let token = &record.token;
    let unknown = |why| {
        Failure::Runtime(plain(&format!(
            "the step {token} is not forgotten, because it may still wait: {why}"
        )))
    };
    let step = inquiry.step(record).await.map_err(unknown)?;
    let execution = match step {
        // Only where the step is not found does the execution matter.
        Standing::Open { .. } | Standing::Closed(_) => ExecutionStanding::Executing,
        Standing::NotFound => inquiry.execution(record).await.map_err(unknown)?,
    };
    match forget(record, claim, &step, execution, now) {
        Ok(mut left) => {
            left.remember_forgotten(&who(), now);
            Ok(Some((left, found(&step, execution))))
        }
        Err(Unforgettable::Settled) => Ok(None),
        Err(why) => {
            Err(Failure::Runtime(plain(&format!("the step {token} is not forgotten: {why}"))))
        }
    }
}

fn found(step: &Standing, execution: ExecutionStanding) -> String {
    match (step, execution) {
        (Standing::Closed(how), _) => format!("SageMaker shows it closed ({})", how.as_str()),
        (_, ExecutionStanding::Ended(how)) => {
            format!("SageMaker does not show it, and its execution has ended ({})", how.as_str())
        }
        _ => "SageMaker knows neither it nor its execution".to_owned(),
    }
}

async fn tell(ledger: &Ledger, record: &Record, why: &str) {
    let token = &record.token;
    say(plain(&format!("the step {token} is forgotten: {why}")));
    if record.attempt > 0 && matches!(record.status, Status::Claimed | Status::Waiting) {
        say("Its cleanup does not run: end what its job still does.");
    }
    if let Err(error) = ledger.announce(token).await {
        complain(format_args!(
            "its workers were not told, and let go of it when they next look at it: {error}"
        ));
    }
}

/// The user on this machine, as its history names them.
fn who() -> String {
    let uid = Uid::current();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    // sudo's word, for people.
    let by = std::env::var("SUDO_USER").ok().filter(|_| uid.is_root());
    let host = gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{}{name} on {host}", by.map(|by| format!("{by} as ")).unwrap_or_default())
}
