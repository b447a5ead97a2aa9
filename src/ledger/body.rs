//! The body of a row: what a record says beside the row's head, as JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::form::Outline;
use crate::lifecycle::{Ending, Record, Returned, Stop};
use crate::outcome::{ClientRequestToken, Outcome};

/// A record without its head, its arguments and its checkpoint. What is absent is not written.
#[derive(Serialize, Deserialize)]
pub(super) struct Body<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_end: Option<Timestamp>,
    attempt: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    resume: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hindered: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    crashes: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    suspicion: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_requested: Option<Stop>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Cow<'a, Outcome>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_request_token: Option<Cow<'a, ClientRequestToken>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<Cow<'a, str>>,
    first_seen: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concluded_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    returned: Option<Cow<'a, Returned>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    returns: u32,
}

impl<'a> Body<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        // Whole, so that whoever adds a field decides about it.
        let Record {
            token: _,
            execution: _,
            queue: _,
            handler: _,
            arguments: _,
            status: _,
            owner: _,
            lease_end,
            attempt,
            resume,
            hindered,
            crashes,
            suspicion,
            not_before,
            deadline,
            checkpoint: _,
            stop_requested,
            outcome,
            client_request_token,
            ending,
            last_error,
            first_seen,
            concluded_at,
            settled_at,
            sent,
            missing_since,
            returned,
            returns,
            version: _,
        } = record;
        Self {
            lease_end: *lease_end,
            attempt: *attempt,
            resume: *resume,
            hindered: *hindered,
            crashes: *crashes,
            suspicion: *suspicion,
            not_before: *not_before,
            deadline: *deadline,
            stop_requested: *stop_requested,
            outcome: outcome.as_ref().map(Cow::Borrowed),
            client_request_token: client_request_token.as_ref().map(Cow::Borrowed),
            ending: *ending,
            last_error: last_error.as_deref().map(Cow::Borrowed),
            first_seen: *first_seen,
            concluded_at: *concluded_at,
            settled_at: *settled_at,
            sent: *sent,
            missing_since: *missing_since,
            returned: returned.as_ref().map(Cow::Borrowed),
            returns: *returns,
        }
    }

    /// The record of this body and the head above it, without arguments and checkpoint.
    pub(super) fn under(self, head: Outline) -> Record {
        Record {
            token: head.token,
            execution: head.execution,
            queue: head.queue,
            handler: head.handler,
            arguments: std::sync::Arc::default(),
            status: head.status,
            owner: head.owner,
            lease_end: self.lease_end,
            attempt: self.attempt,
            resume: self.resume,
            hindered: self.hindered,
            crashes: self.crashes,
            suspicion: self.suspicion,
            not_before: self.not_before,
            deadline: self.deadline,
            checkpoint: None,
            stop_requested: self.stop_requested,
            outcome: self.outcome.map(Cow::into_owned),
            client_request_token: self.client_request_token.map(Cow::into_owned),
            ending: self.ending,
            last_error: self.last_error.map(Cow::into_owned),
            first_seen: self.first_seen,
            concluded_at: self.concluded_at,
            settled_at: self.settled_at,
            sent: self.sent,
            missing_since: self.missing_since,
            returned: self.returned.map(Cow::into_owned),
            returns: self.returns,
            version: head.version,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
