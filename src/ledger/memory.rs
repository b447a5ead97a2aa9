//! Records in memory, for trials and tests: nothing of them outlives the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::seam::{Put, Row, Store, StoreError};
use crate::step::CallbackToken;

/// A store in memory. Clones share it, as workers share a fleet's ledger.
#[derive(Clone, Default)]
pub struct Memory {
    rows: Arc<Mutex<BTreeMap<CallbackToken, Row>>>,
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, token: &'a CallbackToken) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(async move { Ok(self.lock().get(token).cloned()) })
    }

    fn put(&self, row: Row, expected: Option<u64>) -> BoxFuture<'_, Result<Put, StoreError>> {
        Box::pin(async move {
            let mut rows = self.lock();
            if rows.get(&row.token).map(|row| row.version) != expected {
                return Ok(Put::Changed);
            }
            rows.insert(row.token.clone(), row);
            Ok(Put::Done)
        })
    }

    fn list<'a>(&'a self, statuses: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Row>, StoreError>> {
        Box::pin(async move {
            let wanted = |row: &&Row| statuses.is_empty() || statuses.contains(&row.status.as_str());
            Ok(self.lock().values().filter(wanted).cloned().collect())
        })
    }

    fn purge(&self, before: Timestamp) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move {
            let mut rows = self.lock();
            let count = rows.len();
            rows.retain(|_, row| row.settled_at.is_none_or(|at| at >= before));
            Ok(count - rows.len())
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn exclusive(&self) -> bool {
        !self.shared
    }
}
