//! The tables of a ledger file, and how they are created and migrated.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::old;

/// "cbkd": distinguishes our files from other SQLite databases.
pub(super) const APPLICATION: i32 = 0x6362_6b64;
/// Raised with each change that an older callbackd could not handle.
pub(super) const SCHEMA: i32 = 3;

/// Columns that may be large are last, so that reading the others does not read them.
const TABLES: &str = "
    CREATE TABLE steps (
        token      TEXT    NOT NULL PRIMARY KEY,
        version    INTEGER NOT NULL,
        status     TEXT    NOT NULL,
        queue      TEXT    NOT NULL,
        execution  TEXT    NOT NULL,
        handler    TEXT,
        owner      TEXT,
        due        INTEGER,           -- deadline or next attempt; milliseconds since 1970, UTC, \
        as are all times
        flagged    INTEGER NOT NULL,  -- a stop is requested
        settled_at INTEGER,
        writer     TEXT,              -- the process that wrote the row
        correction INTEGER NOT NULL,  -- by how many milliseconds the wall clock had been set \
        forward in its life
        rest       TEXT    NOT NULL,  -- digest of the last two: SQLite does not notice what a \
        torn page does to a text
        digest     TEXT    NOT NULL,  -- of all else
        body       TEXT    NOT NULL,  -- the rest of the record, as JSON
        arguments  TEXT,
        checkpoint TEXT
    ) STRICT;
    CREATE INDEX steps_unsettled ON steps (token, status) WHERE status <> 'settled';
    CREATE INDEX steps_settled ON steps (settled_at) WHERE status = 'settled';
    CREATE VIEW overview AS SELECT
        token, status, handler,
        json_extract(body, '$.attempt')        AS attempt,
        owner,
        json_extract(body, '$.first_seen')     AS first_seen,
        json_extract(body, '$.outcome')        AS outcome,
        json_extract(body, '$.last_error')     AS last_error,
        execution
    FROM steps;
";
const PROBE: &str = "CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT;";

/// The schema of a file; 0 if it has none yet.
pub(super) fn of(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Creates the tables, or migrates those of an older callbackd, in one transaction.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    let schema = of(connection)?;
    if schema == SCHEMA {
        return Ok(());
    }
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    match schema {
        0 => transaction
            .execute_batch(&format!("{TABLES} {PROBE} PRAGMA application_id = {APPLICATION};"))?,
        1 => old::migrate(&transaction, TABLES)?,
        // The bodies of schema 2 repeat what is in other columns, and are still readable.
        _ => {}
    }
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}
