//! The configured handlers, whose limits may be changed while they work.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use super::config::HandlerConfig;
use crate::handler::DynHandler;

/// One configured handler.
#[derive(Clone, Debug)]
pub struct HandlerParts {
    pub config: HandlerConfig,
    pub handler: DynHandler,
}

/// All of them.
pub(crate) struct Handlers(RwLock<Inner>);

struct Inner {
    /// By their names in the configuration.
    parts: BTreeMap<String, Arc<HandlerParts>>,
    /// Of all runs that may be under way: a run keeps the grace with which it was started.
    longest_grace: Duration,
}

impl Handlers {
    pub(crate) fn new(parts: BTreeMap<String, HandlerParts>) -> Self {
        let longest_grace = parts.values().map(|parts| parts.config.stop_grace).max();
        let parts = parts.into_iter().map(|(name, parts)| (name, Arc::new(parts)));
        Self(RwLock::new(Inner {
            parts: parts.collect(),
            longest_grace: longest_grace.unwrap_or_default(),
        }))
    }

    /// What uses it goes on with the settings that it has then.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<HandlerParts>> {
        self.read().parts.get(name).cloned()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.read().parts.contains_key(name)
    }

    pub(crate) fn all(&self) -> Vec<Arc<HandlerParts>> {
        self.read().parts.values().cloned().collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.read().parts.keys().cloned().collect()
    }

    /// The longest time that a run which is told to end may take.
    pub(crate) fn longest_grace(&self) -> Duration {
        self.read().longest_grace
    }

    /// Changes the limits of a handler. False if it is not here: it is ignored.
    pub(crate) fn reload(&self, name: &str, config: &HandlerConfig) -> bool {
        let mut handlers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(parts) = handlers.parts.get_mut(name) else { return false };
        let handler = parts.handler.clone();
        *parts = Arc::new(HandlerParts { config: config.clone(), handler });
        handlers.longest_grace = handlers.longest_grace.max(config.stop_grace);
        true
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
