//! How many steps of a queue run at once, and how waiting steps share the free slots.
//!
//! A poll reserves room before it asks for messages. A step that resumes after a wait takes a slot
//! before any reservation, so an idle long poll delays nothing; messages that the poll then brings
//! beyond the limit wait, invisible, for the next free slot.
//!
//! If both new and resumed steps wait, they take turns. To let new steps wait at all while resumed
//! ones fill the slots, polls may then hold room for half the limit beyond it.
//!
//! While all slots are taken, a poll may look ahead: the steps that it brings wait like other new
//! steps, a few of them beyond the slots, and stops among the messages are noticed.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::super::limits::Room;
use super::grants::{Grants, Hook};
use super::line::Line;
use crate::step::CallbackToken;

/// Steps that may be held beyond the slots so that their stops are noticed: as many as one receive
/// brings.
pub(crate) const AHEAD: usize = 10;

/// The work slots of one queue; cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// There may be room for a poll. A poll that takes room wakes the next if some is left, because
    /// two notifications may wake only one.
    room: Notify,
    /// The same for a poll that looks ahead.
    ahead: Notify,
    hook: Hook<Slot>,
}

#[derive(Default)]
struct State {
    limit: usize,
    busy: usize,
    reserved: usize,
    /// Reserved by polls that look ahead.
    ahead: usize,
    /// New steps, brought by a poll.
    new: Line,
    /// Steps that resume after a wait.
    resumed: Line,
    /// The step served last was a new one.
    new_was_last: bool,
    /// One thread is serving the lines, and checks them again before it ends.
    serving: bool,
}

/// Room that a poll has reserved for one message; returned when dropped.
#[must_use = "room that is dropped is given back"]
pub(crate) struct Reservation {
    slots: Option<Arc<Inner>>,
    /// Beyond the slots.
    ahead: bool,
    /// The same for the limits of the step's handler.
    room: Option<Room>,
}

/// A step's permit to run; returned when dropped.
#[must_use = "a slot that is dropped is given back"]
pub(crate) struct Slot(Arc<Inner>);

/// How a queue's slots are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) busy: usize,
    pub(crate) limit: usize,
    /// New steps, brought by a poll, that wait for a slot.
    pub(crate) waiting_new: usize,
    /// Steps that wait for a slot to resume.
    pub(crate) waiting_resumed: usize,
}

impl Slots {
    /// This many slots, at least one.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), ..State::default() };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            room: Notify::new(),
            ahead: Notify::new(),
            hook: Hook::new(),
        }))
    }

    /// Sets the receiver of slots for steps that had to wait; once, before any step waits.
    pub(crate) fn grants_to(&self, grants: Weak<dyn Grants<Slot>>) {
        self.0.hook.set(grants);
    }

    /// Waits until there is room, and reserves what there is: at most `most`, at least one.
    pub(crate) async fn reserve(&self, most: usize) -> Vec<Reservation> {
        loop {
            let reserved = self.try_reserve(most.max(1));
            if !reserved.is_empty() {
                return reserved;
            }
            self.0.room.notified().await;
        }
    }

    /// Like [`reserve`](Self::reserve), then waits up to `patience` for room for `most`, so that a
    /// receive on a busy queue brings more than one message.
    pub(crate) async fn reserve_up_to(&self, most: usize, patience: Duration) -> Vec<Reservation> {
        let most = most.clamp(1, self.limit());
        let mut reserved = self.reserve(most).await;
        let until = Instant::now() + patience;
        while reserved.len() < most && timeout_at(until, self.0.room.notified()).await.is_ok() {
            reserved.extend(self.try_reserve(most - reserved.len()));
        }
        reserved
    }

    /// Reserves the available room, at most `most`, possibly none.
    pub(crate) fn try_reserve(&self, most: usize) -> Vec<Reservation> {
        let mut state = self.0.lock();
        let room = state.room().min(most);
        state.reserved += room;
        self.0.unlock(state);
        self.reservations(room, false)
    }

    /// Waits until fewer than [`AHEAD`] new steps are held beyond the slots, and reserves room for
    /// more: at most `most`, at least one. Cancel safe.
    pub(crate) async fn reserve_ahead(&self, most: usize) -> Vec<Reservation> {
        loop {
            let reserved = self.try_reserve_ahead(most.max(1));
            if !reserved.is_empty() {
                return reserved;
            }
            self.0.ahead.notified().await;
        }
    }

    fn try_reserve_ahead(&self, most: usize) -> Vec<Reservation> {
        let mut state = self.0.lock();
        let room = state.ahead_room().min(most);
        state.ahead += room;
        self.0.unlock(state);
        self.reservations(room, true)
    }

    /// Whether more could be held beyond the slots.
    pub(crate) fn has_room_ahead(&self) -> bool {
        self.0.lock().ahead_room() > 0
    }

    fn reservations(&self, room: usize, ahead: bool) -> Vec<Reservation> {
        (0..room).map(|_| Reservation { slots: Some(self.0.clone()), ahead, room: None }).collect()
    }

    /// A slot, if one is free and no step waits. Otherwise the token joins the line, as a new step
    /// if it comes with a poll's reservation; if it is in the line already, it keeps its place.
    pub(crate) fn acquire(
        &self,
        token: &CallbackToken,
        reservation: Option<Reservation>,
    ) -> Option<Slot> {
        let new = reservation.is_some();
        // A message of the same step may have come from another queue.
        let (ours, others) = match reservation {
            Some(room) if room.is_of(self) => (Some(room), None),
            others => (None, others),
        };
        drop(others);
        let mut state = self.0.lock();
        if let Some(mut room) = ours {
            room.end(&mut state);
        }
        let free = state.busy < state.limit && state.new.is_empty() && state.resumed.is_empty();
        if free {
            state.busy += 1;
        } else if new && !state.resumed.contains(token) {
            state.new.push(token);
        } else if !new && !state.new.contains(token) {
            state.resumed.push(token);
        }
        self.0.unlock(state);
        free.then(|| Slot(self.0.clone()))
    }

    /// Removes a token from the line. `false` if it is not in it: it never was, or it has just been
    /// granted a slot.
    pub(crate) fn leave(&self, token: &CallbackToken) -> bool {
        let mut state = self.0.lock();
        let was_in = state.new.remove(token) || state.resumed.remove(token);
        self.0.unlock(state);
        was_in
    }

    pub(crate) fn limit(&self) -> usize {
        self.0.lock().limit
    }

    /// Changes how many slots there are, at least one. Steps that run beyond it run on.
    pub(crate) fn resize(&self, limit: usize) {
        let mut state = self.0.lock();
        state.limit = limit.max(1);
        self.0.unlock(state);
        self.0.serve();
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.0.lock();
        Usage {
            busy: state.busy,
            limit: state.limit,
            waiting_new: state.new.len(),
            waiting_resumed: state.resumed.len(),
        }
    }
}

impl State {
    /// How much more polls may reserve.
    fn room(&self) -> usize {
        let brought = self.reserved + self.new.len();
        let free = self.limit.saturating_sub(self.busy + brought);
        let share = if self.resumed.is_empty() { 0 } else { (self.limit / 2).max(1) };
        free.max(share.saturating_sub(brought))
    }

    /// How many more new steps polls may hold beyond the slots.
    fn ahead_room(&self) -> usize {
        AHEAD.saturating_sub(self.ahead + self.new.len())
    }

    /// Removes the next step: if both kinds wait, one of the kind that was not served last.
    fn pop(&mut self) -> Option<CallbackToken> {
        let new = if self.new_was_last { self.resumed.is_empty() } else { !self.new.is_empty() };
        let next = if new { self.new.pop() } else { self.resumed.pop() };
        if next.is_some() {
            self.new_was_last = new;
        }
        next
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a change of the state: a poll is notified if there is room.
    fn unlock(&self, state: MutexGuard<'_, State>) {
        let (room, ahead) = (state.room() > 0, state.ahead_room() > 0);
        drop(state);
        if room {
            self.room.notify_one();
        }
        if ahead {
            self.ahead.notify_one();
        }
    }

    /// Gives free slots to the steps that wait.
    fn serve(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().serving, true) {
            return;
        }
        while let Some(token) = self.next() {
            self.hook.give(token, Slot(self.clone()));
        }
    }

    /// Moves the next step to a free slot.
    fn next(&self) -> Option<CallbackToken> {
        let mut state = self.lock();
        let next = if state.busy < state.limit { state.pop() } else { None };
        state.busy += usize::from(next.is_some());
        state.serving = next.is_some();
        self.unlock(state);
        next
    }
}

impl Reservation {
    fn is_of(&self, slots: &Slots) -> bool {
        self.slots.as_ref().is_some_and(|inner| Arc::ptr_eq(inner, &slots.0))
    }

    /// Adds what is reserved of the limits of the step's handler.
    pub(crate) fn with(self, room: Option<Room>) -> Self {
        let mut reserved = self;
        reserved.room = room;
        reserved
    }

    /// It was reserved by a poll that looks ahead.
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Returns the room to the slots with this state.
    fn end(&mut self, state: &mut State) {
        if self.slots.take().is_some() {
            let count = if self.ahead { &mut state.ahead } else { &mut state.reserved };
            *count -= 1;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(inner) = self.slots.clone() {
            let mut state = inner.lock();
            self.end(&mut state);
            inner.unlock(state);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.serve();
    }
}
