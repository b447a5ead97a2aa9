//! The ledger's storage, as the ledger sees it.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::step::CallbackToken;

/// One record as a store keeps it. The columns repeat what lies in the body, so that a store can select without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub token: CallbackToken,
    /// Grows by one with each write; the first is 1.
    pub version: u64,
    pub status: String,
    pub settled_at: Option<Timestamp>,
    /// The whole record, as JSON.
    pub body: String,
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is durable.
    Done,
    /// The record is not at the expected version any more; nothing was written.
    Changed,
}

/// A ledger's storage failed; the next call may work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Storage for records, knowing nothing of what they mean.
pub trait Store: Send + Sync {
    fn get<'a>(&'a self, token: &'a CallbackToken) -> BoxFuture<'a, Result<Option<Row>, StoreError>>;

    /// Writes `row` if the stored version is still `expected` (`None`: there is no such record yet). Durable when it returns.
    fn put(&self, row: Row, expected: Option<u64>) -> BoxFuture<'_, Result<Put, StoreError>>;

    /// All rows whose status is one of `statuses`; all rows where that is empty.
    fn list<'a>(&'a self, statuses: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Row>, StoreError>>;

    /// Removes what was settled before `before`, and says how many.
    fn purge(&self, before: Timestamp) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Writes something of no consequence, durably, to see whether writing works.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether this process alone can have the store open, so that every other owner in it is dead.
    fn exclusive(&self) -> bool;
}
