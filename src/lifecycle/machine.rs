//! The one match on what happened and where the step is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Answer, Arrival, Effect, End, Ending, Event, OnStop, Policy, Record, Status, Stop, Verify, Via, WorkerId};
use crate::backoff::Backoff;
use crate::outcome::{ClientRequestToken, Outcome, Outputs, Reason};
use crate::seam::{Ending as Closed, Standing};
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
}

/// What is under way here for the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Here {
    Nothing,
    /// SageMaker is being asked before the step is started.
    Verifying,
    /// SageMaker is being asked about a stop that is owed, or about a deferred or waiting step whose execution has ended.
    Asking,
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
        Self { record, here: Here::Nothing, work_seen: false, refusals: 0 }
    }
}

impl Here {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Verifying => "verifying",
            Self::Asking => "asking SageMaker",
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
        (Event::Answered(answer), Here::Doubting) => step.doubt_answered(answer),
        (Event::Answered(answer), _) => step.execution_end_answered(answer),

        (Event::SlotFree, Here::Queued) => step.start(),
        // The step was stopped, or given back, while it waited for the slot.
        (Event::SlotFree, _) => step.nothing(),

        (Event::Checkpoint(value), Here::Running | Here::Winding(_) | Here::Cleaning(_)) if step.is_mine() => {
            step.write(Record { checkpoint: Some(value.clone()), ..state.record.clone() })
        }
        (Event::Checkpoint(_), _) => return Err(illegal()),

        (Event::Ended(end), Here::Running) => step.run_ended(end),
        (Event::Ended(end), Here::Winding(reason)) => step.told_run_ended(reason, end),
        (Event::Ended(_), _) => return Err(illegal()),
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
        (Event::Renew, _) => return Err(illegal()),
        (Event::LeaseLost, _) => step.lease_lost(),
        (Event::Drain, _) => step.drain(),
        (Event::Shutdown, Here::Running) => step.tell(None, StopReason::Shutdown),
        (Event::Shutdown, _) => step.nothing(),
        (Event::Halt, _) => step.halt(),
    })
}

/// How often a refused report of a step that SageMaker does not find is sent again before the step counts as closed: a listing may lag.
const NOT_FOUND_ENOUGH: u32 = 3;

struct Decision<'a> {
    state: &'a State,
    view: &'a View<'a>,
}

/// What a delivery or a wake leads to.
impl Decision<'_> {
    fn work_delivered(&self, redelivered: bool) -> Transition {
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
    fn proceed(&self) -> Transition {
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
            Status::Deferred if self.overdue() => self.deadline_reached(),
            Status::Deferred => self.to(Here::Nothing, [Effect::Delete]),
            Status::Owed if self.state.work_seen || self.takeover_at() <= self.view.now => self.take(),
            Status::Owed => self.to(Here::Asking, [Effect::Ask]),
        }
    }

    /// Takes on a step that nobody runs: cleans up after it, gives it up, or has it wait for a slot.
    fn take(&self) -> Transition {
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
        if !record.resume && record.attempt >= self.view.policy.max_attempts {
            let last = record.last_error.as_deref().unwrap_or("the worker that ran the last one died");
            return self.fail(&gave_up(record.attempt, last));
        }
        self.to(Here::Queued, [Effect::AwaitSlot])
    }

    /// Claims the step and runs it.
    fn start(&self) -> Transition {
        let mut record = self.leased(self.state.record.clone());
        record.status = Status::Claimed;
        record.attempt += u32::from(!record.resume);
        record.resume = false;
        record.not_before = None;
        record.deadline = record.deadline.or(Some(later(self.view.now, self.view.policy.time_limit)));
        self.write(record).going(Here::Running, [Effect::Run])
    }

    fn clean_up(&self, record: Record, reason: StopReason) -> Transition {
        let mut record = self.leased(record);
        record.status = Status::Claimed;
        record.not_before = None;
        self.write(record).going(Here::Cleaning(reason), [Effect::CleanUp(reason)])
    }

    fn verified(&self, answer: &Answer) -> Transition {
        match answer {
            Answer::Standing(Standing::Open { queue_url: Some(url), .. })
                if !same_queue(url, &self.state.record.queue) =>
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

    fn unverified(&self, why: &str) -> Transition {
        match self.view.policy.verify {
            Verify::Always => {
                self.to(Here::Nothing, [Effect::Refuse(format!("the step could not be verified: {why}"))])
            }
            Verify::Redelivered | Verify::Never => self.take(),
        }
    }
}

/// What the end of a run leads to.
impl Decision<'_> {
    fn run_ended(&self, end: &End) -> Transition {
        let record = &self.state.record;
        if !self.is_mine() {
            return self.to(Here::Nothing, [Effect::LetGo]);
        }
        match end {
            End::Success(outputs) => self.conclude(Outcome::Success(outputs.clone()), Ending::Success),
            End::Failure(text) => self.fail(text),
            End::Retry { error, .. } if record.attempt >= self.view.policy.max_attempts => {
                self.fail(&gave_up(record.attempt, error))
            }
            End::Retry { after, error } => {
                let wait = after.unwrap_or_else(|| self.view.policy.retry.after(record.attempt, self.view.random));
                self.wait(Record { last_error: Some(error.clone()), ..record.clone() }, wait)
            }
            End::Again(wait) => self.wait(Record { resume: true, ..record.clone() }, *wait),
            End::Deferred => {
                let until = later(self.view.now, self.view.policy.deferred_limit);
                let record = Record { status: Status::Deferred, deadline: Some(until), ..released(record.clone()) };
                self.write(record).going(Here::Nothing, [Effect::Finish(Ending::Deferred), Effect::Delete])
            }
            End::Aborted => {
                let error = "the run was aborted".to_owned();
                self.run_ended(&End::Retry { after: None, error })
            }
        }
    }

    /// The run had been told to end. An outcome of its own is kept; all else is what the order was.
    fn told_run_ended(&self, reason: StopReason, end: &End) -> Transition {
        let record = &self.state.record;
        let closed = record.stop_requested.is_some_and(|stop| stop.closed);
        let finished = matches!(end, End::Success(_) | End::Failure(_));
        if reason == StopReason::LeaseLost || !self.is_mine() {
            return self.to(Here::Nothing, [Effect::LetGo]);
        }
        match (reason, finished) {
            (_, true) if closed => self.settle(Ending::SettledElsewhere),
            (_, true) => self.run_ended(end),
            (StopReason::PipelineStopped | StopReason::TimeLimit, false) => self.clean_up(record.clone(), reason),
            (StopReason::Shutdown | StopReason::LeaseLost, false) => match end {
                End::Deferred => self.run_ended(end),
                End::Again(wait) => {
                    let not_before = Some(later(self.view.now, *wait));
                    self.give_back(Record { not_before, resume: true, ..record.clone() })
                }
                _ => self.release(),
            },
        }
    }

    fn cleaned(&self, reason: StopReason, failure: Option<&String>) -> Transition {
        let record = &self.state.record;
        let but = failure.map(|text| format!("; the cleanup failed: {text}")).unwrap_or_default();
        if !self.is_mine() {
            return self.to(Here::Nothing, [Effect::LetGo]);
        }
        if reason == StopReason::TimeLimit {
            let limit = crate::duration::text(self.view.policy.time_limit);
            return self.fail(&format!("the time limit of {limit} was reached{but}"));
        }
        if record.stop_requested.is_some_and(|stop| stop.closed) {
            return self.settle(Ending::SettledElsewhere);
        }
        let outcome = match self.view.policy.on_stop {
            OnStop::Success => Outcome::Success(Outputs::new()),
            OnStop::Failure => Outcome::Failure(Reason::new(&format!("the pipeline was stopped{but}"))),
        };
        self.conclude(outcome, Ending::Stopped)
    }

    fn fail(&self, text: &str) -> Transition {
        self.conclude(Outcome::Failure(Reason::new(text)), Ending::Failure)
    }

    fn conclude(&self, outcome: Outcome, ending: Ending) -> Transition {
        let mut record = self.leased(self.state.record.clone());
        record.status = Status::Concluded;
        record.client_request_token = Some(ClientRequestToken::of(&record.execution, &record.token, &outcome));
        record.outcome = Some(outcome);
        record.ending = Some(ending);
        record.not_before = None;
        record.deadline = None;
        self.write(record).going(Here::Reporting, [Effect::Report])
    }

    fn wait(&self, record: Record, wait: Duration) -> Transition {
        let until = later(self.view.now, wait);
        let record = Record { status: Status::Waiting, not_before: Some(until), ..released(record) };
        self.write(record).going(Here::Sleeping, [Effect::Wake(until)])
    }

    /// Gives the step back untouched: the attempt goes on elsewhere, or here after a restart.
    fn release(&self) -> Transition {
        if self.is_mine() {
            self.give_back(Record { resume: true, ..self.state.record.clone() })
        } else {
            self.to(Here::Nothing, [Effect::LetGo])
        }
    }

    fn give_back(&self, record: Record) -> Transition {
        let record = Record { status: Status::Waiting, ..released(record) };
        self.write(record).going(Here::Nothing, [Effect::Return])
    }
}

/// What a stop leads to.
impl Decision<'_> {
    fn stop_seen(&self, via: Via) -> Transition {
        match (self.state.here, self.state.record.status) {
            (Here::Nothing, Status::Settled | Status::Concluded) => self.proceed(),
            (Here::Nothing, Status::New) => {
                let stop = Some(Stop { at: self.view.now, closed: false });
                let record = Record { status: Status::Owed, stop_requested: stop, ..self.state.record.clone() };
                self.write(record).going(Here::Asking, [Effect::CountStop(via), Effect::Ask])
            }
            (Here::Nothing, Status::Owed) => self.proceed(),
            _ => self.request_stop(via, false),
        }
    }

    /// Records that the step is to end, and has it end as far as that is up to this worker.
    fn request_stop(&self, via: Via, closed: bool) -> Transition {
        let record = &self.state.record;
        let first = record.stop_requested.is_none();
        let stop = record.stop_requested.unwrap_or(Stop { at: self.view.now, closed: false });
        let flagged = Record { stop_requested: Some(Stop { closed: stop.closed || closed, ..stop }), ..record.clone() };
        let count = first.then_some(Effect::CountStop(via));
        let transition = match (self.state.here, record.status) {
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
    fn asked(&self, answer: &Answer) -> Transition {
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

    fn execution_ended(&self) -> Transition {
        match (self.state.here, self.state.record.status) {
            (_, Status::Owed | Status::Concluded | Status::Settled)
            | (Here::Winding(_) | Here::Cleaning(_) | Here::Verifying | Here::Asking, _) => self.nothing(),
            (Here::Nothing | Here::Sleeping, _) => self.to(Here::Asking, [Effect::Ask]),
            (Here::Running | Here::Queued | Here::Reporting | Here::Doubting, _) => self.effects([Effect::Ask]),
        }
    }

    fn execution_end_answered(&self, answer: &Answer) -> Transition {
        let ended = matches!(answer, Answer::Standing(Standing::Closed(_) | Standing::NotFound));
        match self.state.here {
            Here::Running | Here::Queued | Here::Asking if ended => self.request_stop(Via::Watch, true),
            Here::Asking => self.proceed(),
            _ => self.nothing(),
        }
    }

    fn deadline_reached(&self) -> Transition {
        let record = &self.state.record;
        match (self.state.here, record.status) {
            (Here::Running, _) => self.tell(None, StopReason::TimeLimit),
            (Here::Nothing | Here::Asking, Status::Deferred) if self.overdue() => {
                let limit = crate::duration::text(self.view.policy.deferred_limit);
                self.fail(&format!("nobody completed the deferred step within {limit}"))
            }
            (Here::Sleeping | Here::Queued, Status::Waiting | Status::Claimed) if self.foreign_until().is_none() => {
                self.take()
            }
            _ => self.nothing(),
        }
    }

    fn tell(&self, write: Option<Record>, reason: StopReason) -> Transition {
        Transition { write, ..self.to(Here::Winding(reason), [Effect::Tell(reason)]) }
    }
}

/// What the answer to a report leads to.
impl Decision<'_> {
    fn report_refused(&self, detail: &str) -> Transition {
        let record = Record { last_error: Some(detail.to_owned()), ..self.state.record.clone() };
        let transition = self.write(record).going(Here::Doubting, [Effect::Ask]);
        Transition { refusals: self.state.refusals + 1, ..transition }
    }

    fn doubt_answered(&self, answer: &Answer) -> Transition {
        let record = &self.state.record;
        match answer {
            Answer::Standing(Standing::Closed(how)) => {
                let as_ours = matches!(
                    (record.outcome.as_ref(), how),
                    (Some(Outcome::Success(_)), Closed::Succeeded) | (Some(Outcome::Failure(_)), Closed::Failed)
                );
                self.settle(record.ending.filter(|_| as_ours).unwrap_or(Ending::SettledElsewhere))
            }
            Answer::Standing(Standing::NotFound) if self.state.refusals >= NOT_FOUND_ENOUGH => {
                self.settle(Ending::SettledElsewhere)
            }
            Answer::Standing(Standing::NotFound | Standing::Open { .. }) | Answer::Unknown(_) => {
                let wait = REFUSED.after(self.state.refusals, self.view.random);
                self.sleep(Some(later(self.view.now, wait)))
            }
        }
    }

    fn settle(&self, ending: Ending) -> Transition {
        let record = Record {
            status: Status::Settled,
            ending: Some(ending),
            settled_at: Some(self.view.now),
            not_before: None,
            deadline: None,
            ..released(self.state.record.clone())
        };
        self.write(record).going(Here::Nothing, [Effect::Finish(ending), Effect::Delete])
    }
}

/// A report that SageMaker refuses while the step waits needs somebody to mend something: slow, but never given up.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(5));

/// What the end of the worker, or of its claim, leads to.
impl Decision<'_> {
    fn drain(&self) -> Transition {
        match (self.state.here, self.state.record.status) {
            (Here::Running | Here::Winding(_) | Here::Cleaning(_) | Here::Reporting | Here::Doubting, _)
            | (Here::Sleeping, Status::Concluded) => self.nothing(),
            (Here::Nothing | Here::Verifying | Here::Asking | Here::Queued | Here::Sleeping, _) => {
                self.to(Here::Nothing, [Effect::Return])
            }
        }
    }

    fn halt(&self) -> Transition {
        match self.state.here {
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

    fn lease_lost(&self) -> Transition {
        match self.state.here {
            Here::Running | Here::Winding(_) => self.tell(None, StopReason::LeaseLost),
            Here::Cleaning(_) => self.to(Here::Winding(StopReason::LeaseLost), [Effect::Abort]),
            _ => self.nothing(),
        }
    }
}

/// The pieces that transitions are made of.
impl Decision<'_> {
    fn nothing(&self) -> Transition {
        self.effects([])
    }

    fn effects<const N: usize>(&self, effects: [Effect; N]) -> Transition {
        self.to(self.state.here, effects)
    }

    fn to<const N: usize>(&self, here: Here, effects: [Effect; N]) -> Transition {
        let State { work_seen, refusals, .. } = *self.state;
        Transition { write: None, here, work_seen, refusals, effects: effects.into() }
    }

    fn write(&self, record: Record) -> Transition {
        Transition { write: Some(record), ..self.nothing() }
    }

    fn sleep(&self, until: Option<Timestamp>) -> Transition {
        self.to(Here::Sleeping, [Effect::Wake(until.unwrap_or(self.view.now))])
    }

    fn is_mine(&self) -> bool {
        self.state.record.owner.as_ref() == Some(self.view.me)
    }

    /// When to look again at a step that another live worker owns.
    fn foreign_until(&self) -> Option<Timestamp> {
        match self.view.foreign {
            Lease::Until(until) if self.state.record.owner.is_some() && !self.is_mine() => Some(until),
            Lease::Until(_) | Lease::Over => None,
        }
    }

    fn overdue(&self) -> bool {
        self.state.record.deadline.is_some_and(|deadline| deadline <= self.view.now)
    }

    fn takeover_at(&self) -> Timestamp {
        let since = self.state.record.stop_requested.map_or(self.view.now, |stop| stop.at);
        later(since, self.view.policy.stop_takeover_after)
    }

    /// Claimed by this process, for one lease from now.
    fn leased(&self, record: Record) -> Record {
        let until = later(self.view.now, self.view.policy.lease);
        Record { owner: Some(self.view.me.clone()), lease_end: Some(until), ..record }
    }
}

impl Transition {
    fn going<const N: usize>(self, here: Here, effects: [Effect; N]) -> Self {
        Self { here, effects: effects.into(), ..self }
    }

    fn first(mut self, effect: Option<Effect>) -> Self {
        if let Some(effect) = effect {
            self.effects.insert(0, effect);
        }
        self
    }
}

fn released(record: Record) -> Record {
    Record { owner: None, lease_end: None, ..record }
}

fn gave_up(attempts: u32, last: &str) -> String {
    format!("gave up after {attempts} attempt{}: {last}", if attempts == 1 { "" } else { "s" })
}

/// `at` plus `wait`, at the end of time where that is beyond it.
fn later(at: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait).ok().and_then(|wait| at.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}

/// Whether two queue URLs name one queue; hosts may differ (endpoints of a VPC, legacy names), account and name may not.
fn same_queue(one: &str, other: &str) -> bool {
    let tail = |url: &str| {
        let mut parts = url.trim_end_matches('/').rsplit('/').map(str::to_owned);
        (parts.next(), parts.next())
    };
    tail(one) == tail(other)
}
