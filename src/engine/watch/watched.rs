//! An execution that is watched, and its steps here.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::notice::Mark;
use super::{Kind, LISTED};
use crate::step::CallbackToken;

pub(super) struct Watched {
    pub(super) mark: Mark,
    pub(super) lane: usize,
    pub(super) due: Instant,
    /// It is being asked about, and therefore not due.
    pub(super) looking: bool,
    /// The last look found it executing.
    pub(super) executes: bool,
    /// Another worker asks about it, and says if this one has to: by that step, which may have
    /// ended since.
    pub(super) relies: Option<CallbackToken>,
    /// Looks until its steps are listed, if it has deferred ones.
    pub(super) unlisted: u8,
    pub(super) steps: Steps,
    /// How many of them are active.
    pub(super) active: usize,
}

/// The steps of an execution; nearly all have one.
pub(super) enum Steps {
    None,
    One(CallbackToken, Kind),
    Many(BTreeMap<CallbackToken, Kind>),
}

impl Watched {
    pub(super) fn new(execution: &str, lane: usize, due: Instant) -> Self {
        // Not all at the same look after a start.
        let unlisted = fastrand::u8(..LISTED);
        let (mark, steps) = (Mark::of(execution), Steps::None);
        let (looking, executes, relies) = (false, false, None);
        Self { mark, lane, due, looking, executes, relies, unlisted, steps, active: 0 }
    }

    /// Another worker asks about it from now on.
    pub(super) fn rely(&mut self) {
        self.relies = self.steps.told(|_, _| true).into_iter().next();
        self.executes = false;
    }

    /// No other worker asks about it any more; it is due at `due`, or earlier if it was.
    pub(super) fn rely_no_more(&mut self, due: Instant) {
        self.relies = None;
        self.due = self.due.min(due);
    }

    /// How long after a look the next one is due, at this interval.
    pub(super) fn pause(&self, every: Duration) -> Duration {
        if self.relies.is_some() { every * u32::from(LISTED) } else { every }
    }

    /// Whether this look is for its steps as well; counts the looks until then.
    pub(super) fn lists(&mut self) -> bool {
        if self.active == self.steps.len() {
            return false;
        }
        if self.relies.is_some() {
            return true;
        }
        let lists = self.unlisted == 0;
        self.unlisted = self.unlisted.checked_sub(1).unwrap_or(LISTED - 1);
        lists
    }

    /// Returns the kind that the step had.
    pub(super) fn insert(&mut self, token: &CallbackToken, kind: Kind) -> Option<Kind> {
        let was = self.steps.insert(token, kind);
        self.active += usize::from(kind == Kind::Active);
        self.active -= usize::from(was == Some(Kind::Active));
        was
    }

    pub(super) fn remove(&mut self, token: &CallbackToken) {
        let was = self.steps.remove(token);
        self.active -= usize::from(was == Some(Kind::Active));
    }

    /// No step watches it, and no look is about to put it back.
    pub(super) fn is_over(&self) -> bool {
        self.steps.len() == 0 && !self.looking
    }
}

impl Steps {
    /// Returns the kind that the step had.
    pub(super) fn insert(&mut self, token: &CallbackToken, kind: Kind) -> Option<Kind> {
        match self {
            Self::None => {
                *self = Self::One(token.clone(), kind);
                None
            }
            Self::One(one, was) if one == token => Some(std::mem::replace(was, kind)),
            Self::One(one, was) => {
                *self = Self::Many(BTreeMap::from([(one.clone(), *was), (token.clone(), kind)]));
                None
            }
            Self::Many(steps) => steps.insert(token.clone(), kind),
        }
    }

    /// Returns the kind that the step had.
    pub(super) fn remove(&mut self, token: &CallbackToken) -> Option<Kind> {
        match self {
            Self::One(one, was) if one == token => {
                let was = *was;
                *self = Self::None;
                Some(was)
            }
            Self::Many(steps) => steps.remove(token),
            Self::None | Self::One(..) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(steps) => steps.len(),
        }
    }

    /// Those that something concerns.
    pub(super) fn told(
        &self,
        concerns: impl Fn(&CallbackToken, Kind) -> bool,
    ) -> Vec<CallbackToken> {
        let told =
            |(token, kind): (&CallbackToken, &Kind)| concerns(token, *kind).then(|| token.clone());
        match self {
            Self::None => Vec::new(),
            Self::One(token, kind) => told((token, kind)).into_iter().collect(),
            Self::Many(steps) => steps.iter().filter_map(told).collect(),
        }
    }
}
