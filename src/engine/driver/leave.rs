//! A step's leave to run: beside others, or on trial.

use super::Driver;
use crate::lifecycle::Activity;

impl Driver {
    /// Whether the step, which has a slot, may start beside what is running. If not now,
    /// [`Event::SlotFree`](crate::lifecycle::Event::SlotFree) follows once it may.
    pub(super) fn may_start(&mut self) -> bool {
        let on_trial = self.state.record.starts_on_trial(&self.shared.ledger.me());
        if self.leave.as_ref().is_some_and(|leave| leave.suffices(on_trial)) {
            return true;
        }
        // Its own leave would be in the way.
        self.leave = None;
        self.leave = self.shared.trials.try_enter(on_trial);
        if self.leave.is_none() {
            self.entering = Some(self.shared.trials.enter(on_trial));
        }
        self.leave.is_some()
    }

    /// A cleanup does not wait for a trial, because a stop must be answered; but no trial starts
    /// beside it.
    pub(super) fn enter_at_once(&mut self) {
        self.leave = None;
        self.leave = self.shared.trials.try_enter(false);
    }

    /// Returns the slot and the leave if the step does not need them in its new activity.
    pub(super) fn give_back_for(&mut self, activity: Activity) {
        if !matches!(
            activity,
            Activity::Queued | Activity::Running | Activity::Stopping(_) | Activity::Cleaning(_)
        ) {
            self.slot = None;
            self.berth = None;
        }
        if activity != Activity::Queued {
            self.entering = None;
        }
        // The record decides: a crash right after this is judged by it.
        let is_trusted = self.trusted.is_none() && self.state.record.suspicion == 0;
        let goes = match activity {
            Activity::Running | Activity::Stopping(_) => self.call.is_some() && is_trusted,
            Activity::Queued | Activity::Cleaning(_) => false,
            _ => true,
        };
        if goes {
            self.leave = None;
        }
        if !activity.is_running() {
            self.trusted = None;
        }
    }
}
