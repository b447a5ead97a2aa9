//! The messages of one queue that this worker holds: kept invisible, made visible again, replaced
//! by fresh copies, or deleted.
//!
//! One table has one entry for each message, with one fate. While a call for a message is pending
//! there is no other for it, and what was decided meanwhile is done when the call has returned.

mod answers;
mod calls;
mod complaints;
mod desk;
mod entry;
mod table;
#[cfg(test)]
mod tests;
mod work;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use entry::About;
pub(crate) use work::Bodies;

use crate::seam::{Observer, Queue, Received};
use desk::Desk;
use entry::{Fate, LINGER, MessageEntry, Terms};
use table::Table;
use work::World;

/// A message received this often is close to the dead-letter queue of a usual redrive policy.
const WORN: u32 = 3;

/// The held messages of one queue, by message id.
pub(crate) struct Messages(Desk);

impl Messages {
    /// Messages are kept invisible for `visibility` at a time, and replaced by fresh copies when
    /// they are `repost_after` old.
    pub(crate) fn new(visibility: Duration, repost_after: Duration) -> Self {
        Self(Desk::new(Table::new(visibility, repost_after)))
    }

    /// Holds a message that was just received.
    ///
    /// A message that is already held gets the newer receipt handle and keeps its fate: if it is
    /// being deleted, it is deleted by the newer receipt handle. If it was being released, that has
    /// happened, and it is held again.
    ///
    /// `keep_body` says that no ledger holds the body's content yet (see
    /// [`recorded`](Self::recorded)). Without a body and `about` it cannot be replaced by a copy.
    pub(crate) fn hold(&self, received: &Received, keep_body: bool, about: Option<About>) {
        self.0.change(|table, now| table.hold(received, keep_body, about, now));
    }

    /// The ledger holds the content of these messages' bodies: they are dropped here, and copies
    /// are made from the ledger.
    pub(crate) fn recorded(&self, ids: impl IntoIterator<Item = impl AsRef<str>>) {
        self.each(ids, |entry, _, _| entry.drop_body());
    }

    /// Has messages deleted. They are held until they are; this is final.
    pub(crate) fn delete(&self, ids: impl IntoIterator<Item = impl AsRef<str>>) {
        self.each(ids, |entry, _, now| entry.delete(now + LINGER));
    }

    /// Makes messages visible after `visible_in` and no longer holds them.
    pub(crate) fn release(
        &self,
        ids: impl IntoIterator<Item = impl AsRef<str>>,
        visible_in: Duration,
    ) {
        self.each(ids, |entry, terms, now| entry.release(visible_in, terms, now));
    }

    /// No longer holds messages, unless they are being deleted; they come back after their
    /// visibility timeout.
    pub(crate) fn forget(&self, ids: impl IntoIterator<Item = impl AsRef<str>>) {
        self.each(ids, |entry, _, _| entry.forget());
    }

    /// Replaces messages by fresh copies, and no longer holds them. If that fails they are made
    /// visible.
    pub(crate) fn pass_on(&self, ids: impl IntoIterator<Item = impl AsRef<str>>) {
        self.each(ids, MessageEntry::pass_on);
    }

    /// Replaces those that were received three times or more by fresh copies.
    pub(crate) fn replace(&self, ids: impl IntoIterator<Item = impl AsRef<str>>) {
        self.each(ids, |entry, _, now| {
            if entry.receives >= WORN {
                entry.copy(now);
            }
        });
    }

    /// Whether the message is held, and neither given back nor deleted.
    pub(crate) fn keeps(&self, id: &str) -> bool {
        let keeps = |entry: &MessageEntry| matches!(entry.fate, Fate::Keep | Fate::Copy);
        self.0.look(|table| table.get(id).is_some_and(keeps))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.look(|table| table.sums.held)
    }

    /// Bytes of the bodies in memory.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.0.look(|table| table.sums.bytes)
    }

    /// From now on, releases wait for [`open_releases`](Self::open_releases).
    pub(crate) fn delay_releases(&self) {
        self.0.change(|table, _| table.terms.releases_wait = true);
    }

    pub(crate) fn open_releases(&self) {
        self.0.change(Table::open);
    }

    /// Lets [`work`](Self::work) end once nothing is left to delete or release.
    pub(crate) fn close(&self) {
        self.0.change(|table, _| table.terms.closing = true);
    }

    /// Makes the calls for these messages until closed.
    pub(crate) async fn work(
        &self,
        queue: &dyn Queue,
        bodies: &dyn Bodies,
        observer: &dyn Observer,
        queue_name: &str,
    ) {
        work::work(&self.0, World { queue, bodies, observer, queue_name }).await;
    }

    fn each(
        &self,
        ids: impl IntoIterator<Item = impl AsRef<str>>,
        change: impl Fn(&mut MessageEntry, &Terms, Instant),
    ) {
        self.0.change(|table, now| {
            for id in ids {
                table.change(id.as_ref(), |entry, terms| change(entry, terms, now));
            }
        });
    }
}
