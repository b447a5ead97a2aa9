//! A record as the model keeps it: shared, quick to compare, and without the data that only
//! distinguishes one moment from another.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use callbackd::backoff::Backoff;
use callbackd::lifecycle::{AnsweredBy, OnStop, Policy, Record, Stop, Verify, WorkerId};
use callbackd::outcome::ClientRequestToken;
use callbackd::step::Message;
use jiff::Timestamp;

/// The one moment of the model. Time does not pass: each limit is either ahead or over, which is
/// part of the state.
pub const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const AHEAD: Timestamp = Timestamp::MAX;
pub const LONG_AGO: Timestamp = Timestamp::MIN;

pub const POLICY: Policy = Policy {
    alone: false,
    crowded_after: None,
    handler_is_gone: false,
    max_attempts: 2,
    retry: Backoff::new(Duration::from_secs(10), Duration::from_mins(15)),
    time_limit: Duration::from_hours(1),
    deferred_limit: Duration::from_hours(24),
    answers: AnsweredBy::Callbackd,
    on_stop: OnStop::Failure,
    verify: Verify::Redelivered,
    stop_takeover_after: Duration::from_mins(5),
    gone_after: Duration::from_hours(24),
    ask_every: Duration::from_secs(30),
};

/// The step as its message describes it.
static STEP: LazyLock<Known> = LazyLock::new(|| {
    let step = Message::parse(include_str!("../fixtures/executing.json"))
        .expect("the fixture is a message")
        .step()
        .clone();
    let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
    Known::new(Record::of_message(step, queue, Some("handler".into()), NOW))
});

#[derive(Clone, Debug)]
pub struct Known {
    record: Arc<Record>,
    hash: u64,
}

/// A limit that can be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// The wait before the next attempt.
    Wait,
    /// The handler's time limit, or that of a deferral.
    Deadline,
    /// How long a stop is owed before its holder answers.
    Takeover,
    /// How long a step is not found before it counts as closed.
    Gone,
}

impl Known {
    pub fn of_message() -> Self {
        STEP.clone()
    }

    /// A stored record's version is 1 whatever it is: whether a copy is the newest is the model's
    /// to know, and versions only grow.
    pub fn new(mut record: Record) -> Self {
        let side = |at: Timestamp| if at > NOW { AHEAD } else { NOW };
        record.version = record.version.min(1);
        record.not_before = record.not_before.map(side);
        record.deadline = record.deadline.map(side);
        let mut hasher = DefaultHasher::new();
        (
            record.status,
            &record.owner,
            record.attempt,
            record.resume,
            record.not_before,
            record.deadline,
        )
            .hash(&mut hasher);
        (record.crashes, record.suspicion).hash(&mut hasher);
        (record.stop_requested, &record.ending, &record.last_error, record.version)
            .hash(&mut hasher);
        (record.sent, record.missing_since, record.returned.is_some()).hash(&mut hasher);
        record.client_request_token.as_ref().map(ClientRequestToken::as_str).hash(&mut hasher);
        Self { hash: hasher.finish(), record: Arc::new(record) }
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn is_stored(&self) -> bool {
        self.record.version > 0
    }

    pub fn is_owned_by(&self, worker: &WorkerId) -> bool {
        self.record.owner.as_ref() == Some(worker)
    }

    pub fn is_ahead(&self, limit: Limit) -> bool {
        match limit {
            Limit::Wait => self.record.not_before == Some(AHEAD),
            Limit::Deadline => self.record.deadline == Some(AHEAD),
            Limit::Takeover => self.record.stop_requested.is_some_and(|stop| stop.at > LONG_AGO),
            Limit::Gone => self.record.missing_since.is_some_and(|since| since > LONG_AGO),
        }
    }

    #[must_use]
    pub fn once_over(&self, limit: Limit) -> Self {
        if !self.is_ahead(limit) {
            return self.clone();
        }
        let mut record = Record::clone(&self.record);
        match limit {
            Limit::Wait => record.not_before = Some(NOW),
            Limit::Deadline => record.deadline = Some(NOW),
            Limit::Takeover => {
                record.stop_requested =
                    record.stop_requested.map(|stop| Stop { at: LONG_AGO, ..stop });
            }
            Limit::Gone => record.missing_since = Some(LONG_AGO),
        }
        Self::new(record)
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && (Arc::ptr_eq(&self.record, &other.record) || self.record == other.record)
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}
