//! Steps ordered by one moment each, earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::step::CallbackToken;

/// One moment for each contained step.
#[derive(Default)]
pub(crate) struct Moments(Mutex<Table>);

#[derive(Default)]
struct Table {
    of: BTreeMap<CallbackToken, Timestamp>,
    in_order: BTreeSet<(Timestamp, CallbackToken)>,
}

impl Moments {
    pub(crate) fn set(&self, token: &CallbackToken, at: Timestamp) {
        let mut table = self.lock();
        if table.of.get(token) == Some(&at) {
            return;
        }
        table.remove(token);
        table.of.insert(token.clone(), at);
        table.in_order.insert((at, token.clone()));
    }

    /// Moves the moment of a step that has one.
    pub(crate) fn move_to(&self, token: &CallbackToken, at: Timestamp) {
        let mut table = self.lock();
        if table.remove(token) {
            table.of.insert(token.clone(), at);
            table.in_order.insert((at, token.clone()));
        }
    }

    pub(crate) fn remove(&self, token: &CallbackToken) {
        self.lock().remove(token);
    }

    /// The steps whose moment has come by `now`.
    pub(crate) fn until(&self, now: Timestamp) -> Vec<CallbackToken> {
        let table = self.lock();
        table
            .in_order
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, token)| token.clone())
            .collect()
    }

    /// The earliest moment.
    pub(crate) fn first(&self) -> Option<Timestamp> {
        self.lock().in_order.first().map(|(at, _)| *at)
    }

    pub(crate) fn contains(&self, token: &CallbackToken) -> bool {
        self.lock().of.contains_key(token)
    }

    /// The earliest moment of a step that is still there; others are removed on the way.
    pub(crate) fn first_where(
        &self,
        is_there: impl Fn(&CallbackToken) -> bool,
    ) -> Option<Timestamp> {
        loop {
            let (at, token) = self.lock().in_order.first().cloned()?;
            if is_there(&token) {
                return Some(at);
            }
            self.remove(&token);
        }
    }

    /// All that have one.
    pub(crate) fn tokens(&self) -> Vec<CallbackToken> {
        self.lock().of.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().of.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether it was there.
    fn remove(&mut self, token: &CallbackToken) -> bool {
        let at = self.of.remove(token);
        at.is_some_and(|at| self.in_order.remove(&(at, token.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_one_moment_and_the_earliest_come_first() {
        let (a, b): (CallbackToken, CallbackToken) =
            ("aaaaaaaaaa".parse().expect("a token"), "bbbbbbbbbb".parse().expect("a token"));
        let at = |seconds| Timestamp::from_second(seconds).expect("in range");
        let moments = Moments::default();
        moments.set(&a, at(3));
        moments.set(&b, at(2));
        moments.set(&a, at(1));
        assert_eq!((moments.len(), moments.first()), (2, Some(at(1))));
        assert_eq!(moments.until(at(2)), [a.clone(), b.clone()]);
        moments.remove(&a);
        assert_eq!((moments.len(), moments.first()), (1, Some(at(2))));
        moments.move_to(&a, at(1));
        moments.move_to(&b, at(4));
        assert_eq!((moments.len(), moments.first()), (1, Some(at(4))));
        moments.set(&a, at(3));
        assert_eq!(moments.first_where(|token| *token == b), Some(at(4)));
        assert_eq!((moments.len(), moments.first_where(|_| false)), (1, None));
    }
}
