//! The one match on the event and the state of the step.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    Activity, Arrival, Effect, Ending, Event, Lease, Local, Phase, Policy, Record, State, Status,
    WorkerId,
};
use crate::step::StopReason;

/// The circumstances of a decision.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub now: Timestamp,
    pub me: &'a WorkerId,
    pub policy: &'a Policy,
    /// The handlers that the queue's routes lead to, for people.
    pub handlers: &'a str,
    /// The state of the claim of the record's owner, if that is another process.
    pub foreign: Lease,
    /// In `0.0..1.0`, for waits that must not coincide.
    pub random: f64,
    /// The phase of the worker's shutdown.
    pub phase: Phase,
    /// A message of the step is held.
    pub holds: bool,
    /// SageMaker is asked in the account of the step's execution. In another account no step is
    /// found, whether it exists or not.
    pub own_account: bool,
}

/// What to write, and what to do after that.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// `None` if nothing durable changes.
    pub write: Option<Write>,
    pub local: Local,
    pub effects: Vec<Effect>,
}

/// A record to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub record: Record,
    pub urgency: Urgency,
}

/// What waits for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// Local state and effects: they take effect once it is durable.
    First,
    /// The same, and it may wait some milliseconds to share a commit with others.
    Lazy,
    /// Nothing: local state and effects take effect at once, and the record is written as soon as
    /// the ledger accepts it.
    Along,
}

/// An event that is impossible in the state of the step: a bug in the driver.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the event {event:?} does not fit a step that is {status:?} with {activity:?} under way")]
pub struct Illegal {
    event: Box<Event>,
    status: Status,
    activity: Activity,
}

/// Decides the consequences of an event.
///
/// # Errors
/// [`Illegal`] if the event cannot have happened.
pub fn decide(state: &State, event: &Event, view: &View<'_>) -> Result<Transition, Illegal> {
    let step = Decision { record: &state.record, local: state.local, view };
    let activity = state.local.activity;
    let illegal =
        || Illegal { event: Box::new(event.clone()), status: state.record.status, activity };
    let transition = match (event, activity) {
        (Event::Delivered(Arrival::Work { receives, sent, arguments }), _) => {
            step.work_delivered(*receives, *sent, arguments)
        }
        (Event::Delivered(Arrival::Stop), _) => step.stop_delivered(),
        (Event::Delivered(Arrival::EarlierStop), _) => step.earlier_stop_delivered(),
        (Event::Delivered(Arrival::Foreign), _) => step.foreign_delivered(),
        (Event::Found, Activity::Idle) => step.found(),
        (Event::Found, Activity::Sleeping) if step.is_answered_here() => step.proceed(),
        (Event::Found, _) => step.nothing(),

        (Event::Answered(answer), _) => step.answered(answer),

        (Event::SlotFree, Activity::Queued) => step.start(),
        // The step was stopped, or given back, while it waited for the slot.
        (Event::SlotFree, _) => step.nothing(),

        (Event::Crowded, Activity::Queued) => step.crowded(),
        (Event::Crowded, _) => step.nothing(),

        (
            Event::Checkpoint(value),
            Activity::Running | Activity::Stopping(_) | Activity::Cleaning(_),
        ) if step.is_mine() => step.checkpoint(value),
        (Event::Key(key), Activity::Running | Activity::Stopping(_) | Activity::Cleaning(_))
            if step.is_mine() =>
        {
            step.keyed(key)
        }
        (Event::Checkpoint(_) | Event::Key(_), _) => return Err(illegal()),

        // Its result is frozen: the ledger accepted it, but its answer was lost.
        (Event::Ended(_), Activity::Running | Activity::Stopping(_))
        | (Event::Cleaned(_) | Event::CleanupAborted, Activity::Cleaning(_))
            if state.record.status == Status::Concluded
                && step.is_mine()
                && activity != Activity::Stopping(StopReason::LeaseLost) =>
        {
            step.proceed()
        }
        // Another worker of this ledger has flagged the stop, and the run has not been told yet.
        (Event::Ended(end), Activity::Running) => match state.record.stop_requested {
            Some(request) => step.told_run_ended(request.reason(), end),
            None => step.run_ended(end),
        },
        (Event::Ended(end), Activity::Stopping(reason)) => step.told_run_ended(reason, end),
        (Event::Ended(_), _) => return Err(illegal()),
        // It was dropped when the lease was lost, or ended by itself at that moment: another worker
        // cleans up.
        (Event::Cleaned(_) | Event::CleanupAborted, Activity::Stopping(StopReason::LeaseLost)) => {
            step.to(Activity::Idle, [Effect::LetGo])
        }
        (Event::Cleaned(result), Activity::Cleaning(reason)) => {
            step.cleaned(reason, result.as_ref().err())
        }
        (Event::Cleaned(_), _) => return Err(illegal()),
        (Event::CleanupAborted, Activity::Cleaning(_)) => step.release(),
        (Event::CleanupAborted, _) => return Err(illegal()),

        (Event::Trusted, Activity::Running | Activity::Stopping(_)) if step.is_mine() => {
            step.trusted()
        }
        // It has ended meanwhile.
        (Event::Trusted, _) => step.nothing(),

        (Event::GraceOver, Activity::Stopping(_)) => step.effects([Effect::Abort]),
        (Event::GraceOver, _) => step.nothing(),
        (Event::DeadlineReached, _) => step.deadline_reached(),
        (Event::Woken, _) => step.woken(),
        (Event::StopSeen(via), _) => step.stop_seen(*via),
        (Event::SeenEnded { stopped }, _) => {
            step.knowing(|local| local.stop_seen |= stopped).seen_ended()
        }

        // Another worker of the ledger has settled it since.
        (
            Event::ReportAccepted | Event::ReportRefused(_) | Event::ReportFailed { .. },
            Activity::Reporting,
        ) if state.record.status == Status::Settled => step.proceed(),
        (Event::ReportAccepted, Activity::Reporting) => {
            step.settle(state.record.ending.unwrap_or(Ending::SettledElsewhere))
        }
        (Event::ReportRefused(detail), Activity::Reporting) => step.report_refused(detail),
        (Event::ReportFailed { denied, detail }, Activity::Reporting) => {
            step.report_failed(*denied, detail)
        }
        (Event::ReportAccepted | Event::ReportRefused(_) | Event::ReportFailed { .. }, _) => {
            return Err(illegal());
        }

        (Event::RetryAsked, _) => step.retry_asked(),
        (Event::LeaseLost, _) => step.lease_lost(),
        // Its effect is applied below, as for every other event.
        (Event::Phase, _) => step.nothing(),
    };
    let transition = step.with_doubt(transition);
    let transition = step.in_phase(transition);
    Ok(step.finished(event, transition))
}

/// One decision in progress. Its stages are in the files beside this one.
#[derive(Clone, Copy)]
pub(super) struct Decision<'a> {
    pub(super) record: &'a Record,
    pub(super) local: Local,
    pub(super) view: &'a View<'a>,
}

/// The building blocks of transitions.
impl Decision<'_> {
    /// The same decision with changed local knowledge.
    pub(super) fn knowing(self, change: impl FnOnce(&mut Local)) -> Self {
        let mut local = self.local;
        change(&mut local);
        Self { local, ..self }
    }

    pub(super) fn nothing(&self) -> Transition {
        self.effects([])
    }

    pub(super) fn effects<const N: usize>(&self, effects: [Effect; N]) -> Transition {
        self.to(self.local.activity, effects)
    }

    pub(super) fn to<const N: usize>(
        &self,
        activity: Activity,
        effects: [Effect; N],
    ) -> Transition {
        Transition { write: None, local: Local { activity, ..self.local }, effects: effects.into() }
    }

    pub(super) fn write(&self, record: Record) -> Transition {
        Transition { write: Some(Write { record, urgency: Urgency::First }), ..self.nothing() }
    }

    pub(super) fn sleep(&self, until: Option<Timestamp>) -> Transition {
        self.to(Activity::Sleeping, [Effect::Wake(until.unwrap_or(self.view.now))])
    }

    /// A question, whose answer also says whether the execution is stopping if a stop is
    /// unconfirmed.
    pub(super) fn ask(&self, activity: Activity) -> Transition {
        self.to(activity, [Effect::Ask { confirm_stop: self.local.stop_in_doubt.is_some() }])
    }

    pub(super) fn is_mine(&self) -> bool {
        self.record.owner.as_ref() == Some(self.view.me)
    }

    /// When to look again at a step that another live worker owns.
    pub(super) fn foreign_until(&self) -> Option<Timestamp> {
        match self.view.foreign {
            Lease::Until(until) if self.record.owner.is_some() && !self.is_mine() => Some(until),
            Lease::Until(_) | Lease::Over => None,
        }
    }

    /// Another live worker owns the step. If a message of it is held here it is waited for, because
    /// nobody else can delete that one. Otherwise nothing is lost: if the owner dies, one of the
    /// others finds the step in the ledger.
    pub(super) fn leave_to_owner(&self) -> Transition {
        // A stop that was flagged here may have to be flagged again.
        if self.view.holds || self.record.stop_requested.is_some() {
            self.sleep(self.foreign_until())
        } else {
            self.to(Activity::Idle, [Effect::LetGo])
        }
    }

    pub(super) fn overdue(&self) -> bool {
        self.record.deadline.is_some_and(|deadline| deadline <= self.view.now)
    }

    pub(super) fn takeover_at(&self) -> Timestamp {
        let since = self.record.stop_requested.map_or(self.view.now, |stop| stop.at);
        later(since, self.view.policy.stop_takeover_after)
    }

    /// Claimed by this process.
    pub(super) fn owned(&self, record: Record) -> Record {
        Record { owner: Some(self.view.me.clone()), ..record }
    }

    /// What all transitions have in common, once their target is known.
    fn finished(&self, event: &Event, mut transition: Transition) -> Transition {
        let cleans = |activity| matches!(activity, Activity::Cleaning(_));
        let cleaning = cleans(self.local.activity) && cleans(transition.local.activity);
        // What arrives during a cleanup, or once the step is known to be closed, may be from a
        // later time than the one that ends.
        let closed = |record: &Record| record.stop_requested.is_some_and(|stop| stop.closed);
        if let Some(write) =
            transition.write.as_mut().filter(|write| !cleaning && !closed(&write.record))
        {
            write.record.sent = write.record.sent.max(transition.local.sent);
        }
        if self.may_replace(event, &transition) {
            transition.effects.push(Effect::Replace);
        }
        if transition.local.idle() {
            transition.local = Local::NOTHING;
        }
        transition
    }

    /// Only recorded steps continue without their message, and an unconfirmed stop must not outlive
    /// the queue's redrive policy.
    fn may_replace(&self, event: &Event, to: &Transition) -> bool {
        let status = to.write.as_ref().map_or(self.record.status, |write| write.record.status);
        let durable =
            !matches!(status, Status::New | Status::Settled) && to.local.stop_in_doubt.is_none();
        let news = matches!(
            event,
            Event::Delivered(Arrival::Work { .. } | Arrival::Stop | Arrival::EarlierStop)
        ) || self.record.status == Status::New
            || self.local.stop_in_doubt.is_some();
        let deleted = to.effects.contains(&Effect::Delete);
        durable && news && !to.local.idle() && !deleted
    }
}

impl Transition {
    pub(super) fn going<const N: usize>(
        mut self,
        activity: Activity,
        effects: [Effect; N],
    ) -> Self {
        self.local.activity = activity;
        Self { effects: effects.into(), ..self }
    }

    pub(super) fn urgent(mut self, urgency: Urgency) -> Self {
        if let Some(write) = &mut self.write {
            write.urgency = urgency;
        }
        self
    }

    pub(super) fn first(mut self, effect: Option<Effect>) -> Self {
        if let Some(effect) = effect {
            self.effects.insert(0, effect);
        }
        self
    }
}

pub(super) fn released(record: Record) -> Record {
    Record { owner: None, ..record }
}

/// `at` plus `wait`, or the end of time if that is beyond it.
pub(super) fn later(at: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| at.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX)
}
