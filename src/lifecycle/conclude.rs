//! The consequences of the end of a run or cleanup: a frozen outcome, another attempt, or a
//! release.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::machine::{Decision, Transition, later, released};
use super::{Activity, Effect, Ending, OnStop, Record, RunEnd, Status, Stop};
use crate::outcome::{ClientRequestToken, Outcome, Outputs, Reason};
use crate::step::{StepKey, StopReason};

impl Decision<'_> {
    pub(super) fn run_ended(&self, end: &RunEnd) -> Transition {
        if !self.is_mine() {
            return self.to(Activity::Idle, [Effect::LetGo]);
        }
        // It has killed no worker.
        let cleared = || Record { suspicion: 0, ..self.record.clone() };
        match end {
            RunEnd::Success(_) if self.is_left_to_its_handler() => self.deferred(cleared()),
            RunEnd::Success(outputs) => {
                self.conclude(Outcome::Success(outputs.clone()), Ending::Success)
            }
            RunEnd::Failure(text) => self.fail(text),
            RunEnd::Retry { error, .. } if self.record.attempt >= self.view.policy.max_attempts => {
                self.fail(&gave_up(self.record.attempt, error))
            }
            RunEnd::Retry { after, error } => {
                let wait = after.unwrap_or_else(|| {
                    self.view.policy.retry.after(self.record.attempt, self.view.random)
                });
                let record = Record { last_error: Some(error.clone()), ..cleared() };
                self.may_have_answered().wait(record, wait)
            }
            RunEnd::Again(wait) => {
                let record = Record { resume: true, ..cleared() };
                self.may_have_answered().wait(record, *wait)
            }
            RunEnd::Deferred => self.deferred(cleared()),
            RunEnd::Hindered { after, error, .. } => self.hindered(*after, error),
            RunEnd::Aborted => {
                let error = "the run was aborted".to_owned();
                self.run_ended(&RunEnd::Retry { after: None, error })
            }
        }
    }

    /// The run has lasted so long that a later crash is not attributed to it.
    pub(super) fn trusted(&self) -> Transition {
        if self.record.suspicion == 0 {
            return self.nothing();
        }
        self.write(Record { suspicion: 0, ..self.record.clone() })
    }

    /// The attempt continues once the machine allows it. A step that has nothing in this ledger yet
    /// is given back, because another worker may be able to run it.
    fn hindered(&self, wait: Duration, error: &str) -> Transition {
        let not_before = Some(later(self.view.now, wait));
        let last_error = Some(error.to_owned());
        let record =
            Record { resume: true, hindered: true, last_error, not_before, ..self.record.clone() };
        if self.view.policy.alone || record.checkpoint.is_some() || record.attempt > 1 {
            self.wait(record, wait)
        } else {
            self.give_back(record)
        }
    }

    /// Someone else will complete the step, so nothing is held for it, unless it has an unconfirmed
    /// stop. If the handler was to, SageMaker is asked at once.
    fn deferred(&self, record: Record) -> Transition {
        let until = later(self.view.now, self.view.policy.deferred_limit);
        let record = Record { status: Status::Deferred, deadline: Some(until), ..released(record) };
        let there = if self.is_left_to_its_handler() {
            self.knowing(|local| local.failures = 0).ask_for_its_answer()
        } else {
            let there = match self.doubt() {
                Some(_) => self.ask(Activity::Confirming),
                None => self.to(Activity::Idle, [Effect::Delete]),
            };
            there.first(Some(Effect::Finish(Ending::Deferred)))
        };
        Transition { write: self.write(record).write, ..there }
    }

    pub(super) fn checkpoint(&self, value: &Value) -> Transition {
        self.write(Record { checkpoint: Some(Arc::new(value.clone())), ..self.record.clone() })
    }

    /// The handler names the step; again after each restart, most of the time.
    pub(super) fn keyed(&self, key: &StepKey) -> Transition {
        if self.record.key.as_ref() == Some(key) {
            return self.nothing();
        }
        self.write(Record { key: Some(key.clone()), ..self.record.clone() })
    }

    /// The end of a run that had been told to end. An outcome of its own is kept; otherwise the
    /// order decides.
    pub(super) fn told_run_ended(&self, reason: StopReason, end: &RunEnd) -> Transition {
        let record = self.record;
        let closed = reason == StopReason::SettledElsewhere
            || record.stop_requested.is_some_and(|stop| stop.closed);
        let finished = matches!(end, RunEnd::Success(_) | RunEnd::Failure(_));
        if reason == StopReason::LeaseLost || !self.is_mine() {
            return self.to(Activity::Idle, [Effect::LetGo]);
        }
        // A shutdown does not override a stop.
        let stop = record.stop_requested.filter(|_| reason == StopReason::Shutdown);
        let reason = stop.map_or(reason, Stop::reason);
        match (reason, finished) {
            (_, true) if closed => self.settle(Ending::SettledElsewhere),
            (_, true) => self.run_ended(end),
            (
                StopReason::PipelineStopped | StopReason::SettledElsewhere | StopReason::TimeLimit,
                false,
            ) => self.clean_up(record.clone(), reason),
            (StopReason::Shutdown | StopReason::LeaseLost, false) => match end {
                RunEnd::Deferred => self.run_ended(end),
                RunEnd::Again(wait) => {
                    let not_before = Some(later(self.view.now, *wait));
                    self.give_back(Record { not_before, resume: true, ..record.clone() })
                }
                _ => self.release(),
            },
        }
    }

    pub(super) fn cleaned(&self, reason: StopReason, failure: Option<&String>) -> Transition {
        if !self.is_mine() {
            return self.to(Activity::Idle, [Effect::LetGo]);
        }
        self.answer_end(reason, failure)
    }

    /// Answers a stop or a time limit, cleaned up after or not.
    pub(super) fn answer_end(&self, reason: StopReason, failure: Option<&String>) -> Transition {
        let record = self.record;
        let but = failure.map(|text| format!("; the cleanup failed: {text}")).unwrap_or_default();
        if reason == StopReason::TimeLimit && self.view.policy.handler_is_gone {
            return self.fail(&format!("the time limit was reached{but}"));
        }
        if reason == StopReason::TimeLimit {
            let limit = crate::duration::text(self.view.policy.time_limit);
            let hindrance = record.last_error.as_ref().filter(|_| record.hindered);
            let why = hindrance
                .map(|error| format!(" before it could be started: {error}"))
                .unwrap_or_default();
            return self.fail(&format!("the time limit of {limit} was reached{why}{but}"));
        }
        if record.stop_requested.is_some_and(|stop| stop.closed) {
            return self.settle(Ending::SettledElsewhere);
        }
        let outcome = match self.view.policy.on_stop {
            OnStop::Success => Outcome::Success(Outputs::new()),
            OnStop::Failure => {
                Outcome::Failure(Reason::new(&format!("the pipeline was stopped{but}")))
            }
        };
        self.conclude(outcome, Ending::Stopped)
    }

    pub(super) fn fail(&self, text: &str) -> Transition {
        self.conclude(Outcome::Failure(Reason::new(text)), Ending::Failure)
    }

    pub(super) fn conclude(&self, outcome: Outcome, ending: Ending) -> Transition {
        let record = frozen(self.owned(self.record.clone()), outcome, ending, self.view.now);
        self.write(record).going(Activity::Reporting, [Effect::Report])
    }

    pub(super) fn wait(&self, record: Record, wait: Duration) -> Transition {
        let until = later(self.view.now, wait);
        let record =
            Record { status: Status::Waiting, not_before: Some(until), ..released(record) };
        // If it is not known to wait, nothing but this has SageMaker asked before its limit acts.
        let limit = record.deadline.filter(|_| !self.local.wanted);
        let wake = limit.map_or(until, |limit| limit.min(until));
        self.write(record).going(Activity::Sleeping, [Effect::Wake(wake)])
    }

    /// Gives the step back unchanged: the attempt continues elsewhere, or here after a restart.
    pub(super) fn release(&self) -> Transition {
        if self.is_mine() {
            self.give_back(Record { resume: true, ..self.record.clone() })
        } else {
            self.to(Activity::Idle, [Effect::LetGo])
        }
    }

    pub(super) fn give_back(&self, record: Record) -> Transition {
        let record = Record { status: Status::Waiting, ..released(record) };
        self.write(record).going(Activity::Idle, [Effect::Return])
    }
}

/// The record with an outcome that does not change any more.
pub(super) fn frozen(record: Record, outcome: Outcome, ending: Ending, now: Timestamp) -> Record {
    let request =
        ClientRequestToken::of_return(&record.execution, &record.token, record.returns, &outcome);
    Record {
        status: Status::Concluded,
        client_request_token: Some(request),
        outcome: Some(outcome),
        ending: Some(ending),
        concluded_at: Some(now),
        suspicion: 0,
        not_before: None,
        deadline: None,
        ..record
    }
}

pub(super) fn gave_up(attempts: u32, last: &str) -> String {
    format!("gave up after {attempts} attempt{}: {last}", if attempts == 1 { "" } else { "s" })
}
