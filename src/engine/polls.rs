//! The state of one queue's polls.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Pending receives, and the last successful one.
#[derive(Default)]
pub(crate) struct Polls(Mutex<State>);

#[derive(Default)]
struct State {
    /// When each pending receive began.
    open: BTreeSet<(Instant, u64)>,
    next: u64,
    success: Option<Instant>,
}

/// A pending receive.
pub(crate) struct Open<'a> {
    polls: &'a Polls,
    key: (Instant, u64),
}

impl Polls {
    pub(crate) fn begin(&self) -> Open<'_> {
        let mut state = self.lock();
        let key = (Instant::now(), state.next);
        state.next += 1;
        state.open.insert(key);
        Open { polls: self, key }
    }

    pub(crate) fn succeeded(&self) {
        self.lock().success = Some(Instant::now());
    }

    /// How long ago a receive last succeeded.
    pub(crate) fn since_success(&self) -> Option<Duration> {
        self.lock().success.map(|at| at.elapsed())
    }

    /// Whether no receive takes longer than it can. While all slots are taken none is pending,
    /// which is fine.
    pub(crate) fn are_turning(&self, within: Duration) -> bool {
        self.lock().open.first().is_none_or(|(began, _)| began.elapsed() <= within)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.polls.lock().open.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_queue_whose_slots_are_all_taken_is_turning_and_one_whose_receive_hangs_is_not() {
        let polls = Polls::default();
        advance(10 * MINUTE).await;
        assert!(polls.are_turning(MINUTE));
        let hangs = polls.begin();
        advance(2 * MINUTE).await;
        drop(polls.begin());
        assert!(!polls.are_turning(MINUTE));
        drop(hangs);
        assert!(polls.are_turning(MINUTE));
    }
}
