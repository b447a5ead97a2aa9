//! How far the worker's shutdown is, announced to all waiters in the order in which they began to
//! wait.
//!
//! tokio's `watch` wakes its receivers in random order, so no run could be repeated.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

use crate::lifecycle::Phase;

/// The present phase. It only moves forward.
#[derive(Default)]
pub(crate) struct Phases {
    now: AtomicU8,
    news: Notify,
}

impl Phases {
    pub(crate) fn now(&self) -> Phase {
        match self.now.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::Draining,
            2 => Phase::Stopping,
            _ => Phase::Leaving,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.now.fetch_max(phase as u8, Ordering::SeqCst);
        self.news.notify_waiters();
    }

    /// Resolves once it is `phase` or a later one. Cancel safe.
    pub(crate) async fn reached(&self, phase: Phase) {
        self.until(|now| now >= phase).await;
    }

    /// Resolves once it is a later one than `phase`. Cancel safe.
    pub(crate) async fn beyond(&self, phase: Phase) {
        self.until(|now| now > phase).await;
    }

    async fn until(&self, reached: impl Fn(Phase) -> bool) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if reached(self.now()) {
                return;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_phase_hears_of_a_later_one_too() {
        let phases = Phases::default();
        let (reached, beyond) = (phases.reached(Phase::Stopping), phases.beyond(Phase::Running));
        tokio::pin!(reached, beyond);
        assert!(
            reached.as_mut().now_or_never().is_none() && beyond.as_mut().now_or_never().is_none()
        );
        phases.enter(Phase::Draining);
        assert!(reached.as_mut().now_or_never().is_none());
        beyond.await;
        phases.enter(Phase::Leaving);
        reached.await;
        assert_eq!(phases.now(), Phase::Leaving);
    }

    #[test]
    fn no_phase_comes_back() {
        let phases = Phases::default();
        phases.enter(Phase::Leaving);
        phases.enter(Phase::Draining);
        assert_eq!(phases.now(), Phase::Leaving);
    }
}
