//! Which call is made next, and for which messages.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{About, Fate, Id, Job, LINGER};
use super::table::{Schedule, Table};

/// SQS's limit for a batch.
const BATCH: usize = 10;
/// Concurrent calls by operation. A hundred thousand held messages with a visibility timeout of two
/// minutes need some 170 calls a second.
const SETTINGS: usize = 8;
const DELETIONS: usize = 4;
const COPYINGS: usize = 4;

/// A call to make. Its messages are in no other call until [`done`](Table::done) has its answer.
#[derive(Debug)]
pub(super) enum Call {
    Set(Setting),
    Delete(Deletion),
    Copy(Copying),
}

/// Sets how long messages stay invisible.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) asked: Instant,
    pub(super) ids: Vec<Id>,
    pub(super) entries: Vec<(String, Duration)>,
}

#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) ids: Vec<Id>,
    pub(super) receipt_handles: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Copying {
    pub(super) id: Id,
    pub(super) body: Option<Arc<str>>,
    pub(super) about: Option<About>,
    pub(super) trace: Option<Box<str>>,
}

impl Table {
    /// The next call to make now, if any.
    pub(super) fn take(&mut self, now: Instant) -> Option<Call> {
        self.take_setting(now)
            .or_else(|| self.take_deletion(now))
            .or_else(|| self.take_copying(now))
    }

    /// When there is something to do next; `None` if nothing is known.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let beat =
            self.beats.first().filter(|_| self.under_way.settings < SETTINGS).map(|(at, _)| *at);
        let delete = self.next_delete(now).filter(|_| self.under_way.deletions < DELETIONS);
        let copies = !self.terms.closing && self.under_way.copyings < COPYINGS;
        let copy = self.copies.first().filter(|_| copies).map(|(at, _)| *at);
        [beat, delete, copy].into_iter().flatten().min()
    }

    /// Up to a batch of what is due, filled up with what will be due within a tenth of the
    /// visibility timeout.
    fn take_setting(&mut self, now: Instant) -> Option<Call> {
        if self.under_way.settings == SETTINGS {
            return None;
        }
        // Before anything else, so that a message that is replaced now does not end up in this
        // batch because of its age.
        while let Some((_, id)) = self.beats.first().filter(|(at, _)| *at <= now).cloned() {
            if !self.get(&id).is_some_and(|entry| entry.is_old(&self.terms, now)) {
                break;
            }
            self.change(&id, |entry, terms| {
                entry.copy(now);
                entry.beat(terms, now);
            });
        }
        self.beats.first().filter(|(at, _)| *at <= now)?;
        let ids = self.company(&self.beats, now + self.terms.visibility / 10);
        let mut entries = Vec::with_capacity(ids.len());
        for id in &ids {
            self.change(id, |entry, terms| {
                let (job, visible_in) = match entry.fate {
                    Fate::Release(visible_in) if !terms.releases_wait => (Job::Release, visible_in),
                    _ => (Job::Extend, terms.visibility),
                };
                entry.alone = false;
                entry.call = Some(job);
                entries.push((entry.receipt_handle.to_string(), visible_in));
            });
        }
        self.under_way.settings += 1;
        Some(Call::Set(Setting { asked: now, ids, entries }))
    }

    fn take_deletion(&mut self, now: Instant) -> Option<Call> {
        if self.under_way.deletions == DELETIONS || self.next_delete(now)? > now {
            return None;
        }
        let ids = self.company(&self.deletes, now + LINGER);
        let mut receipt_handles = Vec::with_capacity(ids.len());
        for id in &ids {
            self.change(id, |entry, _| {
                entry.alone = false;
                entry.call = Some(Job::Delete);
                receipt_handles.push(entry.receipt_handle.to_string());
            });
        }
        self.under_way.deletions += 1;
        Some(Call::Delete(Deletion { ids, receipt_handles }))
    }

    fn take_copying(&mut self, now: Instant) -> Option<Call> {
        let (_, id) = self.copies.first().filter(|(at, _)| *at <= now)?.clone();
        if self.under_way.copyings == COPYINGS || self.terms.closing {
            return None;
        }
        self.change(&id, |entry, _| entry.call = Some(Job::Copy));
        self.under_way.copyings += 1;
        let entry = self.get(&id)?;
        let (body, about, trace) = (entry.body.clone(), entry.about.clone(), entry.trace.clone());
        Some(Call::Copy(Copying { id, body, about, trace }))
    }

    /// Deletes wait for others until a batch is full; at the end they do not.
    fn next_delete(&self, now: Instant) -> Option<Instant> {
        let (first, _) = self.deletes.first()?;
        let soon = now + LINGER;
        let is_full =
            || self.deletes.iter().take(BATCH).filter(|(at, _)| *at <= soon).count() == BATCH;
        if self.terms.closing {
            Some(first.checked_sub(LINGER).unwrap_or(now))
        } else if is_full() {
            Some(now)
        } else {
            Some(*first)
        }
    }

    /// The first of a schedule, and what may go with it.
    fn company(&self, schedule: &Schedule, until: Instant) -> Vec<Id> {
        let is_alone = |id: &Id| self.get(id).is_some_and(|entry| entry.alone);
        let mut due = schedule.iter().take_while(|(at, _)| *at <= until).map(|(_, id)| id);
        let Some(first) = due.next() else { return Vec::new() };
        let mut ids = vec![first.clone()];
        if !is_alone(first) {
            ids.extend(due.take(BATCH - 1).filter(|id| !is_alone(id)).cloned());
        }
        ids
    }
}
