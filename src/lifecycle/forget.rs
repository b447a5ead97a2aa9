//! The end of a record without a worker: SageMaker was asked about the step, and waits for nothing
//! more.
//!
//! Like an answer through the ledger it is a conditional write, so that a worker which has the step
//! in hand reads the record again before it decides anything else.

use jiff::Timestamp;

use super::settle::{as_answered, settled};
use super::{Ending, Lease, Record, Status, Stop, WorkerId};
use crate::seam::{ExecutionStanding, Standing, StepResult};

/// Why a record cannot be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unforgettable {
    #[error("it is settled: no worker does anything more for it")]
    Settled,
    /// Forgotten, it would wait without end.
    #[error("SageMaker waits for it: {}, or stop its execution", way_out(*.0))]
    Waits(Status),
    #[error(
        "SageMaker does not show it, but its execution goes on, and may wait for it: ask again, \
             or stop the execution"
    )]
    MayWait,
    #[error("the worker {0} runs it: wait until it has ended, or stop the worker, then ask again")]
    Runs(WorkerId),
}

/// Decides whether no one needs the record any more, and what is left of it. `claim` is that of its
/// owner. Its cleanup does not run.
///
/// # Errors
/// [`Unforgettable`] if the step waits, or may wait, or runs.
pub fn forget(
    record: &Record,
    claim: Lease,
    step: &Standing,
    execution: ExecutionStanding,
    now: Timestamp,
) -> Result<Record, Unforgettable> {
    if record.status == Status::Settled && record.returned.is_none() {
        return Err(Unforgettable::Settled);
    }
    if let (Status::Claimed, Some(owner), Lease::Until(_)) = (record.status, &record.owner, claim) {
        return Err(Unforgettable::Runs(owner.clone()));
    }
    let record = &Record { returned: None, ..record.clone() };
    match (step, execution) {
        (Standing::Closed(how), _) => Ok(closed(record, *how, now)),
        (Standing::Open { .. }, _) => Err(Unforgettable::Waits(record.status)),
        (Standing::NotFound, ExecutionStanding::NotFound | ExecutionStanding::Ended(_)) => {
            Ok(settled(record, record.ending.unwrap_or(Ending::SettledElsewhere), now))
        }
        (Standing::NotFound, ExecutionStanding::Executing | ExecutionStanding::Stopping) => {
            Err(Unforgettable::MayWait)
        }
    }
}

/// What becomes of the record in an older copy of a ledger if SageMaker shows the step closed: it
/// is settled, or has a stop if a worker has to clean up after it. None if it is settled already.
#[must_use]
pub fn catch_up(record: &Record, how: StepResult, now: Timestamp) -> Option<Record> {
    let ends = match (record.status, how) {
        (Status::Settled, _) => return None,
        (Status::New | Status::Owed | Status::Concluded, _)
        | (Status::Deferred, StepResult::Failed)
        | (_, StepResult::Succeeded) => true,
        (Status::Waiting, _) => record.attempt == 0,
        (Status::Claimed, _) | (Status::Deferred, StepResult::Stopped) => false,
    };
    if ends {
        return Some(closed(record, how, now));
    }
    let stop = Stop { closed: true, ..record.stop_requested.unwrap_or(Stop::open(now)) };
    Some(Record { stop_requested: Some(stop), closed_as: Some(how), ..record.clone() })
}

/// Settled as SageMaker shows it.
fn closed(record: &Record, how: StepResult, now: Timestamp) -> Record {
    match record.ending.filter(|_| as_answered(record, how)) {
        Some(ending) => settled(record, ending, now),
        None => {
            let record = Record { closed_as: Some(how), ..record.clone() };
            settled(&record, Ending::SettledElsewhere, now)
        }
    }
}

fn way_out(status: Status) -> &'static str {
    match status {
        Status::Deferred => "answer it with `callbackd complete`",
        _ => "start a worker, which goes on with it",
    }
}
