//! The consequences of a delivery or a wake: a step is accepted, left alone, or asked about first.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::conclude::gave_up;
use super::machine::{Decision, Transition, later, released};
use super::{Activity, Beside, Effect, Record, Status, Stop, Verify};
use crate::step::StopReason;

/// No clock is assumed to be off by this much: a later moment, by a day or by the time limit,
/// counts as due.
const LONG_WAIT: Duration = Duration::from_hours(24);

impl Decision<'_> {
    pub(super) fn work_delivered(
        &self,
        receives: u32,
        sent: Option<Timestamp>,
        arguments: &Arc<Value>,
    ) -> Transition {
        if let Some(sent) = self.came_back(sent).filter(|_| self.local.idle()) {
            return self.knowing(|local| local.wanted = true).reopen(sent, arguments);
        }
        // If its handler may have answered it since, the message proves nothing.
        let waits = !self.is_left_to_its_handler();
        let step = self.knowing(|local| {
            local.wanted |= waits;
            local.sent = local.sent.max(sent);
        });
        match (self.local.activity, self.record.status) {
            (Activity::Idle | Activity::Confirming, Status::New) => {
                let verify = match self.view.policy.verify {
                    Verify::Always => true,
                    Verify::Redelivered => receives > 1,
                    Verify::Never => false,
                };
                if verify { step.ask(Activity::Verifying) } else { step.take() }
            }
            // The step with the owed stop has arrived: it was never run here, and will not be.
            (Activity::Idle | Activity::Sleeping, Status::Owed) => step.ask(Activity::Asking),
            (Activity::Idle, _) => step.proceed(),
            // The pending question was whether SageMaker waits for the step. Its message says so.
            (Activity::Resuming, Status::Claimed | Status::Waiting) if step.local.wanted => {
                step.proceed()
            }
            (Activity::Confirming, Status::Claimed | Status::Waiting) => step.proceed(),
            (Activity::Sleeping, _) if self.resumable() => step.proceed(),
            _ => step.nothing(),
        }
    }

    pub(super) fn foreign_delivered(&self) -> Transition {
        let why = "the message has this step's token but names another execution";
        self.effects([Effect::RefuseDelivery(why.to_owned())])
    }

    pub(super) fn woken(&self) -> Transition {
        match self.local.activity {
            Activity::Sleeping => {
                let mut there = self.proceed();
                let asks = there.effects.iter().any(|effect| matches!(effect, Effect::Ask { .. }));
                if self.doubt().is_some() && !asks && !there.local.idle() {
                    there.effects.push(Effect::Ask { confirm_stop: true });
                }
                there
            }
            Activity::Unverified => self.ask(Activity::Verifying),
            Activity::Reopening => self.ask(Activity::Reopening),
            activity if self.doubt().is_some() => self.ask(activity),
            // The doubt is gone: another worker of the ledger has decided.
            Activity::Confirming => self.proceed(),
            _ => self.nothing(),
        }
    }

    /// What to do with a step without an activity.
    pub(super) fn proceed(&self) -> Transition {
        let record = self.record;
        match record.status {
            Status::Settled => self.to(Activity::Idle, [self.end_of_messages()]),
            Status::Claimed | Status::Concluded if self.foreign_until().is_some() => {
                self.leave_to_owner()
            }
            Status::Concluded => self.to(Activity::Reporting, [Effect::Report]),
            Status::Claimed | Status::Waiting if self.resumable() => self.ask(Activity::Resuming),
            Status::New if self.local.wanted => self.take(),
            // Without its message nothing is known about it.
            Status::New => self.to(Activity::Idle, [Effect::LetGo]),
            Status::Claimed => self.take(),
            Status::Waiting
                if record.stop_requested.is_none()
                    && self.not_before() > Some(self.view.now)
                    && !self.overdue() =>
            {
                self.sleep(self.not_before())
            }
            Status::Waiting => self.take(),
            Status::Deferred if self.is_left_to_its_handler() && !self.overdue() => {
                self.ask_for_its_answer()
            }
            Status::Deferred if record.stop_requested.is_some() => self.take(),
            Status::Deferred if self.overdue() => self.deferral_over(),
            Status::Deferred if self.doubt().is_some() => self.ask(Activity::Confirming),
            Status::Deferred => self.to(Activity::Idle, [Effect::Delete]),
            Status::Owed => self.ask(Activity::Asking),
        }
    }

    /// Takes a step that no worker runs: cleans up after it, gives it up, or lets it wait for a
    /// slot.
    pub(super) fn take(&self) -> Transition {
        let record = &*self.left_behind();
        let most = self.view.policy.max_attempts;
        if let Some(stop) = record.stop_requested {
            return self.clean_up(self.record.clone(), stop.reason());
        }
        if self.overdue() {
            return self.clean_up(self.record.clone(), StopReason::TimeLimit);
        }
        if self.view.policy.handler_is_gone {
            return self.held();
        }
        if record.handler.is_none() {
            let text = format!(
                "no handler is configured for the pipeline {} and these arguments; the queue's \
                 routes lead to: {}",
                record.execution.pipeline(),
                self.view.handlers
            );
            return self.fail(&text);
        }
        if let Some(why) = record.crashed_too_often(most) {
            return self.fail(&format!("gave up: {why}"));
        }
        if !record.goes_on(self.view.me) && record.attempt >= most {
            return self.fail(&gave_up(
                record.attempt,
                record.last_error.as_deref().unwrap_or("nothing is known about it"),
            ));
        }
        self.to(Activity::Queued, [Effect::AwaitSlot])
    }

    /// The step has waited long for a slot of this worker, and another one may have one.
    pub(super) fn crowded(&self) -> Transition {
        let now = self.proceed();
        if now.local.activity != Activity::Queued {
            return now;
        }
        // Its turn comes sooner here than at the end of the queue.
        let is_retried = self.record.status == Status::Waiting && !self.record.resume;
        if self.view.holds && self.doubt().is_none() && !is_retried {
            self.to(Activity::Idle, [Effect::PassOn])
        } else {
            self.nothing()
        }
    }

    /// Lets the step wait for its handler, which only another life of the worker can have; no
    /// longer than the step's limit.
    fn held(&self) -> Transition {
        let (activity, wake) = (Activity::Sleeping, Effect::Wake(later(self.view.now, LONG_WAIT)));
        let error = Some(self.gone());
        if self.record.status == Status::Waiting && self.record.last_error == error {
            return self.to(activity, [wake]);
        }
        let record = released(self.left_behind().into_owned());
        self.write(Record { status: Status::Waiting, last_error: error, ..record })
            .going(activity, [wake])
    }

    /// The text about a handler that is not configured.
    pub(super) fn gone(&self) -> String {
        format!(
            "its handler `{}` is not configured any more",
            self.record.handler.as_deref().unwrap_or("none")
        )
    }

    /// Claims the step and runs it, if it still should run: much may have happened while it waited
    /// for its slot.
    pub(super) fn start(&self) -> Transition {
        let now = self.proceed();
        if now.local.activity != Activity::Queued {
            return now;
        }
        let taken = self.left_behind();
        let goes_on = taken.goes_on(self.view.me);
        let mut record = self.owned(taken.into_owned());
        record.attempt += u32::from(!goes_on);
        record.status = Status::Claimed;
        record.resume = false;
        record.hindered = false;
        record.not_before = None;
        let limit = later(self.view.now, self.view.policy.time_limit);
        record.deadline = Some(record.deadline.map_or(limit, |deadline| deadline.min(limit)));
        self.write(record).going(Activity::Running, [Effect::Run])
    }

    /// The record with the consequences of its owner's death. If the ledger is this process's
    /// alone, they are recorded before any step of that owner is taken; otherwise it is unknown
    /// what else was claimed then, so the step is put on trial first.
    fn left_behind(&self) -> Cow<'_, Record> {
        let record = self.record;
        if record.is_left_behind(self.view.me) {
            Cow::Owned(record.clone().after_crash(Beside::Others))
        } else {
            Cow::Borrowed(record)
        }
    }

    /// No wait is longer than the time limit, which would end it: a moment much further ahead was
    /// set by a wrong clock.
    fn not_before(&self) -> Option<Timestamp> {
        let most = later(self.view.now, self.view.policy.time_limit.max(LONG_WAIT));
        self.record.not_before.filter(|at| *at <= most)
    }

    pub(super) fn clean_up(&self, record: Record, reason: StopReason) -> Transition {
        let record = if record.is_left_behind(self.view.me) {
            record.after_crash(Beside::Others)
        } else {
            record
        };
        let policy = self.view.policy;
        let gone = policy.handler_is_gone.then(|| format!("it was not run: {}", self.gone()));
        if let Some(why) = gone.or_else(|| record.crashed_too_often(policy.max_attempts)) {
            return Decision { record: &record, ..*self }.answer_end(reason, Some(&why));
        }
        let mut record = self.owned(record);
        record.status = Status::Claimed;
        record.resume = false;
        // A cleanup is not put on trial, so nothing is attributed to it.
        record.suspicion = 0;
        record.not_before = None;
        // The run may have been told before that was recorded.
        let succeeded = reason == StopReason::SettledElsewhere;
        if succeeded || reason == StopReason::PipelineStopped {
            let stop = Stop { at: self.view.now, closed: succeeded, succeeded };
            record.stop_requested.get_or_insert(stop);
        }
        self.write(record).going(Activity::Cleaning(reason), [Effect::CleanUp(reason)])
    }
}
