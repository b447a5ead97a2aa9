//! One held message: its receipt handle, its fate, and the pending call for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Failures;
use crate::seam::Received;
use crate::step::CallbackToken;

/// How long the first message of a batch of deletes waits for others. A step then costs a tenth of
/// a call.
pub(super) const LINGER: Duration = Duration::from_millis(50);

/// A message's id, shared between the table and its schedules.
pub(super) type Id = Arc<str>;

/// The step that a message is about, and whether the message is a stop.
pub(crate) type About = (CallbackToken, bool);

/// What is to be done with a message. It has exactly one fate at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Keep it invisible.
    Keep,
    /// Send a fresh copy, then delete this message.
    Copy,
    /// Make it visible, after this long.
    Release(Duration),
    /// Delete it. This is final.
    Delete,
    /// It is not held any more: the entry stays only until the pending call has returned.
    Forget,
}

/// A call for one message. At most one is pending at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Extend,
    Release,
    Delete,
    Copy,
}

/// Rules for all messages of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) visibility: Duration,
    pub(super) repost_after: Duration,
    /// Messages are made visible only once no poll of ours could receive them again.
    pub(super) releases_wait: bool,
    /// No copy is begun any more, and deletes do not wait for others.
    pub(super) closing: bool,
}

#[derive(Debug)]
pub(super) struct MessageEntry {
    pub(super) receipt_handle: Box<str>,
    /// `None` once the ledger holds the content.
    pub(super) body: Option<Arc<str>>,
    pub(super) trace: Option<Box<str>>,
    pub(super) about: Option<About>,
    /// When it becomes visible unless it is extended.
    pub(super) expires: Instant,
    /// `None` if there is nothing to make a copy from.
    repost_at: Option<Instant>,
    pub(super) fate: Fate,
    pub(super) call: Option<Job>,
    /// When its visibility is to be set next.
    pub(super) beat_at: Instant,
    /// When it is to be deleted or copied, if that is its fate.
    pub(super) act_at: Instant,
    /// Consecutive failures to delete it.
    pub(super) failures: Failures,
    pub(super) receives: u32,
    /// No step needs it here any more: if it cannot be copied, it is released.
    pub(super) passes_on: bool,
    /// A batch with it was refused as a whole: it is sent by itself next, to find the culprit.
    pub(super) alone: bool,
}

impl MessageEntry {
    pub(super) fn new(
        received: &Received,
        body: Option<Arc<str>>,
        about: Option<About>,
        terms: &Terms,
        now: Instant,
    ) -> Self {
        let mut entry = Self {
            receipt_handle: received.receipt_handle.as_str().into(),
            trace: received.trace.as_deref().map(Into::into),
            body,
            about,
            expires: now,
            repost_at: None,
            fate: Fate::Keep,
            call: None,
            beat_at: now,
            act_at: now,
            failures: Failures::default(),
            receives: received.receives,
            passes_on: false,
            alone: false,
        };
        entry.begin(terms, now);
        entry
    }

    /// It was received once more, with a newer receipt handle.
    pub(super) fn received_again(
        &mut self,
        received: &Received,
        body: Option<Arc<str>>,
        about: Option<About>,
        terms: &Terms,
        now: Instant,
    ) {
        // A released or forgotten message was bound to come back, and is held again.
        if matches!(self.fate, Fate::Release(_) | Fate::Forget) {
            let call = self.call;
            *self = Self { call, ..Self::new(received, body, about, terms, now) };
            return;
        }
        self.receipt_handle = received.receipt_handle.as_str().into();
        self.receives = received.receives;
        self.passes_on = false;
        self.about = about.or(self.about.take());
        if self.fate == Fate::Delete {
            self.failures.end();
            self.act_at = now + LINGER;
        }
        // The body of a message is always the same.
        if body.is_none() {
            self.drop_body();
        }
        self.begin(terms, now);
    }

    /// Its times count from now.
    fn begin(&mut self, terms: &Terms, now: Instant) {
        self.expires = now + terms.visibility;
        let can_be_copied = self.body.is_some() || self.about.is_some();
        self.repost_at = can_be_copied.then(|| now + terms.repost_after);
        self.beat(terms, now);
    }

    /// The ledger can provide the body from now on.
    pub(super) fn drop_body(&mut self) {
        if self.about.is_some() {
            self.body = None;
        }
    }

    pub(super) fn copy(&mut self, now: Instant) {
        if self.fate == Fate::Keep && self.repost_at.is_some() {
            self.fate = Fate::Copy;
            self.act_at = now;
        }
    }

    pub(super) fn pass_on(&mut self, terms: &Terms, now: Instant) {
        self.copy(now);
        if self.fate == Fate::Copy {
            self.passes_on = true;
        } else {
            self.release(Duration::ZERO, terms, now);
        }
    }

    /// Has it deleted at `at`, unless that was decided before. A message that is being deleted is
    /// never copied.
    pub(super) fn delete(&mut self, at: Instant) {
        if !matches!(self.fate, Fate::Delete | Fate::Forget) {
            self.fate = Fate::Delete;
            self.act_at = at;
            self.failures.end();
            self.body = None;
            self.trace = None;
        }
    }

    /// A copy of it is on the queue, so it is deleted whatever was decided meanwhile.
    pub(super) fn replaced(&mut self, at: Instant) {
        if self.fate != Fate::Delete {
            self.fate = Fate::Keep;
            self.delete(at);
        }
    }

    pub(super) fn release(&mut self, visible_in: Duration, terms: &Terms, now: Instant) {
        if !matches!(self.fate, Fate::Delete | Fate::Forget) {
            self.fate = Fate::Release(visible_in);
            self.body = None;
            if !terms.releases_wait {
                self.beat_at = now;
            }
        }
    }

    pub(super) fn forget(&mut self) {
        if self.fate != Fate::Delete {
            self.fate = Fate::Forget;
            self.body = None;
        }
    }

    /// Sets when its visibility is regularly set next: at half of its time, or at once to release
    /// it.
    pub(super) fn beat(&mut self, terms: &Terms, now: Instant) {
        let half = self.expires.checked_sub(terms.visibility / 2).unwrap_or(self.expires);
        self.beat_at = match (self.fate, self.repost_at) {
            (Fate::Release(_), _) if !terms.releases_wait => now,
            (Fate::Keep, Some(repost_at)) if !terms.closing => half.min(repost_at),
            _ => half,
        };
    }

    /// It is time to replace it by a fresh copy.
    pub(super) fn is_old(&self, terms: &Terms, now: Instant) -> bool {
        self.fate == Fate::Keep && !terms.closing && self.repost_at.is_some_and(|at| at <= now)
    }
}
