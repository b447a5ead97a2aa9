//! The table of one queue, shared between the callers that decide and the loop that makes the
//! calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::table::Table;

/// The loop is woken only if there is something to do earlier than it expected.
pub(super) struct Desk {
    table: Mutex<Table>,
    pub(super) news: Notify,
}

impl Desk {
    pub(super) fn new(table: Table) -> Self {
        Self { table: Mutex::new(table), news: Notify::new() }
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.lock())
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Table, Instant)) {
        let now = Instant::now();
        let mut table = self.lock();
        change(&mut table, now);
        let is_earlier =
            table.next(now).is_some_and(|next| table.sleeps_until.is_none_or(|until| next < until));
        if is_earlier || table.is_over() {
            self.news.notify_one();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
