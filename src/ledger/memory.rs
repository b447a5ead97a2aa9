//! Records in memory, for trials and tests: nothing of them outlives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::store::{Age, Commit, Cursor, Damaged, Head, Page, Put, Query, Row, Store, StoreError};
use crate::step::CallbackToken;

/// A store in memory. Clones share it, as workers share a fleet's ledger.
#[derive(Clone, Default)]
pub struct Memory {
    rows: Arc<Mutex<BTreeMap<String, Row>>>,
    shared: bool,
}

impl Memory {
    /// A store of one worker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store whose clones are given to several workers.
    #[must_use]
    pub fn shared() -> Self {
        Self { shared: true, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select<T>(&self, query: &Query, take: impl Fn(&Row) -> T) -> Page<T> {
        let rows = self.lock();
        let after = query.after.as_ref().map_or(Bound::Unbounded, |cursor| Bound::Excluded(cursor.0.as_str()));
        let mut wanted =
            rows.range::<str, _>((after, Bound::Unbounded)).filter(|(_, row)| row.head.answers(query)).peekable();
        let found: Vec<(String, T)> =
            wanted.by_ref().take(query.bounded()).map(|(token, row)| (token.clone(), take(row))).collect();
        let next = wanted.peek().is_some().then(|| found.last().map(|(token, _)| Cursor(token.clone()))).flatten();
        Page { found: found.into_iter().map(|(_, row)| Ok(row)).collect(), next }
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, token: &'a CallbackToken) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        Box::pin(async move { Ok(self.lock().get(token.as_str()).cloned().map(Ok)) })
    }

    fn put(&self, row: Row, expected: Option<u64>, _: Commit) -> BoxFuture<'_, Result<Put, StoreError>> {
        Box::pin(async move {
            let mut rows = self.lock();
            if rows.get(row.head.token.as_str()).map(|row| row.head.version) != expected {
                return Ok(Put::Changed);
            }
            rows.insert(row.head.token.as_str().to_owned(), row);
            Ok(Put::Done)
        })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        Box::pin(async move { Ok(self.select(&query, |row| row.head.clone())) })
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        let light =
            |row: &Row| Row { head: row.head.clone(), body: row.body.clone(), arguments: None, checkpoint: None };
        Box::pin(async move { Ok(self.select(&query, light)) })
    }

    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move {
            let mut rows = self.lock();
            let count = rows.len();
            rows.retain(|_, row| !row.head.is_older_than(&age));
            Ok(count - rows.len())
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn exclusive(&self) -> bool {
        !self.shared
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }
}
