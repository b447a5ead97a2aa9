//! Records in one SQLite file: durable at commit, with the commits of many waiting writes folded into one.
//!
//! One thread owns the connection. Whatever waits for it when it is free goes into one transaction, so that the disk's one flush serves
//! them all: the more there is to write, the more each flush writes.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::file::{self, FileLock, OpenError};
use crate::seam::{Observation, Observer, Put, Row, Store, StoreError};
use crate::step::CallbackToken;

/// A ledger file that this process alone has open.
pub struct Sqlite {
    // Dropped first: the thread ends when nothing can be asked of it any more.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    _lock: FileLock,
}

/// Requests that wait for the thread; whoever comes next waits for room.
const WAITING: usize = 4096;
/// Requests in one transaction: some milliseconds of work beside the flush.
const FOLDED: usize = 512;
/// Rows that one transaction of a purge removes, so that it never holds up steps for long.
const PURGED: usize = 500;

const UNSETTLED: &str = "WHERE status <> 'settled'";

/// How to answer a request once it is known whether its transaction was committed.
type Answer = Box<dyn FnOnce(Option<&StoreError>)>;
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    Get(CallbackToken, Reply<Option<Row>>),
    Put(Row, Option<u64>, Reply<Put>),
    List(Vec<String>, Reply<Vec<Row>>),
    Purge(i64, Reply<usize>),
    Probe(Reply<()>),
}

impl Sqlite {
    /// Opens the file, or makes it, and takes it for this process alone. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`] where the file cannot be used as a ledger: it names the file and what to do.
    pub fn open(path: &Path, observer: Arc<dyn Observer>) -> Result<Self, OpenError> {
        let (connection, lock) = file::open(path)?;
        // What is settled is looked at when it is read; what is not must be right before anything is done.
        list(&connection, UNSETTLED).map_err(|error| OpenError::of(path, &error))?;
        let (requests, waiting) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || serve(connection, waiting, observer.as_ref()))
            .map_err(|error| OpenError::new(path, format!("its thread could not be started: {error}")))?;
        Ok(Self { requests: Some(requests), thread: Some(thread), _lock: lock })
    }

    /// All rows of a ledger file that a daemon may have open at the same time, without changing anything.
    ///
    /// # Errors
    /// [`OpenError`] where it cannot be read.
    pub fn read(path: &Path) -> Result<Vec<Row>, OpenError> {
        let connection = file::open_to_read(path)?;
        list(&connection, "").map_err(|error| OpenError::of(path, &error))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let gone = || StoreError("the ledger's thread has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Store for Sqlite {
    fn get<'a>(&'a self, token: &'a CallbackToken) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(self.ask(|reply| Request::Get(token.clone(), reply)))
    }

    fn put(&self, row: Row, expected: Option<u64>) -> BoxFuture<'_, Result<Put, StoreError>> {
        Box::pin(self.ask(move |reply| Request::Put(row, expected, reply)))
    }

    fn list<'a>(&'a self, statuses: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Row>, StoreError>> {
        let statuses = statuses.iter().map(|&status| status.to_owned()).collect();
        Box::pin(self.ask(|reply| Request::List(statuses, reply)))
    }

    fn purge(&self, before: Timestamp) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move {
            let mut all = 0;
            loop {
                let count = self.ask(|reply| Request::Purge(before.as_millisecond(), reply)).await?;
                all += count;
                if count < PURGED {
                    return Ok(all);
                }
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.ask(Request::Probe))
    }

    fn exclusive(&self) -> bool {
        true
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has been logged by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Serves requests until nobody can make any.
fn serve(mut connection: Connection, mut waiting: mpsc::Receiver<Request>, observer: &dyn Observer) {
    let mut requests = Vec::with_capacity(FOLDED);
    while waiting.blocking_recv_many(&mut requests, FOLDED) > 0 {
        let began = Instant::now();
        let writes = requests.iter().any(Request::writes);
        let mut replies: Vec<Answer> = Vec::with_capacity(requests.len());
        let committed = if writes {
            fold(&mut connection, requests.drain(..), &mut replies)
        } else {
            replies.extend(requests.drain(..).map(|request| request.perform(&connection)));
            Ok(())
        };
        if writes {
            observer.observe(Observation::LedgerCommit { took: began.elapsed() });
        }
        let failure = committed.err().map(|error| StoreError(error.to_string()));
        for reply in replies {
            reply(failure.as_ref());
        }
        // Those that could not be performed at all are answered by being dropped.
        requests.clear();
    }
}

fn fold(
    connection: &mut Connection,
    requests: impl Iterator<Item = Request>,
    replies: &mut Vec<Answer>,
) -> rusqlite::Result<()> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    match begun {
        Ok(transaction) => {
            // A full disk makes SQLite roll back by itself; what came after would be committed one by one then.
            replies.extend(requests.map(|request| {
                if transaction.is_autocommit() { request.refuse() } else { request.perform(&transaction) }
            }));
            transaction.commit()
        }
        Err(error) => {
            // Nothing is written, and each request is told so.
            replies.extend(requests.map(Request::refuse));
            Err(error)
        }
    }
}

impl Request {
    fn writes(&self) -> bool {
        matches!(self, Self::Put(..) | Self::Purge(..) | Self::Probe(_))
    }

    /// Does what is asked, and returns how to answer once it is known whether the transaction was committed.
    fn perform(self, connection: &Connection) -> Answer {
        match self {
            Self::Get(token, reply) => answer(reply, get(connection, &token)),
            Self::Put(row, expected, reply) => answer(reply, put(connection, &row, expected)),
            Self::List(statuses, reply) => answer(reply, list(connection, &with_status(&statuses))),
            Self::Purge(before, reply) => answer(reply, purge(connection, before)),
            Self::Probe(reply) => answer(reply, probe(connection)),
        }
    }

    fn refuse(self) -> Answer {
        fn refused<T: Send + 'static>(reply: Reply<T>) -> Answer {
            answer(reply, Err(rusqlite::Error::QueryReturnedNoRows))
        }
        match self {
            Self::Get(_, reply) => refused(reply),
            Self::Put(_, _, reply) => refused(reply),
            Self::List(_, reply) => refused(reply),
            Self::Purge(_, reply) => refused(reply),
            Self::Probe(reply) => refused(reply),
        }
    }
}

fn answer<T: Send + 'static>(reply: Reply<T>, result: rusqlite::Result<T>) -> Answer {
    Box::new(move |failure| {
        let result = match failure {
            Some(failure) => Err(failure.clone()),
            None => result.map_err(|error| StoreError(error.to_string())),
        };
        // Whoever asked may have gone.
        let _ = reply.send(result);
    })
}

fn get(connection: &Connection, token: &CallbackToken) -> rusqlite::Result<Option<Row>> {
    let mut get = connection
        .prepare_cached("SELECT token, version, status, settled_at, body, digest FROM steps WHERE token = ?1")?;
    get.query_row([token.as_str()], row).optional()
}

fn put(connection: &Connection, row: &Row, expected: Option<u64>) -> rusqlite::Result<Put> {
    let settled_at = row.settled_at.map(Timestamp::as_millisecond);
    let values = params![row.token.as_str(), row.version, row.status, settled_at, row.body, digest(row), expected];
    let sql = match expected {
        Some(_) => {
            "UPDATE steps SET version = ?2, status = ?3, settled_at = ?4, body = ?5, digest = ?6 WHERE token = ?1 AND version = ?7"
        }
        None => {
            "INSERT INTO steps (token, version, status, settled_at, body, digest) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?7 IS NULL ON CONFLICT DO NOTHING"
        }
    };
    let changed = connection.prepare_cached(sql)?.execute(values)?;
    Ok(if changed == 1 { Put::Done } else { Put::Changed })
}

fn list(connection: &Connection, filter: &str) -> rusqlite::Result<Vec<Row>> {
    let sql = format!("SELECT token, version, status, settled_at, body, digest FROM steps {filter} ORDER BY rowid");
    connection.prepare_cached(&sql)?.query_map([], row)?.collect()
}

fn with_status(statuses: &[String]) -> String {
    // The lifecycle's own words, letters only; quoted all the same.
    let quoted: Vec<String> = statuses.iter().map(|status| format!("'{}'", status.replace('\'', "''"))).collect();
    if quoted.is_empty() { String::new() } else { format!("WHERE status IN ({})", quoted.join(", ")) }
}

fn purge(connection: &Connection, before: i64) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM steps WHERE rowid IN (SELECT rowid FROM steps WHERE status = 'settled' AND settled_at < ?1 LIMIT ?2)";
    connection.prepare_cached(sql)?.execute(params![before, PURGED])
}

fn probe(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "INSERT INTO probe (id, count) VALUES (0, 1) ON CONFLICT DO UPDATE SET count = count + 1";
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn row(columns: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let token: String = columns.get(0)?;
    let settled_at: Option<i64> = columns.get(3)?;
    let row = Row {
        token: token.parse().map_err(|error: crate::step::InvalidToken| damaged(&error))?,
        version: columns.get(1)?,
        status: columns.get(2)?,
        settled_at: settled_at.and_then(|at| Timestamp::from_millisecond(at).ok()),
        body: columns.get(4)?,
    };
    let written: String = columns.get(5)?;
    if written == digest(&row) {
        Ok(row)
    } else {
        Err(damaged(&format_args!("the record of {token} is not as it was written")))
    }
}

/// The error that SQLite itself has for a damaged file.
fn damaged(detail: &dyn std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(detail.to_string()))
}

fn digest(row: &Row) -> String {
    let mut hash = Sha256::new();
    let settled_at = row.settled_at.map_or(String::new(), |at| at.as_millisecond().to_string());
    for part in [row.token.as_str(), &row.version.to_string(), &row.status, &settled_at, &row.body] {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).fold(String::with_capacity(16), |text, byte| text + &format!("{byte:02x}"))
}
