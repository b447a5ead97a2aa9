//! The moments that a step waits for.

use jiff::Timestamp;

use super::Driver;
use super::pending::{Pending, With};
use crate::lifecycle::Event;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Wake,
    Crowded,
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
            self.crowded.map(|at| (at, Timer::Crowded)),
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
                let at = self.wake.take();
                self.look_again(Event::Woken, at);
            }
            Timer::Crowded => {
                let at = self.crowded.take();
                self.look_again(Event::Crowded, at);
            }
            Timer::Grace => {
                self.grace = None;
                self.take_on(Event::GraceOver, With::Nothing);
            }
            Timer::Deadline => {
                self.outlasted();
                self.take_on(Event::DeadlineReached, With::Nothing);
            }
            Timer::Trusted => {
                self.trusted = None;
                self.take_on(Event::Trusted, With::Nothing);
            }
        }
    }

    /// The step has waited until `at`: other workers of a shared ledger may have changed its
    /// record, so it is read first.
    fn look_again(&mut self, event: Event, at: Option<Timestamp>) {
        let may_have_changed = self.shared.ledger.is_shared()
            && !self.state.local.activity.is_running()
            && at.is_none_or(|at| self.read < at);
        if may_have_changed && matches!(self.pending, Pending::Nothing) {
            self.read(Some(event), With::Nothing);
        } else {
            self.take_on(event, With::Nothing);
        }
    }
}
