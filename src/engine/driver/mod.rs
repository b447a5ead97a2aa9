//! Drives one step: tells the lifecycle what happened, has its record written, and performs what
//! was decided.
//!
//! Events are decided in order, each once the record of the previous one is durable. What must not
//! wait for the ledger does not: a run is told to end at once, whatever is still to be written.

mod admission;
mod apply;
mod held;
mod leave;
mod pending;
mod perform;
mod spans;
mod start;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::budget::Weight;
use super::gates::{Leave, Permit, Reservation, Slot};
use super::impaired::{Hindrance, Trial};
use super::inbox::{Claim, Delivery, Held, Input, Parked, Seat, Turn, Wants};
use super::lane::Lane;
use super::limits::Berth;
use super::running::Call;
use super::shared::Shared;
use super::watch::Kind;
use crate::backoff::{Backoff, Failures};
use crate::clock::after;
use crate::handler::CheckpointError;
use crate::lifecycle::{Activity, Arrival, Event, Lease, Phase, Policy, State, Status};
use crate::step::StopReason;
use pending::{Pending, With};
pub(crate) use start::{Origin, spawn};
use timers::Timer;

/// How long a leaving worker waits for the ledger: what is durable is consistent, and the service
/// manager does not wait for long.
const LAST_WRITE: Duration = Duration::from_secs(10);
/// How long it waits for SageMaker to accept a frozen outcome: the next life sends it too.
const LAST_REPORT: Duration = Duration::from_secs(4);

/// For how many leases a step that another live worker owns is not read, at first, and for how long
/// at most: it may have ended, and its message is to be deleted.
const LEASES_UNREAD: u32 = 10;
const MOST_UNREAD: Duration = Duration::from_hours(1);

type Reply = oneshot::Sender<Result<(), CheckpointError>>;

struct Driver {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    seat: Arc<Seat>,
    state: State,
    policy: Policy,
    /// The phase that the lifecycle was last told of.
    phase: Phase,
    messages: Vec<Held>,
    /// When the newest Executing message was sent, until the run has begun.
    sent: Option<Timestamp>,
    /// The body's share of the memory budget.
    weight: Option<Weight>,
    reservation: Option<Reservation>,
    slot: Option<Slot>,
    /// The leave to start, and to run until the step is trusted.
    leave: Option<Leave>,
    /// It has a slot, and waits for its leave to start.
    entering: Option<BoxFuture<'static, Leave>>,
    /// When the run becomes trusted.
    trusted: Option<Timestamp>,
    /// The permit for a cleanup of a step that has no slot.
    cleanup: Option<Permit>,
    /// The permit to try an impaired handler.
    trial: Option<Trial>,
    /// The permit of a handler with limits to run, beside the slot.
    berth: Option<Berth>,
    /// Why the run that is being claimed will not be started.
    hindrance: Option<Hindrance>,
    /// The run is started once all events are decided; not if the step is to be stopped.
    starts: bool,
    call: Option<Call>,
    /// Pending calls to SageMaker.
    asked: FuturesUnordered<BoxFuture<'static, Event>>,
    wants: Wants,
    pending: Pending,
    /// Events that are not decided yet.
    backlog: VecDeque<(Event, With)>,
    /// The event that made the record differ from the ledger's, if it may be written later.
    unwritten: Option<Event>,
    /// Consecutive failures of the ledger.
    failures: Failures,
    wake: Option<Timestamp>,
    /// When it will have waited long for a slot.
    crowded: Option<Timestamp>,
    grace: Option<Timestamp>,
    /// The record was changed elsewhere, and is to be read again.
    flagged: bool,
    /// When the record was last read.
    read: Timestamp,
    /// The claim of another worker whose end it waits for.
    claim: Option<Claim>,
    watched: Option<Kind>,
    /// Its place is given up.
    left: bool,
}

/// What a driver waited for.
enum Happened {
    PhaseMoved,
    /// The worker is leaving, and stops waiting.
    NothingForLong,
    Ended(Event),
    Ledger(pending::Outcome),
    Answer(Event),
    Input(Input),
    Entered(Leave),
    Timer(Timer),
}

impl Driver {
    /// Boxed, like everything that takes the whole driver by value: otherwise its task would have
    /// room for it twice.
    async fn drive(mut self: Box<Self>) {
        loop {
            while let Some(input) = self.seat.try_next() {
                self.take_in(input);
                self.advance();
            }
            if self.phase != self.shared.phase() {
                self.phase = self.shared.phase();
                self.take_on(Event::Phase, With::Nothing);
            }
            self.advance();
            self.start();
            if self.is_stuck_at_the_end() {
                return self.abandon().await;
            }
            if self.is_idle() && self.leave() || self.may_park() && self.park() {
                return;
            }
            match self.happened().await {
                Happened::PhaseMoved => {}
                Happened::NothingForLong => return self.abandon().await,
                Happened::Ended(event) => self.call_ended(event),
                Happened::Ledger(outcome) => self.ledger_answered(outcome),
                Happened::Answer(event) => self.take_on(event, With::Nothing),
                Happened::Input(input) => self.take_in(input),
                Happened::Entered(leave) => {
                    self.leave = Some(leave);
                    self.take_on(Event::SlotFree, With::Nothing);
                }
                Happened::Timer(timer) => self.timer_fired(timer),
            }
        }
    }

    async fn happened(&mut self) -> Happened {
        let timer = self.next_timer().map(|(at, timer)| (self.shared.clock.instant(at), timer));
        let reports = self.state.local.activity == Activity::Reporting && self.is_at_rest();
        let last = if reports { LAST_REPORT } else { LAST_WRITE };
        tokio::select! {
            biased;
            () = self.shared.phases.beyond(self.phase) => Happened::PhaseMoved,
            event = ended(&mut self.call) => Happened::Ended(event),
            outcome = self.pending.outcome() => Happened::Ledger(outcome),
            Some(event) = self.asked.next(), if !self.asked.is_empty() => Happened::Answer(event),
            input = self.seat.next() => Happened::Input(input),
            leave = entered(&mut self.entering) => Happened::Entered(leave),
            // The timer is created here because most of the time there is none.
            () = async { sleep(last).await }, if self.phase == Phase::Leaving => Happened::NothingForLong,
            timer = fired(timer) => Happened::Timer(timer),
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Message(delivery) => self.delivered(*delivery),
            Input::Event(event) => self.take_on(event, With::Nothing),
            Input::Save(what, reply) => match self.unfit(&what) {
                None => self.take_on(what, With::Reply(reply)),
                // The handler may have been dropped while it waited.
                Some(why) => drop(reply.send(Err(CheckpointError::Unfit(why)))),
            },
            Input::Retry(reply) => self.take_on(Event::RetryAsked, With::Retry(reply)),
            Input::Slot(slot) => {
                if self.state.local.activity == Activity::Queued {
                    self.slot = Some(slot);
                    self.look_for_slot();
                }
            }
            Input::Berth(berth) => {
                if self.state.local.activity == Activity::Queued && self.berth.is_none() {
                    self.berth = Some(berth);
                    self.look_for_slot();
                }
            }
            Input::Turn(turn, permit) => self.turn_has_come(turn, permit),
            Input::Try(trial) => self.handler_has_come(trial),
            Input::Flagged => self.flagged = true,
            Input::Look => {}
        }
    }

    /// Why what the handler saves can never be kept.
    fn unfit(&self, what: &Event) -> Option<String> {
        match what {
            Event::Checkpoint(checkpoint) => self.shared.ledger.refuses(checkpoint),
            _ => None,
        }
    }

    fn delivered(&mut self, delivery: Delivery) {
        let held = delivery.held;
        let foreign = delivery.execution != self.state.record.execution;
        if !foreign {
            self.messages.retain(|other| (other.lane, &other.id) != (held.lane, &held.id));
            self.messages.push(held.clone());
            if self.state.record.version > 0 {
                self.shared.lane_at(&held).messages.recorded([&held.id]);
            }
            if !held.stop {
                self.sent = self.sent.max(delivery.sent);
            }
            self.weight.get_or_insert(delivery.weight);
            if held.lane == self.lane.index {
                self.reservation = self.reservation.take().or(delivery.reservation);
            }
        }
        let earlier =
            held.stop && delivery.sent.is_some() && delivery.sent < self.state.record.sent;
        let arrival = match delivery.arrival {
            _ if foreign => Arrival::Foreign,
            Arrival::Stop if earlier => Arrival::EarlierStop,
            arrival => arrival,
        };
        self.take_on(Event::Delivered(arrival), With::Message(held));
    }

    /// Whether any of its messages is still kept for it.
    fn holds_a_message(&self) -> bool {
        self.messages.iter().any(|held| self.shared.lane_at(held).messages.keeps(&held.id))
    }

    /// Nothing is in progress, and nothing is to be written.
    fn is_idle(&self) -> bool {
        self.state.local.activity == Activity::Idle && self.is_at_rest()
    }

    fn is_at_rest(&self) -> bool {
        matches!(self.pending, Pending::Nothing)
            && self.backlog.is_empty()
            && self.unwritten.is_none()
            && !self.flagged
    }

    /// Whether a cleanup has been decided and neither begun nor ended.
    fn cleans_without_a_call(&self) -> bool {
        match self.state.local.activity {
            Activity::Cleaning(_) => true,
            // A run that has ended is about to be decided.
            Activity::Stopping(StopReason::LeaseLost) => {
                let ends = |event: &Event| {
                    matches!(event, Event::Ended(_) | Event::Cleaned(_) | Event::CleanupAborted)
                };
                matches!(self.pending, Pending::Nothing)
                    && !self.backlog.iter().any(|(event, _)| ends(event))
            }
            _ => false,
        }
    }

    /// Whether the ledger holds all that the step needs until the next input.
    fn may_park(&self) -> bool {
        let waits = matches!(self.state.local.activity, Activity::Queued | Activity::Sleeping)
            || self.wants != Wants::default();
        waits
            // A leaving driver waits with a bound of its own.
            && self.phase != Phase::Leaving
            && self.is_at_rest()
            && self.state.record.version > 0
            && self.state.record.status != Status::New
            && self.call.is_none()
            && self.asked.is_empty()
            && !self.shared.ledger.claims(&self.state.record)
            && self.slot.is_none()
            && self.berth.is_none()
            && self.cleanup.is_none()
            && self.trial.is_none()
            && self.next_timer().is_none_or(|(at, _)| at > self.shared.clock.now())
    }

    fn park(&mut self) -> bool {
        let row = Parked {
            local: self.state.local,
            status: self.state.record.status,
            wants: self.wants,
            messages: self.messages.clone(),
            sent: self.sent,
            wake: self.wake,
            crowded: self.crowded,
            claim: self.claim(),
            progress: self.seat.face().progress,
            due: self.next_timer().map(|(at, _)| at),
        };
        self.left = self.shared.steps.park(&self.state.record.token, &self.seat, row);
        self.left
    }

    /// What its wake-up depends on, if that is only whether the step's owner lives.
    fn claim(&mut self) -> Option<Claim> {
        let record = &self.state.record;
        let owner = record.owner.as_ref().filter(|_| {
            self.state.local.activity == Activity::Sleeping
                && self.state.local.stop_in_doubt.is_none()
                // The owner may have to be reminded of it.
                && record.stop_requested.is_none()
                && self.shared.ledger.foreign_lease(record) != Lease::Over
        })?;
        let looks = self.claim.take().filter(|known| known.owner == *owner);
        let looks = looks.map_or(0, |known| known.looks + 1);
        let wait = Backoff::new(self.shared.ledger.lease() * LEASES_UNREAD, MOST_UNREAD);
        let read_at = after(self.read, wait.after(looks, fastrand::f64()));
        Some(Claim { owner: owner.clone(), looks, read_at })
    }

    /// Gives up the step's place, unless an input has just arrived.
    fn leave(&mut self) -> bool {
        let token = &self.state.record.token;
        if !self.shared.steps.leave(token, &self.seat) {
            return false;
        }
        self.left = true;
        self.leave_gates();
        self.shared.watch_for(&self.state, &mut self.watched, true);
        let record = &self.state.record;
        // As long as this worker lives no other one looks after it.
        if self.shared.ledger.has_lost(record) || self.leaves_an_orphan() {
            self.shared.expect(token.clone(), &self.lane, record.execution.clone());
        }
        self.lane.forget(token);
        true
    }

    /// Whether the step is unfinished, and only its message or this worker can continue it. The
    /// message may be gone.
    fn leaves_an_orphan(&self) -> bool {
        let record = &self.state.record;
        record.version > 0
            && matches!(record.status, Status::Claimed | Status::Waiting)
            && self.shared.phase() == Phase::Running
            && self.shared.ledger.foreign_lease(record) == Lease::Over
            && (self.policy.alone || self.shared.orphans.contains(&record.token))
    }

    fn leave_gates(&self) {
        let token = &self.state.record.token;
        self.lane.slots.leave(token);
        self.shared.impaired.leave(self.handler_name(), token);
        self.shared.limits.leave(self.handler_name(), token);
        for turn in [Turn::Ask, Turn::Report, Turn::CleanUp] {
            self.lane.gate(turn).leave(token);
        }
    }

    /// The worker is leaving, and the ledger does not accept the last write.
    fn is_stuck_at_the_end(&self) -> bool {
        self.shared.phase() == Phase::Leaving && matches!(self.pending, Pending::Retrying { .. })
    }

    /// Abandons a step whose record the ledger does not accept: what is durable is still
    /// consistent.
    async fn abandon(mut self: Box<Self>) {
        // A pending request would keep others from the ledger.
        let pending = std::mem::replace(&mut self.pending, Pending::Nothing);
        let is_unsure = !matches!(pending, Pending::Nothing);
        drop(pending);
        if let Some(mut call) = self.call.take() {
            call.abort();
            call.ended().await;
        }
        if is_unsure || self.shared.ledger.claims(&self.state.record) {
            self.shared.owns.store(true, Ordering::SeqCst);
        }
        self.let_go();
    }
}

/// A driver that panics or gives up leaves nothing behind that could block the step.
impl Drop for Driver {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // The sweep finds the step again.
        self.shared.unseen.store(true, Ordering::SeqCst);
        self.let_go();
        self.leave_gates();
        self.shared.watch.leave(&self.state.record.execution, &self.state.record.token);
        self.lane.forget(&self.state.record.token);
        self.shared.strike(&self.state.record.token, &self.seat);
    }
}

/// Cancel safe.
async fn entered(entering: &mut Option<BoxFuture<'static, Leave>>) -> Leave {
    let Some(turn) = entering else { return std::future::pending().await };
    let leave = turn.await;
    *entering = None;
    leave
}

async fn fired(timer: Option<(Instant, Timer)>) -> Timer {
    match timer {
        Some((at, timer)) => {
            sleep_until(at).await;
            timer
        }
        None => std::future::pending().await,
    }
}

async fn ended(call: &mut Option<Call>) -> Event {
    match call {
        Some(call) => call.ended().await,
        None => std::future::pending().await,
    }
}
