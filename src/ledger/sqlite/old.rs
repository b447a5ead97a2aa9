//! Files of schema 1, whose rows have everything in the body.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::rows;
use crate::hex::hex;
use crate::ledger::form;
use crate::ledger::store::{Damaged, Put, Row, Writer};
use crate::lifecycle::Record;

/// Rows that are read at a time.
const AT_ONCE: usize = 200;

/// Migrates a file of schema 1 to the current one, within the caller's transaction. A damaged row
/// stays unchanged.
pub(super) fn migrate(connection: &Connection, tables: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "DROP VIEW IF EXISTS overview; DROP INDEX IF EXISTS steps_by_status; ALTER TABLE steps \
         RENAME TO steps_1; {tables}"
    ))?;
    let mut after = i64::MIN;
    loop {
        let rows = in_order(connection, "steps_1", after, AT_ONCE)?;
        let Some((last, _)) = rows.last() else { break };
        after = *last;
        for (id, found) in rows {
            let moved = found.is_ok_and(|row| rows::put(connection, &row, None) == Ok(Put::Done));
            if !moved {
                // Its digest is that of schema 1, so it counts as damaged in the new schema too.
                connection.execute(
                    "INSERT OR IGNORE INTO steps (token, version, status, queue, execution, \
                     flagged, settled_at, correction, rest, digest, body) \
                     SELECT token, version, status, '', '', 0, settled_at, 0, '', digest, body \
                     FROM steps_1 WHERE rowid = ?1",
                    [id],
                )?;
            }
        }
    }
    connection.execute_batch("DROP TABLE steps_1")
}

/// Rows in order of creation, after `after`, with their positions.
pub(super) fn in_order(
    connection: &Connection,
    table: &str,
    after: i64,
    most: usize,
) -> rusqlite::Result<Vec<(i64, Result<Row, Damaged>)>> {
    let sql = format!(
        "SELECT rowid, token, version, status, settled_at, body, digest FROM {table} WHERE rowid > \
         ?1 ORDER BY rowid LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement
        .query_map(params![after, most], |columns| Ok((columns.get(0)?, row(columns))))?
        .collect()
}

fn row(columns: &rusqlite::Row<'_>) -> Result<Row, Damaged> {
    let token: Option<String> = columns.get(1).ok();
    let read = || -> Result<Row, String> {
        let values = || -> rusqlite::Result<(u64, String, Option<i64>, String, String)> {
            Ok((
                columns.get(2)?,
                columns.get(3)?,
                columns.get(4)?,
                columns.get(5)?,
                columns.get(6)?,
            ))
        };
        let (version, status, settled_at, body, digest) =
            values().map_err(|error| error.to_string())?;
        let settled = settled_at.map_or(String::new(), |at| at.to_string());
        let token = token.as_deref().unwrap_or_default();
        if digest != hash([token, &version.to_string(), &status, &settled, &body]) {
            return Err("it differs from what was written".to_owned());
        }
        let record: Record = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let settled_at = settled_at.and_then(|at| Timestamp::from_millisecond(at).ok());
        let mut row =
            form::row(&Record { version, ..record }, Writer::default()).map_err(|error| error.0)?;
        row.head.settled_at = settled_at;
        Ok(row)
    };
    read().map_err(|detail| Damaged { token: token.clone(), detail })
}

fn hash(parts: [&str; 5]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hex(&hash.finalize()[..8])
}
