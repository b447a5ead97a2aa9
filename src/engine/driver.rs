//! Drives one step: tells the lifecycle what happened, writes what it decided, then does it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::ask;
use super::lane::{HandlerParts, Lane, Shared};
use super::phase::Phase;
use super::running::{Call, ToDriver};
use super::settle;
use super::slots::{Reservation, Slot};
use super::steps::StepView;
use crate::backoff::Backoff;
use crate::handler::{CheckpointError, Task};
use crate::ledger::{Commit, LedgerError, StoreError, Written};
use crate::lifecycle::{
    Arrival, Effect, Ending, Event, Here, Policy, Record, State, Status, Transition, Via, View, decide,
};
use crate::seam::Observation;
use crate::step::StopReason;

/// Something that reaches a driver from outside.
pub(crate) enum Input {
    Message(Delivery),
    Event(Event),
    /// A handler saves a checkpoint.
    Save(Value, oneshot::Sender<Result<(), CheckpointError>>),
}

/// One held message of the step.
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) arrival: Arrival,
    pub(crate) sent: Option<Timestamp>,
    /// SQS's trace header, which the step's log lines carry.
    pub(crate) trace: Option<String>,
    /// Kept by the first who needs it, given back by all others.
    pub(crate) reservation: Option<Reservation>,
}

/// What one of the driver's own futures came to.
enum Done {
    Event(Event),
    Slot(Slot),
}

/// After a run was told to end, its handler has this much longer than its grace to enforce it itself.
const GRACE_MARGIN: Duration = Duration::from_secs(1);
const LEDGER: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

pub(crate) struct Driver {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    state: State,
    policy: Policy,
    inbox: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    messages: BTreeSet<String>,
    sent: Option<Timestamp>,
    reservation: Option<Reservation>,
    slot: Option<Slot>,
    call: Option<Call>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    wake: Option<Instant>,
    grace: Option<Instant>,
    /// When the claim is to be renewed, and when it must be given up; only where others share the ledger.
    renew: Option<(Instant, Instant)>,
}

impl Driver {
    /// Starts a driver for a step that has none, from what its message or the ledger's record says; gives `first` back where it has one.
    pub(crate) fn spawn(shared: &Arc<Shared>, lane: &Arc<Lane>, record: Record, first: Input) -> Result<(), Input> {
        let Some((inbox, inputs)) = shared.steps.enter(StepView::of(&record)) else { return Err(first) };
        let driver = Self {
            shared: shared.clone(),
            lane: lane.clone(),
            policy: shared.policy(lane, record.handler.as_deref()),
            state: State::new(record),
            inbox,
            inputs,
            messages: BTreeSet::new(),
            sent: None,
            reservation: None,
            slot: None,
            call: None,
            work: FuturesUnordered::new(),
            wake: None,
            grace: None,
            renew: None,
        };
        // Of the highest level, so that no filter takes the token from a line.
        let span = tracing::error_span!(
            "step",
            token = %driver.state.record.token,
            execution = %driver.state.record.execution,
            queue = lane.name,
            handler = driver.state.record.handler.as_deref().unwrap_or("none"),
            attempt = tracing::field::Empty,
            trace = match &first {
                Input::Message(delivery) => delivery.trace.as_deref(),
                Input::Event(_) | Input::Save(..) => None,
            },
        );
        shared.tasks.spawn(tracing::Instrument::instrument(driver.drive(first), span));
        Ok(())
    }

    async fn drive(mut self, first: Input) {
        self.reload().await;
        let mut next = Some(first);
        let mut phase = Phase::Running;
        loop {
            if let Some(input) = next.take() {
                self.take_in(input).await;
            }
            let now = self.shared.phase();
            if phase != now {
                phase = now;
                self.feed(match phase {
                    Phase::Running | Phase::Draining => Event::Drain,
                    Phase::Stopping => Event::Shutdown,
                    Phase::Leaving => Event::Halt,
                })
                .await;
            }
            if self.state.here == Here::Nothing {
                next = self.shared.steps.leave(&self.state.record.token, &mut self.inputs);
                if next.is_none() {
                    return;
                }
                continue;
            }
            let timer = self.timer();
            tokio::select! {
                biased;
                () = self.shared.phases.beyond(phase) => {}
                event = ended(&mut self.call) => {
                    self.call = None;
                    self.grace = None;
                    self.shared.observer.observe(Observation::StepIdle { queue: &self.lane.name, handler: self.handler_name() });
                    self.feed(event).await;
                }
                Some(done) = self.work.next(), if !self.work.is_empty() => match done {
                    Done::Event(event) => self.feed(event).await,
                    Done::Slot(slot) => {
                        self.slot = Some(slot);
                        self.feed(Event::SlotFree).await;
                    }
                },
                input = self.inputs.recv() => next = input,
                () = sleep_until(timer.map_or_else(Instant::now, |(at, _)| at)), if timer.is_some() => {
                    if let Some((_, timer)) = timer {
                        self.timer_fired(timer).await;
                    }
                }
            }
        }
    }

    async fn take_in(&mut self, input: Input) {
        match input {
            Input::Message(delivery) => {
                self.messages.insert(delivery.id);
                self.sent = self.sent.or(delivery.sent);
                self.reservation = self.reservation.take().or(delivery.reservation);
                self.feed(Event::Delivered(delivery.arrival)).await;
                // Only a step that waits for its slot has a use for it.
                self.reservation = None;
            }
            Input::Event(event) => self.feed(event).await,
            Input::Save(checkpoint, reply) => {
                let saved = self.apply(&Event::Checkpoint(checkpoint)).await;
                // The handler may have been dropped while it waited.
                let _ = reply.send(saved.map_err(|why| CheckpointError(why.to_string())));
            }
        }
    }

    /// Tells the lifecycle of an event, for as long as the ledger does not take what follows from it.
    async fn feed(&mut self, event: Event) {
        let mut failures = 0;
        loop {
            match self.apply(&event).await {
                Ok(()) => return,
                Err(NotApplied::Illegal(illegal)) => {
                    tracing::error!(error = %illegal, "a mistake in callbackd; please report it");
                    return;
                }
                Err(NotApplied::Ledger(error)) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "the ledger did not take a step's record; its messages are kept and it is tried again");
                    if event == Event::Renew {
                        return;
                    }
                    if self.lease_is_out() {
                        // The run must not wait for the ledger. What the event came to must: dropped, it would never come again.
                        self.renew = None;
                        self.lose_lease().await;
                        continue;
                    }
                    if self.shared.phase() == Phase::Leaving {
                        self.abandon().await;
                        return;
                    }
                    let lost = self.renew.map(|(_, lost)| lost);
                    tokio::select! {
                        biased;
                        () = self.shared.phases.reached(Phase::Leaving) => {}
                        () = sleep(LEDGER.after(failures, fastrand::f64())) => {}
                        () = sleep_until(lost.unwrap_or_else(Instant::now)), if lost.is_some() => {}
                    }
                }
            }
        }
    }

    /// Ends the run, if there is one: its claim is out. Nothing is written for it.
    async fn lose_lease(&mut self) {
        tracing::error!(
            "the claim on the step could not be renewed; its run is cancelled, as another worker may start it"
        );
        if let Err(error) = self.apply(&Event::LeaseLost).await {
            tracing::error!(%error, "a mistake in callbackd; please report it");
        }
    }

    async fn apply(&mut self, event: &Event) -> Result<(), NotApplied> {
        loop {
            let view = View {
                now: self.shared.clock.now(),
                me: self.shared.ledger.me(),
                policy: &self.policy,
                foreign: self.shared.ledger.foreign_lease(&self.state.record),
                random: fastrand::f64(),
            };
            let Transition { write, here, work_seen, refusals, not_found, effects } =
                decide(&self.state, event, &view)?;
            if let Some(record) = write {
                let asked = Instant::now();
                let write = self.shared.ledger.write(record, Commit::Now);
                match within(self.patience(asked), write).await? {
                    Written::Done(record) => self.written(*record, asked),
                    Written::Changed => {
                        self.read_again().await?;
                        continue;
                    }
                }
            }
            self.state.here = here;
            self.state.work_seen = work_seen;
            self.state.refusals = refusals;
            self.state.not_found = not_found;
            if !matches!(here, Here::Running | Here::Winding(_)) {
                self.slot = None;
            }
            self.show();
            for effect in effects {
                self.perform(effect);
            }
            return Ok(());
        }
    }

    /// `asked`: when the write was begun. It may have taken effect at once, and others count the lease from then on.
    fn written(&mut self, record: Record, asked: Instant) {
        let lease = self.shared.ledger.lease();
        let mine = self.shared.ledger.is_shared() && record.owner.as_ref() == Some(self.shared.ledger.me());
        self.renew = mine.then(|| (asked + lease / 3, asked + lease * 2 / 3));
        self.state.record = record;
    }

    /// Until when the ledger may take over what was asked of it now, where others share it: a claim must be given up in time,
    /// however slow it is.
    fn patience(&self, now: Instant) -> Option<Instant> {
        let shared = self.shared.ledger.is_shared();
        let lost = self.renew.map(|(_, lost)| lost).filter(|lost| *lost > now);
        shared.then(|| lost.unwrap_or(now + self.shared.ledger.lease() * 2 / 3))
    }

    async fn read_again(&mut self) -> Result<(), LedgerError> {
        let stop = self.state.record.stop_requested.is_some();
        let load = self.shared.ledger.load(&self.state.record.token);
        self.state.record = match within(self.patience(Instant::now()), load).await? {
            Some(record) => record,
            None => Record { version: 0, status: Status::New, ..self.state.record.clone() },
        };
        self.policy = self.shared.policy(&self.lane, self.state.record.handler.as_deref());
        if !stop && self.state.record.stop_requested.is_some() && self.state.here == Here::Running {
            // Another worker of this ledger has the Stopping message.
            let _ = self.inbox.try_send(Input::Event(Event::StopSeen(Via::Ledger)));
        }
        Ok(())
    }

    /// Reads the record before anything is decided, for as long as it takes.
    async fn reload(&mut self) {
        let mut failures = 0;
        loop {
            let error = match self.shared.ledger.load(&self.state.record.token).await {
                Ok(None) => return,
                Ok(Some(mut record)) => {
                    let configured =
                        record.handler.as_ref().is_some_and(|name| self.shared.handlers.contains_key(name));
                    if !configured {
                        // The configuration has changed since; a handler that is gone cannot be called.
                        record.handler =
                            self.lane.routes.handler(record.execution.pipeline(), &record.arguments).map(str::to_owned);
                    }
                    self.policy = self.shared.policy(&self.lane, record.handler.as_deref());
                    self.state.record = record;
                    self.show();
                    return;
                }
                Err(error) => error,
            };
            failures += 1;
            tracing::error!(%error, failures, "a step's record could not be read; its messages are kept and it is tried again");
            if self.shared.phase() == Phase::Leaving {
                return;
            }
            tokio::select! {
                biased;
                () = self.shared.phases.reached(Phase::Leaving) => {}
                () = sleep(LEDGER.after(failures, fastrand::f64())) => {}
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Ask => {
                let ask =
                    ask::step(self.lane.clone(), self.state.record.execution.clone(), self.state.record.token.clone());
                self.work.push(Box::pin(async { Done::Event(Event::Answered(ask.await)) }));
            }
            Effect::AwaitSlot => {
                let (slots, reservation) = (self.lane.slots.clone(), self.reservation.take());
                self.work.push(Box::pin(async move { Done::Slot(slots.acquire(reservation).await) }));
            }
            Effect::Run => self.run(),
            Effect::Tell(reason) => self.tell(reason),
            Effect::Abort => {
                if let Some(call) = &self.call {
                    call.abort();
                }
            }
            Effect::CleanUp(reason) => self.clean_up(reason),
            Effect::Report => {
                let (lane, record) = (self.lane.clone(), self.state.record.clone());
                self.work
                    .push(Box::pin(async move { Done::Event(settle::report(lane.pipelines.as_ref(), &record).await) }));
            }
            Effect::Wake(at) => self.wake = Some(self.shared.clock.instant(at)),
            Effect::Delete => self.lane.deletes.push(std::mem::take(&mut self.messages)),
            Effect::Return => self.lane.held.release(std::mem::take(&mut self.messages), Duration::ZERO),
            Effect::LetGo => self.lane.held.forget(&std::mem::take(&mut self.messages)),
            Effect::Refuse(why) => {
                tracing::warn!(
                    why,
                    "the step is not worked on; its message is kept and left to the queue's redrive policy"
                );
                self.lane.held.release(std::mem::take(&mut self.messages), self.lane.config.visibility_timeout);
            }
            Effect::CountStop(via) => {
                tracing::info!(via = via.as_str(), "the step is to be stopped");
                self.shared.observer.observe(Observation::Stop { via: via.as_str() });
            }
            Effect::Finish(ending) => self.finish(ending),
        }
    }

    fn run(&mut self) {
        let record = &self.state.record;
        tracing::Span::current().record("attempt", record.attempt);
        let Some(parts) = self.handler() else { return self.handler_is_gone() };
        let pickup = self.sent.take().filter(|_| record.attempt == 1).map(|sent| self.shared.clock.since(sent));
        tracing::info!(attempt = record.attempt, "the step is started");
        self.shared.observer.observe(Observation::StepStarted {
            queue: &self.lane.name,
            handler: self.handler_name(),
            pickup,
        });
        let now = self.shared.clock.now();
        self.shared.steps.update(&record.token, |view| {
            view.started_at = Some(now);
            view.progress = None;
        });
        self.call = Some(Call::run(&self.shared.tasks, &parts.handler, self.task(&parts), self.keeper()));
    }

    fn clean_up(&mut self, reason: StopReason) {
        let Some(parts) = self.handler() else {
            self.work.push(Box::pin(async { Done::Event(Event::Cleaned(Ok(()))) }));
            return;
        };
        tracing::info!(reason = reason.as_str(), "cleaning up after the step");
        self.shared.observer.observe(Observation::StepStarted {
            queue: &self.lane.name,
            handler: self.handler_name(),
            pickup: None,
        });
        let (task, limit) = (self.task(&parts), parts.config.cleanup_limit);
        self.call = Some(Call::cleanup(&self.shared.tasks, &parts.handler, task, self.keeper(), reason, limit));
    }

    fn handler_is_gone(&self) {
        let error = "the handler is not configured any more".to_owned();
        self.work.push(Box::pin(async { Done::Event(Event::Ended(crate::lifecycle::End::Failure(error))) }));
    }

    fn tell(&mut self, reason: StopReason) {
        let Some(call) = &self.call else { return };
        tracing::info!(reason = reason.as_str(), "the run is told to end");
        call.tell(reason);
        let grace = self.handler().map_or(Duration::ZERO, |parts| parts.config.stop_grace) + GRACE_MARGIN;
        let until = match (reason, self.renew) {
            // The run must be over before another worker may take the claim for lapsed.
            (StopReason::LeaseLost, Some((_, lost))) => {
                Instant::now() + grace.min(lost.saturating_duration_since(Instant::now()) / 2)
            }
            (StopReason::LeaseLost, None) => Instant::now() + grace.min(self.shared.ledger.lease() / 6),
            _ => Instant::now() + grace,
        };
        self.grace = Some(self.grace.map_or(until, |before| before.min(until)));
    }

    fn finish(&self, ending: Ending) {
        let record = &self.state.record;
        let took = (ending != Ending::SettledElsewhere).then(|| self.shared.clock.since(record.first_seen));
        tracing::info!(
            outcome = ending.as_str(),
            reason = reason_of(record),
            took = took.map(tracing::field::debug),
            "the step is done with"
        );
        self.shared.observer.observe(Observation::StepEnded {
            queue: &self.lane.name,
            handler: self.handler_name(),
            outcome: ending.as_str(),
            took,
        });
    }

    /// Leaves a step behind whose record the ledger does not take: what is durable is still right.
    async fn abandon(&mut self) {
        if let Some(mut call) = self.call.take() {
            call.abort();
            call.ended().await;
        }
        self.work.clear();
        self.slot = None;
        self.state.here = Here::Nothing;
        self.lane.held.forget(&std::mem::take(&mut self.messages));
    }

    async fn timer_fired(&mut self, timer: Timer) {
        match timer {
            Timer::Wake => {
                self.wake = None;
                if self.shared.ledger.is_shared() && self.read_again().await.is_err() {
                    self.wake = Some(Instant::now() + Duration::from_secs(1));
                    return;
                }
                self.feed(Event::Woken).await;
            }
            Timer::Grace => {
                self.grace = None;
                self.feed(Event::GraceOver).await;
            }
            Timer::Deadline => self.feed(Event::DeadlineReached).await,
            Timer::Renew => {
                let lost = self.renew.map(|(_, lost)| lost);
                self.feed(Event::Renew).await;
                if self.renew.map(|(_, lost)| lost) == lost {
                    self.renew = lost.map(|lost| (Instant::now() + self.shared.ledger.lease() / 12, lost));
                }
                let mine = self.state.record.owner.as_ref() == Some(self.shared.ledger.me());
                if !mine {
                    self.renew = None;
                    self.feed(Event::LeaseLost).await;
                }
            }
            Timer::Lost => {
                self.renew = None;
                self.lose_lease().await;
            }
        }
    }

    fn timer(&self) -> Option<(Instant, Timer)> {
        let record = &self.state.record;
        let limited = matches!(
            (self.state.here, record.status),
            (Here::Running, _) | (Here::Sleeping | Here::Queued, Status::Waiting)
        );
        let deadline = record.deadline.filter(|_| limited).map(|at| (self.shared.clock.instant(at), Timer::Deadline));
        [
            self.wake.map(|at| (at, Timer::Wake)),
            self.grace.map(|at| (at, Timer::Grace)),
            deadline,
            self.renew.map(|(at, _)| (at, Timer::Renew)),
            self.renew.map(|(_, lost)| (lost, Timer::Lost)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn lease_is_out(&self) -> bool {
        self.renew.is_some_and(|(_, lost)| lost <= Instant::now())
    }

    fn handler(&self) -> Option<HandlerParts> {
        self.shared.handlers.get(self.state.record.handler.as_deref()?).cloned()
    }

    fn handler_name(&self) -> &str {
        self.state.record.handler.as_deref().unwrap_or("none")
    }

    fn task(&self, parts: &HandlerParts) -> Task {
        let record = &self.state.record;
        Task {
            step: record.step(),
            queue_url: record.queue.clone(),
            attempt: record.attempt.max(1),
            stop_grace: parts.config.stop_grace,
            checkpoint: record.checkpoint.clone(),
        }
    }

    fn keeper(&self) -> Arc<ToDriver> {
        let token = self.state.record.token.clone();
        Arc::new(ToDriver { shared: self.shared.clone(), token, inbox: self.inbox.clone() })
    }

    fn show(&self) {
        let State { record, here, .. } = &self.state;
        self.shared.steps.update(&record.token, |view| {
            let started_at = view.started_at;
            let progress = view.progress.take();
            *view = StepView { activity: *here, started_at, progress, ..StepView::of(record) };
        });
    }
}

/// Why an event had no consequences yet.
#[derive(Debug, thiserror::Error)]
enum NotApplied {
    #[error(transparent)]
    Illegal(#[from] crate::lifecycle::Illegal),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What a driver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Wake,
    Grace,
    Deadline,
    Renew,
    Lost,
}

/// What the ledger answers until then.
async fn within<T>(
    until: Option<Instant>,
    call: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    let Some(until) = until else { return call.await };
    let late =
        |_| Err(LedgerError::Store(StoreError("it did not answer while the claim on the step lasts".to_owned())));
    timeout_at(until, call).await.unwrap_or_else(late)
}

async fn ended(call: &mut Option<Call>) -> Event {
    match call {
        Some(call) => call.ended().await,
        None => std::future::pending().await,
    }
}

fn reason_of(record: &Record) -> Option<&str> {
    match record.outcome.as_ref()? {
        crate::outcome::Outcome::Failure(reason) => Some(reason.as_str()),
        crate::outcome::Outcome::Success(_) => None,
    }
}
