//! Records in memory, for experiments and tests: nothing outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::store::{
    Age, Commit, Cursor, Damaged, Head, Member, Page, Put, Query, Row, Store, StoreError, Worker,
    Workers,
};
use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// A store in memory. Clones share it, as workers share a fleet's ledger.
#[derive(Clone, Default)]
pub struct Memory {
    rows: Arc<Mutex<BTreeMap<CallbackToken, Row>>>,
    workers: Option<Members>,
    room: Option<usize>,
    /// How many writes all clones have made. One cannot tell its own from others'.
    writes: Arc<AtomicU64>,
}

/// The workers that share it.
#[derive(Clone, Default)]
struct Members(Arc<Mutex<BTreeMap<WorkerId, Worker>>>);

impl Memory {
    /// A store of one worker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store whose clones are given to several workers.
    #[must_use]
    pub fn shared() -> Self {
        Self { workers: Some(Members::default()), ..Self::default() }
    }

    /// The same, for smaller checkpoints: see [`Store::room`].
    #[must_use]
    pub fn with_room(self, bytes: usize) -> Self {
        Self { room: Some(bytes), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select<T>(&self, query: &Query, take: impl Fn(&Row) -> T) -> Page<T> {
        let rows = self.lock();
        let after = query.after.as_ref().and_then(|cursor| cursor.0.parse::<CallbackToken>().ok());
        let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut wanted =
            rows.range((after, Bound::Unbounded)).filter(|(_, row)| row.answers(query)).peekable();
        let found: Vec<_> =
            wanted.by_ref().take(query.bounded()).map(|(token, row)| (token, take(row))).collect();
        let more = wanted.peek().is_some();
        let next = found.last().filter(|_| more).map(|(token, _)| Cursor(token.to_string()));
        Page { found: found.into_iter().map(|(_, row)| Ok(row)).collect(), next }
    }
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Worker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers for Members {
    fn worker<'a>(
        &'a self,
        worker: &'a WorkerId,
    ) -> BoxFuture<'a, Result<Option<Worker>, StoreError>> {
        Box::pin(async move { Ok(self.lock().get(worker).cloned()) })
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<Member>, StoreError>> {
        let member = |(id, known): (&WorkerId, &Worker)| Member {
            id: id.clone(),
            version: known.version,
            notice: known.notice.clone(),
        };
        Box::pin(async move { Ok(self.lock().iter().map(member).collect()) })
    }

    fn renew<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: Option<u64>,
        told: BTreeSet<CallbackToken>,
        notice: String,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<CallbackToken>>, StoreError>> {
        Box::pin(async move {
            let mut workers = self.lock();
            if workers.get(worker).map(|known| known.version) != expected {
                return Ok(None);
            }
            let known = workers.entry(worker.clone()).or_default();
            known.version += 1;
            known.notice = notice;
            known.stops.retain(|stop| !told.contains(stop));
            Ok(Some(known.stops.clone()))
        })
    }

    fn fence<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: u64,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move {
            let mut workers = self.lock();
            if workers.get(worker).is_some_and(|known| known.version != expected) {
                return Ok(Put::Changed);
            }
            workers.remove(worker);
            Ok(Put::Done)
        })
    }

    fn flag<'a>(
        &'a self,
        worker: &'a WorkerId,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            if let Some(known) = self.lock().get_mut(worker) {
                known.stops.insert(token.clone());
            }
            Ok(())
        })
    }
}

impl Store for Memory {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        Box::pin(async move { Ok(self.lock().get(token).cloned().map(Ok)) })
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        _: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let mut rows = store.lock();
            if rows.get(&row.head.token).map(|row| row.head.version) != expected {
                return Ok(Put::Changed);
            }
            rows.insert(row.head.token.clone(), row);
            store.writes.fetch_add(1, Ordering::SeqCst);
            Ok(Put::Done)
        })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        Box::pin(async move { Ok(self.select(&query, |row| row.head.clone())) })
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        let light = |row: &Row| Row {
            head: row.head.clone(),
            body: row.body.clone(),
            arguments: None,
            checkpoint: None,
        };
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

    fn room(&self) -> usize {
        self.room.unwrap_or(usize::MAX)
    }

    fn changes_from_outside(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        let writes = if self.workers.is_some() { 0 } else { self.writes.load(Ordering::SeqCst) };
        Box::pin(async move { Ok(writes) })
    }

    fn workers(&self) -> Option<&dyn Workers> {
        self.workers.as_ref().map(|members| members as &dyn Workers)
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }
}
