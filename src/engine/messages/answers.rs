//! What the answer to a call means for its messages.

use std::time::Duration;

use tokio::time::Instant;

use super::calls::{Copying, Deletion, Setting};
use super::entry::{Fate, Id, Job, LINGER, MessageEntry, Terms};
use super::table::Table;
use crate::backoff::Backoff;
use crate::seam::{Entries, Fault, FaultKind};

const DELETE_AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
const COPY_AGAIN: Duration = Duration::from_secs(10);

/// A call that has returned.
#[derive(Debug)]
pub(super) enum Done {
    Set(Setting, Result<Entries, Fault>),
    Delete(Deletion, Result<Entries, Fault>),
    Copy(Copying, Result<Sent, Fault>),
}

/// Whether a copy was sent, or was no longer wanted when it could have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    Unwanted,
}

/// An event that is worth a line in the log, for all messages of one call that it happened to.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) what: What,
    /// `None` if all is well.
    pub(super) fault: Option<Fault>,
    pub(super) messages: usize,
    /// One of them.
    pub(super) example: Id,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    NotKept,
    NotReleased,
    NotDeleted,
    NotCopied,
    NotPassedOn,
    /// A batch was refused as a whole: its messages are sent one by one.
    TakenApart,
    /// Not ours to keep any more, or refused permanently.
    LetGo,
    /// Not ours to delete any more, or refused permanently.
    Undeletable,
    Copied,
}

/// Why a message's part of a call failed, by what to do about it.
#[derive(Clone, Debug)]
enum Trouble {
    /// The same may work later.
    Passing(Fault),
    /// The message itself is the reason.
    Final(Fault),
    /// Some message of the batch is the reason; each is sent by itself to find out.
    Shared(Fault),
}

impl Table {
    /// Takes in the result of a call that [`take`](Self::take) returned. `random` is in `0.0..1.0`.
    pub(super) fn done(&mut self, done: Done, now: Instant, random: f64) -> Vec<Notice> {
        let mut notices = Vec::new();
        match done {
            Done::Set(Setting { asked, ids, entries }, result) => {
                self.under_way.settings -= 1;
                let receipt_handles =
                    entries.iter().map(|(receipt_handle, _)| receipt_handle.as_str());
                for ((id, receipt_handle), result) in
                    ids.iter().zip(receipt_handles).zip(each(result, ids.len()))
                {
                    self.change(id, |entry, terms| {
                        let what =
                            entry.was_set(receipt_handle, result.as_ref().err(), asked, terms, now);
                        note(&mut notices, what, id, result.err());
                    });
                }
            }
            Done::Delete(Deletion { ids, receipt_handles }, result) => {
                self.under_way.deletions -= 1;
                for ((id, receipt_handle), result) in
                    ids.iter().zip(&receipt_handles).zip(each(result, ids.len()))
                {
                    self.change(id, |entry, terms| {
                        let what = entry.was_deleted(
                            receipt_handle,
                            result.as_ref().err(),
                            terms,
                            now,
                            random,
                        );
                        note(&mut notices, what, id, result.err());
                    });
                }
            }
            Done::Copy(Copying { id, .. }, result) => {
                self.under_way.copyings -= 1;
                self.change(&id, |entry, terms| {
                    let what = entry.was_copied(&result, terms, now);
                    note(&mut notices, what, &id, result.err().map(Trouble::Passing));
                });
            }
        }
        notices
    }
}

impl MessageEntry {
    /// Its visibility was set by way of `receipt_handle`, or was not.
    fn was_set(
        &mut self,
        receipt_handle: &str,
        trouble: Option<&Trouble>,
        asked: Instant,
        terms: &Terms,
        now: Instant,
    ) -> Option<What> {
        let job = self.call.take();
        let outdated = *self.receipt_handle != *receipt_handle;
        if outdated || self.fate == Fate::Forget {
            // It was received again meanwhile, and the newer receipt handle has a time of its own.
            self.beat(terms, now);
            return None;
        }
        let is_release = matches!((job, self.fate), (Some(Job::Release), Fate::Release(_)));
        let Some(trouble) = trouble else {
            match job {
                Some(Job::Release) if is_release => self.fate = Fate::Forget,
                // It was decided otherwise after it had become visible: there is nothing to extend.
                Some(Job::Release) => self.beat_at = now + terms.visibility / 2,
                _ => {
                    self.expires = asked + terms.visibility;
                    self.beat(terms, now);
                }
            }
            return None;
        };
        match trouble {
            Trouble::Shared(_) => {
                (self.alone, self.beat_at) = (true, now);
                Some(What::TakenApart)
            }
            // Its deletion decides: it may work although the message can no longer be kept.
            Trouble::Final(_) if self.fate == Fate::Delete => {
                self.beat_at = now + terms.visibility / 2;
                Some(What::NotKept)
            }
            Trouble::Final(_) => {
                self.fate = Fate::Forget;
                Some(What::LetGo)
            }
            Trouble::Passing(_) if is_release && self.expires <= now => {
                self.fate = Fate::Forget;
                None
            }
            Trouble::Passing(_) => {
                let soon = (terms.visibility / 20)
                    .clamp(Duration::from_millis(500), Duration::from_secs(5));
                self.beat_at = now + if self.expires > now { soon } else { terms.visibility / 2 };
                Some(if is_release { What::NotReleased } else { What::NotKept })
            }
        }
    }

    /// It was deleted by way of `receipt_handle`, or was not.
    fn was_deleted(
        &mut self,
        receipt_handle: &str,
        trouble: Option<&Trouble>,
        terms: &Terms,
        now: Instant,
        random: f64,
    ) -> Option<What> {
        self.call = None;
        self.beat(terms, now);
        let outdated = *self.receipt_handle != *receipt_handle;
        match trouble {
            // An old receipt handle may delete nothing although the call is said to have worked.
            _ if outdated => {
                self.act_at = now;
                None
            }
            None => {
                self.fate = Fate::Forget;
                None
            }
            Some(Trouble::Final(_)) => {
                self.fate = Fate::Forget;
                Some(What::Undeletable)
            }
            Some(Trouble::Shared(_)) => {
                (self.alone, self.act_at) = (true, now);
                Some(What::TakenApart)
            }
            Some(Trouble::Passing(_)) => {
                self.act_at = now + self.failures.another(DELETE_AGAIN, random);
                Some(What::NotDeleted)
            }
        }
    }

    /// A copy of it was sent, or was not.
    fn was_copied(
        &mut self,
        result: &Result<Sent, Fault>,
        terms: &Terms,
        now: Instant,
    ) -> Option<What> {
        self.call = None;
        let what = match result {
            Ok(Sent::Yes) => {
                // Whatever was decided meanwhile: the copy exists, so this one must go.
                self.replaced(now + LINGER);
                Some(What::Copied)
            }
            Ok(Sent::Unwanted) => None,
            Err(_) if self.fate == Fate::Copy && self.passes_on => {
                self.release(Duration::ZERO, terms, now);
                Some(What::NotPassedOn)
            }
            Err(_) if self.fate == Fate::Copy => {
                self.act_at = now + COPY_AGAIN;
                Some(What::NotCopied)
            }
            Err(_) => None,
        };
        self.beat(terms, now);
        what
    }
}

/// The result of each of this many messages.
fn each(result: Result<Entries, Fault>, count: usize) -> Vec<Result<(), Trouble>> {
    let sort = |fault: Fault| match fault.kind {
        FaultKind::Transient | FaultKind::Denied | FaultKind::Misconfigured => {
            Trouble::Passing(fault)
        }
        FaultKind::Stale | FaultKind::Refused => Trouble::Final(fault),
    };
    let absent =
        || Err(Trouble::Passing(Fault::new(FaultKind::Transient, "the answer lacks this entry")));
    match result {
        Ok(entries) => {
            let mut each: Vec<_> = entries.into_iter().map(|entry| entry.map_err(sort)).collect();
            each.resize_with(count, absent);
            each
        }
        Err(fault) => {
            let trouble = match sort(fault) {
                Trouble::Final(fault) if count > 1 => Trouble::Shared(fault),
                trouble => trouble,
            };
            vec![Err(trouble); count]
        }
    }
}

/// Messages of one call to which the same happened for reasons of the same kind share a notice.
fn note(notices: &mut Vec<Notice>, what: Option<What>, id: &Id, trouble: Option<Trouble>) {
    let Some(what) = what else { return };
    let fault = trouble
        .map(|(Trouble::Passing(fault) | Trouble::Final(fault) | Trouble::Shared(fault))| fault);
    let kind = fault.as_ref().map(|fault| fault.kind);
    let is_same = |other: &&mut Notice| {
        other.what == what && other.fault.as_ref().map(|fault| fault.kind) == kind
    };
    match notices.iter_mut().find(is_same) {
        Some(notice) => notice.messages += 1,
        None => notices.push(Notice { what, fault, messages: 1, example: id.clone() }),
    }
}
