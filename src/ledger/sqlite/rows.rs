//! The statements on the table of steps.

use jiff::Timestamp;
use rusqlite::types::{ToSql, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::ledger::store::{Age, Cursor, Damaged, Head, Page, Put, Query, Row, Writer};

/// Rows that one transaction of a purge removes, so that it never delays steps for long.
pub(super) const PURGED: usize = 500;

/// Rows that are examined for one page, however few are requested: some ten milliseconds.
const LOOKED: usize = 10_000;

/// What [`light`] reads, in its order. Nothing after the body is read from the disk for it.
const LIGHT: &str = "token, version, status, queue, execution, handler, owner, due, flagged, \
                     settled_at, writer, correction, rest, digest, body";

const UPDATE: &str = "UPDATE steps SET version = ?2, status = ?3, queue = ?4, execution = ?5, \
                      handler = ?6, owner = ?7, due = ?8, flagged = ?9, settled_at = ?10, writer = \
                      ?11, correction = ?12, rest = ?13, digest = ?14, body = ?15, arguments = \
                      ?16, checkpoint = ?17 WHERE token = ?1 AND version = ?18";
/// With VALUES rather than a SELECT: SQLite might have to undo part of what a query selects, and
/// keeps a journal for that.
const INSERT: &str = "INSERT INTO steps (token, version, status, queue, execution, handler, owner, \
                      due, flagged, settled_at, writer, correction, rest, digest, body, arguments, \
                      checkpoint) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, \
                      ?14, ?15, ?16, ?17) ON CONFLICT DO NOTHING";

pub(super) fn get(
    connection: &Connection,
    token: &str,
) -> rusqlite::Result<Option<Result<Row, Damaged>>> {
    let sql = format!("SELECT {LIGHT}, arguments, checkpoint FROM steps WHERE token = ?1");
    connection.prepare_cached(&sql)?.query_row([token], |columns| Ok(whole(columns))).optional()
}

pub(super) fn put(
    connection: &Connection,
    row: &Row,
    expected: Option<u64>,
) -> rusqlite::Result<Put> {
    let Row { head, body, arguments, checkpoint } = row;
    let rest = rest(row);
    let digest = digest(head, &rest, body);
    let due = head.due.map(Timestamp::as_millisecond);
    let settled_at = head.settled_at.map(Timestamp::as_millisecond);
    let token = head.token.as_str();
    let values: &[&dyn ToSql] = &[
        &token,
        &head.version,
        &head.status,
        &head.queue,
        &head.execution,
        &head.handler,
        &head.owner,
        &due,
        &head.flagged,
        &settled_at,
        &head.writer.id,
        &head.writer.correction,
        &rest,
        &digest,
        body,
        arguments,
        checkpoint,
        &expected,
    ];
    let (sql, values) = match expected {
        Some(_) => (UPDATE, values),
        None => (INSERT, &values[..values.len() - 1]),
    };
    let changed = connection.prepare_cached(sql)?.execute(values)?;
    Ok(if changed == 1 { Put::Done } else { Put::Changed })
}

/// The rows that `query` selects, each converted by `take`.
pub(super) fn page<T>(
    connection: &Connection,
    query: &Query,
    take: impl Fn(Row) -> T,
) -> rusqlite::Result<Page<T>> {
    let (sql, after) = selection(query);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([after])?;
    let mut page = Page { found: Vec::new(), next: None };
    let (needle, mut looked) = (query.needle(), 0);
    let mut last = String::new();
    while let Some(columns) = rows.next()? {
        if page.found.len() == query.bounded() || looked == LOOKED {
            page.next = Some(Cursor(last));
            break;
        }
        looked += 1;
        last = text(columns.get_ref(0)?);
        let of_pipeline = match &needle {
            Some(needle) => text(columns.get_ref(4)?).to_ascii_lowercase().contains(needle),
            None => true,
        };
        let of_handler = match &query.handler {
            Some(handler) => text(columns.get_ref(5)?) == *handler,
            None => true,
        };
        let of_part =
            query.part.is_none() || last.parse().is_ok_and(|token| query.has_part(&token));
        let is_found = query.search.is_none()
            || query.finds(&last, &text(columns.get_ref(4)?), &text(columns.get_ref(14)?));
        if of_pipeline && of_handler && of_part && is_found {
            page.found.push(light(columns).map(&take));
        }
    }
    Ok(page)
}

/// The statement, and its one parameter.
fn selection(query: &Query) -> (String, String) {
    // The lifecycle's own words, letters only; quoted all the same.
    let quoted: Vec<String> =
        query.statuses.iter().map(|status| format!("'{}'", status.replace('\'', "''"))).collect();
    let mut sql = format!("SELECT {LIGHT} FROM steps ");
    // The planner would have to know that few steps are not settled.
    if query.leaves_settled_out() {
        sql += "INDEXED BY steps_unsettled WHERE status <> 'settled' AND ";
    } else {
        sql += "WHERE ";
    }
    if !quoted.is_empty() {
        sql += &format!("status IN ({}) AND ", quoted.join(", "));
    }
    if let Some(due) = query.due {
        sql += &format!("due <= {} AND ", due.as_millisecond());
    }
    let after = query.after.as_ref().map_or(String::new(), |cursor| cursor.0.clone());
    (sql + "token > ?1 ORDER BY token", after)
}

pub(super) fn purge(connection: &Connection, age: &Age) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM steps WHERE rowid IN ( SELECT rowid FROM steps INDEXED BY steps_settled \
               WHERE status = 'settled' AND settled_at < ?1 AND (writer IS NOT ?2 OR settled_at - \
               correction < ?3) LIMIT ?4)";
    let (named, moment) = (age.named.as_millisecond(), age.moment.as_millisecond());
    connection.prepare_cached(sql)?.execute(params![named, age.me, moment, PURGED])
}

pub(super) fn probe(connection: &Connection) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO probe (id, count) VALUES (0, 1) ON CONFLICT DO UPDATE SET count = count + 1";
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// A number that changes when a connection of another process has committed something.
pub(super) fn changes_from_outside(connection: &Connection) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// Rows in order of creation, after `after`, with their positions.
pub(super) fn in_order(
    connection: &Connection,
    after: i64,
    most: usize,
) -> rusqlite::Result<Vec<(i64, Result<Row, Damaged>)>> {
    let sql = format!(
        "SELECT {LIGHT}, arguments, checkpoint, rowid FROM steps WHERE rowid > ?1 ORDER BY rowid \
         LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement
        .query_map(params![after, most], |columns| Ok((columns.get(17)?, whole(columns))))?
        .collect()
}

/// A row without arguments and checkpoint.
fn light(columns: &rusqlite::Row<'_>) -> Result<Row, Damaged> {
    let read = || -> Result<Row, String> {
        let column = |index: usize| columns.get_ref(index).map_err(|error| error.to_string());
        let number =
            |index: usize| column(index)?.as_i64_or_null().map_err(|error| error.to_string());
        let string =
            |index: usize| column(index)?.as_str_or_null().map_err(|error| error.to_string());
        let shared = |index: usize| Ok::<_, String>(string(index)?.map(Into::into));
        let required = |index: usize| string(index)?.ok_or_else(|| "a column is empty".to_owned());
        let moment = |index: usize| {
            number(index)?
                .map(Timestamp::from_millisecond)
                .transpose()
                .map_err(|error| error.to_string())
        };
        let head = Head {
            token: required(0)?
                .parse()
                .map_err(|error: crate::step::InvalidToken| error.to_string())?,
            version: number(1)?
                .and_then(|version| u64::try_from(version).ok())
                .ok_or("its version is no number")?,
            status: required(2)?.to_owned().into(),
            queue: required(3)?.into(),
            execution: required(4)?.into(),
            handler: shared(5)?,
            owner: shared(6)?,
            due: moment(7)?,
            flagged: number(8)? == Some(1),
            settled_at: moment(9)?,
            writer: Writer { id: shared(10)?, correction: number(11)?.unwrap_or_default() },
        };
        let row = Row { head, body: required(14)?.to_owned(), arguments: None, checkpoint: None };
        let written = string(13)?.unwrap_or_default();
        if written == digest(&row.head, string(12)?.unwrap_or_default(), &row.body) {
            Ok(row)
        } else {
            Err(spoilt())
        }
    };
    read().map_err(|detail| Damaged { token: columns.get_ref(0).ok().map(text), detail })
}

/// A complete row.
fn whole(columns: &rusqlite::Row<'_>) -> Result<Row, Damaged> {
    let row = light(columns)?;
    let read = || -> rusqlite::Result<(Row, String)> {
        Ok((
            Row { arguments: columns.get(15)?, checkpoint: columns.get(16)?, ..row.clone() },
            columns.get(12)?,
        ))
    };
    let damaged = |detail| Damaged { token: Some(row.head.token.as_str().to_owned()), detail };
    let (row, written) = read().map_err(|error| damaged(error.to_string()))?;
    if written == rest(&row) { Ok(row) } else { Err(damaged(spoilt())) }
}

fn spoilt() -> String {
    "it differs from what was written".to_owned()
}

fn text(value: ValueRef<'_>) -> String {
    value
        .as_bytes_or_null()
        .ok()
        .flatten()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .unwrap_or_default()
}

/// A digest of what lists leave out. SQLite does not notice what a torn page does to a text.
fn rest(row: &Row) -> String {
    if row.arguments.is_none() && row.checkpoint.is_none() {
        return String::new();
    }
    hash([row.arguments.as_deref(), row.checkpoint.as_deref()])
}

/// A digest of everything else.
fn digest(head: &Head, rest: &str, body: &str) -> String {
    let number = |number: i64| number.to_string();
    let moment = |at: Option<Timestamp>| at.map(|at| number(at.as_millisecond()));
    hash([
        Some(head.token.as_str()),
        Some(&head.version.to_string()),
        Some(&head.status),
        Some(&head.queue),
        Some(&head.execution),
        head.handler.as_deref(),
        head.owner.as_deref(),
        moment(head.due).as_deref(),
        head.flagged.then_some("flagged"),
        moment(head.settled_at).as_deref(),
        head.writer.id.as_deref(),
        Some(&number(head.writer.correction)),
        Some(rest),
        Some(body),
    ])
}

fn hash<const PARTS: usize>(parts: [Option<&str>; PARTS]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // Absent is not the same as empty.
        hash.update([u8::from(part.is_some())]);
        hash.update(part.unwrap_or_default());
        hash.update([0]);
    }
    hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SQLite's plan for a query.
    fn plan(query: &Query) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let (connection, _lock) =
            super::super::file::open(&directory.path().join("ledger.db")).expect("it opens");
        let (sql, after) = selection(query);
        let mut statement =
            connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
        let steps = statement.query_map([after], |row| row.get::<_, String>(3)).expect("a plan");
        steps.map(|step| step.expect("a step")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_is_not_settled_is_found_by_an_index_and_in_its_order() {
        let statuses: Vec<String> = ["claimed", "waiting"].map(str::to_owned).to_vec();
        let some = Query { statuses, limit: 10, ..Query::default() };
        let expected = "SEARCH steps USING INDEX steps_unsettled (token>?)";
        assert_eq!(plan(&some), expected);
        let narrowed = Query { pipeline: Some("p".into()), handler: Some("h".into()), ..some };
        assert_eq!(plan(&narrowed), expected);
        assert_eq!(
            plan(&Query::default()),
            "SEARCH steps USING INDEX sqlite_autoindex_steps_1 (token>?)"
        );
    }
}
