//! The consequences of the worker's shutdown, or of losing its claim: steps are given back, never
//! failed.
//!
//! The phase of the shutdown is not an event that happens once: it affects everything that is
//! decided from then on.

use super::machine::{Decision, Transition, Write, released};
use super::{Activity, Effect, Phase, Record, Status, Urgency};
use crate::step::StopReason;

impl Decision<'_> {
    /// A transition adjusted to the phase of the shutdown.
    pub(super) fn in_phase(&self, to: Transition) -> Transition {
        match self.view.phase {
            Phase::Running => to,
            Phase::Draining => self.given_back(to),
            Phase::Stopping => told(self.given_back(to)),
            Phase::Leaving => self.left(self.given_back(to)),
        }
    }

    /// Nothing is started, waited for or asked any more.
    fn given_back(&self, mut to: Transition) -> Transition {
        let starts = to.effects.contains(&Effect::Run);
        let status = to.write.as_ref().map_or(self.record.status, |write| write.record.status);
        let under_way = match to.local.activity {
            Activity::Idle
            | Activity::Stopping(_)
            | Activity::Cleaning(_)
            | Activity::Reporting
            | Activity::CheckingRefusal => true,
            Activity::Running => !starts,
            Activity::Sleeping => status == Status::Concluded,
            Activity::Verifying
            | Activity::Unverified
            | Activity::Asking
            | Activity::Confirming
            | Activity::Resuming
            | Activity::Reopening
            | Activity::Queued => false,
        };
        if under_way {
            return to;
        }
        if starts || self.record.status == Status::New {
            // What the ledger does not know yet it need not learn: the message tells its next
            // receiver.
            to.write = None;
            to.effects.retain(|effect| !matches!(effect, Effect::CountStop(_)));
        }
        to.effects.retain(|effect| {
            !matches!(
                effect,
                Effect::Ask { .. } | Effect::AwaitSlot | Effect::Run | Effect::Wake(_)
            )
        });
        to.effects.push(Effect::Return);
        to.local.activity = Activity::Idle;
        to
    }

    /// Nothing continues: a run is dropped, and a frozen outcome is sent once, then left to the
    /// ledger if that does not settle it.
    fn left(&self, mut to: Transition) -> Transition {
        match to.local.activity {
            Activity::Cleaning(_)
                if to.effects.iter().any(|effect| matches!(effect, Effect::CleanUp(_))) =>
            {
                return self.uncleaned(to);
            }
            Activity::Running | Activity::Stopping(_) | Activity::Cleaning(_) if waits(&to) => {}
            // The claim is lost, and with it the right to give the step back.
            Activity::Stopping(StopReason::LeaseLost) | Activity::Cleaning(_) => {
                to.effects.push(Effect::Abort);
            }
            Activity::Running | Activity::Stopping(_) => {
                if to.local.activity != Activity::Stopping(StopReason::Shutdown) {
                    to.local.activity = Activity::Stopping(StopReason::Shutdown);
                    to.effects.push(Effect::Tell(StopReason::Shutdown));
                }
                to.effects.push(Effect::Abort);
            }
            // The outcome is in the ledger and will be sent from there; another ledger's worker
            // would compute it again.
            Activity::CheckingRefusal | Activity::Sleeping => {
                to.effects.retain(|effect| !matches!(effect, Effect::Ask { .. } | Effect::Wake(_)));
                to.effects.push(Effect::LetGo);
                to.local.activity = Activity::Idle;
            }
            _ => {}
        }
        to
    }

    /// A cleanup that would begin now is left to the next owner of the step, with everything that
    /// is known.
    fn uncleaned(&self, to: Transition) -> Transition {
        let given_back = self.to(Activity::Idle, [Effect::Return]);
        let status = match self.record.status {
            Status::New | Status::Owed => return given_back,
            Status::Deferred => Status::Deferred,
            _ => Status::Waiting,
        };
        let stop_requested = to.write.and_then(|write| write.record.stop_requested);
        let record =
            Record { status, stop_requested, resume: true, ..released(self.record.clone()) };
        Transition { write: Some(Write { record, urgency: Urgency::First }), ..given_back }
    }

    pub(super) fn lease_lost(&self) -> Transition {
        match self.local.activity {
            Activity::Running | Activity::Stopping(_) => self.tell(None, StopReason::LeaseLost),
            Activity::Cleaning(_) => {
                self.to(Activity::Stopping(StopReason::LeaseLost), [Effect::Abort])
            }
            _ => self.nothing(),
        }
    }
}

/// A run is told to end.
fn told(mut to: Transition) -> Transition {
    if to.local.activity == Activity::Running && !waits(&to) {
        to.local.activity = Activity::Stopping(StopReason::Shutdown);
        to.effects.push(Effect::Tell(StopReason::Shutdown));
    }
    to
}

/// The effects wait for the ledger. The run is then not told here:
/// [`Event::Phase`](super::Event::Phase) tells it at once.
fn waits(to: &Transition) -> bool {
    to.write.as_ref().is_some_and(|write| write.urgency != Urgency::Along)
}
