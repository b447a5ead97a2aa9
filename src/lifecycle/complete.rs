//! The answer to a deferred step, given by a person or another system through the ledger.
//!
//! Giving an answer is a conditional write of the record, like every other step of its lifecycle:
//! it freezes the outcome, and any worker of the ledger reports it. So it needs no worker, and of
//! two answers, or of an answer and a stop, the first one counts.

use std::fmt;

use jiff::Timestamp;

use super::conclude::frozen;
use super::{Ending, Record, Status};
use crate::outcome::Outcome;
use crate::seam::StepResult;
use crate::step::{CallbackToken, StepKey};

/// What an answer changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Completed {
    /// The record to write: it freezes the answer, and has no owner.
    Now(Box<Record>),
    /// Nothing: the same answer was given before.
    Before,
}

/// Why a step takes no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// A handler, or no one yet, is at work on it.
    #[error("it is not deferred: it is {}, and its handler answers it", .0.as_str())]
    NotDeferred(Status),
    #[error("it is being stopped, and the stop is answered once it is cleaned up after")]
    Stopping,
    /// The first answer counts.
    #[error("it was answered before, and differently: {0}")]
    Answered(Told),
    /// The pipeline was stopped.
    #[error("its pipeline was stopped, and the stop was answered: {0}")]
    Stopped(Told),
    /// SageMaker has had its answer from elsewhere, or waits for none.
    #[error("it is closed at SageMaker already, and not by this ledger{}", as_what(*.0))]
    Closed(Option<StepResult>),
}

/// Why a key names no step to answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The ledger has no step with it.
    #[error("the ledger has no step with the key {0}: check the key, and that the handler sets it")]
    Unknown(StepKey),
    /// Several deferred steps have it.
    #[error("the key {key} is ambiguous, because {} deferred steps have it: answer one of them by \
             its token: {}", .tokens.len(), listed(.tokens))]
    Ambiguous {
        key: StepKey,
        /// In the order of the ledger.
        tokens: Vec<CallbackToken>,
    },
}

/// An outcome, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told(pub Outcome);

/// Decides what an answer to the step changes. An answer in time is accepted even after the limit
/// of the deferral, as long as the failure that follows from it is not frozen.
///
/// # Errors
/// [`Unanswerable`] if the step takes no answer, or has another one.
pub fn complete(
    record: &Record,
    answer: Outcome,
    now: Timestamp,
) -> Result<Completed, Unanswerable> {
    let ending = record.ending.unwrap_or(Ending::SettledElsewhere);
    match (record.status, &record.outcome) {
        (Status::Deferred, _) if record.stop_requested.is_some() => Err(Unanswerable::Stopping),
        (Status::Deferred, _) => {
            let ending = match &answer {
                Outcome::Success(_) => Ending::Success,
                Outcome::Failure(_) => Ending::Failure,
            };
            let frozen = frozen(record.clone(), answer, ending, now);
            // It is due at once: so a worker of a shared ledger finds it that was not told of it.
            let due = Record { owner: None, not_before: Some(now), ..frozen };
            Ok(Completed::Now(Box::new(due)))
        }
        (Status::New | Status::Owed | Status::Claimed | Status::Waiting, _) => {
            Err(match record.stop_requested {
                Some(_) => Unanswerable::Stopping,
                None => Unanswerable::NotDeferred(record.status),
            })
        }
        (Status::Concluded | Status::Settled, Some(first)) => match ending {
            Ending::Success | Ending::Failure if *first == answer => Ok(Completed::Before),
            Ending::Success | Ending::Failure => Err(Unanswerable::Answered(Told(first.clone()))),
            Ending::Stopped => Err(Unanswerable::Stopped(Told(first.clone()))),
            Ending::Deferred | Ending::SettledElsewhere | Ending::AnsweredByHandler => {
                Err(Unanswerable::Closed(record.closed_as))
            }
        },
        (Status::Concluded | Status::Settled, None) => Err(Unanswerable::Closed(record.closed_as)),
    }
}

/// Decides which of the steps with a key an answer is meant for: the one that is deferred. If none
/// is, it is the one that was seen last, which then says why it takes no answer.
///
/// # Errors
/// [`Unclear`] if there is none, or more than one is deferred.
pub fn meant(key: &StepKey, named: &[Record]) -> Result<CallbackToken, Unclear> {
    let deferred = named.iter().filter(|step| step.status == Status::Deferred);
    let tokens: Vec<CallbackToken> = deferred.map(|step| step.token.clone()).collect();
    match &*tokens {
        [one] => Ok(one.clone()),
        [] => named
            .iter()
            .max_by_key(|step| step.first_seen)
            .map(|step| step.token.clone())
            .ok_or_else(|| Unclear::Unknown(key.clone())),
        _ => Err(Unclear::Ambiguous { key: key.clone(), tokens }),
    }
}

/// A terminal has room for no more.
const LISTED: usize = 10;

fn as_what(how: Option<StepResult>) -> String {
    how.map(|how| format!(": it has {}", how.as_str())).unwrap_or_default()
}

fn listed(tokens: &[CallbackToken]) -> String {
    let shown: Vec<&str> = tokens.iter().take(LISTED).map(CallbackToken::as_str).collect();
    shown.join(", ") + if tokens.len() > LISTED { ", …" } else { "" }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Outcome::Success(outputs) if outputs.is_empty() => f.write_str("success"),
            Outcome::Success(outputs) => {
                f.write_str("success with")?;
                outputs.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Outcome::Failure(reason) => write!(f, "failure: {reason}"),
        }
    }
}
