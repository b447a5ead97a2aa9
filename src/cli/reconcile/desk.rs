//! Everything that can account for a step, at hand.

use std::time::Duration;

use tokio::time::Instant;

use super::dead_letters::DeadLetters;
use super::fleet::{Fleet, OurQueue};
use super::knowledge::{Holding, Knowledge, Source, Unreadable};
use super::survey::Waiting;
use super::verdict::{Blind, Evidence, Verdict, unaccounted};
use crate::aws::{Backlog, Sqs};
use crate::cli::tempo::Tempo;
use crate::seam::{Fault, FaultKind};

pub(super) struct Desk<'a> {
    pub fleet: &'a Fleet,
    pub ledger: Source,
    pub older_than: Option<Duration>,
    pub assume_not_queued: bool,
    pub tempo: Tempo,
    /// For each queue that a step waits on and nothing else accounts for: its messages, or why they
    /// are not known.
    counted: Vec<Option<Result<Backlog, String>>>,
    dead_letters: Vec<DeadLetters>,
    /// For each queue, its index in `dead_letters`.
    dead_letters_of: Vec<Option<usize>>,
    listed: Listed,
}

/// The steps that may have a message in flight, and when they were listed.
#[derive(Default)]
struct Listed(Option<(Instant, Holding)>);

impl Listed {
    /// A list serves for so long, which is less than SQS's numbers may be behind: while many steps
    /// are failed, a live fleet's table is not listed again for each.
    const SERVES: Duration = Duration::from_secs(30);

    async fn get<E>(
        &mut self,
        list: impl AsyncFnOnce() -> Result<Holding, E>,
    ) -> Result<&Holding, E> {
        let (at, holding) = match self.0.take() {
            Some((at, holding)) if at.elapsed() < Self::SERVES => (at, holding),
            _ => (Instant::now(), list().await?),
        };
        Ok(&self.0.insert((at, holding)).1)
    }
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        fleet: &'a Fleet,
        ledger: Source,
        older_than: Option<Duration>,
        assume_not_queued: bool,
    ) -> Self {
        let count = fleet.queues.len();
        Self {
            fleet,
            ledger,
            older_than,
            assume_not_queued,
            tempo: Tempo::new(),
            counted: (0..count).map(|_| None).collect(),
            dead_letters: Vec::new(),
            dead_letters_of: vec![None; count],
            listed: Listed::default(),
        }
    }

    /// What the ledger has of these steps.
    pub(super) async fn read(&mut self, steps: &[&Waiting]) -> Result<Knowledge, Unreadable> {
        // Whose the messages in flight are does not matter where there are none.
        if steps.iter().all(|step| self.has_nothing_in_flight(step.queue)) {
            return self.ledger.read(self.fleet, steps, &Holding::new()).await;
        }
        let holding = self.listed.get(async || self.ledger.list(self.fleet).await).await?;
        self.ledger.read(self.fleet, steps, holding).await
    }

    fn has_nothing_in_flight(&self, queue: usize) -> bool {
        matches!(&self.counted[queue], Some(Ok(Backlog { in_flight: 0, .. })))
    }

    /// Looks at the queues of these steps, and for their messages in the dead-letter queues.
    pub(super) async fn search(&mut self, steps: &[&Waiting]) {
        let mut sources: Vec<(Sqs, Vec<usize>)> = Vec::new();
        for index in 0..self.fleet.queues.len() {
            if !steps.iter().any(|step| step.queue == index) {
                continue;
            }
            // Why it failed is kept.
            let _ = self.count(index).await;
            let Some(Some(Ok(Backlog { dead_letters: Some(dead), .. }))) = self.counted.get(index)
            else {
                continue;
            };
            let same = |(other, _): &&mut (Sqs, _)| other.url().is_same_queue(dead.url());
            match sources.iter_mut().find(same) {
                Some((_, of)) => of.push(index),
                None => sources.push((dead.clone(), vec![index])),
            }
        }
        for (queue, of) in sources {
            let here: Vec<&Waiting> =
                steps.iter().filter(|step| of.contains(&step.queue)).copied().collect();
            for index in of {
                self.dead_letters_of[index] = Some(self.dead_letters.len());
            }
            self.dead_letters.push(DeadLetters::search(queue, &here).await);
        }
    }

    /// Counts the messages of a queue.
    pub(super) async fn count(&mut self, index: usize) -> Result<(), String> {
        let queue = &self.fleet.queues[index].queue;
        let name = queue.url().name();
        let counted = match queue.backlog().await {
            Ok(Some(backlog)) => Ok(backlog),
            Ok(None) => Err(format!(
                "there is no queue {name}: check `url` and the endpoint, then ask again"
            )),
            Err(fault) => Err(uncounted(name, &fault)),
        };
        let failed = counted.as_ref().err().cloned();
        self.counted[index] = Some(counted);
        failed.map_or(Ok(()), Err)
    }

    pub(super) fn judge(&self, step: &Waiting, knowledge: &Knowledge) -> Verdict {
        let ours = &self.fleet.queues[step.queue];
        let age = step.since.map(|since| {
            Duration::try_from(self.ledger.now().duration_since(since)).unwrap_or_default()
        });
        let dead = self.dead_letters_of[step.queue].map(|index| &self.dead_letters[index]);
        let records = knowledge.with_messages.get(step.queue).copied().unwrap_or_default();
        let (messages, uncounted) = match &self.counted[step.queue] {
            Some(Ok(backlog)) => {
                let Backlog { visible, delayed, in_flight, .. } = *backlog;
                (unaccounted(visible, delayed, in_flight, records), None)
            }
            Some(Err(why)) => (0, Some(why.as_str())),
            None => (0, Some("its queue was not looked at; ask again")),
        };
        Verdict::of(&Evidence {
            known: knowledge.of(step),
            is_dead: dead.is_some_and(|dead| dead.has(step)),
            age,
            least_age: least_age(ours, self.older_than),
            blind: self.blind(ours, knowledge),
            unsearched: uncounted.or_else(|| dead?.unsearched.as_deref()),
            unaccounted: messages,
        })
    }

    fn blind(&self, ours: &OurQueue, knowledge: &Knowledge) -> Option<Blind> {
        if matches!(self.ledger, Source::Memory) {
            return Some(Blind::Memory);
        }
        if !ours.exclusive {
            return Some(Blind::Others);
        }
        (knowledge.nameless > 0).then_some(Blind::Damaged(knowledge.nameless))
    }

    pub(super) fn dead_letters_of(&mut self, queue: usize) -> Option<&mut DeadLetters> {
        let index = self.dead_letters_of[queue]?;
        self.dead_letters.get_mut(index)
    }

    /// Keeps the messages that were found invisible for as long as it takes to bring them back.
    pub(super) async fn hold(&self) {
        for dead in &self.dead_letters {
            dead.hold().await;
        }
    }

    /// Gives all messages back that are still in a dead-letter queue.
    pub(super) async fn give_back(&self) {
        for dead in &self.dead_letters {
            dead.give_back().await;
        }
    }
}

fn uncounted(name: &str, fault: &Fault) -> String {
    let remedy = if fault.kind == FaultKind::Denied {
        "allow sqs:GetQueueAttributes on it"
    } else {
        "ask again"
    };
    format!("the messages of the queue {name} could not be counted: {fault}; {remedy}")
}

/// A message may have been received by a worker that died: it comes back after the visibility
/// timeout, and may be received once more. SQS's numbers, too, lag behind by minutes.
fn least_age(ours: &OurQueue, older_than: Option<Duration>) -> Duration {
    least(ours.visibility_timeout, older_than)
}

const LAG: Duration = Duration::from_mins(5);

fn least(visibility_timeout: Duration, older_than: Option<Duration>) -> Duration {
    older_than.unwrap_or((visibility_timeout + LAG) * 2).max(visibility_timeout + LAG)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_many_steps_are_failed_a_table_is_listed_twice_a_minute() {
        let (mut listed, mut tempo, begun) = (Listed::default(), Tempo::new(), Instant::now());
        let mut lists = 0;
        // A failure takes a call that asks about the step, and the report.
        for _ in 0..60 {
            tempo.turn(2).await;
            let list = async || {
                lists += 1;
                Ok::<_, Unreadable>(Holding::new())
            };
            assert!(listed.get(list).await.is_ok());
        }
        assert_eq!((begun.elapsed().as_secs(), lists), (118, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_failed_or_is_old_serves_for_nothing() {
        let mut listed = Listed::default();
        assert_eq!(listed.get(async || Err("throttled")).await, Err("throttled"));
        assert_eq!(listed.get(async || Ok::<_, &str>(Holding::new())).await, Ok(&Holding::new()));
        advance(Listed::SERVES).await;
        assert_eq!(listed.get(async || Err("throttled")).await, Err("throttled"));
    }

    #[test]
    fn a_step_is_given_its_visibility_timeout_and_some_minutes_whatever_the_user_says() {
        let minutes = Duration::from_mins;
        assert_eq!(least(minutes(2), None), minutes(14));
        assert_eq!(least(minutes(2), Some(minutes(60))), minutes(60));
        assert_eq!(least(minutes(2), Some(minutes(1))), minutes(7));
    }
}
