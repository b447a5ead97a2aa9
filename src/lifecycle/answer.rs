//! The consequences of SageMaker's answer to a question, whatever was asked: what to ask next, and
//! which stop is believed.
//!
//! Several questions about a step can be pending: before it is started, about an unconfirmed stop,
//! about an execution that has ended. An answer means the same for each of them, so it is used for
//! all.

use std::time::Duration;

use jiff::Timestamp;

use super::machine::{Decision, Transition, later};
use super::{Activity, Answer, Effect, Record, Status, Verify, Via};
use crate::backoff::Backoff;
use crate::seam::Standing;

/// A question whose answer decided nothing is asked again: soon at first, because SageMaker may
/// only have been busy.
const ASK: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));

/// What an answer says about an unconfirmed Stopping message.
enum Verdict {
    Believed,
    /// The step is closed, so the message is right or does no harm.
    Closed,
    Refused(String),
    Undecided,
}

impl Decision<'_> {
    pub(super) fn answered(&self, answer: &Answer) -> Transition {
        let Some(since) = self.doubt() else { return self.answered_here(answer) };
        let certain = self.knowing(|local| local.stop_in_doubt = None);
        match self.verdict(since, answer) {
            Verdict::Believed => certain.believed(answer),
            Verdict::Closed => certain.answered_here(answer),
            Verdict::Refused(why) => {
                let there = match self.local.activity {
                    Activity::Confirming => certain.left_alone(),
                    _ => certain.answered_here(answer),
                };
                there.first(Some(Effect::RefuseStop(why)))
            }
            Verdict::Undecided => self.undecided(answer),
        }
    }

    /// Uses the answer for what was asked last.
    fn answered_here(&self, answer: &Answer) -> Transition {
        match self.local.activity {
            Activity::Verifying | Activity::Unverified => self.verified(answer),
            Activity::Asking => self.asked(answer),
            Activity::Confirming => self.stop_confirmed(answer),
            Activity::Resuming => self.resumed(answer),
            Activity::Reopening => self.reopened(answer),
            Activity::CheckingRefusal => self.doubt_answered(answer),
            Activity::Idle
            | Activity::Queued
            | Activity::Running
            | Activity::Stopping(_)
            | Activity::Cleaning(_)
            | Activity::Reporting
            | Activity::Sleeping => self.execution_end_answered(answer),
        }
    }

    /// Since when an unconfirmed Stopping message is held, if that still matters.
    pub(super) fn doubt(&self) -> Option<Timestamp> {
        self.local.stop_in_doubt.filter(|_| matters(self.record, self.local.activity))
    }

    /// A Stopping message has arrived that is believed only once SageMaker confirms it. Until then
    /// it has no effect.
    pub(super) fn doubt_stop(&self) -> Transition {
        if self.doubt().is_some() {
            return self.nothing();
        }
        let activity = if self.local.idle() { Activity::Confirming } else { self.local.activity };
        self.knowing(|local| local.stop_in_doubt = Some(self.view.now)).ask(activity)
    }

    fn verdict(&self, since: Timestamp, answer: &Answer) -> Verdict {
        match answer {
            Answer::Standing(Standing::Open { stopping: true, .. }) => Verdict::Believed,
            Answer::Standing(Standing::Closed(_)) => Verdict::Closed,
            Answer::Standing(Standing::NotFound) => Verdict::Refused(
                "SageMaker knows no such step, so its stop is not believed".to_owned(),
            ),
            // A real stop is noticed by the stop watch, whatever happens to its message.
            Answer::Standing(Standing::Open { .. })
                if later(since, self.view.policy.stop_takeover_after) <= self.view.now =>
            {
                Verdict::Refused(
                    "SageMaker is not stopping this step, so its stop is not believed".to_owned(),
                )
            }
            Answer::Standing(Standing::Open { .. }) | Answer::Unknown(_) => Verdict::Undecided,
        }
    }

    fn believed(&self, answer: &Answer) -> Transition {
        match self.local.activity {
            Activity::Verifying
            | Activity::Unverified
            | Activity::Resuming
            | Activity::Reopening => self.answered_here(answer),
            _ => self.request_stop(Via::Message, None),
        }
    }

    /// The answer may have decided something else, but not whether the stop is real.
    fn undecided(&self, answer: &Answer) -> Transition {
        let mut there = match self.local.activity {
            Activity::Confirming => self.nothing(),
            _ => self.answered_here(answer),
        };
        if there.local.idle() {
            return there;
        }
        // What would ask again at once asks later.
        there.effects.retain(|effect| {
            !matches!(effect, Effect::Ask { .. }) || there.local.activity != Activity::Confirming
        });
        there.local.failures = there.local.failures.max(self.local.failures + 1);
        if !there.effects.iter().any(|effect| matches!(effect, Effect::Wake(_))) {
            let again = self.again_at(there.local.failures);
            there.effects.push(Effect::Wake(again));
        }
        there
    }

    /// An unconfirmed stop is asked about in time, however long the step itself sleeps, and no
    /// longer than it matters.
    pub(super) fn with_doubt(&self, mut to: Transition) -> Transition {
        let record = to.write.as_ref().map_or(self.record, |write| &write.record);
        to.local.stop_in_doubt =
            to.local.stop_in_doubt.filter(|_| matters(record, to.local.activity));
        if to.local.stop_in_doubt.is_some() {
            let again = self.again_at(to.local.failures.max(1));
            for effect in &mut to.effects {
                if let Effect::Wake(at) = effect {
                    *at = again.min(*at);
                }
            }
        }
        to
    }

    /// When to ask again after this many consecutive answers that decided nothing.
    pub(super) fn again_at(&self, failures: u32) -> Timestamp {
        later(self.view.now, ASK.after(failures, self.view.random))
    }

    /// The answer decided nothing: the same is asked again, with growing pauses.
    pub(super) fn ask_later(&self, activity: Activity) -> Transition {
        let failures = self.local.failures + 1;
        self.knowing(|local| local.failures = failures)
            .to(activity, [Effect::Wake(self.again_at(failures))])
    }

    /// SageMaker was asked only about a stop, and the step is not to be stopped.
    fn left_alone(&self) -> Transition {
        match self.record.status {
            Status::Deferred | Status::Waiting => self.proceed(),
            _ => self.to(Activity::Idle, []),
        }
    }

    /// An answer that matters only to a step whose execution may have ended, or is being stopped.
    ///
    /// Only a step that SageMaker shows closed has ended: one that is not found may have been
    /// looked for in the wrong place.
    fn execution_end_answered(&self, answer: &Answer) -> Transition {
        let how = match answer {
            Answer::Standing(Standing::Closed(how)) => how,
            Answer::Standing(Standing::Open { stopping: true, .. })
                if self.local.activity == Activity::Running =>
            {
                return self.request_stop(Via::Watch, None);
            }
            _ => return self.nothing(),
        };
        match self.local.activity {
            // Another worker has taken the claim and deferred the step since: this run ends with
            // its next renewal.
            Activity::Running
                if self.record.status == Status::Deferred && self.is_answered(*how) =>
            {
                self.nothing()
            }
            Activity::Running | Activity::Queued | Activity::Sleeping => self.closed(*how),
            _ => self.nothing(),
        }
    }

    pub(super) fn verified(&self, answer: &Answer) -> Transition {
        if self.record.status != Status::New {
            // Another worker of the ledger has taken it since the question.
            return self.proceed();
        }
        let always = self.view.policy.verify == Verify::Always;
        match answer {
            Answer::Standing(Standing::Open { queue_url: Some(url), .. })
                if !url.is_same_queue(&self.record.queue) =>
            {
                self.refuse("SageMaker waits for this step on another queue")
            }
            Answer::Standing(Standing::Open { stopping: true, .. }) => {
                self.request_stop(Via::Watch, None)
            }
            Answer::Standing(Standing::Open { .. }) => {
                self.knowing(|local| local.failures = 0).take()
            }
            Answer::Standing(Standing::Closed(how)) => self.closed(*how),
            Answer::Standing(Standing::NotFound) if always => {
                self.refuse("SageMaker knows no such step")
            }
            // It says nothing about the step, and the message is not at fault.
            Answer::Unknown(_) if always => self.ask_later(Activity::Unverified),
            Answer::Standing(Standing::NotFound) | Answer::Unknown(_) => self.take(),
        }
    }

    pub(super) fn refuse(&self, why: &str) -> Transition {
        self.to(Activity::Idle, [Effect::Refuse(why.to_owned())])
    }
}

/// Whether it matters if a stop is real.
fn matters(record: &Record, activity: Activity) -> bool {
    let unknown = record.stop_requested.is_none() && !matches!(activity, Activity::Cleaning(_));
    match record.status {
        Status::New | Status::Claimed | Status::Waiting | Status::Deferred => unknown,
        Status::Settled => activity == Activity::Reopening,
        Status::Owed | Status::Concluded => false,
    }
}
