//! Settings that may be changed while the engine works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::config::{HandlerConfig, QueueConfig};
use super::shared::Shared;

/// Changes settings of a running engine; cheap to clone. It does not keep the engine alive.
///
/// Guarantees: what runs, runs on. With fewer slots nothing is started until enough runs have
/// ended. A step keeps the handler that it has; its next decision is made with the new limits. A
/// time limit that is counting stays, and a run has the grace with which it was started. A breaker
/// that is open stays so, unless there is none any more.
///
/// Caveats: runs of a handler that had no limit of its own are not counted by its first one.
#[derive(Clone)]
pub struct Settings(Arc<Shared>);

impl Settings {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The longest time that a run which is told to end may take, by all settings so far.
    #[must_use]
    pub fn longest_grace(&self) -> Duration {
        self.0.handlers.longest_grace()
    }

    /// Takes over the slots and routes of these queues, and the limits of these handlers. Those
    /// that the engine does not have are ignored, as is every other setting of a queue.
    pub fn reload(&self, queues: &[QueueConfig], handlers: &BTreeMap<String, HandlerConfig>) {
        for (name, config) in handlers {
            if self.0.handlers.reload(name, config) {
                self.0.limits.reload(name, config);
            }
        }
        for config in queues {
            if let Some(lane) = self.0.lane(&config.url) {
                lane.reload(config);
            }
        }
    }
}
