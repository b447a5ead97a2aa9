//! Steps in the ledger whose messages have not been received in this life.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::step::{CallbackToken, ExecutionArn};

/// By token.
#[derive(Default)]
pub(crate) struct Orphans(Mutex<BTreeMap<CallbackToken, Orphan>>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Orphan {
    pub(crate) lane: usize,
    pub(crate) execution: ExecutionArn,
    /// When its message should have come back at the latest.
    pub(crate) overdue: Timestamp,
}

impl Orphans {
    pub(crate) fn add(&self, token: CallbackToken, orphan: Orphan) {
        self.lock().entry(token).or_insert(orphan);
    }

    /// Its message has arrived.
    pub(crate) fn found(&self, token: &CallbackToken) {
        self.lock().remove(token);
    }

    /// The steps whose messages should have arrived by `now`.
    pub(crate) fn overdue(&self, now: Timestamp) -> Vec<(CallbackToken, Orphan)> {
        let overdue = |(_, orphan): &(&CallbackToken, &Orphan)| orphan.overdue <= now;
        self.lock()
            .iter()
            .filter(overdue)
            .map(|(token, orphan)| (token.clone(), orphan.clone()))
            .collect()
    }

    /// How many of a lane's steps are overdue.
    pub(crate) fn count(&self, lane: usize, now: Timestamp) -> usize {
        self.lock().values().filter(|orphan| orphan.lane == lane && orphan.overdue <= now).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Orphan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
