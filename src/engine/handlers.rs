//! The configured handlers, whose limits may be changed while they work.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::config::HandlerConfig;
use crate::handler::DynHandler;

/// One configured handler.
#[derive(Clone, Debug)]
pub struct HandlerParts {
    pub config: HandlerConfig,
    pub handler: DynHandler,
}

/// All of them, by their names in the configuration.
pub(crate) struct Handlers(RwLock<BTreeMap<String, Arc<HandlerParts>>>);

impl Handlers {
    pub(crate) fn new(parts: BTreeMap<String, HandlerParts>) -> Self {
        let parts = parts.into_iter().map(|(name, parts)| (name, Arc::new(parts)));
        Self(RwLock::new(parts.collect()))
    }

    /// What uses it goes on with the settings that it has then.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<HandlerParts>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    pub(crate) fn all(&self) -> Vec<Arc<HandlerParts>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Changes the limits of a handler; one that is not here is ignored.
    pub(crate) fn reload(&self, name: &str, config: &HandlerConfig) {
        let mut handlers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(parts) = handlers.get_mut(name) {
            let handler = parts.handler.clone();
            *parts = Arc::new(HandlerParts { config: config.clone(), handler });
        }
    }
}
