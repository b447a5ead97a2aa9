//! The durable records of steps: what the lifecycle decided, stored without knowing what it means.
//!
//! All times outside the store are on the worker's timeline; all times in a store are by the wall
//! clock, or by the time of the service that keeps a shared one ([`Store::clock`]), which takes the
//! wall clock's place in all that follows. They are converted here. A row says which process wrote
//! it and how far the clock had been set by then, so a process reads its own times back exactly,
//! whatever happens to the clock; times of an earlier process are taken by the wall clock.

mod answer;
mod beside;
mod body;
mod config;
mod event;
mod form;
mod leases;
mod memory;
mod shared;
mod sqlite;
pub mod store;
mod term;
mod trouble;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready, try_join_all};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::Semaphore;

pub use answer::{Given, NotGiven};
pub use beside::{accept, open_beside};
pub use config::{Config, Kind};
pub use form::Outline;
pub use memory::Memory;
pub use shared::Renewed;
pub use sqlite::{CopyError, Look, OpenError, Progress, Sqlite};
pub use store::{Commit, Cursor, Damaged, Page, Store, StoreError, Worker, Workers};
pub use verify::{Census, Flaw, verify, verify_file};

use crate::clock::{self, Clock};
use crate::lifecycle::{Lease, Record, Status, WorkerId};
use crate::seam::{Observation, Observer};
use crate::step::CallbackToken;
use leases::Leases;
pub(crate) use store::Put;
use store::{Age, Head, Query, Row, Writer};
use trouble::{Part, Trouble};

/// One worker's access to its ledger.
pub struct Ledger {
    store: Arc<dyn Store>,
    leases: Arc<Leases>,
    clock: Clock,
    observer: Arc<dyn Observer>,
    /// Permits to read a step from a shared store, and to write one.
    readings: Arc<Semaphore>,
    writings: Arc<Semaphore>,
    trouble: Mutex<Trouble>,
    /// Records that were reported as damaged, so that each is reported once.
    damaged: Mutex<BTreeSet<Option<String>>>,
}

/// Opens the configured storage on this machine; `progress` counts up meanwhile.
///
/// # Errors
/// [`OpenError`] if it cannot be used.
pub fn open(
    config: &Config,
    observer: Arc<dyn Observer>,
    progress: &Progress,
) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match config.kind {
        Kind::Sqlite => Arc::new(Sqlite::open_telling(&config.path, observer, progress)?),
        Kind::Memory => Arc::new(Memory::new()),
        Kind::Dynamodb => return Err(OpenError::not_here()),
    })
}

/// Calls `each` for all records of a SQLite ledger, which a daemon may have open at the same time.
/// Their times are by the wall clock.
///
/// # Errors
/// [`OpenError`] if the file cannot be read.
pub fn read(path: &Path, mut each: impl FnMut(Result<Record, Damaged>)) -> Result<(), OpenError> {
    Sqlite::read(path, |row| each(row.and_then(form::record)))
}

/// The record of a step in a SQLite ledger, which a daemon may have open at the same time, and
/// which need not be writable. Its times are by the wall clock.
///
/// # Errors
/// [`OpenError`] if the file cannot be read.
pub fn find_in(
    path: &Path,
    token: &CallbackToken,
) -> Result<Option<Result<Record, Damaged>>, OpenError> {
    Ok(Sqlite::find(path, token)?.map(|row| row.and_then(form::record)))
}

/// Calls `each` for the records of a store in one of `statuses`, in any if there are none, without
/// their arguments and checkpoints. Their times are by the wall clock.
///
/// # Errors
/// [`StoreError`] if they cannot be listed.
pub async fn list(
    store: &dyn Store,
    statuses: &[Status],
    mut each: impl FnMut(Result<Record, Damaged>),
) -> Result<(), StoreError> {
    let mut query = Filter::of(statuses).query();
    loop {
        let page = store.page(query.clone()).await?;
        page.found.into_iter().for_each(|row| each(row.and_then(form::record)));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(()),
        }
    }
}

/// The record of a step in a store. Its times are by the wall clock.
///
/// # Errors
/// [`StoreError`] if it cannot be asked for.
pub async fn find(
    store: &dyn Store,
    token: &CallbackToken,
) -> Result<Option<Result<Record, Damaged>>, StoreError> {
    let row = store.get(token).await?;
    Ok(row.map(|row| row.and_then(form::record)))
}

/// Why a request to the ledger failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The next call may work.
    #[error("the ledger failed: {0}")]
    Store(#[from] StoreError),
    /// This record will not recover by itself.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// Durable; the record with its new version.
    Done(Box<Record>),
    /// Something else wrote it since it was read.
    Changed,
}

/// Which records to list; each condition narrows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// With one of these statuses; with any if empty.
    pub statuses: Vec<Status>,
    /// Of executions of this pipeline; the name is compared without regard to case.
    pub pipeline: Option<String>,
    pub handler: Option<String>,
    /// With this text in the token, the pipeline's name or the key, without regard to case.
    pub search: Option<String>,
    /// Of this [part](store::part) of the steps.
    pub part: Option<u32>,
    /// Due at that time, or earlier.
    pub due: Option<Timestamp>,
    /// After another page.
    pub after: Option<Cursor>,
    /// At most this many: 1 to [`Filter::MAX_LIMIT`].
    pub limit: usize,
}

impl Filter {
    /// The largest page.
    pub const MAX_LIMIT: usize = Query::MAX_LIMIT;

    /// The steps in one of `statuses`, in the largest pages.
    #[must_use]
    pub fn of(statuses: &[Status]) -> Self {
        Self { statuses: statuses.to_vec(), limit: Self::MAX_LIMIT, ..Self::default() }
    }

    fn query(self) -> Query {
        let statuses = self.statuses.iter().map(|status| status.as_str().to_owned()).collect();
        let Self { pipeline, handler, search, part, due, after, limit, .. } = self;
        Query { statuses, pipeline, handler, search, part, due, after, limit }
    }
}

/// All but settled, for records that a process may still have to handle.
const UNSETTLED: [Status; 5] =
    [Status::Owed, Status::Claimed, Status::Waiting, Status::Deferred, Status::Concluded];
/// Records that are rewritten at a time; they are in memory as a whole.
const RENAMED: usize = 100;
/// Steps that are read, and written, at a time in a shared store: of thousands that change at once,
/// as in a drain, so many are sent again while the store throttles; without throttling they are
/// thousands a second. Reads, of which there are more, never hold up writes.
const READ_AT_ONCE: usize = 128;
const WRITTEN_AT_ONCE: usize = 32;
/// Damaged records that are named one by one.
const NAMED: usize = 1000;

impl Ledger {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        me: WorkerId,
        lease: Duration,
        clock: Clock,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (trouble, damaged) = Default::default();
        let leases = Arc::new(Leases::new(me, lease));
        let [readings, writings] =
            [READ_AT_ONCE, WRITTEN_AT_ONCE].map(|most| Arc::new(Semaphore::new(most)));
        Self { store, leases, clock, observer, readings, writings, trouble, damaged }
    }

    /// The id under which this worker claims steps: that of its process, and another one after each
    /// time that its lease was lost.
    #[must_use]
    pub fn me(&self) -> WorkerId {
        self.leases.me()
    }

    /// How long a worker's claims are valid without renewal.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.leases.lease()
    }

    /// Whether this worker's lease must be renewed, because other workers can have this ledger open
    /// too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store.workers().is_some()
    }

    /// Whether some part of it failed when it was last used. No new steps are accepted meanwhile.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.trouble().is_any()
    }

    /// What is failing, for people.
    #[must_use]
    pub fn ailment(&self) -> Option<&'static str> {
        self.trouble().first().map(Part::ails)
    }

    /// How many damaged records were found.
    #[must_use]
    pub fn damaged(&self) -> usize {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Resolves with the reason if the ledger can no longer serve anything.
    pub async fn ended(&self) -> String {
        self.store.ended().await
    }

    /// The record of a step.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be read.
    pub async fn load(&self, token: &CallbackToken) -> Result<Option<Record>, LedgerError> {
        let got = self.in_turn(&self.readings, self.store.get(token)).await;
        self.note(Part::Records, got.as_ref().err());
        if got.is_err() {
            self.trouble().unread = Some(token.clone());
        }
        let mut found =
            got?.map(|found| self.noticed(found.and_then(|row| self.record(row)))).transpose()?;
        if let Some(owner) = found.as_ref().and_then(|record| record.owner.as_ref()) {
            self.look_at(owner).await?;
        }
        if let Some(record) = &mut found {
            self.give_back(record);
            self.remind(record).await;
        }
        Ok(found)
    }

    /// Writes a record if the stored version is that of `record` (0: not stored). Durable when it
    /// returns `Done`.
    ///
    /// # Errors
    /// [`LedgerError::Store`]; the result of the write is then unknown, and the same write may be
    /// tried again.
    pub async fn write(&self, mut record: Record, commit: Commit) -> Result<Written, LedgerError> {
        let before = record.clone();
        let put = self.begin(&before, &mut record, commit).await;
        Ok(match self.end(put)? {
            Put::Done => Written::Done(Box::new(record)),
            Put::Changed => Written::Changed,
        })
    }

    /// [`write`](Self::write) of what has become of the record `before`, for a caller that keeps
    /// the new one meanwhile: it gets its new version at once. Pass the store's answer to
    /// [`end`](Self::end).
    pub(crate) fn begin(
        &self,
        before: &Record,
        record: &mut Record,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let expected = (record.version > 0).then_some(record.version);
        record.version += 1;
        let row = match self.row(record) {
            Ok(row) => row,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        if self.is_shared() {
            self.put_beside_others(before, record, row, expected, commit)
        } else {
            self.store.put(row, expected, commit)
        }
    }

    /// Why a checkpoint cannot be kept, if it is too large for the store.
    pub(crate) fn refuses(&self, checkpoint: &Value) -> Option<String> {
        let room = self.store.room();
        if room == usize::MAX {
            return None;
        }
        let bytes = serde_json::to_vec(checkpoint).map_or(0, |json| json.len());
        (bytes > room).then(|| {
            format!("the checkpoint has {bytes} bytes, and the ledger keeps at most {room}")
        })
    }

    /// Records whether the store works.
    pub(crate) fn end(&self, put: Result<Put, StoreError>) -> Result<Put, LedgerError> {
        // Without a lease the store may not even have been asked, and the lease's own trouble is
        // noted.
        if put.is_ok() || self.claims_hold() {
            self.note(Part::Writing, put.as_ref().err());
        }
        Ok(put?)
    }

    /// A page of what the ledger holds, without reading whole records.
    ///
    /// # Errors
    /// [`LedgerError::Store`] if there is no list at all; a damaged record is an error within it.
    pub async fn outlines(&self, filter: Filter) -> Result<Page<Outline>, LedgerError> {
        let page = self.listed(self.store.outlines(self.query(filter)).await)?;
        Ok(self.decoded(page, |head| {
            let by = self.correction_of(&head);
            let outline = form::outline(head)?;
            Ok(Outline { due: outline.due.map(|at| clock::shifted(at, -by)), ..outline })
        }))
    }

    /// A page of records without their arguments and checkpoints, which may be large.
    ///
    /// # Errors
    /// [`LedgerError::Store`] if there is no list at all; a damaged record is an error within it.
    pub async fn page(&self, filter: Filter) -> Result<Page<Record>, LedgerError> {
        let page = self.listed(self.store.page(self.query(filter)).await)?;
        Ok(self.decoded(page, |row| self.record(row)))
    }

    /// Removes what was settled before `before`; returns how many.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub async fn purge(&self, before: Timestamp) -> Result<usize, LedgerError> {
        let age = Age {
            named: self.clock.name(before),
            me: self.leases.process().clone(),
            moment: before,
        };
        Ok(self.store.purge(age).await?)
    }

    /// Converts the times that this process wrote, in unsettled records, to the wall clock as it is
    /// now. Call it when the clock was set, so that the next process reads them correctly. Returns
    /// how many.
    ///
    /// # Errors
    /// [`LedgerError::Store`]; another call may convert the rest.
    pub async fn rename(&self) -> Result<usize, LedgerError> {
        let mut filter = Filter::of(&UNSETTLED);
        let mut count = 0;
        loop {
            let page = self.listed(self.store.outlines(filter.clone().query()).await)?;
            let stale: Vec<Head> = page
                .found
                .into_iter()
                .flatten()
                .filter(|head| self.bears_old_names(head))
                .collect();
            for some in stale.chunks(RENAMED) {
                let renamed = try_join_all(some.iter().map(|head| self.rename_one(head))).await?;
                count += renamed.into_iter().filter(|renamed| *renamed).count();
            }
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(count),
            }
        }
    }

    async fn rename_one(&self, head: &Head) -> Result<bool, LedgerError> {
        let Some(Ok(row)) = self.store.get(&head.token).await? else { return Ok(false) };
        if row.head != *head {
            // The writer that changed it since already used the new times.
            return Ok(false);
        }
        let Ok(record) = self.record(row) else { return Ok(false) };
        // The record is the same, and so is its version: a holder need not read it again.
        let row = self.row(&record)?;
        Ok(self.store.put(row, Some(record.version), Commit::Now).await? == Put::Done)
    }

    fn bears_old_names(&self, head: &Head) -> bool {
        head.writer.id.as_ref() == Some(self.leases.process())
            && head.writer.correction != milliseconds(self.clock.correction())
    }

    /// Tests whether what failed works again; [`is_failing`](Self::is_failing) returns the result.
    pub async fn probe(&self) {
        let probed = self.store.probe().await;
        self.note(Part::Writing, probed.as_ref().err());
        let unread = self.trouble().unread.clone();
        if let Some(token) = unread {
            let got = self.store.get(&token).await;
            self.note(Part::Records, got.as_ref().err());
        }
        if self.trouble().ails(Part::Lists) {
            // As the worker lists: the workers' right to list all may differ, and all is more.
            let filter = Filter { limit: 1, ..Filter::of(&UNSETTLED) };
            let _ = self.listed(self.store.outlines(filter.query()).await);
        }
        self.look().await;
    }

    /// Checks that what is written to the ledger is still where a next process would find it.
    pub async fn look(&self) {
        let held = self.store.holds().await;
        self.note(Part::Place, held.as_ref().err());
    }

    /// With its time by the wall clock, as the store has them.
    fn query(&self, filter: Filter) -> Query {
        let due = filter.due.map(|at| self.clock.name(at));
        Filter { due, ..filter }.query()
    }

    fn listed<T>(&self, page: Result<T, StoreError>) -> Result<T, StoreError> {
        self.note(Part::Lists, page.as_ref().err());
        page
    }

    /// The state of the claim on a step that another process holds. If only this process can have
    /// the ledger open, the other is dead; otherwise its claims are over once its record is gone,
    /// or has not changed for a whole lease while we watched.
    pub fn foreign_lease(&self, record: &Record) -> Lease {
        match &record.owner {
            Some(owner) if self.is_shared() => self.leases.of(owner, self.clock.now()),
            _ => Lease::Over,
        }
    }

    /// The record with its times by the wall clock as it is now.
    #[must_use]
    pub fn named(&self, record: &Record) -> Record {
        let mut named = record.clone();
        form::shift(&mut named, self.clock.correction());
        named
    }

    /// The row of a record, with its times by the wall clock as it is now.
    fn row(&self, record: &Record) -> Result<Row, StoreError> {
        self.clock.look();
        let correction = self.clock.correction();
        let writer = Writer {
            id: Some(self.leases.process().clone()),
            correction: milliseconds(correction),
        };
        if correction.is_zero() {
            return self.fitting(record, &writer);
        }
        let mut named = record.clone();
        form::shift(&mut named, correction);
        self.fitting(&named, &writer)
    }

    /// If the store does not take it whole, its oldest events are left out: they are for people.
    fn fitting(&self, record: &Record, writer: &Writer) -> Result<Row, StoreError> {
        let mut row = form::row(record, writer.clone())?;
        let mut events = record.history.events().len();
        while events > 0 && !self.store.fits(&row) {
            events /= 2;
            let shorter = Record { history: record.history.last(events), ..record.clone() };
            row = form::row(&shorter, writer.clone())?;
        }
        Ok(row)
    }

    fn record(&self, row: Row) -> Result<Record, Damaged> {
        let by = self.correction_of(&row.head);
        let mut record = form::record(row)?;
        form::shift(&mut record, -by);
        Ok(record)
    }

    /// How far the times in a row are ahead of the timeline.
    fn correction_of(&self, head: &Head) -> SignedDuration {
        let mine = head.writer.id.as_ref() == Some(self.leases.process());
        if mine {
            SignedDuration::from_millis(head.writer.correction)
        } else {
            self.clock.correction()
        }
    }

    fn decoded<T, U>(&self, page: Page<T>, decode: impl Fn(T) -> Result<U, Damaged>) -> Page<U> {
        let found =
            page.found.into_iter().map(|found| self.noticed(found.and_then(&decode))).collect();
        Page { found, next: page.next }
    }

    /// Logs once that a record is damaged.
    fn noticed<T>(&self, found: Result<T, Damaged>) -> Result<T, Damaged> {
        let Err(damaged) = &found else { return found };
        let mut known = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < NAMED && known.insert(damaged.token.clone()) {
            let token = damaged.token.as_deref().unwrap_or("unknown");
            let remedy = if self.is_shared() {
                "update this worker if a newer one wrote it; if it is damaged, delete its item"
            } else {
                "restore the ledger, or delete this row of its table `steps`"
            };
            tracing::error!(
                event = "record_unreadable",
                token,
                detail = damaged.detail,
                "the ledger's record of this step cannot be read, so the step is left alone while \
                 all others continue: {remedy}, and the step starts again from its message"
            );
        }
        found
    }

    fn note(&self, part: Part, error: Option<&StoreError>) {
        let mut trouble = self.trouble();
        let before = trouble.is_any();
        if !trouble.set(part, error.is_some()) {
            return;
        }
        let failing = trouble.is_any();
        let tells = trouble.tells(part, self.clock.now());
        drop(trouble);
        if failing != before {
            self.observer.observe(Observation::LedgerFailing(failing));
        }
        if let Some(error) = error.filter(|_| tells) {
            tracing::error!(
                event = "ledger_failing",
                %error,
                "the ledger: {}: no new steps are accepted until that is fixed; {}",
                part.ails(),
                part.remedy(self.is_shared())
            );
        }
    }

    /// Logs what works again. One that serves some requests and fails others is said to fail once:
    /// call it every few seconds.
    pub(crate) fn tell_recovery(&self) {
        let recovered = self.trouble().recovered(self.clock.now());
        for part in recovered {
            tracing::info!(event = "ledger_recovered", "the ledger: {}", part.healed());
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(correction: SignedDuration) -> i64 {
    i64::try_from(correction.as_millis()).unwrap_or_default()
}
