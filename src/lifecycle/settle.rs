//! The consequences of the answer to a report: the step is settled, or the report is sent again, or
//! SageMaker is asked why it was refused.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::machine::{Decision, Transition, later, released};
use super::{Activity, Answer, Effect, Ending, Record, Status, Urgency};
use crate::backoff::Backoff;
use crate::outcome::Outcome;
use crate::seam::{Standing, StepResult};

/// Soon at first, then slowly: throttling and outages end by themselves.
const FAILED: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(1));
/// Someone has to fix a policy first.
const DENIED: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));
/// A report that SageMaker refuses while the step waits needs someone to fix something: retried
/// slowly, but never given up.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(5));
/// When SageMaker was not asked for so long, because the worker did not run, its machine was
/// suspended, or nothing was answered, the step may have been found meanwhile: three times the
/// longest wait for the next report.
const UNWATCHED: Duration = Duration::from_mins(15);
/// After this many consecutive failures the permission may never come, and the step may be closed
/// already: SageMaker is asked.
const DENIED_OFTEN: u32 = 5;

impl Decision<'_> {
    pub(super) fn report_refused(&self, detail: &str) -> Transition {
        let refused = self.knowing(|local| {
            local.refusals += 1;
            local.failures = 0;
        });
        refused.doubt_report(detail)
    }

    pub(super) fn report_failed(&self, denied: bool, detail: &str) -> Transition {
        let failed = self.knowing(|local| local.failures += 1);
        let failures = failed.local.failures;
        if denied && failures.is_multiple_of(DENIED_OFTEN) {
            return failed.doubt_report(detail);
        }
        let backoff = if denied { DENIED } else { FAILED };
        failed.sleep(Some(later(self.view.now, backoff.after(failures, self.view.random))))
    }

    fn doubt_report(&self, detail: &str) -> Transition {
        let record = Record { last_error: Some(detail.to_owned()), ..self.record.clone() };
        Transition { write: self.write(record).write, ..self.ask(Activity::CheckingRefusal) }
    }

    pub(super) fn doubt_answered(&self, answer: &Answer) -> Transition {
        let record = self.record;
        if record.status != Status::Concluded {
            return self.proceed();
        }
        match answer {
            Answer::Standing(Standing::Closed(how)) => {
                match record.ending.filter(|_| as_answered(record, *how)) {
                    Some(ending) => self.settle(ending),
                    None => self.settle_closed(*how),
                }
            }
            Answer::Standing(Standing::NotFound) => self.missing(),
            Answer::Standing(Standing::Open { .. }) => self.report_later(None, None),
            Answer::Unknown(_) => self.report_later(record.missing_since, record.missing_at),
        }
    }

    /// Not found is not closed: a listing may lag, or a permission or an endpoint may be wrong. But
    /// if it stays so, the step is gone.
    fn missing(&self) -> Transition {
        let Record { missing_since, missing_at, .. } = *self.record;
        if !self.view.own_account {
            // If it cannot be found there, not finding it means nothing.
            return self.report_later(missing_since, missing_at).first(Some(Effect::Missing));
        }
        let now = self.view.now;
        let known = missing_since
            .zip(missing_at)
            .filter(|(_, last)| later(*last, UNWATCHED) > now)
            .map(|(since, _)| since);
        if known.is_some_and(|since| later(since, self.view.policy.gone_after) <= now) {
            return self.settle(Ending::SettledElsewhere);
        }
        self.report_later(known.or(Some(now)), Some(now)).first(Some(Effect::Missing))
    }

    fn report_later(
        &self,
        missing_since: Option<Timestamp>,
        missing_at: Option<Timestamp>,
    ) -> Transition {
        let wait = match self.local.failures {
            0 => REFUSED.after(self.local.refusals, self.view.random),
            denials => DENIED.after(denials, self.view.random),
        };
        let sleep = self.sleep(Some(later(self.view.now, wait)));
        if (self.record.missing_since, self.record.missing_at) == (missing_since, missing_at) {
            return sleep;
        }
        Transition {
            write: self.write(Record { missing_since, missing_at, ..self.record.clone() }).write,
            ..sleep
        }
    }

    pub(super) fn settle(&self, ending: Ending) -> Transition {
        let record = settled(self.record, ending, self.view.now);
        let settled =
            self.knowing(|local| local.sent = local.sent.filter(|_| !self.may_wait_again()));
        // A lost settlement is repeated: the report is the same, and so is SageMaker's answer.
        settled
            .write(record)
            .urgent(Urgency::Lazy)
            .going(Activity::Idle, [Effect::Finish(ending), self.end_of_messages()])
    }

    /// What happens to the messages of a settled step.
    pub(super) fn end_of_messages(&self) -> Effect {
        if self.may_wait_again() { Effect::Return } else { Effect::Delete }
    }

    /// A message was sent later than everything that the record knows: the token may have come back
    /// since it was closed. SageMaker is asked once that is recorded.
    fn may_wait_again(&self) -> bool {
        self.record.sent.is_some() && self.local.sent > self.record.sent
    }
}

/// The record of a step that needs nothing more.
pub(super) fn settled(record: &Record, ending: Ending, now: Timestamp) -> Record {
    Record {
        status: Status::Settled,
        ending: Some(ending),
        settled_at: Some(now),
        not_before: None,
        deadline: None,
        arguments: Arc::new(Value::Null),
        checkpoint: None,
        ..released(record.clone())
    }
}

/// SageMaker shows what the frozen outcome says.
pub(super) fn as_answered(record: &Record, how: StepResult) -> bool {
    matches!(
        (record.outcome.as_ref(), how),
        (Some(Outcome::Success(_)), StepResult::Succeeded)
            | (Some(Outcome::Failure(_)), StepResult::Failed)
    )
}
