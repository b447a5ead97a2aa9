//! The steps that wait until their handler may be started.

use std::collections::BTreeMap;

use crate::step::CallbackToken;

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
