//! How much memory the bodies of held messages may take, in bytes: a message may be 1 MiB, and many
//! are held at once.
//!
//! A queue may use what is free of the whole, and its own share in any case, so that one queue's
//! steps never block another. All together may therefore use up to twice the whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The bodies in memory, by queue; cheap to clone. Polls wait while the budget is used up; the
/// result of one poll may exceed it once.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
    /// How much each queue uses.
    queues: Box<[AtomicUsize]>,
    freed: Notify,
}

/// The share of one body; returned when dropped.
pub(crate) struct Weight {
    inner: Arc<Inner>,
    queue: usize,
    bytes: usize,
}

/// How much of the budget is used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// By the queue that waits.
    pub by_queue: usize,
    pub by_all: usize,
    pub limit: usize,
}

impl Budget {
    /// A budget for this many queues.
    pub(crate) fn new(limit: usize, queues: usize) -> Self {
        let queues = (0..queues).map(|_| AtomicUsize::new(0)).collect();
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0), queues, freed: Notify::new() }))
    }

    /// Takes the share of a body that a queue has received.
    pub(crate) fn weigh(&self, queue: usize, bytes: usize) -> Weight {
        self.0.used.fetch_add(bytes, Ordering::SeqCst);
        self.0.queues[queue].fetch_add(bytes, Ordering::SeqCst);
        Weight { inner: self.0.clone(), queue, bytes }
    }

    /// How much is used, if that leaves a queue no room.
    pub(crate) fn spent(&self, queue: usize) -> Option<Spent> {
        let Inner { limit, used, queues, .. } = &*self.0;
        let (by_all, by_queue) =
            (used.load(Ordering::SeqCst), queues[queue].load(Ordering::SeqCst));
        (by_all >= *limit && by_queue >= limit / queues.len()).then_some(Spent {
            by_queue,
            by_all,
            limit: *limit,
        })
    }

    /// Resolves once a queue has room. Cancel safe.
    pub(crate) async fn room(&self, queue: usize) {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.spent(queue).is_none() {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let Inner { limit, used, queues, freed } = &*self.inner;
        let before = used.fetch_sub(self.bytes, Ordering::SeqCst);
        queues[self.queue].fetch_sub(self.bytes, Ordering::SeqCst);
        if before >= *limit {
            freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn polls_wait_while_bodies_take_all_the_memory_they_may() {
        let budget = Budget::new(100, 1);
        let (small, large) = (budget.weigh(0, 99), budget.weigh(0, 1000));
        let room = budget.room(0);
        tokio::pin!(room);
        assert!(room.as_mut().now_or_never().is_none());
        drop(small);
        assert!(room.as_mut().now_or_never().is_none());
        drop(large);
        assert!(room.now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_one_queue_holds_keeps_no_other_from_its_share() {
        let budget = Budget::new(100, 2);
        let one = budget.weigh(0, 120);
        assert_eq!(budget.spent(0), Some(Spent { by_queue: 120, by_all: 120, limit: 100 }));
        assert_eq!(budget.spent(1), None);
        let _other = budget.weigh(1, 49);
        assert_eq!(budget.spent(1), None);
        let last = budget.weigh(1, 1);
        let room = budget.room(1);
        tokio::pin!(room);
        assert!(room.as_mut().now_or_never().is_none());
        drop(last);
        assert!(room.now_or_never().is_some(), "its share is not used up, though the whole is");
        drop(one);
        assert_eq!(budget.spent(0), None);
    }
}
