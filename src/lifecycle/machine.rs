//! The one match on what happened and where the step is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Arrival, Effect, Ending, Event, Policy, Record, Status, Via, WorkerId};
use crate::step::StopReason;

/// What this worker knows of a step: the durable record, and what is under way here, which dies with the process.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub record: Record,
    pub here: Here,
    /// An Executing message of the step is held here.
    pub work_seen: bool,
    /// How often in a row a report was refused.
    pub refusals: u32,
    /// How often in a row SageMaker did not find the step of a refused report.
    pub not_found: u32,
}

/// What is under way here for the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Here {
    Nothing,
    /// SageMaker is being asked before the step is started.
    Verifying,
    /// SageMaker is being asked about a stop that is owed, or about a deferred or waiting step whose execution has ended.
    Asking,
    /// The execution of a deferred step is stopping, and SageMaker is being asked whether somebody has completed the step.
    Confirming,
    /// The step waits for a work slot.
    Queued,
    /// The handler runs.
    Running,
    /// The handler was told to end and has not yet.
    Winding(StopReason),
    /// The handler's cleanup runs.
    Cleaning(StopReason),
    /// The outcome is being sent.
    Reporting,
    /// The report was refused, and SageMaker is being asked why.
    Doubting,
    /// A wake is arranged.
    Sleeping,
}

/// The circumstances of a decision.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub now: Timestamp,
    pub me: &'a WorkerId,
    pub policy: &'a Policy,
    /// How the claim of the record's owner stands, where that is not this process.
    pub foreign: Lease,
    /// In `0.0..1.0`, for waits that must not coincide.
    pub random: f64,
}

/// How a claim stands, as whoever looks at it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    Over,
    /// It may be renewed; look again then.
    Until(Timestamp),
}

/// What to write and then to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The record to write before anything else; none where nothing durable changes.
    pub write: Option<Record>,
    pub here: Here,
    pub work_seen: bool,
    pub refusals: u32,
    pub not_found: u32,
    pub effects: Vec<Effect>,
}

/// An event that cannot happen where the step is: a mistake in the driver.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the event {event:?} does not fit a step that is {status:?} with {here:?} under way")]
pub struct Illegal {
    event: Box<Event>,
    status: Status,
    here: Here,
}

impl State {
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self { record, here: Here::Nothing, work_seen: false, refusals: 0, not_found: 0 }
    }
}

impl Here {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Verifying => "verifying",
            Self::Asking | Self::Confirming => "asking SageMaker",
            Self::Queued => "waiting for a slot",
            Self::Running => "running",
            Self::Winding(_) => "stopping",
            Self::Cleaning(_) => "cleaning up",
            Self::Reporting => "reporting",
            Self::Doubting => "asking after a refusal",
            Self::Sleeping => "waiting",
        }
    }
}

/// Decides what follows from an event.
///
/// # Errors
/// [`Illegal`] where the event cannot have happened.
pub fn decide(state: &State, event: &Event, view: &View<'_>) -> Result<Transition, Illegal> {
    let step = Decision { state, view };
    let illegal = || Illegal { event: Box::new(event.clone()), status: state.record.status, here: state.here };
    Ok(match (event, state.here) {
        (Event::Delivered(Arrival::Work { redelivered }), _) => step.work_delivered(*redelivered),
        (Event::Delivered(Arrival::Stop), _) => step.stop_seen(Via::Message),
        (Event::Found, Here::Nothing) => step.proceed(),
        (Event::Found, _) => step.nothing(),

        (Event::Answered(answer), Here::Verifying) => step.verified(answer),
        (Event::Answered(answer), Here::Asking) => step.asked(answer),
        (Event::Answered(answer), Here::Confirming) => step.stop_confirmed(answer),
        (Event::Answered(answer), Here::Doubting) => step.doubt_answered(answer),
        (Event::Answered(answer), _) => step.execution_end_answered(answer),

        (Event::SlotFree, Here::Queued) => step.start(),
        // The step was stopped, or given back, while it waited for the slot.
        (Event::SlotFree, _) => step.nothing(),

        (Event::Checkpoint(value), Here::Running | Here::Winding(_) | Here::Cleaning(_)) if step.is_mine() => {
            step.write(Record { checkpoint: Some(value.clone()), ..state.record.clone() })
        }
        (Event::Checkpoint(_), _) => return Err(illegal()),

        // Another worker of this ledger has flagged the stop, and nobody has told the run yet.
        (Event::Ended(end), Here::Running) if state.record.stop_requested.is_some() => {
            step.told_run_ended(StopReason::PipelineStopped, end)
        }
        (Event::Ended(end), Here::Running) => step.run_ended(end),
        (Event::Ended(end), Here::Winding(reason)) => step.told_run_ended(reason, end),
        (Event::Ended(_), _) => return Err(illegal()),
        // It was dropped as the lease was lost, or ended by itself at that moment: another worker cleans up.
        (Event::Cleaned(_) | Event::CleanupAborted, Here::Winding(StopReason::LeaseLost)) => {
            step.to(Here::Nothing, [Effect::LetGo])
        }
        (Event::Cleaned(result), Here::Cleaning(reason)) => step.cleaned(reason, result.as_ref().err()),
        (Event::Cleaned(_), _) => return Err(illegal()),
        (Event::CleanupAborted, Here::Cleaning(_)) => step.release(),
        (Event::CleanupAborted, _) => return Err(illegal()),

        (Event::GraceOver, Here::Winding(_)) => step.effects([Effect::Abort]),
        (Event::GraceOver, _) => step.nothing(),
        (Event::DeadlineReached, _) => step.deadline_reached(),
        (Event::Woken, Here::Sleeping) => step.proceed(),
        (Event::Woken, _) => step.nothing(),
        (Event::StopSeen(via), _) => step.stop_seen(*via),
        (Event::ExecutionEnded, _) => step.execution_ended(),

        (Event::ReportAccepted, Here::Reporting) => {
            step.settle(state.record.ending.unwrap_or(Ending::SettledElsewhere))
        }
        (Event::ReportAccepted, _) => return Err(illegal()),
        (Event::ReportRefused(detail), Here::Reporting) => step.report_refused(detail),
        (Event::ReportRefused(_), _) => return Err(illegal()),

        (Event::Renew, _) if step.is_mine() => step.write(step.leased(state.record.clone())),
        // Another worker has taken it since; the driver sees that in the record.
        (Event::Renew, _) => step.nothing(),
        (Event::LeaseLost, _) => step.lease_lost(),
        (Event::Drain, _) => step.drain(),
        (Event::Shutdown, Here::Running) => step.tell(None, StopReason::Shutdown),
        (Event::Shutdown, _) => step.nothing(),
        (Event::Halt, _) => step.halt(),
    })
}

/// One decision in the making. Its stages lie in the files beside this one.
pub(super) struct Decision<'a> {
    pub(super) state: &'a State,
    pub(super) view: &'a View<'a>,
}

/// The pieces that transitions are made of.
impl Decision<'_> {
    pub(super) fn nothing(&self) -> Transition {
        self.effects([])
    }

    pub(super) fn effects<const N: usize>(&self, effects: [Effect; N]) -> Transition {
        self.to(self.state.here, effects)
    }

    pub(super) fn to<const N: usize>(&self, here: Here, effects: [Effect; N]) -> Transition {
        let State { work_seen, refusals, not_found, .. } = *self.state;
        Transition { write: None, here, work_seen, refusals, not_found, effects: effects.into() }
    }

    pub(super) fn write(&self, record: Record) -> Transition {
        Transition { write: Some(record), ..self.nothing() }
    }

    pub(super) fn sleep(&self, until: Option<Timestamp>) -> Transition {
        self.to(Here::Sleeping, [Effect::Wake(until.unwrap_or(self.view.now))])
    }

    pub(super) fn is_mine(&self) -> bool {
        self.state.record.owner.as_ref() == Some(self.view.me)
    }

    /// When to look again at a step that another live worker owns.
    pub(super) fn foreign_until(&self) -> Option<Timestamp> {
        match self.view.foreign {
            Lease::Until(until) if self.state.record.owner.is_some() && !self.is_mine() => Some(until),
            Lease::Until(_) | Lease::Over => None,
        }
    }

    pub(super) fn overdue(&self) -> bool {
        self.state.record.deadline.is_some_and(|deadline| deadline <= self.view.now)
    }

    pub(super) fn takeover_at(&self) -> Timestamp {
        let since = self.state.record.stop_requested.map_or(self.view.now, |stop| stop.at);
        later(since, self.view.policy.stop_takeover_after)
    }

    /// Claimed by this process, for one lease from now.
    pub(super) fn leased(&self, record: Record) -> Record {
        let until = later(self.view.now, self.view.policy.lease);
        Record { owner: Some(self.view.me.clone()), lease_end: Some(until), ..record }
    }
}

impl Transition {
    pub(super) fn going<const N: usize>(self, here: Here, effects: [Effect; N]) -> Self {
        Self { here, effects: effects.into(), ..self }
    }

    pub(super) fn first(mut self, effect: Option<Effect>) -> Self {
        if let Some(effect) = effect {
            self.effects.insert(0, effect);
        }
        self
    }
}

pub(super) fn released(record: Record) -> Record {
    Record { owner: None, lease_end: None, ..record }
}

/// `at` plus `wait`, at the end of time where that is beyond it.
pub(super) fn later(at: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait).ok().and_then(|wait| at.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}
