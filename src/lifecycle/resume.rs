//! Steps that continue without their message, and steps that come back although they were settled.
//! SageMaker is asked first.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::machine::{Decision, Transition};
use super::{Activity, Answer, Effect, Record, Returned, Status, Urgency, Via};
use crate::seam::Standing;
use crate::step::Step;

impl Decision<'_> {
    /// The ledger holds the step for its next owner, and it is not known in this life that
    /// SageMaker still waits for it.
    pub(super) fn resumable(&self) -> bool {
        matches!(self.record.status, Status::Waiting | Status::Claimed)
            && !self.local.wanted
            && self.record.stop_requested.is_none()
            && self.foreign_until().is_none()
    }

    /// The ledger holds work for the step. A settled one may wait again, according to a message
    /// that is gone.
    pub(super) fn found(&self) -> Transition {
        match self.record.status {
            Status::Settled if self.record.returned.is_some() => self.ask(Activity::Reopening),
            _ => self.proceed(),
        }
    }

    pub(super) fn resumed(&self, answer: &Answer) -> Transition {
        if !self.resumable() {
            // Another worker of the ledger has resumed it since the question.
            return self.proceed();
        }
        match answer {
            Answer::Standing(Standing::Open { stopping: true, .. }) => {
                self.request_stop(Via::Watch, None)
            }
            Answer::Standing(Standing::Open { .. }) => {
                let wanted = self.knowing(|local| {
                    local.wanted = true;
                    local.failures = 0;
                });
                wanted.proceed()
            }
            Answer::Standing(Standing::Closed(how)) => {
                self.closed(*how).first(self.answered_elsewhere(*how))
            }
            // A step whose handler was to answer it is not kept waiting beyond its limit. If it was
            // answered, SageMaker refuses the failure.
            Answer::Standing(Standing::NotFound) | Answer::Unknown(_)
                if self.is_left_to_its_handler() && self.overdue() =>
            {
                self.take()
            }
            Answer::Standing(Standing::NotFound) | Answer::Unknown(_) => {
                self.ask_later(Activity::Sleeping)
            }
        }
    }

    /// The message of a settled step was sent later than any accepted one: the token may have come
    /// back.
    pub(super) fn came_back(&self, sent: Option<Timestamp>) -> Option<Timestamp> {
        let known = self.record.sent.or(self.record.settled_at);
        sent.filter(|sent| {
            self.record.status == Status::Settled && known.is_none_or(|known| *sent > known)
        })
    }

    /// Keeps the content of the message in the record, so that it survives until SageMaker has
    /// answered.
    pub(super) fn reopen(&self, sent: Timestamp, arguments: &Arc<Value>) -> Transition {
        let asking = self.ask(Activity::Reopening);
        let returned = Some(Returned { sent, arguments: arguments.clone() });
        if self.record.returned == returned {
            return asking;
        }
        let record = Record { returned, ..self.record.clone() };
        Transition { write: self.write(record).write, ..asking }
    }

    pub(super) fn reopened(&self, answer: &Answer) -> Transition {
        let Some(returned) =
            self.record.returned.as_ref().filter(|_| self.record.status == Status::Settled)
        else {
            // Another worker of the ledger asked the same, and has decided.
            return match self.record.status {
                Status::Settled => self.to(Activity::Idle, [Effect::Return]),
                _ => self.knowing(|local| local.wanted = true).proceed(),
            };
        };
        match answer {
            Answer::Standing(Standing::Open { queue_url: Some(url), .. })
                if !url.is_same_queue(&self.record.queue) =>
            {
                self.refuse("SageMaker waits for this step on another queue")
            }
            Answer::Standing(Standing::Open { stopping, .. }) => {
                self.begin_anew(returned, *stopping)
            }
            Answer::Standing(Standing::Closed(_)) => {
                let record =
                    Record { returned: None, sent: Some(returned.sent), ..self.record.clone() };
                self.write(record).urgent(Urgency::Lazy).going(Activity::Idle, [Effect::Delete])
            }
            Answer::Standing(Standing::NotFound) => self.refuse("SageMaker knows no such step"),
            Answer::Unknown(_) => self.ask_later(Activity::Reopening),
        }
    }

    /// Nothing from the step's earlier time counts.
    fn begin_anew(&self, returned: &Returned, stopping: bool) -> Transition {
        let old = self.record;
        let step = Step { arguments: returned.arguments.clone(), ..old.step() };
        let fresh = Record {
            status: Status::Waiting,
            sent: Some(returned.sent),
            returns: old.returns + 1,
            version: old.version,
            trace: old.trace.clone(),
            ..Record::of_message(step, old.queue.clone(), old.handler.clone(), self.view.now)
        };
        let mut local = self.local;
        local.wanted = true;
        local.failures = 0;
        let anew = Decision { record: &fresh, local, view: self.view };
        let mut there = if stopping { anew.request_stop(Via::Watch, None) } else { anew.take() };
        if there.write.is_none() {
            there.write = anew.write(fresh.clone()).write;
        }
        there
    }
}
