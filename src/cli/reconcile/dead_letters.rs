//! The messages of waiting steps that lie in a dead-letter queue.
//!
//! To read a queue is to receive its messages. Those are kept invisible until the search has ended,
//! or it would find the same ones again and again, and given back then; if this process dies, they
//! come back by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::action::Done;
use super::knowledge::is_same;
use super::survey::Waiting;
use crate::aws::Sqs;
use crate::seam::{Entries, Fault, FaultKind, Queue, Received};
use crate::step::{CallbackToken, Message};

/// A dead-letter queue that was searched.
pub(super) struct DeadLetters {
    queue: Sqs,
    letters: BTreeMap<CallbackToken, Vec<Received>>,
    /// Why the search proves nothing about what it did not find, if so.
    pub unsearched: Option<String>,
}

/// How long a received message stays invisible.
const HOLD: Duration = Duration::from_mins(2);
/// The search ends well before the first message comes back.
const LONGEST: Duration = Duration::from_mins(1);
/// A hundred receives: what the longest search has time for.
const MOST: usize = 1_000;
/// A long poll asks all of SQS's servers; an empty one means that there is no more.
const WAIT: Duration = Duration::from_secs(2);

impl DeadLetters {
    /// Looks for messages of these steps.
    pub(super) async fn search(queue: Sqs, steps: &[&Waiting]) -> Self {
        let (letters, unsearched) = (BTreeMap::new(), None);
        let mut found = Self { queue, letters, unsearched };
        match found.queue.backlog().await {
            // Nothing was ever moved to a queue that does not exist.
            Ok(None) => return found,
            Ok(Some(backlog)) if backlog.in_flight > 0 => {
                found.unsearched = Some(format!(
                    "{} message(s) of the dead-letter queue {} are in other hands: ask again in \
                     some minutes",
                    backlog.in_flight,
                    found.queue.url().name()
                ));
            }
            Ok(Some(_)) => {}
            Err(fault) => {
                found.unsearched = Some(found.failed(&fault, "sqs:GetQueueAttributes"));
                return found;
            }
        }
        found.receive_all(steps).await;
        found
    }

    async fn receive_all(&mut self, steps: &[&Waiting]) {
        let wanted: BTreeMap<&CallbackToken, &Waiting> =
            steps.iter().map(|step| (&step.token, *step)).collect();
        let (mut seen, mut others) = (BTreeSet::new(), Vec::new());
        let begun = Instant::now();
        loop {
            if seen.len() >= MOST || begun.elapsed() >= LONGEST {
                self.unsearched = Some(format!(
                    "{} messages of the dead-letter queue {} were looked at, and there are more: \
                     empty it of what nobody needs, then ask again",
                    seen.len(),
                    self.queue.url().name()
                ));
                break;
            }
            let received = match self.queue.receive(10, WAIT, HOLD).await {
                Ok(received) => received,
                Err(fault) => {
                    self.unsearched = Some(self.failed(&fault, "sqs:ReceiveMessage"));
                    break;
                }
            };
            if received.is_empty() {
                break;
            }
            for message in received {
                if !seen.insert(message.id.clone()) {
                    continue;
                }
                match Message::parse(&message.body).ok().filter(|read| {
                    let of_it = wanted.get(&read.step().token);
                    of_it.is_some_and(|step| is_same(&step.execution, &read.step().execution))
                }) {
                    Some(read) => {
                        self.letters.entry(read.step().token.clone()).or_default().push(message);
                    }
                    None => others.push(message.receipt_handle),
                }
            }
        }
        self.set_visibility(others, Duration::ZERO).await;
    }

    pub(super) fn has(&self, step: &Waiting) -> bool {
        self.letters.contains_key(&step.token)
    }

    /// Keeps what was found invisible while one after the other is brought back.
    pub(super) async fn hold(&self) {
        const EACH: Duration = Duration::from_secs(3);
        const MOST: Duration = Duration::from_mins(30);
        let count = u32::try_from(self.letters.len()).unwrap_or(u32::MAX);
        self.set_visibility(self.handles(), (HOLD + EACH.saturating_mul(count)).min(MOST)).await;
    }

    /// Gives back what was not deleted.
    pub(super) async fn give_back(&self) {
        self.set_visibility(self.handles(), Duration::ZERO).await;
    }

    fn handles(&self) -> Vec<String> {
        self.letters.values().flatten().map(|letter| letter.receipt_handle.clone()).collect()
    }

    /// What fails here comes back by itself.
    async fn set_visibility(&self, handles: Vec<String>, visibility: Duration) {
        let entries: Vec<(String, Duration)> =
            handles.into_iter().map(|handle| (handle, visibility)).collect();
        for some in entries.chunks(10) {
            let _ = self.queue.set_visibility(some).await;
        }
    }

    /// Puts a copy of each message of the step on its queue, and only then deletes the message.
    pub(super) async fn redrive(&mut self, step: &Waiting, to: &Sqs) -> Done {
        let queue = &self.queue;
        let letters = self.letters.remove(&step.token).unwrap_or_default();
        let count = letters.len();
        for (number, letter) in letters.into_iter().enumerate() {
            let handle = letter.receipt_handle.clone();
            // If someone else has received it since, it is theirs to bring back.
            let ours = queue.set_visibility(&[(handle.clone(), HOLD)]).await;
            if let Err(fault) = only(ours) {
                return Done::Left(format!(
                    "its message in the dead-letter queue is no longer ours: {fault}; ask again \
                     in some minutes"
                ));
            }
            if let Err(fault) = to.send(&letter.body, letter.trace.as_deref()).await {
                self.letters.entry(step.token.clone()).or_default().push(letter);
                return Done::Left(format!(
                    "a copy of its message may not have been sent, so the message stays in the \
                     dead-letter queue: {fault}; allow sqs:SendMessage and ask again"
                ));
            }
            let deleted = only(queue.delete(&[handle]).await);
            if let Err(fault) = deleted {
                return Done::Redriven(format!(
                    "a copy of message {} of {count} is on the queue, but the message could not be \
                     deleted from the dead-letter queue: {fault}; delete it there",
                    number + 1
                ));
            }
        }
        Done::Redriven(format!("{count} message(s) are back on {}", to.url().name()))
    }

    fn failed(&self, fault: &Fault, action: &str) -> String {
        let name = self.queue.url().name();
        let remedy = if fault.kind == FaultKind::Denied {
            format!("allow {action} on it")
        } else {
            "ask again".to_owned()
        };
        format!("the dead-letter queue {name} could not be searched: {fault}; {remedy}")
    }
}

/// The result of the only entry of a batch.
fn only(entries: Result<Entries, Fault>) -> Result<(), Fault> {
    entries?.into_iter().next().unwrap_or_else(|| {
        Err(Fault::new(FaultKind::Transient, "the answer lacks the message".to_owned()))
    })
}
