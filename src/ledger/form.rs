//! Converts a record to a row, and a row to a record.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, IntoDeserializer};

use super::body::Body;
use super::store::{Damaged, Head, Row, StoreError, Writer};
use crate::clock::shifted;
use crate::lifecycle::{Record, Status, WorkerId};
use crate::step::{CallbackToken, ExecutionArn, QueueUrl};

/// The part of a step's row that is available without reading the whole row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    pub token: CallbackToken,
    pub version: u64,
    pub status: Status,
    pub queue: QueueUrl,
    pub execution: ExecutionArn,
    pub handler: Option<Arc<str>>,
    pub owner: Option<WorkerId>,
    /// The process that wrote it last; `None` for a row of a callbackd that did not record it.
    pub writer: Option<Arc<str>>,
    /// The earlier of the step's deadline and its next attempt; up to a millisecond later, never
    /// earlier.
    pub due: Option<Timestamp>,
    /// A stop was requested, or the token may have come back.
    pub flagged: bool,
}

/// The row of a record, whose times `writer` has converted. A settled step has no arguments, so the
/// row has those of its next time.
pub(super) fn row(record: &Record, writer: Writer) -> Result<Row, StoreError> {
    parts(record, writer).map_err(|error| StoreError(error.to_string()))
}

fn parts(record: &Record, writer: Writer) -> serde_json::Result<Row> {
    let due = [record.deadline, record.not_before].into_iter().flatten().min();
    let returned = record.returned.as_ref().filter(|_| record.status == Status::Settled);
    let arguments = returned.map_or(&record.arguments, |returned| &returned.arguments);
    let arguments = (!arguments.is_null()).then(|| json(arguments));
    Ok(Row {
        head: Head {
            token: record.token.clone(),
            version: record.version,
            status: record.status.as_str().into(),
            queue: record.queue.text().clone(),
            execution: record.execution.text().clone(),
            handler: record.handler.clone(),
            owner: record.owner.as_ref().map(|owner| owner.0.clone()),
            due: due.map(|at| milliseconds(at, RoundMode::Ceil)),
            flagged: record.stop_requested.is_some() || record.returned.is_some(),
            settled_at: record.settled_at.map(|at| milliseconds(at, RoundMode::Floor)),
            writer,
        },
        body: json(&Body::of(record))?,
        arguments: arguments.transpose()?,
        checkpoint: record.checkpoint.as_ref().map(json).transpose()?,
    })
}

/// Most bodies and arguments need less, so their text is not copied as it grows.
const TEXT: usize = 512;

fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(TEXT);
    serde_json::to_writer(&mut bytes, value)?;
    // serde_json writes only UTF-8.
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// The record of a row, with its times as the writer wrote them.
pub(super) fn record(row: Row) -> Result<Record, Damaged> {
    let Row { head, body, arguments, checkpoint } = row;
    let head = outline(head)?;
    let token = head.token.clone();
    let read = || {
        let mut record = parsed::<Body<'_>>(&body)?.under(head);
        if let Some(json) = arguments {
            let settled = record.status == Status::Settled;
            let returned = record.returned.as_mut().filter(|_| settled);
            *returned.map_or(&mut record.arguments, |returned| &mut returned.arguments) =
                parsed(&json)?;
        }
        if let Some(json) = checkpoint {
            record.checkpoint = Some(parsed(&json)?);
        }
        Ok(record)
    };
    read().map_err(|detail| damaged(&token, detail))
}

fn parsed<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// The content of a row's head, with its times as the writer wrote them.
pub(super) fn outline(head: Head) -> Result<Outline, Damaged> {
    let Head {
        token, version, status, queue, execution, handler, owner, due, flagged, writer, ..
    } = head;
    let read = || {
        let status: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            status.as_ref().into_deserializer();
        Ok((
            Status::deserialize(status).map_err(|error| error.to_string())?,
            part(&queue)?,
            part(&execution)?,
        ))
    };
    let (status, queue, execution) = read().map_err(|detail: String| damaged(&token, detail))?;
    Ok(Outline {
        token,
        version,
        status,
        queue,
        execution,
        handler,
        owner: owner.map(WorkerId),
        writer: writer.id,
        due,
        flagged,
    })
}

fn part<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Moves all times of a record. SQS's own times stay: they are by that service's clock.
pub(super) fn shift(record: &mut Record, by: SignedDuration) {
    // Written out in full, so that adding a field forces a decision here.
    let Record {
        token: _,
        execution: _,
        queue: _,
        handler: _,
        arguments: _,
        status: _,
        owner: _,
        attempt: _,
        resume: _,
        hindered: _,
        crashes: _,
        suspicion: _,
        not_before,
        deadline,
        checkpoint: _,
        key: _,
        stop_requested,
        outcome: _,
        client_request_token: _,
        ending: _,
        closed_as: _,
        last_error: _,
        first_seen,
        concluded_at,
        settled_at,
        sent: _,
        missing_since,
        missing_at,
        returned: _,
        returns: _,
        history,
        trace: _,
        version: _,
    } = record;
    *first_seen = shifted(*first_seen, by);
    for at in [not_before, deadline, concluded_at, settled_at, missing_since, missing_at]
        .into_iter()
        .flatten()
    {
        *at = shifted(*at, by);
    }
    *history = history.moved(|at| shifted(at, by));
    if let Some(stop) = stop_requested {
        stop.at = shifted(stop.at, by);
    }
}

fn damaged(token: &CallbackToken, detail: String) -> Damaged {
    Damaged { token: Some(token.as_str().to_owned()), detail }
}

fn milliseconds(at: Timestamp, mode: RoundMode) -> Timestamp {
    at.round(TimestampRound::new().smallest(Unit::Millisecond).mode(mode)).unwrap_or(at)
}
