//! The answer that a person or another system gives to a deferred step, frozen in the ledger.

use super::{Commit, Ledger, LedgerError, Written};
use crate::lifecycle::{Completed, Record, Unanswerable, complete};
use crate::outcome::Outcome;
use crate::step::CallbackToken;

/// An answer that the ledger has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The step's token, and its key if it has one.
    pub name: String,
    /// The same answer had been given before.
    pub before: bool,
}

/// Why the step does not have the answer, or may not have it.
#[derive(Debug, thiserror::Error)]
pub enum NotGiven {
    #[error(
        "the ledger has no step {0}: check the token, and that this is the ledger of its worker"
    )]
    Unknown(CallbackToken),
    #[error("the step {name} takes no answer: {why}")]
    Refused { name: String, why: Unanswerable },
    #[error("the step {0} changes all the time: try again")]
    Changing(CallbackToken),
    #[error(transparent)]
    Unread(#[from] LedgerError),
    #[error("{0}: whether the answer was recorded is unknown; give the same answer again")]
    Unwritten(LedgerError),
    /// A worker that is not told finds the answer by itself, but later.
    #[error(
        "the answer is recorded, but its workers were not told, and report it up to 15 minutes \
         late: {0}; to tell them, give the same answer again"
    )]
    Untold(LedgerError),
}

/// How often the record may change between its read and the write. Each change brings the step
/// closer to its end.
const TRIES: usize = 20;

impl Ledger {
    /// Freezes the answer of a deferred step, and tells the workers that share the ledger. When it
    /// returns, the answer survives a crash. `by` is for the step's history.
    ///
    /// # Errors
    /// [`NotGiven`] says what the step is instead, and what to do.
    pub async fn give(
        &self,
        token: &CallbackToken,
        answer: &Outcome,
        by: &str,
    ) -> Result<Given, NotGiven> {
        for _ in 0..TRIES {
            let Some(record) = self.load(token).await? else {
                return Err(NotGiven::Unknown(token.clone()));
            };
            let name = name(&record);
            let done = complete(&record, answer.clone(), self.now());
            let Completed::Now(mut answered) =
                done.map_err(|why| NotGiven::Refused { name: name.clone(), why })?
            else {
                self.announce(token).await.map_err(NotGiven::Untold)?;
                return Ok(Given { name, before: true });
            };
            answered.remember_answered(&record, by, self.now());
            let written = self.write(*answered, Commit::Now).await.map_err(NotGiven::Unwritten)?;
            if let Written::Done(_) = written {
                self.announce(token).await.map_err(NotGiven::Untold)?;
                return Ok(Given { name, before: false });
            }
        }
        Err(NotGiven::Changing(token.clone()))
    }
}

fn name(record: &Record) -> String {
    match &record.key {
        Some(key) => format!("{} ({key})", record.token),
        None => record.token.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::ledger::Memory;
    use crate::lifecycle::{Happening, Status};
    use crate::outcome::{Outputs, Reason};
    use crate::step::Message;

    #[tokio::test]
    async fn the_first_answer_is_frozen_and_the_history_says_who_gave_it() {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let token = step.token.clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        let record = Record::of_message(step, queue, Some("h".into()), Timestamp::UNIX_EPOCH);
        let ledger = Ledger::beside(Arc::new(Memory::new()));
        let success = Outcome::Success(Outputs::new());
        let unknown = ledger.give(&token, &success, "ada").await;
        assert!(matches!(unknown, Err(NotGiven::Unknown(_))), "{unknown:?}");
        let key = Some("ORDER-17".parse().expect("a key"));
        let deferred = Record { status: Status::Deferred, key, ..record };
        ledger.write(deferred, Commit::Now).await.expect("it works");

        for (by, before) in [("ada", false), ("bob", true)] {
            let given = ledger.give(&token, &success, by).await.expect("it takes it");
            assert_eq!(given, Given { name: format!("{token} (ORDER-17)"), before });
        }
        let other = ledger.give(&token, &Outcome::Failure(Reason::new("no")), "bob").await;
        assert!(matches!(other, Err(NotGiven::Refused { .. })), "{other:?}");
        let record = ledger.load(&token).await.expect("it works").expect("it is there");
        let events = record.history.events().iter();
        let events: Vec<_> = events.map(|it| (it.event, it.detail.as_deref())).collect();
        let wanted = [(Happening::Answered, Some("ada")), (Happening::Concluded, Some("success"))];
        assert_eq!(events, wanted);
    }
}
