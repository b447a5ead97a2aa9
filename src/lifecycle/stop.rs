//! What a stop leads to, whether the step runs here, elsewhere, nowhere yet, or its execution has ended.

use super::machine::{Decision, Here, Transition, later};
use super::{Answer, Effect, Ending, Record, Status, Stop, Via};
use crate::seam::{Ending as Closed, Standing};
use crate::step::StopReason;

impl Decision<'_> {
    pub(super) fn stop_seen(&self, via: Via) -> Transition {
        match (self.state.here, self.state.record.status) {
            (Here::Nothing, Status::Settled | Status::Concluded) => self.proceed(),
            (Here::Nothing, Status::New) => {
                let stop = Some(Stop { at: self.view.now, closed: false });
                let record = Record { status: Status::Owed, stop_requested: stop, ..self.state.record.clone() };
                self.write(record).going(Here::Asking, [Effect::CountStop(via), Effect::Ask])
            }
            (Here::Nothing, Status::Owed) => self.proceed(),
            // A later step of the execution may be the one that is stopped.
            (Here::Nothing | Here::Queued | Here::Sleeping, Status::Deferred) if via == Via::Watch => {
                self.to(Here::Confirming, [Effect::Ask])
            }
            (Here::Asking | Here::Confirming, Status::Deferred) if via == Via::Watch => self.to(Here::Confirming, []),
            _ => self.request_stop(via, false),
        }
    }

    /// Records that the step is to end, and has it end as far as that is up to this worker.
    pub(super) fn request_stop(&self, via: Via, closed: bool) -> Transition {
        let record = &self.state.record;
        let first = record.stop_requested.is_none();
        let stop = record.stop_requested.unwrap_or(Stop { at: self.view.now, closed: false });
        let flagged = Record { stop_requested: Some(Stop { closed: stop.closed || closed, ..stop }), ..record.clone() };
        let count = first.then_some(Effect::CountStop(via));
        let transition = match (self.state.here, record.status) {
            // Another worker of the ledger came first while SageMaker was asked.
            (Here::Verifying | Here::Asking | Here::Confirming, Status::Settled | Status::Concluded | Status::Owed) => {
                return self.proceed();
            }
            (_, Status::Settled | Status::Concluded | Status::Owed)
            | (Here::Cleaning(_) | Here::Winding(StopReason::LeaseLost | StopReason::PipelineStopped), _) => {
                return self.nothing();
            }
            (Here::Running | Here::Winding(_), _) => self.tell(Some(flagged), StopReason::PipelineStopped),
            // Another live worker owns it, and learns of the flag with its next renewal.
            (_, Status::Claimed) if self.foreign_until().is_some() => {
                let sleep = self.sleep(self.foreign_until());
                Transition { write: first.then_some(flagged), ..sleep }
            }
            (_, Status::New | Status::Claimed | Status::Waiting | Status::Deferred) => {
                self.clean_up(flagged, StopReason::PipelineStopped)
            }
        };
        transition.first(count)
    }

    /// A stop is owed for a step that is not known to run anywhere, or an execution has ended under a step.
    pub(super) fn asked(&self, answer: &Answer) -> Transition {
        let record = &self.state.record;
        if record.status != Status::Owed {
            return self.execution_end_answered(answer);
        }
        if matches!(answer, Answer::Standing(Standing::Closed(_))) {
            return self.settle(Ending::SettledElsewhere);
        }
        let takeover = self.takeover_at();
        if takeover <= self.view.now {
            return self.take();
        }
        self.sleep(Some(takeover.min(later(self.view.now, self.view.policy.ask_every))))
    }

    pub(super) fn execution_ended(&self) -> Transition {
        match (self.state.here, self.state.record.status) {
            (_, Status::Owed | Status::Concluded | Status::Settled)
            | (Here::Winding(_) | Here::Cleaning(_) | Here::Verifying | Here::Asking | Here::Confirming, _) => {
                self.nothing()
            }
            (Here::Nothing | Here::Sleeping, _) => self.to(Here::Asking, [Effect::Ask]),
            (Here::Running | Here::Queued | Here::Reporting | Here::Doubting, _) => self.effects([Effect::Ask]),
        }
    }

    /// Only a step that SageMaker shows closed has ended: one that it does not find may be looked for in the wrong place.
    pub(super) fn execution_end_answered(&self, answer: &Answer) -> Transition {
        match (self.state.here, answer) {
            (Here::Asking | Here::Queued, _) if self.completed(answer) => self.settle(Ending::SettledElsewhere),
            // Another worker has taken the claim and deferred the step since: this run ends with its next renewal.
            (Here::Running, _) if self.completed(answer) => self.nothing(),
            (Here::Running | Here::Queued | Here::Asking, Answer::Standing(Standing::Closed(_))) => {
                self.request_stop(Via::Watch, true)
            }
            (Here::Asking, _) => self.proceed(),
            _ => self.nothing(),
        }
    }

    /// The execution of a deferred step is stopping. The watch asks again where this answer says nothing.
    pub(super) fn stop_confirmed(&self, answer: &Answer) -> Transition {
        match answer {
            _ if self.completed(answer) => self.settle(Ending::SettledElsewhere),
            Answer::Standing(Standing::Open { .. }) => self.request_stop(Via::Watch, false),
            Answer::Standing(Standing::Closed(_)) => self.request_stop(Via::Watch, true),
            Answer::Standing(Standing::NotFound) | Answer::Unknown(_) => self.proceed(),
        }
    }

    /// Somebody has completed the deferred step, as was the plan: nothing is left to clean up.
    fn completed(&self, answer: &Answer) -> bool {
        self.state.record.status == Status::Deferred
            && matches!(answer, Answer::Standing(Standing::Closed(Closed::Succeeded | Closed::Failed)))
    }

    pub(super) fn deadline_reached(&self) -> Transition {
        let record = &self.state.record;
        match (self.state.here, record.status) {
            (Here::Running, _) => self.tell(None, StopReason::TimeLimit),
            (Here::Nothing | Here::Asking | Here::Confirming, Status::Deferred) if self.overdue() => {
                self.deferral_over()
            }
            (Here::Sleeping | Here::Queued, Status::Waiting | Status::Claimed) if self.foreign_until().is_none() => {
                self.take()
            }
            _ => self.nothing(),
        }
    }

    pub(super) fn deferral_over(&self) -> Transition {
        let limit = crate::duration::text(self.view.policy.deferred_limit);
        self.fail(&format!("nobody completed the deferred step within {limit}"))
    }

    pub(super) fn tell(&self, write: Option<Record>, reason: StopReason) -> Transition {
        Transition { write, ..self.to(Here::Winding(reason), [Effect::Tell(reason)]) }
    }
}
