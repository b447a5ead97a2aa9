//! Steps in the ledger whose messages have not been received in this life.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::seam::StepResult;
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
    pub(crate) fate: Fate,
}

/// What has become of the step without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It waits for its message.
    Waits,
    /// It has been resumed from the ledger.
    Resumed,
    /// SageMaker shows it answered like this, and not by this worker.
    Answered(StepResult),
}

impl Orphans {
    /// Does nothing if its message is expected already.
    pub(crate) fn add(&self, token: CallbackToken, orphan: Orphan) {
        let mut orphans = self.lock();
        if orphans.get(&token).is_none_or(|known| known.fate == Fate::Resumed) {
            orphans.insert(token, orphan);
        }
    }

    /// A message has arrived. One that names another execution is not the step's own.
    pub(crate) fn found(&self, token: &CallbackToken, execution: &ExecutionArn) {
        let mut orphans = self.lock();
        if orphans.get(token).is_some_and(|orphan| orphan.execution == *execution) {
            orphans.remove(token);
        }
    }

    pub(crate) fn contains(&self, token: &CallbackToken) -> bool {
        self.lock().contains_key(token)
    }

    /// Forgets it. False if its message has arrived before.
    pub(crate) fn take(&self, token: &CallbackToken) -> bool {
        self.lock().remove(token).is_some()
    }

    pub(crate) fn resumed(&self, token: &CallbackToken) {
        if let Some(orphan) = self.lock().get_mut(token) {
            orphan.fate = Fate::Resumed;
        }
    }

    /// Nothing if its message has arrived before.
    pub(crate) fn answered(&self, token: &CallbackToken, how: StepResult) {
        if let Some(orphan) = self.lock().get_mut(token) {
            orphan.fate = Fate::Answered(how);
        }
    }

    /// Forgets the resumed steps that are no longer in hand.
    pub(crate) fn keep_resumed(&self, is_in_hand: impl Fn(&CallbackToken) -> bool) {
        self.lock().retain(|token, orphan| orphan.fate != Fate::Resumed || is_in_hand(token));
    }

    /// The steps that still wait for messages which should have arrived by `now`.
    pub(crate) fn overdue(&self, now: Timestamp) -> Vec<(CallbackToken, Orphan)> {
        self.past(now, |fate| fate == Fate::Waits)
    }

    /// The steps that were answered although their messages have not arrived by `now`, when they
    /// should have.
    pub(crate) fn suspicious(&self, now: Timestamp) -> Vec<(CallbackToken, Orphan)> {
        self.past(now, |fate| matches!(fate, Fate::Answered(_)))
    }

    /// How many of a lane's steps are overdue.
    pub(crate) fn count(&self, lane: usize, now: Timestamp) -> usize {
        let overdue = |orphan: &&Orphan| {
            orphan.lane == lane && orphan.overdue <= now && orphan.fate == Fate::Waits
        };
        self.lock().values().filter(overdue).count()
    }

    fn past(&self, now: Timestamp, wanted: impl Fn(Fate) -> bool) -> Vec<(CallbackToken, Orphan)> {
        let past =
            |(_, orphan): &(&CallbackToken, &Orphan)| orphan.overdue <= now && wanted(orphan.fate);
        self.lock()
            .iter()
            .filter(past)
            .map(|(token, orphan)| (token.clone(), orphan.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Orphan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
