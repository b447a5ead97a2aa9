//! Whether a queue is paused by order.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The pause of one queue.
#[derive(Default)]
pub(crate) struct Pause {
    on: AtomicBool,
    over: Notify,
}

impl Pause {
    /// Returns whether that is a change.
    pub(crate) fn set(&self, on: bool) -> bool {
        let changed = self.on.swap(on, Ordering::SeqCst) != on;
        if !on {
            self.over.notify_waiters();
        }
        changed
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Resolves while it is off. Cancel safe.
    pub(crate) async fn over(&self) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if !self.is_on() {
                return;
            }
            over.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_pause_is_waited_for_as_long_as_it_is_on() {
        let pause = Pause::default();
        assert!(pause.over().now_or_never().is_some());
        assert!(pause.set(true) && !pause.set(true) && pause.is_on());
        let over = pause.over();
        tokio::pin!(over);
        assert!(futures_util::poll!(&mut over).is_pending());
        assert!(pause.set(false) && !pause.set(false));
        over.await;
    }
}
