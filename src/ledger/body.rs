//! The body of a row: the part of a record that is not in the row's head, as JSON.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::{self, Event};
use super::form::Outline;
use crate::lifecycle::{Ending, Record, Returned, Status, Stop};
use crate::outcome::{ClientRequestToken, Outcome};
use crate::seam::StepResult;
use crate::step::StepKey;

/// A record without its head, arguments and checkpoint. Absent fields are not written.
#[derive(Serialize, Deserialize)]
pub(super) struct Body<'a> {
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
    key: Option<Cow<'a, StepKey>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_requested: Option<Stop>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Cow<'a, Outcome>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_request_token: Option<Cow<'a, ClientRequestToken>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed_as: Option<StepResult>,
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
    missing_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    returned: Option<Cow<'a, Returned>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    returns: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<Event<'a>>,
    /// One that cannot be read is worth less than its step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Cow<'a, str>>,
}

/// The step's key in the JSON of a body, if it has one.
pub(super) fn key(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Keyed {
        key: Option<String>,
    }
    serde_json::from_str::<Keyed>(json).ok()?.key
}

impl<'a> Body<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        Self {
            attempt: record.attempt,
            resume: record.resume,
            hindered: record.hindered,
            crashes: record.crashes,
            suspicion: record.suspicion,
            not_before: record.not_before,
            deadline: record.deadline,
            key: record.key.as_ref().map(Cow::Borrowed),
            stop_requested: record.stop_requested,
            outcome: record.outcome.as_ref().map(Cow::Borrowed),
            client_request_token: record.client_request_token.as_ref().map(Cow::Borrowed),
            ending: record.ending,
            closed_as: record.closed_as,
            last_error: record.last_error.as_deref().map(Cow::Borrowed),
            first_seen: record.first_seen,
            concluded_at: record.concluded_at,
            settled_at: record.settled_at,
            sent: record.sent,
            missing_since: record.missing_since,
            missing_at: record.missing_at,
            returned: record.returned.as_ref().map(|returned| match record.status {
                Status::Settled => {
                    Cow::Owned(Returned { arguments: Arc::default(), ..returned.clone() })
                }
                _ => Cow::Borrowed(returned),
            }),
            returns: record.returns,
            history: event::compact(&record.history, record.first_seen),
            trace: record.trace.as_ref().map(|trace| trace.as_str().into()),
        }
    }

    /// The record of this body under its head, without arguments and checkpoint.
    pub(super) fn under(self, head: Outline) -> Record {
        // Written out in full, so that adding a field forces a decision here.
        Record {
            token: head.token,
            execution: head.execution,
            queue: head.queue,
            handler: head.handler,
            arguments: Arc::default(),
            status: head.status,
            owner: head.owner,
            attempt: self.attempt,
            resume: self.resume,
            hindered: self.hindered,
            crashes: self.crashes,
            suspicion: self.suspicion,
            not_before: self.not_before,
            deadline: self.deadline,
            checkpoint: None,
            key: self.key.map(Cow::into_owned),
            stop_requested: self.stop_requested,
            outcome: self.outcome.map(Cow::into_owned),
            client_request_token: self.client_request_token.map(Cow::into_owned),
            ending: self.ending,
            closed_as: self.closed_as,
            last_error: self.last_error.map(Cow::into_owned),
            first_seen: self.first_seen,
            concluded_at: self.concluded_at,
            settled_at: self.settled_at,
            sent: self.sent,
            missing_since: self.missing_since,
            missing_at: self.missing_at,
            returned: self.returned.map(Cow::into_owned),
            returns: self.returns,
            history: event::whole(self.history, self.first_seen),
            trace: self.trace.and_then(|trace| trace.parse().ok()),
            version: head.version,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
