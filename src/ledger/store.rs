//! What a ledger needs of its storage: rows that are read, written if nobody else wrote them, and
//! listed in pages.
//!
//! A store knows nothing of what a row means. It sees the columns that rows are selected by, and
//! carries the rest as text.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use jiff::Timestamp;

use crate::step::CallbackToken;

/// One record as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub head: Head,
    /// The record as JSON, without the two below.
    pub body: String,
    /// The step's arguments, as JSON. They may be large, so lists leave them out.
    pub arguments: Option<String>,
    /// The handler's checkpoint, as JSON. It may be large, so lists leave it out.
    pub checkpoint: Option<String>,
}

/// What a row is selected by. It repeats what lies in the body, so that a store can select without
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
    /// Somebody asked for a stop.
    pub flagged: bool,
    /// In whole milliseconds.
    pub settled_at: Option<Timestamp>,
    pub writer: Writer,
}

/// Who wrote a row, and under which clock: all times in it bear the names that the wall clock had
/// then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    /// The process; none for a row of a callbackd that did not say.
    pub id: Option<Arc<str>>,
    /// How far the wall clock had been set forward since that process began, in milliseconds.
    pub correction: i64,
}

/// A row that is not as it was written. The others are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("the ledger's record of {} cannot be read: {detail}", of(token.as_deref()))]
pub struct Damaged {
    /// As far as it can be told.
    pub token: Option<String>,
    pub detail: String,
}

/// When a write has to reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// At once.
    Now,
    /// Within about 20 ms: it waits that long for another to ride along with. It is no less durable
    /// when it returns.
    Soon,
}

/// What became of a conditional write.
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
    /// Of executions of this pipeline, whose name is compared without regard to case.
    pub pipeline: Option<String>,
    pub handler: Option<String>,
    /// Behind the last row of another page.
    pub after: Option<Cursor>,
    /// At most so many, at least 1.
    pub limit: usize,
}

/// Where a page ended; nothing but a store looks into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Some of the rows that were asked for, in an order that does not change while rows do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub found: Vec<Result<T, Damaged>>,
    /// Where the next page begins, if there may be one; also behind a page that is not full, or
    /// empty, where few rows match.
    pub next: Option<Cursor>,
}

/// Which settled rows are too old to keep: those that are so by the wall clock, and, if this
/// process wrote them, by its own time too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age {
    /// As the wall clock names it.
    pub named: Timestamp,
    /// The process that asks.
    pub me: Arc<str>,
    /// The same moment under no correction.
    pub moment: Timestamp,
}

/// A ledger's storage failed; the next call may work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Storage for records, knowing nothing of what they mean.
pub trait Store: Send + Sync {
    /// The row of a step, with all that was ever committed through this store.
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>>;

    /// Writes `row` if the stored version is still `expected` (`None`: there is no such record
    /// yet). Durable when it returns.
    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>>;

    /// The heads of the rows that `query` asks for.
    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>>;

    /// The rows that `query` asks for, without arguments and checkpoints.
    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>>;

    /// Removes what was settled before `age`, and says how many.
    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Writes something of no consequence, durably, to see whether writing works.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether what is written here outlives the process: fails if the place that it was opened at
    /// holds it no more.
    fn holds(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(ready(Ok(())))
    }

    /// Whether this process alone can have the store open, so that every other owner in it is dead.
    fn exclusive(&self) -> bool;

    /// Resolves if the store can serve nothing any more although nobody closed it, and says why.
    fn ended(&self) -> BoxFuture<'_, String>;
}

impl Query {
    /// The largest page that a store gives.
    pub const MOST: usize = 1000;

    /// How many rows to give.
    pub(super) fn bounded(&self) -> usize {
        self.limit.clamp(1, Self::MOST)
    }

    /// What the ARN of an execution of the pipeline holds, in small letters.
    pub(super) fn needle(&self) -> Option<String> {
        self.pipeline.as_ref().map(|name| format!(":pipeline/{}/", name.to_ascii_lowercase()))
    }

    /// Whether it asks for none but steps that are not settled: few among many, as a rule.
    pub(super) fn leaves_settled_out(&self) -> bool {
        !self.statuses.is_empty() && self.statuses.iter().all(|status| status != SETTLED)
    }
}

/// The one status that a store knows: rows of it are many, and are removed when they are old.
pub(super) const SETTLED: &str = "settled";

impl Head {
    pub(super) fn answers(&self, query: &Query) -> bool {
        (query.statuses.is_empty() || query.statuses.iter().any(|status| *status == self.status))
            && (query.handler.is_none() || query.handler.as_deref() == self.handler.as_deref())
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
