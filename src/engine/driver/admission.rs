//! What a step waits for before its handler is started: a machine that lets the handler work, the
//! handler's limits, a slot of the queue. And what its runs say about the handler.

use tokio::time::Instant;

use super::super::impaired::{Admission, Trial};
use super::super::limits::{Entry, Verdict, Want};
use super::Driver;
use super::pending::With;
use crate::clock::after;
use crate::lifecycle::{Activity, Event, RunEnd};

impl Driver {
    /// Takes a slot or waits for one.
    pub(super) fn await_slot(&mut self) {
        if self.has_slot() {
            self.backlog.push_front((Event::SlotFree, With::Nothing));
        }
    }

    /// A slot, or the permit of its handler, has been given to it.
    pub(super) fn look_for_slot(&mut self) {
        if self.has_slot() {
            self.take_on(Event::SlotFree, With::Nothing);
        }
    }

    /// Whether it has all that it needs. Otherwise it waits in the line of what it lacks, and
    /// leaves what it has to others: a slot to steps of other handlers, its handler's permit to
    /// steps of other queues.
    fn has_slot(&mut self) -> bool {
        if !(self.is_unhindered() && self.is_within_limits()) {
            // A trial of the handler is for a step that may run.
            (self.slot, self.berth, self.trial) = (None, None, None);
            return false;
        }
        self.slot = self
            .slot
            .take()
            .or_else(|| self.lane.slots.acquire(&self.state.record.token, self.reservation.take()));
        if self.slot.is_none() {
            self.berth = None;
            self.grows_impatient();
        }
        self.slot.is_some()
    }

    /// Whether this machine lets the handler work, or the step is to test that.
    fn is_unhindered(&mut self) -> bool {
        if self.trial.is_some() || self.slot.is_some() {
            return true;
        }
        let record = &self.state.record;
        match self.shared.impaired.enter(self.handler_name(), self.lane.index, &record.token) {
            Admission::Free => true,
            Admission::Trial(trial) => {
                self.trial = Some(trial);
                true
            }
            Admission::Wait(hindrance) => {
                // Once that is recorded, it waits without a driver, and its time limit runs.
                if self.policy.alone && !record.hindered {
                    self.hindrance = Some(hindrance);
                    self.backlog.push_front((Event::SlotFree, With::Nothing));
                }
                false
            }
        }
    }

    /// Whether the limits of the handler allow it to run.
    fn is_within_limits(&mut self) -> bool {
        if self.berth.is_some() {
            return true;
        }
        let (handler, record) = (self.handler_name(), &self.state.record);
        // What this machine kept from starting was never under way.
        let goes_on = record.goes_on(&self.shared.ledger.me()) && !record.hindered;
        let want = if goes_on { Want::GoOn } else { Want::Start };
        match self.shared.limits.enter(handler, self.lane.index, &record.token, want) {
            Entry::Free => true,
            Entry::Granted(berth) => {
                self.berth = Some(berth);
                true
            }
            Entry::Wait => {
                self.grows_impatient();
                false
            }
        }
    }

    /// Where workers share a ledger, it does not wait for this one indefinitely.
    fn grows_impatient(&mut self) {
        if let Some(wait) = self.policy.crowded_after {
            let now = self.shared.clock.now();
            self.crowded.get_or_insert_with(|| after(now, wait));
        }
    }

    /// A step that has moved on waits for nothing.
    pub(super) fn leave_lines(&mut self, was: Activity) {
        let (activity, token) = (self.state.local.activity, &self.state.record.token);
        if !matches!(activity, Activity::Queued | Activity::Sleeping | Activity::Running) {
            self.shared.impaired.leave(self.handler_name(), token);
            self.shared.limits.leave(self.handler_name(), token);
            self.trial = None;
        }
        if was == Activity::Queued && activity != was {
            self.crowded = None;
            if self.slot.is_none() {
                self.lane.slots.leave(token);
                self.shared.limits.leave(self.handler_name(), token);
            }
        }
    }

    /// The handler works again, or this step is to try it.
    pub(super) fn handler_has_come(&mut self, trial: Option<Trial>) {
        let tries = trial.is_some();
        match self.state.local.activity {
            Activity::Queued if self.slot.is_none() && self.trial.is_none() => {
                self.trial = trial;
                self.await_slot();
            }
            Activity::Sleeping if tries && self.trial.is_none() => {
                self.trial = trial;
                self.take_on(Event::Woken, With::Nothing);
                if self.state.local.activity == Activity::Sleeping {
                    self.trial = None;
                }
            }
            _ => {}
        }
    }

    /// A poll's reservation is kept for a step that is verified first, a hindrance for a step that
    /// is about to be claimed.
    pub(super) fn drop_what_is_over(&mut self, activity: Activity) {
        self.reservation = self.reservation.take().filter(|_| activity.is_verifying());
        self.hindrance = self.hindrance.take().filter(|_| activity == Activity::Queued);
    }

    /// Draws conclusions about the machine and the handler from the end of a run.
    pub(super) fn weighed(&self, mut event: Event, begun: Instant) -> Event {
        let (handler, token) = (self.handler_name(), &self.state.record.token);
        let Event::Ended(end) = &mut event else { return event };
        self.shared.limits.ended(handler, token, begun, self.verdict(end));
        if let (RunEnd::Hindered { .. }, Some(berth)) = (&end, &self.berth) {
            berth.was_hindered();
        }
        match end {
            RunEnd::Hindered { what, after, error }
                if self.state.local.activity == Activity::Running =>
            {
                *after = self.shared.impaired.strike(handler, what, error);
                self.shared.impaired.hold(handler, self.lane.index, token);
            }
            RunEnd::Hindered { .. } | RunEnd::Aborted => {}
            _ => self.shared.impaired.works(handler, begun),
        }
        event
    }

    fn verdict(&self, end: &RunEnd) -> Verdict {
        match end {
            // Of a deferred step someone else is awaited.
            RunEnd::Success(_) | RunEnd::Deferred => Verdict::Succeeded,
            RunEnd::Failure(_) | RunEnd::Retry { .. }
                if self.state.local.activity == Activity::Running =>
            {
                Verdict::Failed
            }
            RunEnd::Again(_) => Verdict::GoesOn,
            _ => Verdict::Void,
        }
    }

    /// The step's time is over. If its job was under way, that is a failure of its handler.
    pub(super) fn outlasted(&self) {
        let record = &self.state.record;
        let is_under_way = match self.state.local.activity {
            Activity::Running => true,
            Activity::Sleeping => record.resume && !record.hindered,
            _ => false,
        };
        if is_under_way {
            let begun = self.call.as_ref().map_or_else(Instant::now, |call| call.begun);
            let handler = self.handler_name();
            self.shared.limits.ended(handler, &record.token, begun, Verdict::Failed);
        }
    }
}
