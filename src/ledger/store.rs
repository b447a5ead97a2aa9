//! What a ledger needs from its storage: rows that are read, written conditionally, and listed in
//! pages.
//!
//! A store does not know what a row means. It uses the columns that rows are selected by, and
//! treats the rest as text.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use jiff::Timestamp;

use super::body;
use crate::clock::Clock;
use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// One record as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub head: Head,
    /// The record as JSON, without the next two fields.
    pub body: String,
    /// The step's arguments, as JSON. They may be large, so lists leave them out.
    pub arguments: Option<String>,
    /// The handler's checkpoint, as JSON. It may be large, so lists leave it out.
    pub checkpoint: Option<String>,
}

/// What a row is selected by. It repeats part of the body, so that a store can select rows without
/// reading that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub token: CallbackToken,
    /// Grows by one with each change of the record; the first is 1.
    pub version: u64,
    pub status: Cow<'static, str>,
    /// The URL of the step's queue.
    pub queue: Arc<str>,
    /// The ARN of the step's execution.
    pub execution: Arc<str>,
    pub handler: Option<Arc<str>>,
    pub owner: Option<Arc<str>>,
    /// The earlier of the step's deadline and its next attempt, in whole milliseconds.
    pub due: Option<Timestamp>,
    /// A stop was requested.
    pub flagged: bool,
    /// In whole milliseconds.
    pub settled_at: Option<Timestamp>,
    pub writer: Writer,
}

/// Which process wrote a row, and under which clock: all times in it are by the wall clock at that
/// time, or by the service's that keeps the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    /// The process; `None` for a row of a callbackd that did not record it.
    pub id: Option<Arc<str>>,
    /// How far the wall clock had been set forward since that process began, in milliseconds.
    pub correction: i64,
}

/// A row that is not as it was written. Other rows are unaffected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("the ledger's record of {} cannot be read: {detail}", of(token.as_deref()))]
pub struct Damaged {
    /// If it can be determined.
    pub token: Option<String>,
    pub detail: String,
}

/// When a write has to reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// At once.
    Now,
    /// Within about 20 ms: it waits that long for another write to share the commit. It is no less
    /// durable when it returns.
    Soon,
}

/// The result of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is durable.
    Done,
    /// The record is not at the expected version any more; nothing was written.
    Changed,
}

/// Which rows to list; each condition narrows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// One of these; any if empty.
    pub statuses: Vec<String>,
    /// Of executions of this pipeline; the name is compared without regard to case.
    pub pipeline: Option<String>,
    pub handler: Option<String>,
    /// With this text in the token, the pipeline's name or the key, without regard to case.
    pub search: Option<String>,
    /// Of this [part] of the steps.
    pub part: Option<u32>,
    /// Due at that time, or earlier.
    pub due: Option<Timestamp>,
    /// After the last row of another page.
    pub after: Option<Cursor>,
    /// At most this many, at least 1.
    pub limit: usize,
}

/// Where a page ended; only a store interprets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Some of the requested rows, in an order that does not change when rows do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub found: Vec<Result<T, Damaged>>,
    /// Where the next page begins, if there may be one; also after a page that is not full, or
    /// empty, if few rows match.
    pub next: Option<Cursor>,
}

/// Which settled rows are too old to keep: by the wall clock, and, if this process wrote them, also
/// by its own timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age {
    /// By the wall clock.
    pub named: Timestamp,
    /// The requesting process.
    pub me: Arc<str>,
    /// The same moment without correction.
    pub moment: Timestamp,
}

/// A ledger's storage failed; the next call may work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Storage for records, without knowledge of what they mean.
pub trait Store: Send + Sync {
    /// The row of a step, with everything that was ever committed through this store.
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>>;

    /// Writes `row` if the stored version is still `expected` (`None`: no record exists). Durable
    /// when it returns.
    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>>;

    /// The heads of the rows that `query` selects.
    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>>;

    /// The rows that `query` selects, without arguments and checkpoints.
    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>>;

    /// Removes what was settled before `age`; returns how many.
    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Writes something insignificant, durably, to test whether writing works.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// How many bytes the checkpoint of a row may have.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Whether the store takes a row of this size.
    fn fits(&self, _: &Row) -> bool {
        true
    }

    /// Whether what is written here outlives the process: fails if the place where it was opened no
    /// longer holds it.
    fn holds(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(ready(Ok(())))
    }

    /// A number that is another one once a different process has written to a store that is not
    /// shared. What this process writes should not change it, because each change has the store
    /// listed. Where workers share the store, the writer tells them ([`Workers::flag`]), and it
    /// never changes.
    fn changes_from_outside(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(ready(Ok(0)))
    }

    /// The workers that have the store open; `None` if only this process can, so that every other
    /// owner in it is dead.
    fn workers(&self) -> Option<&dyn Workers>;

    /// A clock that names moments by the time of the service that keeps the store, which is the
    /// same for all its workers; `None` if the wall clock names them. Ask once the store is open:
    /// the timeline begins then.
    fn clock(&self) -> Option<Clock> {
        None
    }

    /// Resolves with the reason if the store can no longer serve anything although it was not
    /// closed.
    fn ended(&self) -> BoxFuture<'_, String>;
}

/// Records of the workers that share a store. A worker's claims hold while its record does.
pub trait Workers: Send + Sync {
    /// The record of a worker; `None` if it has none, or has been fenced.
    fn worker<'a>(
        &'a self,
        worker: &'a WorkerId,
    ) -> BoxFuture<'a, Result<Option<Worker>, StoreError>>;

    /// All workers that have a record; a dead one too, until it is fenced.
    fn all(&self) -> BoxFuture<'_, Result<Vec<Member>, StoreError>>;

    /// Renews the record of a worker: its version grows by one if it still is `expected` (`None`:
    /// no record exists, and the first version is 1), `notice` takes the place of the last one, and
    /// the stops in `told` are removed from its set. Returns the set without them, or `None` if the
    /// record is not at the expected version.
    fn renew<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: Option<u64>,
        told: BTreeSet<CallbackToken>,
        notice: String,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<CallbackToken>>, StoreError>>;

    /// Removes the record of a worker if its version still is `expected`. [`Put::Done`] also if
    /// there is none.
    fn fence<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: u64,
    ) -> BoxFuture<'a, Result<Put, StoreError>>;

    /// Adds a step to the set of stops of a worker, if it has a record: the step was stopped, or
    /// changed by a command. The version stays.
    fn flag<'a>(
        &'a self,
        worker: &'a WorkerId,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// A worker of a shared store, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: WorkerId,
    pub version: u64,
    /// What it tells the others: a text below 1 KB that a store does not interpret.
    pub notice: String,
}

/// The record of a worker in a shared store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// Grows by one with each renewal.
    pub version: u64,
    /// Steps for which another worker has recorded a stop, or that a command has changed, as far as
    /// it has not been told.
    pub stops: BTreeSet<CallbackToken>,
    /// What it said with its last renewal.
    pub notice: String,
}

impl Query {
    /// The largest page that a store returns.
    pub const MAX_LIMIT: usize = 1000;

    /// How many rows to return.
    pub(crate) fn bounded(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }

    /// What the ARN of an execution of the pipeline contains, in lower case.
    pub(crate) fn needle(&self) -> Option<String> {
        self.pipeline.as_ref().map(|name| format!(":pipeline/{}/", name.to_ascii_lowercase()))
    }

    /// Whether a row has the text that is searched for.
    pub(crate) fn finds(&self, token: &str, execution: &str, body: &str) -> bool {
        let Some(wanted) = &self.search else { return true };
        let wanted = wanted.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        let mut pipeline = execution.split('/').skip(1).take(1);
        has(token) || pipeline.any(has) || body::key(body).is_some_and(|key| has(&key))
    }

    pub(crate) fn has_part(&self, token: &CallbackToken) -> bool {
        self.part.is_none_or(|wanted| wanted == part(token))
    }

    /// Whether it selects only unsettled steps: usually few among many.
    pub(crate) fn leaves_settled_out(&self) -> bool {
        !self.statuses.is_empty() && self.statuses.iter().all(|status| status != SETTLED)
    }
}

/// How many parts the steps of a shared store have. A list of one part costs the same whatever the
/// others hold, and each worker of a fleet of up to as many can have a part of its own.
pub const PARTS: u32 = 64;

/// The part that a step belongs to, in every worker: a hash (FNV-1a).
#[must_use]
pub fn part(token: &CallbackToken) -> u32 {
    let hash = token
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % PARTS
}

/// The one status that a store knows: its rows are many, and are removed when they are old.
pub(crate) const SETTLED: &str = "settled";

impl Row {
    pub(crate) fn answers(&self, query: &Query) -> bool {
        self.head.answers(query)
            && query.finds(self.head.token.as_str(), &self.head.execution, &self.body)
    }
}

impl Head {
    fn answers(&self, query: &Query) -> bool {
        (query.statuses.is_empty() || query.statuses.iter().any(|status| *status == self.status))
            && (query.handler.is_none() || query.handler.as_deref() == self.handler.as_deref())
            && query.has_part(&self.token)
            && query.due.is_none_or(|latest| self.due.is_some_and(|due| due <= latest))
            && query
                .needle()
                .is_none_or(|needle| self.execution.to_ascii_lowercase().contains(&needle))
    }

    pub(super) fn is_older_than(&self, age: &Age) -> bool {
        let mine = self.writer.id.as_ref() == Some(&age.me);
        let correction = jiff::SignedDuration::from_millis(self.writer.correction);
        let moment = |at: Timestamp| at.checked_sub(correction).unwrap_or(at);
        self.status == SETTLED
            && self
                .settled_at
                .is_some_and(|at| at < age.named && (!mine || moment(at) < age.moment))
    }
}

fn of(token: Option<&str>) -> String {
    token.map_or_else(|| "some step".to_owned(), |token| format!("the step {token}"))
}
