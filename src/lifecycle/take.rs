//! What a delivery or a wake leads to: a step is taken on, left alone, or asked about first.

use super::conclude::gave_up;
use super::machine::{Decision, Here, Transition, later};
use super::{Answer, Effect, Ending, Record, Status, Verify, Via};
use crate::seam::Standing;
use crate::step::StopReason;

impl Decision<'_> {
    pub(super) fn work_delivered(&self, redelivered: bool) -> Transition {
        let record = &self.state.record;
        let seen = |transition| Transition { work_seen: true, ..transition };
        match (self.state.here, record.status) {
            (Here::Nothing, Status::New) => {
                let verify = match self.view.policy.verify {
                    Verify::Always => true,
                    Verify::Redelivered => redelivered,
                    Verify::Never => false,
                };
                seen(if verify { self.to(Here::Verifying, [Effect::Ask]) } else { self.take() })
            }
            // The step whose stop is owed has come: it was never run here, and will not be.
            (Here::Nothing | Here::Asking | Here::Sleeping, Status::Owed) => seen(self.take()),
            (Here::Nothing, _) => seen(self.proceed()),
            _ => seen(self.nothing()),
        }
    }

    /// What to do with a step for which nothing is under way here.
    pub(super) fn proceed(&self) -> Transition {
        let record = &self.state.record;
        match record.status {
            Status::Settled => self.to(Here::Nothing, [Effect::Delete]),
            Status::Claimed | Status::Concluded if self.foreign_until().is_some() => self.sleep(self.foreign_until()),
            Status::Concluded => self.to(Here::Reporting, [Effect::Report]),
            Status::Claimed | Status::New => self.take(),
            Status::Waiting
                if record.stop_requested.is_none() && record.not_before > Some(self.view.now) && !self.overdue() =>
            {
                self.sleep(record.not_before)
            }
            Status::Waiting => self.take(),
            Status::Deferred if record.stop_requested.is_some() => self.take(),
            Status::Deferred if self.overdue() => self.deferral_over(),
            Status::Deferred => self.to(Here::Nothing, [Effect::Delete]),
            Status::Owed if self.state.work_seen || self.takeover_at() <= self.view.now => self.take(),
            Status::Owed => self.to(Here::Asking, [Effect::Ask]),
        }
    }

    /// Takes on a step that nobody runs: cleans up after it, gives it up, or has it wait for a slot.
    pub(super) fn take(&self) -> Transition {
        let record = &self.state.record;
        if record.stop_requested.is_some() {
            return self.clean_up(record.clone(), StopReason::PipelineStopped);
        }
        if self.overdue() {
            return self.clean_up(record.clone(), StopReason::TimeLimit);
        }
        if record.handler.is_none() {
            let text = format!(
                "no handler is configured for the pipeline {} and these arguments",
                record.execution.pipeline()
            );
            return self.fail(&text);
        }
        if !self.goes_on() && record.attempt >= self.view.policy.max_attempts {
            let last = record.last_error.as_deref().unwrap_or("the worker that ran the last one died");
            return self.fail(&gave_up(record.attempt, last));
        }
        self.to(Here::Queued, [Effect::AwaitSlot])
    }

    /// Claims the step and runs it, if it is still to be run: much may have happened while it waited for its slot.
    pub(super) fn start(&self) -> Transition {
        let now = self.proceed();
        if now.here != Here::Queued {
            return now;
        }
        let mut record = self.leased(self.state.record.clone());
        record.attempt += u32::from(!self.goes_on());
        record.status = Status::Claimed;
        record.resume = false;
        record.not_before = None;
        record.deadline = record.deadline.or(Some(later(self.view.now, self.view.policy.time_limit)));
        self.write(record).going(Here::Running, [Effect::Run])
    }

    /// The next run goes on with the last attempt, which was given back, or which this very process claimed and does not run: the
    /// claim was lost, or the ledger's word that it was made.
    fn goes_on(&self) -> bool {
        self.state.record.resume || self.state.record.status == Status::Claimed && self.is_mine()
    }

    pub(super) fn clean_up(&self, record: Record, reason: StopReason) -> Transition {
        let mut record = self.leased(record);
        record.status = Status::Claimed;
        record.not_before = None;
        self.write(record).going(Here::Cleaning(reason), [Effect::CleanUp(reason)])
    }

    pub(super) fn verified(&self, answer: &Answer) -> Transition {
        if self.state.record.status != Status::New {
            // Another worker of the ledger has taken it since it was asked about.
            return self.proceed();
        }
        match answer {
            Answer::Standing(Standing::Open { queue_url: Some(url), .. })
                if !same_queue(url.as_str(), &self.state.record.queue) =>
            {
                self.to(Here::Nothing, [Effect::Refuse("SageMaker waits for this step on another queue".to_owned())])
            }
            Answer::Standing(Standing::Open { stopping: true, .. }) => self.request_stop(Via::Watch, false),
            Answer::Standing(Standing::Open { .. }) => self.take(),
            Answer::Standing(Standing::Closed(_)) => self.settle(Ending::SettledElsewhere),
            Answer::Standing(Standing::NotFound) => self.unverified("SageMaker knows no such step"),
            Answer::Unknown(why) => self.unverified(why),
        }
    }

    pub(super) fn unverified(&self, why: &str) -> Transition {
        match self.view.policy.verify {
            Verify::Always => {
                self.to(Here::Nothing, [Effect::Refuse(format!("the step could not be verified: {why}"))])
            }
            Verify::Redelivered | Verify::Never => self.take(),
        }
    }
}

/// Whether two queue URLs name one queue; hosts may differ (endpoints of a VPC, legacy names), account and name may not.
fn same_queue(one: &str, other: &str) -> bool {
    let tail = |url: &str| {
        let mut parts = url.trim_end_matches('/').rsplit('/').map(str::to_owned);
        (parts.next(), parts.next())
    };
    tail(one) == tail(other)
}

#[cfg(test)]
mod tests {
    use super::same_queue;

    #[test]
    fn queues_are_told_apart_by_account_and_name_not_by_host() {
        let one = "https://sqs.us-east-1.amazonaws.com/123456789012/q";
        assert!(same_queue(one, "https://queue.amazonaws.com/123456789012/q/"));
        assert!(!same_queue(one, "https://sqs.us-east-1.amazonaws.com/123456789012/r"));
        assert!(!same_queue(one, "https://sqs.us-east-1.amazonaws.com/210987654321/q"));
    }
}
