//! Events inside the endpoint, for subscribers that show or check them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::broadcast;

use super::clock::Time;

/// How many events a subscriber may lag behind before it loses the oldest: a burst of a few
/// thousand steps, at about 200 bytes each.
const BACKLOG: usize = 16_384;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub at: Time,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kind of event. Queues and pipelines are identified by name, executions by ARN.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    QueueCreated {
        queue: String,
    },
    QueueDeleted {
        queue: String,
    },
    QueuePurged {
        queue: String,
        messages: usize,
    },
    MessageSent {
        queue: String,
        id: Arc<str>,
        body: Arc<str>,
    },
    MessageReceived {
        queue: String,
        id: Arc<str>,
        receives: u32,
        hidden_for: u64,
    },
    MessageDeleted {
        queue: String,
        id: Arc<str>,
    },
    /// Its visibility timeout was changed to this many seconds from now; 0 makes it visible at
    /// once.
    MessageHidden {
        queue: String,
        id: Arc<str>,
        seconds: u64,
    },
    /// Its retention ended.
    MessageExpired {
        queue: String,
        id: Arc<str>,
    },
    MessageDeadLettered {
        queue: String,
        to: String,
        id: Arc<str>,
        receives: u32,
    },
    PipelineCreated {
        pipeline: String,
    },
    PipelineUpdated {
        pipeline: String,
    },
    PipelineDeleted {
        pipeline: String,
    },
    ExecutionStarted {
        pipeline: String,
        execution: Arc<str>,
        request_token: String,
    },
    ExecutionStopping {
        execution: Arc<str>,
        request_token: String,
    },
    /// Its failed and stopped steps are started again.
    ExecutionRetried {
        execution: Arc<str>,
        request_token: String,
    },
    /// `status` is `Succeeded`, `Failed` or `Stopped`.
    ExecutionEnded {
        execution: Arc<str>,
        status: &'static str,
        reason: Option<String>,
    },
    StepStarted {
        execution: Arc<str>,
        step: String,
        token: String,
    },
    StepStopping {
        execution: Arc<str>,
        step: String,
        token: String,
    },
    /// `status` is `Succeeded`, `Failed` or `Stopped`. A step that could not be started has no
    /// token.
    StepEnded {
        execution: Arc<str>,
        step: String,
        token: Option<String>,
        status: &'static str,
        outputs: BTreeMap<String, String>,
        reason: Option<String>,
    },
    /// `repeated`: the same request with the same client request token had been accepted before.
    AnswerAccepted {
        token: String,
        operation: String,
        request_token: Option<String>,
        repeated: bool,
    },
    AnswerRefused {
        token: String,
        operation: String,
        request_token: Option<String>,
        code: String,
        message: String,
    },
    FaultApplied {
        operation: String,
        fault: &'static str,
    },
}

/// The sender of events.
#[derive(Clone, Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
}

impl Events {
    pub fn new() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }

    /// All events from now on. A receiver that lags too far behind is told how many it lost.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Sends an event; without a subscriber it costs nothing, not even its construction.
    pub fn tell(&self, at: Time, kind: impl FnOnce() -> EventKind) {
        if self.sender.receiver_count() > 0 {
            // This fails only if the last subscriber has just gone.
            let _ = self.sender.send(Event { at, kind: kind() });
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_json_object() {
        let event = Event {
            at: Time::from_millis(5),
            kind: EventKind::QueueCreated { queue: "q".to_owned() },
        };
        let json = serde_json::to_string(&event).expect("serialisable");
        assert_eq!(json, r#"{"at":5,"event":"queue_created","queue":"q"}"#);
    }

    #[test]
    fn an_event_that_nobody_hears_is_not_made() {
        let events = Events::new();
        events.tell(Time::default(), || panic!("made for nobody"));
        let mut heard = events.subscribe();
        events.tell(Time::default(), || EventKind::QueueCreated { queue: "q".to_owned() });
        assert!(heard.try_recv().is_ok());
    }
}
