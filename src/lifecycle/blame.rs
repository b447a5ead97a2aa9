//! Which of the steps that a worker was running when it died may have killed it.
//!
//! A crash is an attempt of a step that ran alone, and of one that was on trial. All other steps
//! continue with their current attempt, and two such crashes in a row make a step a suspect.
//! Suspects are tried: one is started while nothing else runs that is not trusted, and nothing else
//! is started beside it, until it has run long enough to be trusted again. So a step that kills its
//! worker within that time is charged from its third crash on, however many ran beside it, and no
//! step is charged with what another one did.
//!
//! One crash makes no suspects: most crashes are the machine's, and then everything should resume
//! at once.

use std::time::Duration;

use super::machine::released;
use super::{Record, Status, WorkerId};

/// How many consecutive crashes make a suspect.
const SUSPECT: u32 = 2;
/// How long a step runs until it is trusted. It grows by this much with each further crash, so that
/// a step that takes longer to crash is found too.
const TRUSTED_AFTER: Duration = Duration::from_mins(1);
const TRUSTED_AFTER_AT_MOST: u32 = 15;
/// A step is given up after this many crashes for each of its attempts, whether they were counted
/// or not.
const CRASHES_PER_ATTEMPT: u32 = 10;

const DIED: &str =
    "the worker that ran the last one died, and this step was the only possible cause";

/// What else the owner of a claimed step had claimed when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beside {
    Nothing,
    /// Also if that is unknown.
    Others,
}

impl Record {
    /// The record of a claimed step after its owner's death.
    #[must_use]
    pub fn after_crash(self, beside: Beside) -> Self {
        let crashes = self.crashes.saturating_add(1);
        let can_be_nothing_else = beside == Beside::Nothing || self.is_suspected();
        // A stopped step is only cleaned up after, which is no attempt.
        if can_be_nothing_else && self.stop_requested.is_none() {
            return Self {
                status: Status::Waiting,
                crashes,
                last_error: Some(DIED.to_owned()),
                ..released(self)
            };
        }
        Self { crashes, suspicion: self.suspicion.saturating_add(1), resume: true, ..self }
    }

    /// It may be the step that killed its worker, and is on trial while it is claimed.
    #[must_use]
    pub fn is_suspected(&self) -> bool {
        self.suspicion >= SUSPECT
    }

    /// Another process had claimed it, and the consequences of that process's death are not
    /// recorded yet.
    #[must_use]
    pub fn is_left_behind(&self, me: &WorkerId) -> bool {
        self.status == Status::Claimed
            && !self.resume
            && self.owner.as_ref().is_some_and(|owner| owner != me)
    }

    /// Whether the next run goes on with the last attempt, if `me` claims it now: it was given
    /// back, its owner has died, or `me` itself has claimed it and does not run it, because the
    /// claim or the ledger's answer was lost.
    #[must_use]
    pub fn goes_on(&self, me: &WorkerId) -> bool {
        if self.is_left_behind(me) {
            return self.clone().after_crash(Beside::Others).resume;
        }
        self.resume || self.status == Status::Claimed && self.owner.as_ref() == Some(me)
    }

    /// Whether it is on trial if `me` claims it now.
    #[must_use]
    pub fn starts_on_trial(&self, me: &WorkerId) -> bool {
        self.suspicion.saturating_add(u32::from(self.is_left_behind(me))) >= SUSPECT
    }

    /// How long it must run until it is trusted.
    #[must_use]
    pub fn trusted_after(&self) -> Duration {
        TRUSTED_AFTER * self.crashes.saturating_sub(1).clamp(1, TRUSTED_AFTER_AT_MOST)
    }

    /// Why it is no longer run or cleaned up after, if it is not.
    pub(super) fn crashed_too_often(&self, max_attempts: u32) -> Option<String> {
        let most = max_attempts.saturating_mul(CRASHES_PER_ATTEMPT);
        (self.crashes >= most)
            .then(|| format!("the worker died {} times while running this step", self.crashes))
    }
}
