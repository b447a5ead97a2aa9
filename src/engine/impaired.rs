//! What keeps this machine from doing a handler's work: no space, no descriptors, a program that is not there.
//!
//! It is the worker's trouble, and no step is charged with it. Steps wait for as long as their handler's back-off says; its queues are
//! polled as rarely, for one message at a time, until something gets under way again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::seam::{Observation, Observer};

/// Soon at first: a program that is being replaced is there again in a moment.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// The handlers that cannot work.
pub(crate) struct Impaired {
    handlers: Mutex<BTreeMap<String, Ailment>>,
    over: Notify,
    observer: Arc<dyn Observer>,
}

struct Ailment {
    what: &'static str,
    error: String,
    since: Instant,
    failures: u32,
    wait: Duration,
    /// Until when its steps wait.
    until: Instant,
    /// When its queues are polled next.
    poll_at: Instant,
}

/// A handler that cannot work, for whoever looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impairment {
    pub handler: String,
    /// `space`, `descriptors`, `memory`, `processes`, `io`, `program`, `working_dir`, `ledger`, or what a compiled-in handler says.
    pub what: &'static str,
    pub error: String,
    pub since: Duration,
}

impl Impaired {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { handlers: Mutex::default(), over: Notify::new(), observer }
    }

    /// A handler could not work. Returns how long to wait before it is tried again.
    pub(crate) fn strike(&self, handler: &str, what: &'static str, error: &str) -> Duration {
        let now = Instant::now();
        let mut handlers = self.lock();
        let before = kinds(&handlers);
        let ailment = handlers.entry(handler.to_owned()).or_insert_with(|| Ailment {
            what,
            error: String::new(),
            since: now,
            failures: 0,
            wait: Duration::ZERO,
            until: now,
            poll_at: now,
        });
        (ailment.what, ailment.error) = (what, error.to_owned());
        // Those that fail together count once.
        if ailment.until <= now {
            ailment.failures += 1;
            let wait = BACKOFF.after(ailment.failures, fastrand::f64());
            (ailment.wait, ailment.until, ailment.poll_at) = (wait, now + wait, now + wait);
            tracing::error!(
                handler,
                what,
                error,
                failures = ailment.failures,
                again_in = ?wait,
                "this machine keeps the handler from working; its steps wait and are not charged, and its queues are hardly polled"
            );
        }
        let wait = ailment.until - now;
        self.tell(&before, &kinds(&handlers));
        // So that they do not come back together.
        wait + wait.mul_f64(fastrand::f64() / 4.0)
    }

    /// The handler has got something under way.
    pub(crate) fn works(&self, handler: &str) {
        let mut handlers = self.lock();
        if handlers.is_empty() {
            return;
        }
        let before = kinds(&handlers);
        let Some(ailment) = handlers.remove(handler) else { return };
        self.tell(&before, &kinds(&handlers));
        drop(handlers);
        tracing::info!(handler, what = ailment.what, after = ?ailment.since.elapsed(), "the handler works again");
        self.over.notify_waiters();
    }

    /// Waits until a queue of these handlers may be polled. True if that is to show whether one of them works again: it is granted once
    /// for each wait. Cancel safe, but for that.
    pub(crate) async fn may_poll<'a>(&self, handlers: impl Iterator<Item = &'a str> + Clone) -> bool {
        loop {
            let over = self.over.notified();
            let Err(until) = self.poll_now(handlers.clone()) else { return self.is_any(handlers) };
            tokio::select! {
                biased;
                () = over => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Or says when.
    fn poll_now<'a>(&self, handlers: impl Iterator<Item = &'a str> + Clone) -> Result<(), Instant> {
        let now = Instant::now();
        let mut ailing = self.lock();
        let at = handlers.clone().filter_map(|name| ailing.get(name)).map(|ailment| ailment.poll_at).max();
        if let Some(at) = at.filter(|at| *at > now) {
            return Err(at);
        }
        for name in handlers {
            if let Some(ailment) = ailing.get_mut(name) {
                ailment.poll_at = now + ailment.wait;
            }
        }
        Ok(())
    }

    fn is_any<'a>(&self, mut handlers: impl Iterator<Item = &'a str>) -> bool {
        let ailing = self.lock();
        handlers.any(|name| ailing.contains_key(name))
    }

    pub(crate) fn list(&self) -> Vec<Impairment> {
        let told = |(handler, ailment): (&String, &Ailment)| Impairment {
            handler: handler.clone(),
            what: ailment.what,
            error: ailment.error.clone(),
            since: ailment.since.elapsed(),
        };
        self.lock().iter().map(told).collect()
    }

    fn tell(&self, before: &BTreeSet<&'static str>, after: &BTreeSet<&'static str>) {
        for what in before.symmetric_difference(after) {
            self.observer.observe(Observation::Impaired { what, impaired: after.contains(what) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Ailment>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kinds(handlers: &BTreeMap<String, Ailment>) -> BTreeSet<&'static str> {
    handlers.values().map(|ailment| ailment.what).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_fail_together_count_once_and_what_gets_under_way_ends_it() {
        let impaired = Impaired::new(Arc::new(()));
        assert!(!impaired.may_poll(["a"].into_iter()).await, "nothing is known");
        let first = impaired.strike("a", "space", "disk full");
        for _ in 0..50 {
            assert!(impaired.strike("a", "space", "disk full") <= BACKOFF.after(1, 1.0).mul_f64(1.25));
        }
        assert!(!impaired.may_poll(["b"].into_iter()).await, "another handler works");
        let begun = Instant::now();
        assert!(impaired.may_poll(["a", "b"].into_iter()).await);
        assert!(begun.elapsed() <= first);
        advance(Duration::from_mins(1)).await;
        for _ in 0..9 {
            impaired.strike("a", "space", "disk full");
            advance(Duration::from_mins(1)).await;
        }
        impaired.strike("a", "space", "disk full");
        assert_eq!(impaired.list()[0].what, "space");
        let waiting = impaired.may_poll(["a"].into_iter());
        tokio::pin!(waiting);
        let begun = Instant::now();
        assert!(futures_util::poll!(&mut waiting).is_pending());
        impaired.works("a");
        assert!(!waiting.await && begun.elapsed().is_zero() && impaired.list().is_empty());
    }
}
