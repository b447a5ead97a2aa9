//! The moments that a step waits for.

use jiff::Timestamp;

use super::Driver;
use super::pending::{Pending, With};
use crate::lifecycle::Event;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Wake,
    Grace,
    Deadline,
    Trusted,
}

impl Driver {
    /// The next timer.
    pub(super) fn next_timer(&self) -> Option<(Timestamp, Timer)> {
        // Once the run is over, its time limit waits for the run's result.
        let limited = self.call.is_some() || matches!(self.pending, Pending::Nothing);
        [
            self.wake.map(|at| (at, Timer::Wake)),
            self.grace.map(|at| (at, Timer::Grace)),
            self.state.deadline().filter(|_| limited).map(|at| (at, Timer::Deadline)),
            self.trusted.map(|at| (at, Timer::Trusted)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn timer_fired(&mut self, timer: Timer) {
        match timer {
            Timer::Wake => {
                let unread = self.wake.take().is_none_or(|at| self.read < at);
                let may_have_changed = self.shared.ledger.is_shared()
                    && !self.state.local.activity.is_running()
                    && unread;
                if may_have_changed && matches!(self.pending, Pending::Nothing) {
                    self.read(Some(Event::Woken), With::Nothing);
                } else {
                    self.take_on(Event::Woken, With::Nothing);
                }
            }
            Timer::Grace => {
                self.grace = None;
                self.take_on(Event::GraceOver, With::Nothing);
            }
            Timer::Deadline => self.take_on(Event::DeadlineReached, With::Nothing),
            Timer::Trusted => {
                self.trusted = None;
                self.take_on(Event::Trusted, With::Nothing);
            }
        }
    }
}
