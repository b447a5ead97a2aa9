//! The steps that ended last, for those who look at the worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::lifecycle::{Ending, Record};
use crate::outcome::Outcome;
use crate::step::{CallbackToken, ExecutionArn};

/// A step that has ended on this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub token: CallbackToken,
    pub execution: ExecutionArn,
    pub handler: Option<Arc<str>>,
    pub ending: Ending,
    /// Why it failed, if it did.
    pub reason: Option<String>,
    pub first_seen: Timestamp,
    pub at: Timestamp,
}

/// The last [`Endings::MAX`].
#[derive(Default)]
pub(crate) struct Endings(Mutex<VecDeque<Ended>>);

impl Endings {
    /// As many as a person reads.
    pub(crate) const MAX: usize = 50;

    pub(crate) fn add(&self, record: &Record, ending: Ending, at: Timestamp) {
        let reason = match &record.outcome {
            Some(Outcome::Failure(reason)) => Some(reason.to_string()),
            Some(Outcome::Success(_)) | None => None,
        };
        let ended = Ended {
            token: record.token.clone(),
            execution: record.execution.clone(),
            handler: record.handler.clone(),
            ending,
            reason,
            first_seen: record.first_seen,
            at,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.truncate(Self::MAX - 1);
        all.push_front(ended);
    }

    /// The newest first.
    pub(crate) fn list(&self) -> Vec<Ended> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Reason;
    use crate::step::Message;

    #[test]
    fn the_last_endings_are_kept_and_no_more() {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        let record = Record::of_message(step, queue, None, Timestamp::UNIX_EPOCH);
        let reason = Reason::new("out of memory");
        let failed = Record { outcome: Some(Outcome::Failure(reason)), ..record.clone() };
        let endings = Endings::default();
        for _ in 0..Endings::MAX {
            endings.add(&record, Ending::Success, Timestamp::UNIX_EPOCH);
        }
        endings.add(&failed, Ending::Failure, Timestamp::UNIX_EPOCH);
        let list = endings.list();
        assert_eq!(list.len(), Endings::MAX);
        assert_eq!(list[0].reason.as_deref(), Some("out of memory"));
        assert_eq!((list[1].ending, &list[1].reason), (Ending::Success, &None));
    }
}
