//! One handler's impairment: since when, how long it is left alone, and which steps wait for its
//! end.

use std::time::Duration;

use tokio::time::Instant;

use super::super::waiting::Waiting;
use crate::backoff::{Backoff, Failures};

/// Soon at first: a program that is being replaced is back in a moment.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Without a sign that it persists, it ends after this: longer than the longest back-off, or a
/// start, takes.
pub(super) const LAPSE: Duration = Duration::from_mins(1);

pub(super) struct Ailment {
    pub(super) what: &'static str,
    pub(super) error: String,
    pub(super) since: Instant,
    pub(super) failures: Failures,
    pub(super) wait: Duration,
    /// When it last showed.
    pub(super) struck: Instant,
    /// Until when no step tests it.
    pub(super) until: Instant,
    /// When its queues are polled next, if they are polled rarely.
    pub(super) poll_at: Instant,
    pub(super) waiting: Waiting,
    trial: Option<Underway>,
}

/// A step that tests it.
struct Underway {
    number: u64,
    /// When it had its slot.
    begun: Option<Instant>,
}

impl Ailment {
    pub(super) fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self {
            what,
            error: String::new(),
            since: now,
            failures: Failures::default(),
            wait: Duration::ZERO,
            struck: now,
            until: now,
            poll_at: now,
            waiting: Waiting::default(),
            trial: None,
        }
    }

    /// It shows again. Returns how long it is left alone now, unless that is known: runs that fail
    /// together count once.
    pub(super) fn strike(&mut self, what: &'static str, error: &str) -> Option<Duration> {
        let now = Instant::now();
        (self.what, self.error, self.struck) = (what, error.to_owned(), now);
        if self.until > now {
            return None;
        }
        let wait = self.failures.another(BACKOFF, fastrand::f64());
        (self.wait, self.until, self.poll_at) = (wait, now + wait, now + wait);
        Some(wait)
    }

    pub(super) fn may_try(&self) -> bool {
        self.trial.is_none() && self.until <= Instant::now()
    }

    pub(super) fn begin_trial(&mut self, number: u64) {
        self.trial = Some(Underway { number, begun: None });
    }

    pub(super) fn trial_begins(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.begun = Some(Instant::now());
        }
    }

    pub(super) fn is_tried_by(&self, number: u64) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.number == number)
    }

    pub(super) fn end_trial(&mut self) {
        self.trial = None;
    }

    pub(super) fn has_lapsed(&self) -> bool {
        self.lapses().is_some_and(|at| at <= Instant::now())
    }

    /// `None` while a step that tests it waits for its slot, and until a step that waits in line
    /// has tested it.
    fn lapses(&self) -> Option<Instant> {
        match &self.trial {
            Some(trial) => trial.begun.map(|begun| begun.max(self.struck) + LAPSE),
            None => self.waiting.is_empty().then(|| self.struck + LAPSE),
        }
    }

    /// When there may be something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.trial.is_none() && !self.waiting.is_empty() {
            Some(self.until)
        } else {
            self.lapses()
        }
    }
}
