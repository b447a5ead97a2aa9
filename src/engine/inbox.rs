//! Which steps are in hand, and what is sent to them: a step has a driver with an inbox, or is
//! parked as a row until an input arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};

use super::gates::{Permit, Reservation, Slot};
use super::impaired::Trial;
use super::limits::Berth;
use super::progress::Progressed;
use crate::handler::CheckpointError;
use crate::lifecycle::{Activity, Arrival, Event, Local, NotRetried, Status, WorkerId};
use crate::step::{CallbackToken, ExecutionArn, StopReason};

/// An input for a step.
pub(crate) enum Input {
    Message(Box<Delivery>),
    Event(Event),
    /// A handler saves a checkpoint or a key, which is the event.
    Save(Event, oneshot::Sender<Result<(), CheckpointError>>),
    /// An operator wants the next attempt now. The answer is dropped if the ledger fails.
    Retry(oneshot::Sender<Result<(), NotRetried>>),
    /// A slot has been given to it.
    Slot(Slot),
    /// Its turn has come.
    Turn(Turn, Permit),
    /// It need not wait for its handler any more, which works again or is to be tested.
    Try(Option<Trial>),
    /// The limits of its handler allow it to run.
    Berth(Berth),
    /// Another worker of the ledger has recorded a stop of the step, or a command has changed it.
    Flagged,
    /// A moment that it waits for has come, or the clock was set: check the timers.
    Look,
}

/// A message that is held for a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    /// The lane that holds it.
    pub(crate) lane: usize,
    pub(crate) id: Arc<str>,
    /// It is a Stopping message.
    pub(crate) stop: bool,
    pub(crate) receives: u32,
}

/// One message of the step, as it was received.
pub(crate) struct Delivery {
    pub(crate) held: Held,
    pub(crate) execution: ExecutionArn,
    pub(crate) arrival: Arrival,
    /// By SQS's clock.
    pub(crate) sent: Option<Timestamp>,
    /// Kept by the first receiver that needs it, returned by all others.
    pub(crate) reservation: Option<Reservation>,
    /// The body's share of the memory budget.
    pub(crate) weight: super::budget::Weight,
}

/// Actions for which a step may have to wait its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Ask,
    Report,
    CleanUp,
}

/// Actions that a step will take when its turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Whether the execution is to be asked about too.
    pub(crate) ask: Option<bool>,
    pub(crate) report: bool,
    pub(crate) cleanup: Option<StopReason>,
}

/// A driver's place: its inputs, and what it publishes.
#[derive(Default)]
pub(crate) struct Seat {
    inputs: Mutex<VecDeque<Input>>,
    news: Notify,
    face: Mutex<Face>,
}

/// What is published of a step that has a driver, beside its record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Face {
    /// What is in progress.
    pub activity: Option<Activity>,
    /// When this worker last started the handler.
    pub started_at: Option<Timestamp>,
    pub progress: Option<Arc<Progressed>>,
}

/// A step that waits and needs no driver meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parked {
    pub(crate) local: Local,
    pub(crate) status: Status,
    pub(crate) wants: Wants,
    pub(crate) messages: Vec<Held>,
    pub(crate) sent: Option<Timestamp>,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) crowded: Option<Timestamp>,
    pub(crate) claim: Option<Claim>,
    pub(crate) progress: Option<Arc<Progressed>>,
    /// When it must be looked at.
    pub(crate) due: Option<Timestamp>,
}

/// Another worker's claim of a step: as long as it holds, the step need not be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claim {
    pub(crate) owner: WorkerId,
    /// How often the step has been read since the claim was first seen.
    pub(crate) looks: u32,
    /// When it is read all the same.
    pub(crate) read_at: Timestamp,
}

/// What a driver is started with.
pub(crate) struct Start {
    pub(crate) seat: Arc<Seat>,
    pub(crate) parked: Option<Parked>,
}

/// The steps in hand.
#[derive(Default)]
pub(crate) struct Steps {
    table: Mutex<Table>,
    gone: Notify,
    /// A row was parked that is due before all others.
    due: Notify,
}

#[derive(Default)]
struct Table {
    places: BTreeMap<CallbackToken, Place>,
    due: BTreeSet<(Timestamp, CallbackToken)>,
}

impl Table {
    /// Adds a moment at which a row is due; returns whether it is before all others.
    fn add_due(&mut self, due: Timestamp, token: &CallbackToken) -> bool {
        let first = self.due.first().is_none_or(|(first, _)| due < *first);
        self.due.insert((due, token.clone()));
        first
    }
}

enum Place {
    Driven(Arc<Seat>),
    Parked(Box<Parked>),
}

impl Seat {
    fn push(&self, input: Input) {
        lock(&self.inputs).push_back(input);
        self.news.notify_one();
    }

    /// The next input. Cancel safe.
    pub(crate) async fn next(&self) -> Input {
        loop {
            if let Some(input) = self.try_next() {
                return input;
            }
            self.news.notified().await;
        }
    }

    pub(crate) fn try_next(&self) -> Option<Input> {
        lock(&self.inputs).pop_front()
    }

    pub(crate) fn save(&self, what: Event) -> oneshot::Receiver<Result<(), CheckpointError>> {
        let (reply, saved) = oneshot::channel();
        self.push(Input::Save(what, reply));
        saved
    }

    pub(crate) fn show<T>(&self, change: impl FnOnce(&mut Face) -> T) -> T {
        change(&mut lock(&self.face))
    }

    pub(crate) fn face(&self) -> Face {
        lock(&self.face).clone()
    }
}

impl Steps {
    /// Sends an input to the step's driver. If it has none, the caller starts one, for which the
    /// input waits. For a step that is not in hand none is started, unless `absent` says so.
    pub(crate) fn send(
        &self,
        token: &CallbackToken,
        input: Input,
        absent: Absent,
    ) -> Option<Start> {
        let mut table = lock(&self.table);
        match table.places.get(token) {
            Some(Place::Driven(seat)) => {
                seat.push(input);
                return None;
            }
            None if absent == Absent::Skip => return None,
            Some(Place::Parked(_)) | None => {}
        }
        let seat = Arc::new(Seat::default());
        seat.push(input);
        let parked = match table.places.insert(token.clone(), Place::Driven(seat.clone())) {
            Some(Place::Parked(parked)) => {
                if let Some(due) = parked.due {
                    table.due.remove(&(due, token.clone()));
                }
                Some(*parked)
            }
            Some(Place::Driven(_)) | None => None,
        };
        Some(Start { seat, parked })
    }

    /// Gives up a driver's place, unless an input has just arrived; returns whether it did.
    pub(crate) fn leave(&self, token: &CallbackToken, seat: &Seat) -> bool {
        let mut table = lock(&self.table);
        if !lock(&seat.inputs).is_empty() {
            return false;
        }
        table.places.remove(token);
        drop(table);
        self.gone.notify_waiters();
        true
    }

    /// Gives up the place of a driver that panicked.
    pub(crate) fn strike(&self, token: &CallbackToken) {
        lock(&self.table).places.remove(token);
        self.gone.notify_waiters();
    }

    /// Leaves a row in a driver's place, unless an input has just arrived; returns whether it did.
    pub(crate) fn park(&self, token: &CallbackToken, seat: &Seat, row: Parked) -> bool {
        let mut table = lock(&self.table);
        if !lock(&seat.inputs).is_empty() {
            return false;
        }
        let first = row.due.is_some_and(|due| table.add_due(due, token));
        table.places.insert(token.clone(), Place::Parked(Box::new(row)));
        drop(table);
        if first {
            self.due.notify_one();
        }
        true
    }

    /// When the first parked row is due.
    pub(crate) fn first_due(&self) -> Option<Timestamp> {
        lock(&self.table).due.first().map(|(due, _)| *due)
    }

    /// The first row that is due by `now`, and the claim it waits for the end of. It stays parked,
    /// and is not due again until it is sent something or [put off](Self::put_off).
    pub(crate) fn pop_due(&self, now: Timestamp) -> Option<(CallbackToken, Option<Claim>)> {
        let mut table = lock(&self.table);
        let (due, token) = table.due.first().filter(|(due, _)| *due <= now).cloned()?;
        table.due.remove(&(due, token.clone()));
        let claim = match table.places.get_mut(&token) {
            Some(Place::Parked(row)) => {
                row.due = None;
                row.claim.clone()
            }
            Some(Place::Driven(_)) | None => None,
        };
        Some((token, claim))
    }

    /// Has a row that was due, and is still parked, wake up later.
    pub(crate) fn put_off(&self, token: &CallbackToken, until: Timestamp) {
        let mut table = lock(&self.table);
        let Some(Place::Parked(row)) = table.places.get_mut(token) else { return };
        if row.due.is_some() {
            return;
        }
        (row.wake, row.due) = (Some(until), Some(until));
        if table.add_due(until, token) {
            self.due.notify_one();
        }
    }

    /// Resolves when a row may be due sooner than [`first_due`](Self::first_due) last returned.
    pub(crate) async fn due_changed(&self) {
        self.due.notified().await;
    }

    /// Has the waiter for the first due row look again: the clock went on without tokio's timers.
    pub(crate) fn look_again(&self) {
        self.due.notify_one();
    }

    /// Every step in hand.
    pub(crate) fn tokens(&self) -> Vec<CallbackToken> {
        lock(&self.table).places.keys().cloned().collect()
    }

    /// Sends an event to every step that has a driver.
    pub(crate) fn tell_drivers(&self, event: &Event) {
        for place in lock(&self.table).places.values() {
            if let Place::Driven(seat) = place {
                seat.push(Input::Event(event.clone()));
            }
        }
    }

    pub(crate) fn contains(&self, token: &CallbackToken) -> bool {
        lock(&self.table).places.contains_key(token)
    }

    /// What is published of a step in hand.
    pub(crate) fn face(&self, token: &CallbackToken) -> Option<Face> {
        match lock(&self.table).places.get(token)? {
            Place::Driven(seat) => Some(seat.face()),
            Place::Parked(row) => Some(Face {
                activity: Some(row.local.activity),
                started_at: None,
                progress: row.progress.clone(),
            }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.table).places.len()
    }

    /// Resolves once no step is left.
    pub(crate) async fn none_left(&self) {
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if lock(&self.table).places.is_empty() {
                return;
            }
            gone.await;
        }
    }
}

/// What to do about a step that is not in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Start,
    Skip,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
