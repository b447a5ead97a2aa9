//! Orders from outside about which queues are polled, and which handlers are started.

use std::sync::Arc;

use super::shared::Shared;
use crate::step::QueueUrl;

/// Pauses and resumes the queues and handlers of a running engine; cheap to clone. It does not keep
/// the engine alive.
///
/// Guarantees: nothing more is received from a paused queue, and what an open poll of it still
/// brings is given back, unless it belongs to a step in hand or is a stop. Steps in hand go on,
/// retries and waits included; the stop watch notices their stops, and they are answered. No run of
/// a paused handler is started, not even to look at a job again; what runs goes on, and cleanups
/// are made. Its steps are received as if its limits were reached.
///
/// Caveats: the stop of a step that is still on the queue is noticed only once it is resumed.
#[derive(Clone)]
pub struct Intake(Arc<Shared>);

impl Intake {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Pauses these queues and no others. A URL that this worker does not have is ignored.
    pub fn pause_only(&self, queues: &[QueueUrl]) {
        for lane in &self.0.lanes {
            let pause = queues.iter().any(|url| lane.config.url.is_same_queue(url));
            if !lane.pause.set(pause) {
                continue;
            }
            if pause {
                tracing::warn!(
                    event = "queue_paused",
                    queue = lane.name,
                    "the queue is paused: nothing is received from it; steps in hand go on"
                );
            } else {
                tracing::info!(
                    event = "queue_resumed",
                    queue = lane.name,
                    "the queue is polled again"
                );
            }
        }
    }

    /// Pauses these handlers and no others. A name that this worker does not have is ignored.
    pub fn hold_only(&self, handlers: &[String]) {
        for handler in self.0.handlers.names() {
            let hold = handlers.contains(&handler);
            if !self.0.limits.hold(&handler, hold) {
                continue;
            }
            if hold {
                tracing::warn!(
                    event = "handler_paused",
                    handler,
                    "the handler is paused: no run of it is started; what runs goes on"
                );
            } else {
                tracing::info!(
                    event = "handler_resumed",
                    handler,
                    "the handler is started as usual again"
                );
            }
        }
    }

    /// Has this handler started as usual again although its steps failed.
    pub fn close_breaker(&self, handler: &str) {
        for handler in self.0.limits.close(std::iter::once(handler)) {
            tracing::info!(
                event = "breaker_reset",
                handler,
                "the pause of the handler is ended by order: its steps are started as usual"
            );
        }
    }

    /// Has the handlers of this queue started as usual again although their steps failed.
    pub fn close_breakers(&self, queue: &QueueUrl) {
        let Some(lane) = self.0.lane(queue) else { return };
        for handler in self.0.limits.close(lane.routes().handlers()) {
            tracing::info!(
                event = "breaker_reset",
                handler,
                queue = lane.name,
                "the pause of the handler is ended by order: its steps are started as usual"
            );
        }
    }
}
