//! The order in which executions are asked about.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::PASSED;
use super::watched::Watched;

/// Which execution is asked about when.
#[derive(Default)]
pub(super) struct Due {
    pub(super) active: BTreeSet<(Instant, Arc<str>)>,
    pub(super) deferred: BTreeSet<(Instant, Arc<str>)>,
    /// How many active ones preceded deferred ones that were due.
    pub(super) passed: u32,
}

impl Due {
    pub(super) fn of(&mut self, watched: &Watched) -> &mut BTreeSet<(Instant, Arc<str>)> {
        let asks = watched.active > 0 && watched.relies.is_none();
        if asks { &mut self.active } else { &mut self.deferred }
    }

    /// Returns whether it is now the next of its kind.
    pub(super) fn add(&mut self, name: &Arc<str>, watched: &Watched) -> bool {
        let is_asked_elsewhere = watched.relies.is_some() && watched.active == watched.steps.len();
        if watched.looking || is_asked_elsewhere {
            return false;
        }
        let due = self.of(watched);
        due.insert((watched.due, name.clone()));
        due.first().is_some_and(|(at, _)| *at == watched.due)
    }

    pub(super) fn remove(&mut self, name: &Arc<str>, watched: &Watched) {
        self.of(watched).remove(&(watched.due, name.clone()));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.active.first().into_iter().chain(self.deferred.first()).map(|(at, _)| *at).min()
    }

    /// The next of those that are due: active ones first, in due order, but every fourth call is
    /// for a deferred one.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Arc<str>> {
        let is_due =
            |due: &BTreeSet<(Instant, Arc<str>)>| due.first().is_some_and(|(at, _)| *at <= now);
        let (active, deferred) = (is_due(&self.active), is_due(&self.deferred));
        let from = match (active, deferred) {
            (false, false) => return None,
            (true, true) if self.passed < PASSED => {
                self.passed += 1;
                &mut self.active
            }
            (_, true) => {
                self.passed = 0;
                &mut self.deferred
            }
            (true, false) => &mut self.active,
        };
        from.pop_first().map(|(_, name)| name)
    }
}
