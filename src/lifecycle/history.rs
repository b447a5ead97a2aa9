//! What has happened to a step, for people: told by the changes of its record, and kept with it.
//! Nothing is decided by it.

use std::sync::Arc;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Serialize};

use super::{Ending, Record, Status};
use crate::seam::StepResult;
use crate::step::StepKey;

/// The last [`History::MAX`] events of a step, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Arc<[Happened]>);

/// An event of a step, or several that repeat each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When it happened, the last time if it was repeated; whole milliseconds.
    pub at: Timestamp,
    pub event: Happening,
    /// At most [`Happened::MAX_DETAIL`] bytes, from handlers and messages: untrusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// An attempt began.
    Claimed,
    /// An attempt continued: after a release, a crash, or to look at its job again.
    Continued,
    /// A cleanup began.
    CleaningUp,
    /// The worker that ran it died, and another life, or another worker, found it.
    LeftBehind,
    Checkpointed,
    /// The handler gave it a key.
    Keyed,
    StopRequested,
    /// Its worker gave it back, unfinished.
    Released,
    /// Its handler looked at its job, which goes on.
    Polled,
    /// An attempt failed, and another one follows.
    AttemptFailed,
    /// The machine prevented it from being started.
    Hindered,
    /// An operator had its next attempt, or the next look at its job, begin at once.
    RetryAsked,
    Deferred,
    /// The outcome was frozen.
    Concluded,
    /// SageMaker refused the report, or did not let it in.
    ReportRefused,
    /// SageMaker did not find it.
    NotFound,
    /// SageMaker has this ledger's answer.
    Reported,
    /// SageMaker has another answer, or waits for none.
    Settled,
    /// An operator had its record ended.
    Forgotten,
    /// Its pipeline was retried, and it waits once more.
    Returned,
    /// Written by a later version.
    #[serde(other)]
    Unknown,
}

impl History {
    /// How many events are kept.
    pub const MAX: usize = 100;

    #[must_use]
    pub fn events(&self) -> &[Happened] {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with all times changed.
    #[must_use]
    pub fn moved(&self, moved: impl Fn(Timestamp) -> Timestamp) -> Self {
        if self.is_empty() {
            return self.clone();
        }
        self.0.iter().map(|it| Happened { at: moved(it.at), ..it.clone() }).collect()
    }

    /// Its newest events.
    #[must_use]
    pub fn last(&self, count: usize) -> Self {
        self.0.iter().skip(self.0.len().saturating_sub(count)).cloned().collect()
    }

    fn and(&self, news: impl IntoIterator<Item = Happened>) -> Self {
        let mut events = self.0.to_vec();
        for news in news {
            add(&mut events, news);
        }
        let surplus = events.len().saturating_sub(Self::MAX);
        events.drain(..surplus).for_each(drop);
        Self(events.into())
    }
}

impl FromIterator<Happened> for History {
    fn from_iter<I: IntoIterator<Item = Happened>>(events: I) -> Self {
        Self(events.into_iter().collect())
    }
}

impl Happened {
    /// A sentence; with more, a hundred events of a step would cost its ledger too much.
    pub const MAX_DETAIL: usize = 120;

    /// `detail` is cut if it is too long; control characters, which JSON would escape, become
    /// spaces.
    #[must_use]
    pub fn new(at: Timestamp, event: Happening, detail: Option<&str>) -> Self {
        let whole = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Floor);
        let detail = detail.map(|text| {
            text[..text.floor_char_boundary(Self::MAX_DETAIL)]
                .replace(|character: char| character.is_control(), " ")
                .into()
        });
        Self { at: at.round(whole).unwrap_or(at), event, detail, times: 1 }
    }
}

impl Happening {
    /// Its name in `/steps/TOKEN` and in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Continued => "continued",
            Self::CleaningUp => "cleaning_up",
            Self::LeftBehind => "left_behind",
            Self::Checkpointed => "checkpointed",
            Self::Keyed => "keyed",
            Self::StopRequested => "stop_requested",
            Self::Released => "released",
            Self::Polled => "polled",
            Self::AttemptFailed => "attempt_failed",
            Self::Hindered => "hindered",
            Self::RetryAsked => "retry_asked",
            Self::Deferred => "deferred",
            Self::Concluded => "concluded",
            Self::ReportRefused => "report_refused",
            Self::NotFound => "not_found",
            Self::Reported => "reported",
            Self::Settled => "settled",
            Self::Forgotten => "forgotten",
            Self::Returned => "returned",
            Self::Unknown => "unknown",
        }
    }

    /// It may be repeated any number of times in the life of a step.
    fn repeats(self) -> bool {
        matches!(
            self,
            Self::Continued
                | Self::Checkpointed
                | Self::Polled
                | Self::Hindered
                | Self::RetryAsked
                | Self::ReportRefused
                | Self::NotFound
        )
    }
}

impl Record {
    /// Adds to the history what the change from `before` to this record means. The history is then
    /// that of `before` and the news, whatever this record had.
    pub fn remember(&mut self, before: &Self, now: Timestamp) {
        let news = news(before, self);
        self.history = if news.is_empty() {
            before.history.clone()
        } else {
            let news = news.iter().map(|(event, detail)| Happened::new(now, *event, *detail));
            before.history.and(news)
        };
    }

    /// Adds to the history that an operator has ended this record, and who it was.
    pub fn remember_forgotten(&mut self, by: &str, now: Timestamp) {
        self.history = self.history.and([Happened::new(now, Happening::Forgotten, Some(by))]);
    }
}

type News<'a> = (Happening, Option<&'a str>);

fn news<'a>(before: &'a Record, after: &'a Record) -> Vec<News<'a>> {
    let mut news = Vec::new();
    if after.returns > before.returns {
        news.push((Happening::Returned, None));
    }
    if after.crashes > before.crashes {
        news.push((Happening::LeftBehind, before.owner.as_ref().map(|owner| &*owner.0)));
    }
    let stopped = after.stop_requested.filter(|_| before.stop_requested.is_none());
    if let Some(stop) = stopped {
        news.push((Happening::StopRequested, stop.closed.then_some("closed at SageMaker")));
    }
    if after.key.is_some() && after.key != before.key {
        news.push((Happening::Keyed, after.key.as_ref().map(StepKey::as_str)));
    }
    if let Some(saved) = &after.checkpoint
        && before.checkpoint.as_ref().is_none_or(|old| !Arc::ptr_eq(old, saved))
    {
        news.push((Happening::Checkpointed, None));
    }
    news.extend(progress(before, after));
    news
}

/// What the statuses tell.
fn progress<'a>(before: &'a Record, after: &'a Record) -> Option<News<'a>> {
    let error = || after.last_error.as_deref();
    let begins = before.status != after.status || before.owner != after.owner;
    let left = before.status == Status::Claimed && after.status == Status::Waiting;
    match after.status {
        Status::Claimed if after.attempt > before.attempt => Some((Happening::Claimed, None)),
        Status::Claimed if begins && !before.resume => Some((Happening::CleaningUp, None)),
        Status::Claimed if begins && after.stop_requested.is_some() => {
            Some((Happening::CleaningUp, None))
        }
        Status::Claimed if begins => Some((Happening::Continued, None)),
        // It was left behind.
        Status::Waiting if after.crashes > before.crashes => None,
        Status::Waiting if left && after.hindered => Some((Happening::Hindered, error())),
        Status::Waiting if left && !after.resume => Some((Happening::AttemptFailed, error())),
        Status::Waiting if left && after.not_before.is_some() => Some((Happening::Polled, None)),
        Status::Waiting if left => Some((Happening::Released, None)),
        Status::Waiting
            if before.status == Status::Waiting
                && before.not_before.is_some()
                && after.not_before.is_none() =>
        {
            Some((Happening::RetryAsked, None))
        }
        Status::Deferred if before.status != Status::Deferred => Some((Happening::Deferred, None)),
        Status::Concluded if before.status != Status::Concluded => {
            Some((Happening::Concluded, after.ending.map(Ending::as_str)))
        }
        Status::Concluded if after.last_error != before.last_error => {
            Some((Happening::ReportRefused, error()))
        }
        Status::Concluded if after.missing_at.is_some_and(|at| before.missing_at != Some(at)) => {
            Some((Happening::NotFound, None))
        }
        Status::Settled if before.status != Status::Settled => {
            let ours = before.status == Status::Concluded && after.ending == before.ending;
            let event = if ours { Happening::Reported } else { Happening::Settled };
            let how = after.closed_as.map(StepResult::as_str);
            Some((event, how.or(after.ending.map(Ending::as_str))))
        }
        _ => None,
    }
}

/// An event that has happened since the last one that does not repeat is counted, not added: a job
/// may be looked at thousands of times.
fn add(events: &mut Vec<Happened>, mut news: Happened) {
    if news.event.repeats() {
        let since = events.iter().rposition(|it| !it.event.repeats()).map_or(0, |at| at + 1);
        if let Some(at) = events[since..].iter().position(|it| it.event == news.event) {
            let earlier = events.remove(since + at);
            news.times = earlier.times.saturating_add(news.times);
        }
    }
    events.push(news);
}

fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_once(times: &u32) -> bool {
    *times == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Stop, WorkerId};
    use crate::step::Message;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn record() -> Record {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        Record::of_message(step, queue, Some("h".into()), at(0))
    }

    fn claimed(attempt: u32) -> Record {
        let owner = Some(WorkerId("me".into()));
        Record { status: Status::Claimed, attempt, owner, ..record() }
    }

    fn waiting() -> Record {
        Record { status: Status::Waiting, owner: None, ..claimed(1) }
    }

    /// The history of a step whose record was each of these, at second 1, 2, …
    fn told(records: impl IntoIterator<Item = Record>) -> History {
        let mut before = record();
        for (second, mut after) in (1..).zip(records) {
            after.remember(&before, at(second));
            before = after;
        }
        before.history
    }

    fn names(history: &History) -> Vec<&'static str> {
        history.events().iter().map(|it| it.event.as_str()).collect()
    }

    #[test]
    fn each_change_of_a_record_is_told_by_its_kind() {
        let concluded =
            |ending| Record { status: Status::Concluded, ending: Some(ending), ..claimed(1) };
        let settled = |ending| Record { status: Status::Settled, ending: Some(ending), ..record() };
        let error = Some("no luck".to_owned());
        let resumed = Record { resume: true, ..waiting() };
        for (before, after, event, detail) in vec![
            (record(), claimed(1), "claimed", None),
            (waiting(), claimed(2), "claimed", None),
            (resumed.clone(), claimed(1), "continued", None),
            (waiting(), claimed(1), "cleaning_up", None),
            (
                claimed(1),
                Record { last_error: error.clone(), ..waiting() },
                "attempt_failed",
                Some("no luck"),
            ),
            (
                claimed(1),
                Record { last_error: error.clone(), hindered: true, ..resumed.clone() },
                "hindered",
                Some("no luck"),
            ),
            (claimed(1), Record { not_before: Some(at(9)), ..resumed.clone() }, "polled", None),
            (claimed(1), resumed.clone(), "released", None),
            (claimed(1), Record { crashes: 1, ..resumed }, "left_behind", Some("me")),
            (
                claimed(1),
                Record { checkpoint: Some(Arc::new(7.into())), ..claimed(1) },
                "checkpointed",
                None,
            ),
            (
                claimed(1),
                Record { key: Some("ORDER-17".parse().expect("a key")), ..claimed(1) },
                "keyed",
                Some("ORDER-17"),
            ),
            (
                claimed(1),
                Record { stop_requested: Some(Stop::open(at(1))), ..claimed(1) },
                "stop_requested",
                None,
            ),
            (claimed(1), Record { status: Status::Deferred, ..waiting() }, "deferred", None),
            (claimed(1), concluded(Ending::Stopped), "concluded", Some("stopped")),
            (
                concluded(Ending::Success),
                Record { last_error: error, ..concluded(Ending::Success) },
                "report_refused",
                Some("no luck"),
            ),
            (
                concluded(Ending::Success),
                Record { missing_at: Some(at(1)), ..concluded(Ending::Success) },
                "not_found",
                None,
            ),
            (concluded(Ending::Success), settled(Ending::Success), "reported", Some("success")),
            (
                claimed(1),
                Record { closed_as: Some(StepResult::Failed), ..settled(Ending::SettledElsewhere) },
                "settled",
                Some(StepResult::Failed.as_str()),
            ),
            (settled(Ending::Success), Record { returns: 1, ..waiting() }, "returned", None),
        ] {
            let mut after = after;
            after.remember(&before, at(1));
            let [it] = after.history.events() else { panic!("{event}: {:?}", after.history) };
            assert_eq!((it.event.as_str(), it.detail.as_deref()), (event, detail));
            assert_eq!(serde_json::to_value(it.event).ok(), Some(event.into()));
            let mut same = after.clone();
            same.remember(&after, at(2));
            assert_eq!(same.history, after.history, "no change is no news after {event}");
        }
    }

    #[test]
    fn a_job_that_is_looked_at_thousands_of_times_takes_four_events() {
        let looks = (1..=1000).flat_map(|look| {
            let checkpoint = Some(Arc::new(look.into()));
            let sleeping = Record { resume: true, not_before: Some(at(look)), ..waiting() };
            [
                claimed(1),
                Record { checkpoint: checkpoint.clone(), ..claimed(1) },
                Record { checkpoint, ..sleeping },
            ]
        });
        let history = told(looks);
        assert_eq!(names(&history), ["claimed", "continued", "checkpointed", "polled"]);
        let times: Vec<u32> = history.events().iter().map(|it| it.times).collect();
        assert_eq!(times, [1, 999, 1000, 1000]);
        assert_eq!(history.events()[3].at, at(3000), "the last time");
    }

    #[test]
    fn the_last_hundred_events_are_kept_and_their_details_are_bounded() {
        let error = Some("\u{e4}".repeat(1000));
        let attempts = (1..=200).flat_map(|attempt| {
            let failed = Record { attempt, last_error: error.clone(), ..waiting() };
            [claimed(attempt), failed]
        });
        let history = told(attempts);
        assert_eq!(history.events().len(), History::MAX);
        assert_eq!(history.events().last().map(|it| it.at), Some(at(400)));
        let longest =
            history.events().iter().filter_map(|it| it.detail.as_ref()).map(|it| it.len()).max();
        assert_eq!(longest, Some(Happened::MAX_DETAIL));
    }
}
