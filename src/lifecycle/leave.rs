//! What the end of the worker, or of its claim, leads to: steps are given back, never failed.

use super::machine::{Decision, Here, Transition};
use super::{Effect, Status};
use crate::step::StopReason;

impl Decision<'_> {
    pub(super) fn drain(&self) -> Transition {
        match (self.state.here, self.state.record.status) {
            (Here::Running | Here::Winding(_) | Here::Cleaning(_) | Here::Reporting | Here::Doubting, _)
            | (Here::Sleeping, Status::Concluded) => self.nothing(),
            (Here::Nothing | Here::Verifying | Here::Asking | Here::Confirming | Here::Queued | Here::Sleeping, _) => {
                self.to(Here::Nothing, [Effect::Return])
            }
        }
    }

    pub(super) fn halt(&self) -> Transition {
        match self.state.here {
            // The claim is lost, and with it the right to give the step back.
            Here::Winding(StopReason::LeaseLost) => self.effects([Effect::Abort]),
            Here::Running | Here::Winding(_) => {
                self.to(Here::Winding(StopReason::Shutdown), [Effect::Tell(StopReason::Shutdown), Effect::Abort])
            }
            Here::Cleaning(_) => self.effects([Effect::Abort]),
            // The outcome is in the ledger and will be sent from there; another ledger's worker would compute it again.
            Here::Reporting | Here::Doubting => self.to(Here::Nothing, [Effect::LetGo]),
            Here::Sleeping if self.state.record.status == Status::Concluded => self.to(Here::Nothing, [Effect::LetGo]),
            _ => self.drain(),
        }
    }

    pub(super) fn lease_lost(&self) -> Transition {
        match self.state.here {
            Here::Running | Here::Winding(_) => self.tell(None, StopReason::LeaseLost),
            Here::Cleaning(_) => self.to(Here::Winding(StopReason::LeaseLost), [Effect::Abort]),
            _ => self.nothing(),
        }
    }
}
