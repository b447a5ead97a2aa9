//! A step's row as an item of the table, and back.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use crate::ledger::store::{Damaged, Head, Row, SETTLED, Writer, part};
use crate::step::CallbackToken;

/// The attributes of an item by name.
pub(super) type Item = BTreeMap<String, AttributeValue>;

/// The form of the items that this version writes. A newer one is left to the version that wrote
/// it.
const FORMAT: u64 = 1;

/// DynamoDB's limit for an item: 400 KB, with the names of its attributes.
pub(super) const MAX_ITEM: usize = 400 * 1024;

/// What a checkpoint may take of it: arguments and an outcome of 50 outputs may need the rest.
pub(super) const ROOM: usize = 200 * 1024;

/// The partition key: `step#TOKEN`, `arguments#TOKEN#HASH#PART`, `worker#ID`, or `probe`.
pub(super) const ID: &str = "id";
/// The partition key of the index: the part of a step. Only unsettled ones have it, so the index
/// holds only those.
pub(super) const SHARD: &str = "shard";
/// The sort key of the index: when the step is due, in milliseconds since 1970.
pub(super) const DUE: &str = "due";
/// When DynamoDB may remove the item, in seconds since 1970.
pub(super) const EXPIRES: &str = "expires";
pub(super) const VERSION: &str = "version";
pub(super) const ARGUMENTS: &str = "arguments";
const CHECKPOINT: &str = "checkpoint";

/// What lists read, beside the keys: everything but arguments and checkpoint.
pub(super) const LIGHT: [&str; 12] = [
    "format",
    VERSION,
    "status",
    "queue",
    "execution",
    "handler",
    "owner",
    "flagged",
    "settled_at",
    "writer",
    "correction",
    "body",
];

const STEP: &str = "step#";
/// The sort key of a step that is never due: it comes last.
const NEVER: i64 = i64::MAX;

pub(super) fn step_id(token: &CallbackToken) -> String {
    format!("{STEP}{token}")
}

/// The token in the key of a step's item; `None` for other items.
pub(super) fn token_of(id: &str) -> Option<&str> {
    id.strip_prefix(STEP)
}

/// The item of a row; if the step is settled, DynamoDB removes it after `retention`.
pub(super) fn item(row: &Row, retention: Duration) -> Item {
    let Row { head, body, arguments, checkpoint } = row;
    let Head {
        token,
        version,
        status,
        queue,
        execution,
        handler,
        owner,
        due,
        flagged,
        settled_at,
        writer,
    } = head;
    let settled = *status == SETTLED;
    let due = due.map(Timestamp::as_millisecond);
    let expires = settled_at.filter(|_| settled).map(|at| expiry(at, retention));
    let attributes = [
        (ID, Some(text(step_id(token)))),
        ("format", Some(number(FORMAT))),
        (VERSION, Some(number(version))),
        ("status", Some(text(status.as_ref()))),
        ("queue", Some(text(&**queue))),
        ("execution", Some(text(&**execution))),
        ("handler", handler.as_deref().map(text)),
        ("owner", owner.as_deref().map(text)),
        (SHARD, (!settled).then(|| text(part(token).to_string()))),
        (DUE, due.or((!settled).then_some(NEVER)).map(number)),
        ("flagged", Some(AttributeValue::Bool(*flagged))),
        ("settled_at", settled_at.map(|at| number(at.as_millisecond()))),
        (EXPIRES, expires.map(number)),
        ("writer", writer.id.as_deref().map(text)),
        ("correction", Some(number(writer.correction))),
        ("body", Some(text(body.as_str()))),
        (ARGUMENTS, arguments.as_deref().map(text)),
        (CHECKPOINT, checkpoint.as_deref().map(text)),
    ];
    let given = |(name, value): (&str, Option<AttributeValue>)| Some((name.to_owned(), value?));
    attributes.into_iter().filter_map(given).collect()
}

/// The row of an item; without arguments and checkpoint if the item was read by a list.
pub(super) fn row(item: &Item) -> Result<Row, Damaged> {
    let token = string(item, ID).and_then(token_of);
    let damaged = |detail| Damaged { token: token.map(str::to_owned), detail };
    let read = || -> Result<Row, String> {
        match integer::<u64>(item, "format")? {
            FORMAT => {}
            newer if newer > FORMAT => {
                return Err(format!(
                    "it was written by a newer callbackd (form {newer}; this one knows {FORMAT}): \
                     update this worker"
                ));
            }
            other => return Err(format!("there is no form {other} of a record")),
        }
        let required = |name: &str| string(item, name).ok_or_else(|| lacks(name, "text"));
        let moment = |name: &str| {
            let value = optional::<i64>(item, name)?.filter(|at| *at != NEVER);
            value.map(Timestamp::from_millisecond).transpose().map_err(|error| error.to_string())
        };
        let shared = |name: &str| string(item, name).map(Arc::from);
        let token = token.ok_or_else(|| lacks(ID, "a step's key"))?;
        let flagged = item.get("flagged").and_then(|value| value.as_bool().ok().copied());
        let head = Head {
            token: token.parse().map_err(|error: crate::step::InvalidToken| error.to_string())?,
            version: integer(item, VERSION)?,
            status: required("status")?.to_owned().into(),
            queue: required("queue")?.into(),
            execution: required("execution")?.into(),
            handler: shared("handler"),
            owner: shared("owner"),
            due: moment(DUE)?,
            flagged: flagged.ok_or_else(|| lacks("flagged", "a boolean"))?,
            settled_at: moment("settled_at")?,
            writer: Writer { id: shared("writer"), correction: integer(item, "correction")? },
        };
        let own = |name: &str| string(item, name).map(str::to_owned);
        let body = required("body")?.to_owned();
        Ok(Row { head, body, arguments: own(ARGUMENTS), checkpoint: own(CHECKPOINT) })
    };
    read().map_err(damaged)
}

/// The bytes of an item as DynamoDB counts them, a little more for numbers.
pub(super) fn size(item: &Item) -> usize {
    let of_value = |value: &AttributeValue| match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        _ => 1,
    };
    item.iter().map(|(name, value)| name.len() + of_value(value)).sum()
}

/// The sort key of an item in the index.
pub(super) fn due(item: &Item) -> Option<i64> {
    optional(item, DUE).ok().flatten()
}

/// When an item may be removed that is no longer needed `after` this moment.
pub(super) fn expiry(at: Timestamp, after: Duration) -> i64 {
    at.as_second()
        .saturating_add(i64::try_from(after.as_secs()).unwrap_or(i64::MAX))
        .saturating_add(1)
}

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(number: impl Display + Copy) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn string<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(super) fn integer<T: std::str::FromStr>(item: &Item, name: &str) -> Result<T, String> {
    optional(item, name)?.ok_or_else(|| lacks(name, "a number"))
}

fn optional<T: std::str::FromStr>(item: &Item, name: &str) -> Result<Option<T>, String> {
    let Some(value) = item.get(name) else { return Ok(None) };
    let number = value.as_n().ok().and_then(|number| number.parse().ok());
    number.map(Some).ok_or_else(|| lacks(name, "a number"))
}

fn lacks(name: &str, what: &str) -> String {
    format!("its attribute `{name}` is not {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn sample(status: &'static str) -> Row {
        let at = |ms| Timestamp::from_millisecond(ms).ok();
        let head = Head {
            token: "abcdefghij".parse().expect("a token"),
            version: 7,
            status: status.into(),
            queue: "https://sqs.us-east-1.amazonaws.com/123456789012/q".into(),
            execution: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc".into(),
            handler: Some("train".into()),
            owner: Some("me".into()),
            due: at(1_234),
            flagged: true,
            settled_at: at(5_678),
            writer: Writer { id: Some("me".into()), correction: -5 },
        };
        Row { head, body: "{}".into(), arguments: Some("[1]".into()), checkpoint: Some("7".into()) }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let full = sample("claimed");
        let bare = Row {
            head: Head {
                handler: None,
                owner: None,
                due: None,
                flagged: false,
                settled_at: None,
                writer: Writer::default(),
                ..full.head.clone()
            },
            arguments: None,
            checkpoint: None,
            ..full.clone()
        };
        for of in [full, bare] {
            assert_eq!(row(&item(&of, DAY)), Ok(of));
        }
    }

    #[test]
    fn only_what_is_settled_expires_and_only_the_rest_is_in_the_index() {
        let waiting =
            Row { head: Head { due: None, ..sample("waiting").head }, ..sample("waiting") };
        let waiting = item(&waiting, DAY);
        assert!(waiting.contains_key(SHARD) && !waiting.contains_key(EXPIRES));
        assert_eq!(due(&waiting), Some(NEVER));
        let settled = item(&sample("settled"), DAY);
        assert!(!settled.contains_key(SHARD));
        assert_eq!(integer::<i64>(&settled, EXPIRES), Ok(24 * 3600 + 5 + 1));
    }

    #[test]
    fn an_item_of_a_newer_version_or_with_a_wrong_attribute_is_damaged_and_says_why() {
        let good = item(&sample("claimed"), DAY);
        for (name, value, wants) in [
            ("format", Some(number(2)), "written by a newer callbackd (form 2; this one knows 1)"),
            ("format", None, "its attribute `format` is not a number"),
            ("format", Some(number(0)), "there is no form 0"),
            (VERSION, Some(text("7")), "its attribute `version` is not a number"),
            ("status", None, "its attribute `status` is not text"),
            ("flagged", Some(text("no")), "its attribute `flagged` is not a boolean"),
            (DUE, Some(number("1e30")), "its attribute `due` is not a number"),
            (ID, Some(text("worker#a")), "its attribute `id` is not a step's key"),
        ] {
            let mut item = good.clone();
            item.remove(name);
            item.extend(value.map(|value| (name.to_owned(), value)));
            let damaged = row(&item).expect_err(name);
            assert!(damaged.detail.contains(wants), "{damaged}");
            assert_eq!(damaged.token.is_some(), name != ID);
        }
    }

    #[test]
    fn the_size_of_an_item_counts_names_and_values() {
        let small = size(&item(&sample("claimed"), DAY));
        let large = Row { checkpoint: Some("x".repeat(1_001)), ..sample("claimed") };
        assert_eq!(size(&item(&large, DAY)), small + 1_000);
        assert!((200..1_000).contains(&small), "{small}");
    }
}
