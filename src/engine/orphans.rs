//! Steps in the ledger whose messages have not been received in this life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::seam::StepResult;
use crate::step::{CallbackToken, ExecutionArn};

/// By token.
#[derive(Default)]
pub(crate) struct Orphans(Mutex<Table>);

#[derive(Default)]
struct Table {
    of: BTreeMap<CallbackToken, Orphan>,
    /// Those that wait, by lane: a scrape counts the overdue ones without looking at each.
    waiting: BTreeMap<usize, Waiting>,
    /// Those that wait, by time, and those that were answered: a sweep looks only at what is late.
    waits: BTreeSet<(Timestamp, CallbackToken)>,
    answered: BTreeSet<(Timestamp, CallbackToken)>,
    resumed: BTreeSet<CallbackToken>,
}

#[derive(Default)]
struct Waiting {
    ahead: BTreeSet<(Timestamp, CallbackToken)>,
    overdue: BTreeSet<CallbackToken>,
}

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
        let mut table = self.lock();
        if table.of.get(&token).is_none_or(|known| known.fate == Fate::Resumed) {
            table.put(token, orphan);
        }
    }

    /// A message has arrived. One that names another execution is not the step's own.
    pub(crate) fn found(&self, token: &CallbackToken, execution: &ExecutionArn) {
        let mut table = self.lock();
        if table.of.get(token).is_some_and(|orphan| orphan.execution == *execution) {
            table.remove(token);
        }
    }

    pub(crate) fn contains(&self, token: &CallbackToken) -> bool {
        self.lock().of.contains_key(token)
    }

    /// Forgets it. False if its message has arrived before.
    pub(crate) fn take(&self, token: &CallbackToken) -> bool {
        self.lock().remove(token).is_some()
    }

    pub(crate) fn resumed(&self, token: &CallbackToken) {
        self.lock().decide(token, Fate::Resumed);
    }

    /// Nothing if its message has arrived before.
    pub(crate) fn answered(&self, token: &CallbackToken, how: StepResult) {
        self.lock().decide(token, Fate::Answered(how));
    }

    /// Forgets the resumed steps that are no longer in hand.
    pub(crate) fn keep_resumed(&self, is_in_hand: impl Fn(&CallbackToken) -> bool) {
        let mut table = self.lock();
        let left: Vec<_> =
            table.resumed.iter().filter(|token| !is_in_hand(token)).cloned().collect();
        for token in left {
            table.remove(&token);
        }
    }

    /// The steps that still wait for messages which should have arrived by `now`.
    pub(crate) fn overdue(&self, now: Timestamp) -> Vec<(CallbackToken, Orphan)> {
        let table = self.lock();
        table.past(&table.waits, now)
    }

    /// The steps that were answered although their messages have not arrived by `now`, when they
    /// should have.
    pub(crate) fn suspicious(&self, now: Timestamp) -> Vec<(CallbackToken, Orphan)> {
        let table = self.lock();
        table.past(&table.answered, now)
    }

    /// How many of a lane's steps are overdue. Each is looked at once, when its moment comes:
    /// `now` never goes back.
    pub(crate) fn count(&self, lane: usize, now: Timestamp) -> usize {
        self.lock().waiting.get_mut(&lane).map_or(0, |waiting| waiting.count(now))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn put(&mut self, token: CallbackToken, orphan: Orphan) {
        self.remove(&token);
        let place = (orphan.overdue, token.clone());
        match orphan.fate {
            Fate::Waits => {
                self.waiting.entry(orphan.lane).or_default().ahead.insert(place.clone());
                self.waits.insert(place);
            }
            Fate::Resumed => drop(self.resumed.insert(token.clone())),
            Fate::Answered(_) => drop(self.answered.insert(place)),
        }
        self.of.insert(token, orphan);
    }

    fn remove(&mut self, token: &CallbackToken) -> Option<Orphan> {
        let orphan = self.of.remove(token)?;
        let place = (orphan.overdue, token.clone());
        if let Some(waiting) = self.waiting.get_mut(&orphan.lane) {
            waiting.ahead.remove(&place);
            waiting.overdue.remove(token);
        }
        self.waits.remove(&place);
        self.answered.remove(&place);
        self.resumed.remove(token);
        Some(orphan)
    }

    /// Those of an index by time whose time has come, in its order.
    fn past(
        &self,
        index: &BTreeSet<(Timestamp, CallbackToken)>,
        now: Timestamp,
    ) -> Vec<(CallbackToken, Orphan)> {
        let due = index.iter().take_while(|(overdue, _)| *overdue <= now);
        due.filter_map(|(_, token)| Some((token.clone(), self.of.get(token)?.clone()))).collect()
    }

    fn decide(&mut self, token: &CallbackToken, fate: Fate) {
        if let Some(orphan) = self.remove(token) {
            self.put(token.clone(), Orphan { fate, ..orphan });
        }
    }
}

impl Waiting {
    fn count(&mut self, now: Timestamp) -> usize {
        while self.ahead.first().is_some_and(|(at, _)| *at <= now) {
            self.overdue.extend(self.ahead.pop_first().map(|(_, token)| token));
        }
        self.overdue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: usize) -> CallbackToken {
        format!("token{n:05}").parse().expect("a token")
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    fn orphan(lane: usize, overdue: i64) -> Orphan {
        let execution =
            "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abcdefghijkl";
        let execution = execution.parse().expect("an execution");
        Orphan { lane, execution, overdue: at(overdue), fate: Fate::Waits }
    }

    fn one_of_each() -> Orphans {
        let orphans = Orphans::default();
        for n in 0..4 {
            orphans.add(token(n), orphan(0, 10));
        }
        orphans.add(token(4), orphan(0, 20));
        orphans.add(token(5), orphan(1, 10));
        orphans
    }

    #[test]
    fn those_of_a_lane_that_are_late_and_undecided_are_counted() {
        // What becomes of a step counts the same before and after it was late.
        for look_first in [false, true] {
            let orphans = one_of_each();
            if look_first {
                assert_eq!(orphans.count(0, at(9)), 0);
                assert_eq!((orphans.count(0, at(10)), orphans.count(1, at(10))), (4, 1));
            }
            orphans.resumed(&token(0));
            orphans.answered(&token(1), StepResult::Succeeded);
            assert!(orphans.take(&token(2)) && !orphans.take(&token(2)));
            let late = |now| (orphans.count(0, at(now)), orphans.overdue(at(now)).len());
            assert_eq!((late(10), orphans.count(1, at(10))), ((1, 2), 1));
            orphans.found(&token(3), &orphan(0, 0).execution);
            assert_eq!((late(10), late(20)), ((0, 1), (1, 2)));
            orphans.keep_resumed(|_| false);
            assert!(!orphans.contains(&token(0)) && orphans.contains(&token(1)));
            orphans.add(token(0), orphan(0, 30));
            assert_eq!((orphans.count(0, at(29)), orphans.count(0, at(30))), (1, 2));
        }
    }

    #[test]
    fn the_indexes_hold_what_there_is_whatever_becomes_of_it() {
        let orphans = one_of_each();
        let sizes = || {
            let table = orphans.lock();
            (table.waits.len(), table.answered.len(), table.resumed.len())
        };
        assert_eq!(sizes(), (6, 0, 0));
        orphans.resumed(&token(0));
        orphans.answered(&token(1), StepResult::Succeeded);
        orphans.answered(&token(4), StepResult::Failed);
        assert_eq!(sizes(), (3, 2, 1));
        let tokens = |late: Vec<(CallbackToken, Orphan)>| -> Vec<CallbackToken> {
            late.into_iter().map(|(token, _)| token).collect()
        };
        assert_eq!(tokens(orphans.overdue(at(10))), [2, 3, 5].map(token));
        assert_eq!(tokens(orphans.suspicious(at(10))), [token(1)]);
        assert_eq!(tokens(orphans.suspicious(at(20))), [1, 4].map(token));
        assert_eq!((orphans.overdue(at(9)), orphans.suspicious(at(9))), (vec![], vec![]));
        orphans.found(&token(1), &orphan(0, 0).execution);
        orphans.keep_resumed(|token| *token == self::token(0));
        assert_eq!(sizes(), (3, 1, 1), "what is in hand stays");
        orphans.keep_resumed(|_| false);
        for n in 2..6 {
            orphans.take(&token(n));
        }
        assert_eq!(sizes(), (0, 0, 0));
        assert!(orphans.lock().of.is_empty());
    }

    #[test]
    fn a_count_looks_at_each_late_step_once() {
        let orphans = Orphans::default();
        for n in 0..10_000 {
            orphans.add(token(n), orphan(0, i64::from(n % 2 == 0) * 10));
        }
        let ahead = || orphans.lock().waiting[&0].ahead.len();
        assert_eq!((orphans.count(0, at(5)), ahead()), (5_000, 5_000));
        assert_eq!((orphans.count(0, at(10)), ahead()), (10_000, 0));
        assert_eq!((orphans.count(0, at(10)), ahead()), (10_000, 0));
    }
}
