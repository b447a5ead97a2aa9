//! The tokens of waiting steps, first come, first served.

use std::collections::BTreeMap;

use crate::step::CallbackToken;

/// A queue that holds a token at most once and that it can leave from anywhere; each operation
/// takes O(log n).
#[derive(Default)]
pub(super) struct Line {
    tickets: u64,
    order: BTreeMap<u64, CallbackToken>,
    places: BTreeMap<CallbackToken, u64>,
}

impl Line {
    /// Appends a token; one that is in the line keeps its place.
    pub(super) fn push(&mut self, token: &CallbackToken) {
        if !self.places.contains_key(token) {
            self.order.insert(self.tickets, token.clone());
            self.places.insert(token.clone(), self.tickets);
            self.tickets += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<CallbackToken> {
        let (_, token) = self.order.pop_first()?;
        self.places.remove(&token);
        Some(token)
    }

    /// Removes a token; `false` if it is not in the line.
    pub(super) fn remove(&mut self, token: &CallbackToken) -> bool {
        let Some(ticket) = self.places.remove(token) else { return false };
        self.order.remove(&ticket);
        true
    }

    pub(super) fn contains(&self, token: &CallbackToken) -> bool {
        self.places.contains_key(token)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
