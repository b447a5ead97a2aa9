//! How much memory the bodies of steps in hand may take, in bytes: messages may be 1 MiB each, and many are held at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The bodies in memory; cheap to clone. Polls wait while it is spent; what one poll then brings may exceed it once.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// One body's share; given back when dropped.
pub(crate) struct Weight(Arc<Inner>, usize);

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0), freed: Notify::new() }))
    }

    pub(crate) fn weigh(&self, bytes: usize) -> Weight {
        self.0.used.fetch_add(bytes, Ordering::SeqCst);
        Weight(self.0.clone(), bytes)
    }

    /// Resolves once less than the limit is used. Cancel safe.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.0.used.load(Ordering::SeqCst) < self.0.limit {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let before = self.0.used.fetch_sub(self.1, Ordering::SeqCst);
        if before >= self.0.limit && before - self.1 < self.0.limit {
            self.0.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn polls_wait_while_bodies_take_all_the_memory_they_may() {
        let budget = Budget::new(100);
        let (small, large) = (budget.weigh(99), budget.weigh(1000));
        let room = budget.room();
        tokio::pin!(room);
        assert!(room.as_mut().now_or_never().is_none());
        drop(small);
        assert!(room.as_mut().now_or_never().is_none());
        drop(large);
        assert!(room.now_or_never().is_some());
    }
}
