//! Records in one SQLite file: durable at commit, with the commits of many waiting writes folded
//! into one.
//!
//! Each connection has a thread of its own: one writes; one reads single records, so it never waits
//! for the disk's flush; one makes lists, so it delays neither. In SQLite's write-ahead mode a
//! reader sees everything that was committed before it began.

mod beside;
mod copy;
mod epoch;
mod error;
mod examine;
mod file;
mod files;
mod inbox;
mod known;
mod look;
mod old;
mod place;
mod rows;
mod schema;
mod thread;
mod writer;

use std::path::Path;
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use rusqlite::Connection;
use tokio::sync::watch;

pub use self::copy::CopyError;
use self::epoch::Older;
pub use self::error::OpenError;
use self::file::FileLock;
pub use self::file::Progress;
use self::files::Files;
use self::inbox::{Haste, Inbox};
use self::known::Known;
pub use self::look::Look;
use self::place::Place;
use self::thread::{Ended, Thread};
use super::store::{Age, Commit, Damaged, Head, Page, Put, Query, Row, Store, StoreError, Workers};
use crate::seam::Observer;
use crate::step::CallbackToken;

/// A ledger file that only this process has open.
pub struct Sqlite {
    // The writer is dropped last: the last connection to close folds the log back, which the others
    // may not do.
    /// `None` if the file is opened by a single connection; so are the next two.
    known: Option<Known>,
    lists: Option<Thread>,
    reader: Option<Thread>,
    writer: Thread,
    ended: watch::Receiver<Option<String>>,
    files: Arc<Files>,
    _lock: Option<FileLock>,
}

impl Sqlite {
    /// Opens the file, or creates it, and locks it for this process.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be used as a ledger: it names the file and what to do.
    pub fn open(path: &Path, observer: Arc<dyn Observer>) -> Result<Self, OpenError> {
        Self::open_telling(path, observer, &Progress::default())
    }

    /// The same; `progress` counts up meanwhile, because checking a large file takes a while.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_telling(
        path: &Path,
        observer: Arc<dyn Observer>,
        progress: &Progress,
    ) -> Result<Self, OpenError> {
        Self::open_at(path, &Place::find(path)?, Older::Refused, observer, progress)
    }

    /// Opens the file even if it is an older copy, which is the ledger from now on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn accept(path: &Path) -> Result<Self, OpenError> {
        let (observer, progress) = (Arc::new(()), Progress::default());
        Self::open_at(path, &Place::find(path)?, Older::Accepted, observer, &progress)
    }

    /// Why [`open`](Self::open) would refuse the file as an older copy, if it would. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read, or would be refused for another reason.
    pub fn refused_as_older(path: &Path) -> Result<Option<OpenError>, OpenError> {
        let file = Place::find(path)?.path;
        file::whole(&file)?;
        let (connection, _) = file::open_to_read(path)?;
        match epoch::check(path, &file, &connection) {
            Err(error) if error.is_older() => Ok(Some(error)),
            checked => checked.map(|()| None),
        }
    }

    fn open_at(
        path: &Path,
        place: &Place,
        older: Older,
        observer: Arc<dyn Observer>,
        progress: &Progress,
    ) -> Result<Self, OpenError> {
        let (connection, lock) = file::open_at(path, place, older, progress)?;
        let (ended, seen) = watch::channel(None);
        let ended = Ended::new(ended);
        let not_started = |error: std::io::Error| {
            OpenError::new(path, format!("a thread could not start: {error}"))
        };
        let reader = |name| {
            let connection = file::beside(&place.path)?;
            Thread::start(name, connection, ended.clone(), read).map_err(not_started)
        };
        let (lists, reader) = match place.network {
            None => (Some(reader("ledger-lists")?), Some(reader("ledger-reads")?)),
            Some(kind) => {
                tracing::warn!(
                    event = "ledger_exclusive",
                    path = %path.display(),
                    "the ledger is on {kind}: only this worker can open the file, so `callbackd \
                     steps` cannot read it (use /steps), and it must not be opened from another \
                     machine"
                );
                (None, None)
            }
        };
        let write = move |connection: Connection, inbox: &Inbox| {
            writer::serve(&connection, inbox, observer.as_ref());
        };
        let writer = Thread::start("ledger", connection, ended, write).map_err(not_started)?;
        let files = Arc::new(Files::at(&place.path));
        let known = place.network.is_none().then(|| Known::of_file(&place.path));
        Ok(Self { known, lists, reader, writer, ended: seen, files, _lock: Some(lock) })
    }

    /// Raises the ledger's number. It is repeated once it is committed, by a thread that may wait
    /// for the disk.
    async fn count_on(&self) -> Result<(), StoreError> {
        let count =
            self.writer.ask(Haste::Urgent, |connection| epoch::raise(connection, 0)).await?;
        let files = self.files.clone();
        let repeat = move |_: &Connection| {
            epoch::repeat(files.path(), count);
            Ok(())
        };
        self.lists().ask(Haste::Urgent, repeat).await
    }

    fn lists(&self) -> &Thread {
        self.lists.as_ref().unwrap_or(&self.writer)
    }

    fn reader(&self) -> &Thread {
        self.reader.as_ref().unwrap_or(&self.writer)
    }

    /// What a daemon of this user would find at `path`. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError`] if it could not use it.
    pub fn look(path: &Path) -> Result<Look, OpenError> {
        Look::at(path)
    }

    /// The bytes of a ledger's file and of its log.
    #[must_use]
    pub fn sizes(path: &Path) -> (u64, u64) {
        file::sizes(path)
    }
}

impl Store for Sqlite {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        if self.known.as_ref().is_some_and(|known| !known.may_hold(token)) {
            return Box::pin(ready(Ok(None)));
        }
        let token = token.clone();
        Box::pin(
            self.reader()
                .ask(Haste::Urgent, move |connection| rows::get(connection, token.as_str())),
        )
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        if let (Some(known), None) = (&self.known, expected) {
            known.add(&row.head.token);
        }
        let haste = if commit == Commit::Soon { Haste::Patient } else { Haste::Urgent };
        Box::pin(self.writer.ask(haste, move |connection| rows::put(connection, &row, expected)))
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        Box::pin(
            self.lists().ask(Haste::Urgent, move |connection| {
                rows::page(connection, &query, |row| row.head)
            }),
        )
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        Box::pin(
            self.lists()
                .ask(Haste::Urgent, move |connection| rows::page(connection, &query, |row| row)),
        )
    }

    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move {
            let mut all = 0;
            loop {
                let age = age.clone();
                let count = self
                    .writer
                    .ask(Haste::Urgent, move |connection| rows::purge(connection, &age))
                    .await?;
                all += count;
                if count < rows::PURGED {
                    break;
                }
            }
            self.count_on().await?;
            Ok(all)
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.ask(Haste::Urgent, rows::probe))
    }

    fn holds(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // Network file systems report it themselves: a removed file is stale there.
        let Some(reader) = &self.reader else { return Box::pin(ready(Ok(()))) };
        let files = self.files.clone();
        Box::pin(async move { reader.ask(Haste::Urgent, move |_| Ok(files.are_there())).await? })
    }

    fn changes_from_outside(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.writer.ask(Haste::Look, rows::changes_from_outside))
    }

    fn workers(&self) -> Option<&dyn Workers> {
        None
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        let mut ended = self.ended.clone();
        Box::pin(async move {
            match ended.wait_for(Option::is_some).await.map(|text| text.clone()) {
                Ok(Some(text)) => text,
                // Its threads end with it, and no request can come any more.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        })
    }
}

/// Serves read-only jobs until no more can come.
#[expect(clippy::needless_pass_by_value, reason = "the connection is closed with its thread")]
fn read(connection: Connection, inbox: &Inbox) {
    while let Some(jobs) = inbox.take(1) {
        for job in jobs {
            (job.act)(Ok(&connection))(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::store::Writer;

    pub(super) fn row(token: &str) -> Row {
        let head = Head {
            token: token.parse().expect("a token"),
            version: 1,
            status: "claimed".into(),
            queue: "q".into(),
            execution: "e".into(),
            handler: None,
            owner: None,
            due: None,
            flagged: false,
            settled_at: None,
            writer: Writer { id: None, correction: 0 },
        };
        Row { head, body: "{}".into(), arguments: None, checkpoint: None }
    }

    #[tokio::test]
    async fn on_a_network_file_system_the_file_is_opened_alone_and_without_shared_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let place = Place { network: Some("NFS"), ..Place::find(&path).expect("a place") };
        let open =
            || Sqlite::open_at(&path, &place, Older::Refused, Arc::new(()), &Progress::default());
        for (version, token) in [(None, "aaaaaaaaaa"), (None, "bbbbbbbbbb")] {
            let store = open().expect("it opens");
            assert_eq!(store.put(row(token), version, Commit::Now).await, Ok(Put::Done));
            assert_eq!(
                store.get(&token.parse().expect("a token")).await.expect("read"),
                Some(Ok(row(token)))
            );
            let all = Query { limit: 10, ..Query::default() };
            assert!(!store.page(all).await.expect("a page").found.is_empty());
            assert!(
                path.with_extension("db-wal").exists() && !path.with_extension("db-shm").exists()
            );
            let other = Connection::open(&path).expect("it is a file");
            let refused =
                other.query_row("SELECT count(*) FROM steps", [], |row| row.get::<_, i64>(0));
            assert!(refused.is_err_and(|error| error.to_string().contains("locked")));
            drop(store);
        }
    }

    #[tokio::test]
    async fn a_step_is_found_in_a_file_whether_a_daemon_has_it_open_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let [here, absent] = ["aaaaaaaaaa", "bbbbbbbbbb"]
            .map(|token| token.parse::<CallbackToken>().expect("a token"));
        assert!(Sqlite::find(&path, &here).is_err(), "there is no file");
        assert!(!path.exists());
        let store = Sqlite::open(&path, Arc::new(())).expect("it is made");
        assert_eq!(store.put(row(here.as_str()), None, Commit::Now).await, Ok(Put::Done));
        let found = |token| Sqlite::find(&path, token).expect("it is read");
        assert_eq!(found(&here), Some(Ok(row(here.as_str()))));
        drop(store);
        assert_eq!((found(&here), found(&absent)), (Some(Ok(row(here.as_str()))), None));
    }

    #[test]
    fn looking_a_large_file_over_counts_as_it_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        drop(Sqlite::open(&path, Arc::new(())).expect("it is made"));
        let connection = Connection::open(&path).expect("it opens");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
            INSERT INTO steps SELECT i, 1, 'settled', '', '', NULL, NULL, NULL, 0, i, NULL, 0, '', \
            '', '', NULL, NULL FROM n";
        connection.execute_batch(many).expect("rows");
        drop(connection);
        let progress = Progress::default();
        drop(Sqlite::open_telling(&path, Arc::new(()), &progress).expect("it opens"));
        assert!(progress.load(std::sync::atomic::Ordering::Relaxed) > 1);
    }
}
