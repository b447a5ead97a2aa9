//! How many steps of a queue run here at once.
//!
//! A poll reserves room before it asks for messages. A step that goes on after a wait takes a slot before any reservation, so that an
//! idle long poll holds nobody up; what the poll then brings beyond the limit waits, invisible, for the next free slot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// The work slots of one queue.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    limit: usize,
    counts: Mutex<Counts>,
    /// Room may have come free for a poll.
    room: Notify,
}

#[derive(Default)]
struct Counts {
    busy: usize,
    reserved: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// Room that a poll has reserved for one message; given back when dropped.
pub(crate) struct Reservation(Arc<Inner>);

/// A step's leave to run; given back when dropped.
pub(crate) struct Slot(Arc<Inner>);

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, counts: Mutex::default(), room: Notify::new() }))
    }

    /// Waits until there is room and reserves as much as there is, at most `most`, at least one.
    pub(crate) async fn reserve(&self, most: usize) -> Vec<Reservation> {
        loop {
            let changed = self.0.room.notified();
            let reserved = self.try_reserve(most);
            if !reserved.is_empty() {
                return reserved;
            }
            changed.await;
        }
    }

    /// Reserves as much room as there is, at most `most`; perhaps none.
    pub(crate) fn try_reserve(&self, most: usize) -> Vec<Reservation> {
        let mut counts = self.0.lock();
        let room = self.0.limit.saturating_sub(counts.busy + counts.reserved + counts.waiting.len()).min(most);
        counts.reserved += room;
        (0..room).map(|_| Reservation(self.0.clone())).collect()
    }

    /// Waits for a slot, first come, first served.
    pub(crate) async fn acquire(&self, reservation: Option<Reservation>) -> Slot {
        let turn = {
            let mut counts = self.0.lock();
            if counts.busy < self.0.limit && counts.waiting.is_empty() {
                counts.busy += 1;
                Err(Slot(self.0.clone()))
            } else {
                let (give, turn) = oneshot::channel();
                counts.waiting.push_back(give);
                Ok(turn)
            }
        };
        drop(reservation);
        match turn {
            Err(slot) => slot,
            Ok(turn) => match turn.await {
                Ok(slot) => slot,
                // The sender lives in the queue of `Inner`, which we hold.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// How many slots are taken, and how many there are.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.0.lock().busy, self.0.limit)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.lock().reserved -= 1;
        self.0.room.notify_one();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let next = {
            let mut counts = self.0.lock();
            let mut waiting = std::mem::take(&mut counts.waiting).into_iter().skip_while(oneshot::Sender::is_closed);
            let next = waiting.next();
            counts.waiting = waiting.collect();
            if next.is_none() {
                counts.busy -= 1;
            }
            next
        };
        match next {
            // Handed on as it is. Where the one who waited has just gone, the slot comes back here and is dropped again.
            Some(next) => drop(next.send(Slot(self.0.clone()))),
            None => self.0.room.notify_one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_poll_gets_no_more_room_than_there_are_free_slots() {
        let slots = Slots::new(12);
        let first = slots.reserve(10).await;
        let second = slots.reserve(10).await;
        assert_eq!((first.len(), second.len()), (10, 2));
        assert!(slots.reserve(10).now_or_never().is_none());
        drop(second);
        assert_eq!(slots.reserve(10).await.len(), 2);
    }

    #[tokio::test]
    async fn an_idle_poll_holds_up_no_step_that_goes_on() {
        let slots = Slots::new(1);
        let reserved = slots.reserve(10).await.pop();
        let resumed = slots.acquire(None).now_or_never().expect("a slot at once");
        let brought = slots.acquire(reserved);
        tokio::pin!(brought);
        assert!(brought.as_mut().now_or_never().is_none());
        drop(resumed);
        assert!(brought.now_or_never().is_some());
        assert_eq!(slots.usage(), (0, 1));
    }

    #[tokio::test]
    async fn a_slot_is_not_lost_on_one_who_waited_and_went() {
        let slots = Slots::new(1);
        let first = slots.acquire(None).await;
        let gone = slots.acquire(None).now_or_never();
        assert!(gone.is_none());
        let waits = slots.acquire(None);
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waits.now_or_never().is_some());
        assert_eq!(slots.reserve(10).await.len(), 1);
    }
}
