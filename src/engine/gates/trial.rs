//! Which steps start beside which: a step that is suspected of having killed its worker is tried
//! alone, as [`Record::after_crash`] requires.
//!
//! [`Record::after_crash`]: crate::lifecycle::Record::after_crash

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The starts of all queues; cheap to clone. First come, first served, so that neither trials nor
/// other starts wait indefinitely: each takes as long as a step takes to end or to become trusted.
#[derive(Clone, Default)]
pub(crate) struct Trials(Arc<RwLock<()>>);

/// A step's leave to run, until it ends or is trusted; returned when dropped.
#[must_use = "leave that is dropped is given back"]
pub(crate) enum Leave {
    /// Beside all steps that are not on trial.
    Free { _shared: OwnedRwLockReadGuard<()> },
    /// Beside none but trusted steps.
    OnTrial { _alone: OwnedRwLockWriteGuard<()> },
}

impl Trials {
    /// Leave at once, if no step waits for one and nothing that runs is in the way.
    pub(crate) fn try_enter(&self, on_trial: bool) -> Option<Leave> {
        if on_trial {
            self.0.clone().try_write_owned().ok().map(|alone| Leave::OnTrial { _alone: alone })
        } else {
            self.0.clone().try_read_owned().ok().map(|shared| Leave::Free { _shared: shared })
        }
    }

    /// Leave when it is its turn.
    pub(crate) fn enter(&self, on_trial: bool) -> BoxFuture<'static, Leave> {
        let starts = self.0.clone();
        Box::pin(async move {
            if on_trial {
                Leave::OnTrial { _alone: starts.write_owned().await }
            } else {
                Leave::Free { _shared: starts.read_owned().await }
            }
        })
    }
}

impl Leave {
    /// Whether it is enough for a step that is on trial, or not.
    pub(crate) fn suffices(&self, on_trial: bool) -> bool {
        !on_trial || matches!(self, Self::OnTrial { .. })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_trial_waits_for_all_that_is_not_trusted_and_nothing_starts_beside_it() {
        let trials = Trials::default();
        let (first, second) = (trials.try_enter(false), trials.try_enter(false));
        assert!(first.is_some() && second.is_some(), "they start together");
        let mut trial = trials.enter(true);
        assert!(poll!(&mut trial).is_pending());
        let mut late = trials.enter(false);
        assert!(poll!(&mut late).is_pending(), "it would hold up the trial");
        assert!(trials.try_enter(false).is_none(), "nor is it passed");
        drop(first);
        assert!(poll!(&mut trial).is_pending());
        drop(second);
        let on_trial = trial.await;
        assert!(on_trial.suffices(true) && on_trial.suffices(false));
        let mut other = trials.enter(true);
        assert!(poll!(&mut late).is_pending() && poll!(&mut other).is_pending());
        drop(on_trial);
        let late = late.await;
        assert!(!late.suffices(true), "and it goes before the next trial, which came after it");
        assert!(poll!(&mut other).is_pending());
        drop(late);
        drop(other.await);
        assert!(trials.try_enter(true).is_some());
    }

    #[tokio::test]
    async fn who_waits_no_longer_holds_nobody_up() {
        let trials = Trials::default();
        let runs = trials.try_enter(false);
        let mut trial = trials.enter(true);
        assert!(poll!(&mut trial).is_pending() && trials.try_enter(false).is_none());
        drop(trial);
        assert!(trials.try_enter(false).is_some() && runs.is_some());
    }
}
