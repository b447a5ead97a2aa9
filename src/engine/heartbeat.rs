//! Keeps the messages that this worker holds invisible, ten to a call, each at half of its visibility timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::settle::Deletes;
use crate::seam::{Entries, Fault, FaultKind, Observation, Observer, Queue, Received};

/// The messages of one queue that are held here, by message id.
pub(crate) struct Held {
    table: Mutex<Table>,
    news: Notify,
    visibility: Duration,
    repost_after: Duration,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// What is to be done next, in order of time. An entry with a call under way is not in it.
    due: BTreeSet<(Instant, String)>,
    /// Messages to be made visible are kept until no poll of ours could take them again.
    releases_wait: bool,
    closing: bool,
}

struct Entry {
    handle: String,
    body: Arc<str>,
    trace: Option<String>,
    /// When it becomes visible unless extended.
    expires: Instant,
    repost_at: Instant,
    due: Option<Instant>,
    failures: u32,
    release: Option<Duration>,
    /// A batch with this entry was refused as a whole: it goes by itself, to find out which is to blame.
    alone: bool,
}

/// What to do about one due entry.
enum Task {
    Visibility(Change),
    Repost { id: String, body: Arc<str>, trace: Option<String> },
}

/// One entry of a call that sets visibilities.
struct Change {
    id: String,
    handle: String,
    visible_in: Duration,
    release: bool,
}

/// What came of a call.
enum Done {
    Visibility { changes: Vec<Change>, asked: Instant, result: Result<Entries, Fault> },
    Repost { id: String, result: Result<(), Fault> },
}

/// Calls under way at once: a hundred thousand held messages at a visibility timeout of two minutes need some 170 calls a second.
const CALLS: usize = 8;
/// SQS's limit for a batch.
const BATCH: usize = 10;

impl Held {
    pub(crate) fn new(visibility: Duration, repost_after: Duration) -> Self {
        Self { table: Mutex::default(), news: Notify::new(), visibility, repost_after }
    }

    /// Holds a message that was just received. A newer receipt handle of a message replaces the older one.
    pub(crate) fn hold(&self, received: &Received) {
        let now = Instant::now();
        let mut table = self.lock();
        table.remove(&received.id);
        let entry = Entry {
            handle: received.handle.clone(),
            body: received.body.as_str().into(),
            trace: received.trace.clone(),
            expires: now + self.visibility,
            repost_at: now + self.repost_after,
            due: None,
            failures: 0,
            release: None,
            alone: false,
        };
        table.entries.insert(received.id.clone(), entry);
        table.schedule(&received.id, (now + self.visibility / 2).min(now + self.repost_after));
        drop(table);
        self.news.notify_one();
    }

    /// Makes messages visible after `visible_in` and holds them no longer.
    pub(crate) fn release(&self, ids: impl IntoIterator<Item = String>, visible_in: Duration) {
        let mut table = self.lock();
        for id in ids {
            if let Some(entry) = table.entries.get_mut(&id) {
                entry.release = Some(visible_in);
                entry.failures = 0;
                if entry.due.is_some() && !table.releases_wait {
                    table.schedule(&id, Instant::now());
                }
            }
        }
        drop(table);
        self.news.notify_one();
    }

    /// Holds messages no longer; they come back when their visibility timeout is over, unless deleted before.
    pub(crate) fn forget<'a>(&self, ids: impl IntoIterator<Item = &'a String>) {
        let mut table = self.lock();
        for id in ids {
            table.remove(id);
        }
        drop(table);
        self.news.notify_one();
    }

    /// The newest receipt handle of a message, if it is held.
    pub(crate) fn handle(&self, id: &str) -> Option<String> {
        self.lock().entries.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// From now on, releases wait for [`open_releases`](Self::open_releases).
    pub(crate) fn delay_releases(&self) {
        self.lock().releases_wait = true;
    }

    pub(crate) fn open_releases(&self) {
        let mut table = self.lock();
        table.releases_wait = false;
        let waiting: Vec<String> = table
            .entries
            .iter()
            .filter(|(_, e)| e.release.is_some() && e.due.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            table.schedule(&id, Instant::now());
        }
        drop(table);
        self.news.notify_one();
    }

    /// Lets [`beat`](Self::beat) end once nothing is left to release.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.news.notify_one();
    }

    /// Extends, releases and reposts until closed.
    pub(crate) async fn beat(&self, queue: &dyn Queue, deletes: &Deletes, observer: &dyn Observer) {
        let mut calls: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        loop {
            while calls.len() < CALLS {
                let tasks = self.lock().take_due(Instant::now(), self.visibility);
                if tasks.is_empty() {
                    break;
                }
                start(&mut calls, queue, tasks);
            }
            let next = {
                let table = self.lock();
                if table.closing && calls.is_empty() && !table.entries.values().any(|entry| entry.release.is_some()) {
                    return;
                }
                table.due.first().filter(|_| calls.len() < CALLS).map(|(due, _)| *due)
            };
            tokio::select! {
                biased;
                Some(done) = calls.next(), if !calls.is_empty() => self.done(done, deletes, observer),
                () = self.news.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn done(&self, done: Done, deletes: &Deletes, observer: &dyn Observer) {
        match done {
            Done::Visibility { changes, asked, result } => {
                let mut fault = result.as_ref().err().cloned();
                if let Some(fault) =
                    fault.as_mut().filter(|fault| fault.kind == FaultKind::Refused && changes.len() > 1)
                {
                    self.separate(&changes);
                    fault.kind = FaultKind::Transient;
                }
                let mut entries = result.unwrap_or_default().into_iter();
                for change in changes {
                    let result = match &fault {
                        Some(fault) => Err(fault.clone()),
                        None => entries
                            .next()
                            .unwrap_or_else(|| Err(Fault::new(FaultKind::Transient, "the answer lacks this entry"))),
                    };
                    self.changed(change, asked, result, observer);
                }
            }
            Done::Repost { id, result: Ok(()) } => {
                tracing::info!(
                    message_id = id,
                    "replaced a message that nears SQS's limit of 12 hours by a fresh copy"
                );
                deletes.push([id]);
            }
            Done::Repost { id, result: Err(fault) } => {
                tracing::warn!(message_id = id, error = %fault, "a fresh copy of a message could not be sent; it is tried again");
                let again = Instant::now() + Duration::from_secs(10);
                let mut table = self.lock();
                let next = table.entries.get_mut(&id).map(|entry| {
                    entry.repost_at = again;
                    entry.next(self.visibility)
                });
                if let Some(next) = next {
                    table.schedule(&id, next);
                }
            }
        }
    }

    fn separate(&self, changes: &[Change]) {
        let mut table = self.lock();
        for change in changes {
            if let Some(entry) = table.entries.get_mut(&change.id) {
                entry.alone = true;
            }
        }
    }

    fn changed(&self, change: Change, asked: Instant, result: Result<(), Fault>, observer: &dyn Observer) {
        let Change { id, handle, visible_in, release } = change;
        let now = Instant::now();
        let mut table = self.lock();
        let pending = !table.releases_wait;
        // Received again meanwhile: the newer handle has a schedule of its own.
        let Some(entry) = table.entries.get_mut(&id).filter(|entry| entry.handle == handle) else { return };
        match result {
            Ok(()) if release => drop(table.remove(&id)),
            Ok(()) => {
                entry.failures = 0;
                entry.expires = asked + visible_in;
                let next = if entry.release.is_some() && pending { now } else { entry.next(self.visibility) };
                table.schedule(&id, next);
            }
            Err(_) if release && entry.expires <= now => drop(table.remove(&id)),
            Err(fault) => {
                observer.observe(Observation::HeartbeatFailed { queue: "", messages: 1 });
                if matches!(fault.kind, FaultKind::Stale | FaultKind::Refused) {
                    tracing::warn!(message_id = id, error = %fault, "a message is not ours to keep any more; its step goes on");
                    table.remove(&id);
                    return;
                }
                entry.failures += 1;
                tracing::warn!(message_id = id, error = %fault, failures = entry.failures, "a message could not be kept invisible; tried again");
                let wait = (self.visibility / 20).clamp(Duration::from_millis(500), Duration::from_secs(5));
                table.schedule(&id, now + wait);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn schedule(&mut self, id: &str, at: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            if let Some(before) = entry.due.replace(at) {
                self.due.remove(&(before, id.to_owned()));
            }
            self.due.insert((at, id.to_owned()));
        }
    }

    fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        if let Some(due) = entry.due {
            self.due.remove(&(due, id.to_owned()));
        }
        Some(entry)
    }

    /// Up to a batch of what is due, and, to fill it, of what will be within a tenth of the visibility timeout.
    fn take_due(&mut self, now: Instant, visibility: Duration) -> Vec<Task> {
        let mut tasks = Vec::new();
        if self.due.first().is_none_or(|(due, _)| *due > now) {
            return tasks;
        }
        while tasks.len() < BATCH {
            let Some((due, id)) = self.due.first().filter(|(due, _)| *due <= now + visibility / 10).cloned() else {
                break;
            };
            self.due.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.alone && !tasks.is_empty() {
                self.due.insert((due, id));
                break;
            }
            let alone = std::mem::take(&mut entry.alone);
            entry.due = None;
            let release = entry.release.filter(|_| !self.releases_wait);
            if release.is_none() && entry.repost_at <= now {
                tasks.push(Task::Repost { id, body: entry.body.clone(), trace: entry.trace.clone() });
            } else {
                let (handle, visible_in) = (entry.handle.clone(), release.unwrap_or(visibility));
                tasks.push(Task::Visibility(Change { id, handle, visible_in, release: release.is_some() }));
            }
            if alone {
                break;
            }
        }
        tasks
    }
}

impl Entry {
    /// When something is to be done about it in the ordinary course.
    fn next(&self, visibility: Duration) -> Instant {
        self.expires.checked_sub(visibility / 2).unwrap_or(self.expires).min(self.repost_at)
    }
}

fn start<'a>(calls: &mut FuturesUnordered<BoxFuture<'a, Done>>, queue: &'a dyn Queue, tasks: Vec<Task>) {
    let asked = Instant::now();
    let mut changes = Vec::new();
    let mut entries = Vec::new();
    for task in tasks {
        match task {
            Task::Visibility(change) => {
                entries.push((change.handle.clone(), change.visible_in));
                changes.push(change);
            }
            Task::Repost { id, body, trace } => calls.push(Box::pin(async move {
                let result = queue.send(&body, trace.as_deref()).await;
                Done::Repost { id, result }
            })),
        }
    }
    if !entries.is_empty() {
        calls.push(Box::pin(async move {
            let result = queue.set_visibility(&entries).await;
            Done::Visibility { changes, asked, result }
        }));
    }
}
