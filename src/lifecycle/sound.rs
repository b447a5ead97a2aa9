//! Whether a stored record is one that the lifecycle writes: what examines a ledger compares with
//! this.

use super::{Record, Status};
use crate::outcome::ClientRequestToken;

/// What in a stored record cannot come from the lifecycle, each in words; nothing if it is sound.
#[must_use]
pub fn contradictions(record: &Record) -> Vec<&'static str> {
    let settled = record.status == Status::Settled;
    let concluded = settled || record.status == Status::Concluded;
    let found = [
        (record.status == Status::New || record.version == 0, "it is stored, but as a new step"),
        (
            record.status == Status::Claimed && record.owner.is_none(),
            "it is claimed, but has no owner",
        ),
        (
            record.owner.is_some() && !matches!(record.status, Status::Claimed | Status::Concluded),
            "it has an owner, but no one may run it",
        ),
        (
            record.status == Status::Owed && record.stop_requested.is_none(),
            "a stop is owed, but none was requested",
        ),
        (
            record.status == Status::Deferred && record.deadline.is_none(),
            "it is deferred without a limit",
        ),
        (
            record.status == Status::Concluded && record.outcome.is_none(),
            "it is concluded, but has no outcome",
        ),
        (record.outcome.is_some() && !concluded, "it has an outcome, but is not concluded"),
        (
            record.outcome.is_some() && (record.concluded_at.is_none() || record.ending.is_none()),
            "its outcome has no time or no ending",
        ),
        (!has_its_request_token(record), "its client request token is not that of its outcome"),
        (record.settled_at.is_some() != settled, "its status and the time of its end disagree"),
        (settled && record.ending.is_none(), "it is settled, but not how"),
        (
            settled && (!record.arguments.is_null() || record.checkpoint.is_some()),
            "it is settled, but still has arguments or a checkpoint",
        ),
        (record.returned.is_some() && !settled, "it has come back, but was not settled"),
    ];
    found.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect()
}

/// Each send of an outcome has the token that was frozen with it.
fn has_its_request_token(record: &Record) -> bool {
    let Record { execution, token, returns, .. } = record;
    let computed = record
        .outcome
        .as_ref()
        .map(|outcome| ClientRequestToken::of_return(execution, token, *returns, outcome));
    computed == record.client_request_token
}
