//! Unfinished steps of handlers that are not configured any more. A step that has begun belongs to
//! the handler that began it, because only that one can read its checkpoint and clean up after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::impaired::Impairment;
use crate::lifecycle::{Record, Status};
use crate::seam::{Observation, Observer};
use crate::step::CallbackToken;

/// Its name in metrics and `/readyz`.
pub(crate) const WHAT: &str = "handler";

/// The steps that wait for a handler to come back, by its name.
pub(crate) struct Missing {
    steps: Mutex<BTreeMap<CallbackToken, Arc<str>>>,
    since: Instant,
    observer: Arc<dyn Observer>,
}

/// Whether the step was begun and is not finished.
pub(crate) fn has_begun(record: &Record) -> bool {
    match record.status {
        Status::Claimed | Status::Waiting => record.attempt > 0 || record.checkpoint.is_some(),
        Status::Deferred => true,
        Status::New | Status::Owed | Status::Concluded | Status::Settled => false,
    }
}

impl Missing {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { steps: Mutex::default(), since: Instant::now(), observer }
    }

    /// The step waits for this handler.
    pub(crate) fn add(&self, token: &CallbackToken, handler: &Arc<str>) {
        let mut steps = self.lock();
        if steps.is_empty() {
            self.observer.observe(Observation::Impaired { what: WHAT, impaired: true });
        }
        steps.insert(token.clone(), handler.clone());
    }

    /// The step waits for none.
    pub(crate) fn remove(&self, token: &CallbackToken) {
        let mut steps = self.lock();
        if steps.remove(token).is_some() && steps.is_empty() {
            self.observer.observe(Observation::Impaired { what: WHAT, impaired: false });
        }
    }

    /// How many steps wait for each handler.
    pub(crate) fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        for handler in self.lock().values() {
            *counts.entry(handler.clone()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn list(&self) -> Vec<Impairment> {
        let names: BTreeSet<Arc<str>> = self.lock().values().cloned().collect();
        let told = |name: Arc<str>| Impairment {
            error: "it has unfinished steps but is not configured: `callbackd steps` shows them"
                .to_owned(),
            handler: name.to_string(),
            what: WHAT,
            since: self.since.elapsed(),
        };
        names.into_iter().map(told).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Arc<str>>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
