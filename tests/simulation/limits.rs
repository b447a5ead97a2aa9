//! When the limits of steps are over, by the clock that counts suspension, and whether the
//! reactions are early or late.
//!
//! The rest of a limit is unchanged when the wall clock is set, if the worker that wrote it lives
//! long enough to convert it. An unconverted record counts by the wall clock, so it may be off by
//! as much as the clock was set. Records that workers share count by the time of the service that
//! keeps them, which nobody sets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::judge::Worker;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// A step's time limit.
    Time,
    /// That of a deferral.
    Deferral,
}

/// How early a reaction may be: calls take time, and clocks are not checked all the time.
const EARLY: Duration = Duration::from_secs(6);
/// How late a reaction may be: waking is noticed with a delay, and a slow disk is waited for.
const LATE: Duration = Duration::from_secs(60);
/// How long a worker may take to notice that the wall clock was set, and to rewrite its records.
const RENAMING: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct Limits {
    each: BTreeMap<(u8, String, Bound), Limit>,
    ended: BTreeMap<Worker, Duration>,
    /// Tokens that came back: a record may still tell of the time before.
    back: BTreeSet<String>,
    /// When the machine was suspended, and woke: nothing acts meanwhile.
    asleep: Vec<(Duration, Duration)>,
}

#[derive(Debug)]
struct Limit {
    end: Duration,
    /// Who wrote the record last.
    by: Worker,
    /// When the wall clock was set since, by how much, and who had written the record.
    sets: Vec<(Duration, Duration, Worker)>,
}

impl Limits {
    /// A record with such a bound has become durable.
    pub fn written(&mut self, by: Worker, token: &str, bound: Bound, end: Duration) {
        let limit = self.each.entry((by.ledger, token.to_owned(), bound));
        limit.or_insert(Limit { end, by, sets: Vec::new() }).by = by;
    }

    pub fn came_back(&mut self, token: &str) {
        self.each.retain(|(_, other, _), _| other != token);
        self.back.insert(token.to_owned());
    }

    /// Whether what was sent of the token may be of the time before it came back.
    pub fn has_come_back(&self, token: &str) -> bool {
        self.back.contains(token)
    }

    pub fn life_ended(&mut self, worker: Worker, at: Duration) {
        self.ended.entry(worker).or_insert(at);
    }

    pub fn suspended(&mut self, from: Duration, to: Duration) {
        self.asleep.push((from, to));
    }

    /// The first moment from this one on at which the machine is awake.
    fn awake(&self, at: Duration) -> Duration {
        self.asleep.iter().find(|(from, to)| (*from..*to).contains(&at)).map_or(at, |(_, to)| *to)
    }

    pub fn clock_set(&mut self, at: Duration, by: Duration) {
        for limit in self.each.values_mut() {
            limit.sets.push((at, by, limit.by));
        }
    }

    /// Whether it is not over yet.
    pub fn is_early(&self, ledger: u8, token: &str, bound: Bound, now: Duration) -> bool {
        let limit = self.each.get(&(ledger, token.to_owned(), bound));
        let early = |limit: &Limit| now + Self::unsure(&self.ended, limit) + EARLY < limit.end;
        !self.back.contains(token) && limit.is_some_and(early)
    }

    /// Whether it is long over for what has gone on since `begun`.
    pub fn is_late(
        &self,
        ledger: u8,
        token: &str,
        bound: Bound,
        begun: Duration,
        now: Duration,
    ) -> bool {
        let limit = self.each.get(&(ledger, token.to_owned(), bound));
        let late = |limit: &Limit| {
            now > self.awake(begun.max(limit.end + Self::unsure(&self.ended, limit))) + LATE
        };
        !self.back.contains(token) && limit.is_some_and(late)
    }

    /// How far off the record may be.
    fn unsure(ended: &BTreeMap<Worker, Duration>, limit: &Limit) -> Duration {
        let renamed =
            |at: Duration, by: &Worker| ended.get(by).is_none_or(|ended| *ended > at + RENAMING);
        limit.sets.iter().filter(|(at, _, by)| !renamed(*at, by)).map(|(_, off, _)| *off).sum()
    }
}
