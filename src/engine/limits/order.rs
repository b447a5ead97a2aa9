//! Handlers that an operator has paused, and those that their breakers pause.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::bound::Bound;
use super::{Limits, paused};

impl Limits {
    /// Holds the handler, or ends that; returns whether that is a change.
    pub(crate) fn hold(&self, handler: &str, hold: bool) -> bool {
        let changed = {
            let mut bounds = self.0.lock();
            if hold {
                bounds.entry(handler.to_owned()).or_insert_with(Bound::unlimited);
                self.0.none.store(false, Ordering::SeqCst);
            }
            let bound = bounds.get_mut(handler);
            bound.is_some_and(|bound| std::mem::replace(&mut bound.held, hold) != hold)
        };
        if changed {
            self.0.tell();
        }
        changed
    }

    /// Whether no attempt of the handler is started at present, by order or because its steps
    /// failed.
    pub(crate) fn is_held(&self, handler: &str) -> bool {
        let bounds = self.0.lock();
        bounds.get(handler).is_some_and(|bound| bound.held)
            || paused(&bounds, &BTreeSet::from([handler]), Instant::now()).is_some()
    }

    /// Whether there are such handlers, and an order holds all of them.
    pub(crate) fn are_held<'a>(&self, handlers: impl Iterator<Item = &'a str>) -> bool {
        let bounds = self.0.lock();
        let mut handlers = handlers.peekable();
        handlers.peek().is_some()
            && handlers.all(|handler| bounds.get(handler).is_some_and(|bound| bound.held))
    }

    /// The handlers that an order has held, and whether one does now.
    pub(crate) fn held(&self) -> Vec<(String, bool)> {
        let bounds = self.0.lock();
        bounds.iter().map(|(handler, bound)| (handler.clone(), bound.held)).collect()
    }
}
