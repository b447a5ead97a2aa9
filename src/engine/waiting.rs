//! The steps that wait until their handler may be started, and the wait for what they wait for.

use std::collections::BTreeMap;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::step::CallbackToken;

/// Looks until something is found: again at each of the `news`, and when a look that finds nothing
/// says that there may be something by then. Cancel safe.
pub(crate) async fn found<T>(
    news: &Notify,
    mut look: impl FnMut() -> Result<T, Option<Instant>>,
) -> T {
    loop {
        let news = news.notified();
        tokio::pin!(news);
        news.as_mut().enable();
        let due = match look() {
            Ok(found) => return found,
            Err(due) => due,
        };
        tokio::select! {
            biased;
            () = news => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// The steps that wait for a handler, first come, first served.
#[derive(Default)]
pub(crate) struct Waiting {
    tickets: u64,
    order: BTreeMap<u64, (CallbackToken, usize)>,
    places: BTreeMap<CallbackToken, u64>,
    /// How many belong to each queue.
    queues: BTreeMap<usize, usize>,
}

impl Waiting {
    pub(crate) fn push(&mut self, token: &CallbackToken, queue: usize) {
        if self.places.contains_key(token) {
            return;
        }
        self.order.insert(self.tickets, (token.clone(), queue));
        self.places.insert(token.clone(), self.tickets);
        self.tickets += 1;
        *self.queues.entry(queue).or_default() += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<CallbackToken> {
        let token = self.order.first_key_value()?.1.0.clone();
        self.remove(&token);
        Some(token)
    }

    /// Returns whether it waited.
    pub(crate) fn remove(&mut self, token: &CallbackToken) -> bool {
        let Some((_, queue)) =
            self.places.remove(token).and_then(|ticket| self.order.remove(&ticket))
        else {
            return false;
        };
        if let Some(count) = self.queues.get_mut(&queue) {
            *count -= 1;
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many belong to this queue.
    pub(crate) fn of(&self, queue: usize) -> usize {
        self.queues.get(&queue).copied().unwrap_or_default()
    }
}
