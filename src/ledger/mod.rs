//! The durable records of steps: what the lifecycle decided, over a store that knows nothing of it.

mod config;
mod file;
mod memory;
mod sqlite;

#[cfg(test)]
mod claims;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

pub use config::{Config, Kind};
pub use file::OpenError;
pub use memory::Memory;
pub use sqlite::Sqlite;

use crate::lifecycle::{Lease, Record, Status, WorkerId};
use crate::seam::{Observation, Observer, Put, Row, Store, StoreError};
use crate::step::CallbackToken;

/// One worker's access to its ledger.
pub struct Ledger {
    store: Arc<dyn Store>,
    me: WorkerId,
    lease: Duration,
    observer: Arc<dyn Observer>,
    /// Since when each foreign claim has been seen at its version, by our own clock: the owner's clock may be wrong.
    watched: Mutex<BTreeMap<CallbackToken, (u64, Instant)>>,
    failing: AtomicBool,
}

/// Opens the storage that the configuration asks for.
///
/// # Errors
/// [`OpenError`] where it cannot be used.
pub fn open(config: &Config, observer: Arc<dyn Observer>) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match config.kind {
        Kind::Sqlite => Arc::new(Sqlite::open(&config.path, observer)?),
        Kind::Memory => Arc::new(Memory::new()),
        Kind::Dynamodb => return Err(OpenError::not_in_this_version()),
    })
}

/// All records of a SQLite ledger, which a daemon may have open at the same time.
///
/// # Errors
/// [`OpenError`] where the file cannot be read; a single record that cannot is an error in the list.
pub fn read(path: &Path) -> Result<Vec<Result<Record, LedgerError>>, OpenError> {
    Ok(Sqlite::read(path)?.into_iter().map(decode).collect())
}

/// Why the ledger did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The next call may work.
    #[error("the ledger failed: {0}")]
    Store(#[from] StoreError),
    /// This record will not get better by itself.
    #[error("the ledger's record of the step {token} cannot be read: {detail}")]
    Corrupt { token: CallbackToken, detail: String },
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// Durable; the record with its new version.
    Done(Box<Record>),
    /// Somebody else wrote it since it was read.
    Changed,
}

impl Ledger {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, me: WorkerId, lease: Duration, observer: Arc<dyn Observer>) -> Self {
        Self { store, me, lease, observer, watched: Mutex::default(), failing: AtomicBool::new(false) }
    }

    /// Who this worker is in the ledger.
    #[must_use]
    pub fn me(&self) -> &WorkerId {
        &self.me
    }

    /// How long a claim holds without renewal.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Whether claims must be renewed: others can have this ledger open too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.store.exclusive()
    }

    /// Whether the last write failed. No new steps are to be taken then.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The record of a step.
    ///
    /// # Errors
    /// [`LedgerError`] where it cannot be read.
    pub async fn load(&self, token: &CallbackToken) -> Result<Option<Record>, LedgerError> {
        self.store.get(token).await?.map(decode).transpose()
    }

    /// Writes a record if it is stored at the version that `record` has (0: not at all). Durable when it returns `Done`.
    ///
    /// # Errors
    /// [`LedgerError::Store`]; nothing is known of the write then, and the same write may be tried again.
    pub async fn write(&self, mut record: Record) -> Result<Written, LedgerError> {
        let expected = (record.version > 0).then_some(record.version);
        record.version += 1;
        let body = serde_json::to_string(&record).map_err(|error| StoreError(error.to_string()))?;
        let row = Row {
            token: record.token.clone(),
            version: record.version,
            status: record.status.as_str().to_owned(),
            settled_at: record.settled_at,
            body,
        };
        let put = self.store.put(row, expected).await;
        self.note(put.as_ref().err());
        Ok(match put? {
            Put::Done => Written::Done(Box::new(record)),
            Put::Changed => Written::Changed,
        })
    }

    /// All records in one of `statuses`, all where that is empty; those that cannot be read come as errors.
    ///
    /// # Errors
    /// [`LedgerError::Store`] where the list cannot be had at all.
    pub async fn list(&self, statuses: &[Status]) -> Result<Vec<Result<Record, LedgerError>>, LedgerError> {
        let names: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
        Ok(self.store.list(&names).await?.into_iter().map(decode).collect())
    }

    /// Removes what was settled before `before`, and says how many.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub async fn purge(&self, before: Timestamp) -> Result<usize, LedgerError> {
        Ok(self.store.purge(before).await?)
    }

    /// Finds out whether the ledger can be written again; [`is_failing`](Self::is_failing) tells.
    pub async fn probe(&self) {
        let probed = self.store.probe().await;
        self.note(probed.as_ref().err());
    }

    /// How the claim on a step stands, if another process holds it. In a ledger that only this process can have open, the other is
    /// dead; elsewhere it is, once the record has not changed for a whole lease before our eyes.
    pub fn foreign_lease(&self, record: &Record, now: Timestamp) -> Lease {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if record.owner.is_none() || record.owner.as_ref() == Some(&self.me) || !self.is_shared() {
            watched.remove(&record.token);
            return Lease::Over;
        }
        let seen = watched.entry(record.token.clone()).or_insert((record.version, Instant::now()));
        if seen.0 != record.version {
            *seen = (record.version, Instant::now());
        }
        let over = seen.1 + self.lease;
        match over.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Lease::Until(now.checked_add(left).unwrap_or(Timestamp::MAX)),
            _ => Lease::Over,
        }
    }

    fn note(&self, error: Option<&StoreError>) {
        if self.failing.swap(error.is_some(), Ordering::Relaxed) == error.is_some() {
            return;
        }
        self.observer.observe(Observation::LedgerFailing(error.is_some()));
        match error {
            Some(error) => tracing::error!(
                %error,
                "the ledger cannot be written: no new steps are taken until it can; free space on its disk or mend its permissions"
            ),
            None => tracing::info!("the ledger can be written again"),
        }
    }
}

fn decode(row: Row) -> Result<Record, LedgerError> {
    match serde_json::from_str::<Record>(&row.body) {
        Ok(record) => Ok(Record { version: row.version, ..record }),
        Err(error) => Err(LedgerError::Corrupt { token: row.token, detail: error.to_string() }),
    }
}
