//! A ledger's file as commands read it, whole or damaged. Changes nothing.

use std::path::Path;

use rusqlite::Connection;

use super::error::OpenError;
use super::{Sqlite, file, old, rows};
use crate::ledger::store::{Damaged, Row};
use crate::step::CallbackToken;

/// Rows that are read at a time, so that a slow reader delays nothing.
const AT_ONCE: usize = 100;

impl Sqlite {
    /// Everything that can be read of a ledger file, which a daemon may have open at the same time:
    /// calls `each` for its rows, and `wrong` for what SQLite finds wrong with the file and its
    /// indices.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read as a ledger at all.
    pub fn examine(
        path: &Path,
        mut wrong: impl FnMut(String),
        each: impl FnMut(Result<Row, Damaged>),
    ) -> Result<(), OpenError> {
        if path.is_file() {
            file::whole(path)?;
        }
        let (connection, schema) = file::open_to_examine(path)?;
        if schema == 0 {
            wrong("it is empty: no daemon has begun it, or its log was not copied".to_owned());
            return Ok(());
        }
        let check = || -> rusqlite::Result<Vec<String>> {
            let mut statement = connection.prepare("PRAGMA integrity_check")?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        match check() {
            Ok(found) => found.into_iter().filter(|line| line != "ok").for_each(&mut wrong),
            Err(error) => wrong(format!("its structures cannot be checked: {error}")),
        }
        if let Err(error) = read(&connection, schema, each) {
            wrong(format!("the records after these cannot be read: {error}"));
        }
        Ok(())
    }

    /// The row of a step in a ledger file, which a daemon may have open at the same time. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub fn find(
        path: &Path,
        token: &CallbackToken,
    ) -> Result<Option<Result<Row, Damaged>>, OpenError> {
        let (connection, schema) = file::open_to_read(path)?;
        if schema > 1 {
            let row = rows::get(&connection, token.as_str());
            return row.map_err(|error| OpenError::of(path, &error));
        }
        let mut found = None;
        Self::read(path, |row| {
            let its = match &row {
                Ok(row) => Some(row.head.token.as_str()),
                Err(damaged) => damaged.token.as_deref(),
            };
            if its == Some(token.as_str()) {
                found = Some(row);
            }
        })?;
        Ok(found)
    }

    /// Calls `each` for all rows of a ledger file, which a daemon may have open at the same time.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub fn read(path: &Path, each: impl FnMut(Result<Row, Damaged>)) -> Result<(), OpenError> {
        let (connection, schema) = file::open_to_read(path)?;
        read(&connection, schema, each).map_err(|error| OpenError::of(path, &error))
    }
}

fn read(
    connection: &Connection,
    schema: i32,
    mut each: impl FnMut(Result<Row, Damaged>),
) -> rusqlite::Result<()> {
    let mut after = i64::MIN;
    loop {
        let rows = match schema {
            // Not begun.
            0 => Vec::new(),
            1 => old::in_order(connection, "steps", after, AT_ONCE)?,
            _ => rows::in_order(connection, after, AT_ONCE)?,
        };
        match rows.last() {
            Some((last, _)) => after = *last,
            None => return Ok(()),
        }
        for (_, row) in rows {
            each(row);
        }
    }
}
