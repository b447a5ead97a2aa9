//! The file of a SQLite ledger: created, locked, and checked before it is trusted.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags};

use super::epoch::{self, Older};
use super::error::{OpenError, is_busy, remedy};
use super::place::{self, Place};
use super::schema::{self, APPLICATION, SCHEMA};

/// Held as long as this process has the ledger open; the kernel releases it with the process.
pub(super) struct FileLock {
    _beside: Flock<File>,
    /// A lock on the file itself, whatever happens to the lock file beside it. Not on network file
    /// systems, where this kind of lock would be SQLite's own.
    _file: Option<Flock<File>>,
}

/// How often a lock that another process holds is tried, with increasing pauses.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// How long a call waits for another process's lock. Short, because a failed write is tried again,
/// and all others wait behind it.
const BUSY: Duration = Duration::from_secs(1);

/// Counts while a file is being opened, so that checking a large file can be distinguished from
/// hanging.
pub type Progress = Arc<AtomicU64>;

/// SQLite's virtual machine takes some microseconds for this many steps.
const STEPS: i32 = 10_000;

/// Opens the file for writing, or creates it, and locks it for this process.
pub(super) fn open_at(
    path: &Path,
    place: &Place,
    older: Older,
    progress: &Progress,
) -> Result<(Connection, FileLock), OpenError> {
    let file = &place.path;
    let beside = lock(path, file)?;
    // Created here, so that only its owner can read the outcomes and arguments.
    let made = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(file);
    let made = made.map_err(|error| {
        OpenError::new(path, format!("it cannot be written ({error}): {}", remedy(&error)))
    })?;
    let locked = if place.network.is_some() {
        None
    } else {
        let held = || {
            let who = place::holders(file);
            OpenError::held(path, if who.is_empty() { "another process" } else { &who[0] })
        };
        Some(taken(made).map_err(|_| held())?)
    };
    let lock = FileLock { _beside: beside, _file: locked };
    whole(file)?;
    let progress = progress.clone();
    let opened = Connection::open(file).and_then(|mut connection| {
        connection.busy_timeout(BUSY)?;
        let count = move || {
            progress.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.progress_handler(STEPS, Some(count))?;
        if place.network.is_some() {
            // Before anything is read: the index of the log is then in this process's own memory.
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        }
        Ok(connection)
    });
    let failed = |error: rusqlite::Error| OpenError::of(file, &error);
    let mut connection = opened.map_err(failed)?;
    recognise(file, &connection)?;
    if older == Older::Refused {
        epoch::check(path, file, &connection)?;
    }
    prepare(path, file, &connection).map_err(failed)?;
    connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
    Ok((connection, lock))
}

#[cfg(test)]
pub(super) fn open(path: &Path) -> Result<(Connection, FileLock), OpenError> {
    open_at(path, &Place::find(path)?, Older::Refused, &Progress::default())
}

/// Opens the file once more, for reading, beside this process's writer.
pub(super) fn beside(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(BUSY)?;
        Ok(connection)
    });
    opened.map_err(|error| OpenError::of(path, &error))
}

pub(super) fn exists(path: &Path) -> Result<(), OpenError> {
    if path.is_file() {
        return Ok(());
    }
    let problem = "the file does not exist: check its name; the daemon creates the one of \
                   `ledger.path` when it first runs";
    Err(OpenError::new(path, problem))
}

/// Opens the file for reading, beside a daemon that may be writing it; also returns its schema.
pub(super) fn open_to_read(path: &Path) -> Result<(Connection, i32), OpenError> {
    let (connection, schema) = open_to_examine(path)?;
    sound(path, &connection)?;
    Ok((connection, schema))
}

/// The same, whatever state its pages are in.
pub(super) fn open_to_examine(path: &Path) -> Result<(Connection, i32), OpenError> {
    exists(path)?;
    // A reader may read a file that no daemon would accept: a copy, a backup.
    let network = Place::find(path).ok().and_then(|place| place.network);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let opened = |uri: String| {
        let connection = Connection::open_with_flags(uri, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let name = uri(path);
    let connection = opened(format!("file:{name}?mode=ro"))
        // A user without write permission on the directory cannot share the daemon's index of the
        // log. A ledger that no process has open needs none.
        .or_else(|error: rusqlite::Error| {
            if wal_is_empty(path) { opened(format!("file:{name}?immutable=1")) } else { Err(error) }
        })
        .map_err(|error| match network {
            Some(kind) if is_busy(&error) => {
                let problem = format!(
                    "it is on {kind}, where only its worker can open it: use that worker's /steps \
                     over HTTP"
                );
                OpenError::in_use(path, problem)
            }
            _ => OpenError::of(path, &error),
        })?;
    identify(path, &connection)?;
    let schema = schema::of(&connection).map_err(|error| OpenError::of(path, &error))?;
    Ok((connection, schema))
}

/// Refuses a file that is shorter than its header says: SQLite would read the missing part as
/// zeros. If there is a log, a checkpoint may have been cut short, and the log restores the rest.
pub(super) fn whole(path: &Path) -> Result<(), OpenError> {
    let mut header = [0; 72];
    let read =
        File::open(path).and_then(|mut file| Ok((file.read(&mut header)?, file.metadata()?.len())));
    let (read, length) = read.map_err(|error| {
        OpenError::new(path, format!("it cannot be read ({error}): fix its permissions"))
    })?;
    let log = !wal_is_empty(path);
    if length == 0 && log {
        // SQLite would take it for a new file, and remove the log with everything that was ever
        // written to it.
        let problem = format!(
            "it is empty or missing, but its log {0}-wal is not: restore the file that the log \
             belongs to, or move the log away too, to begin with an empty ledger",
            path.display()
        );
        return Err(OpenError::new(path, problem));
    }
    let number = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    // SQLite would fold another file's pages in.
    if log && number(68) == epoch::COPY.cast_unsigned() {
        let problem = format!(
            "it is a copy made by `callbackd ledger backup`, and the log beside it belongs to \
             another file: move {0}-wal and {0}-shm away",
            path.display()
        );
        return Err(OpenError::older(path, problem));
    }
    if length == 0 || log {
        return Ok(());
    }
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let pages = u64::from(number(28));
    if read < header.len() || length < page * pages {
        return Err(OpenError::damaged(path, "it is truncated"));
    }
    Ok(())
}

pub(super) fn wal_is_empty(path: &Path) -> bool {
    std::fs::metadata(beside_it(path, "-wal")).map_or(true, |wal| wal.len() == 0)
}

/// The bytes of the file and of its log, if they exist.
pub(super) fn sizes(path: &Path) -> (u64, u64) {
    let file = Place::find(path).map_or_else(|_| path.to_owned(), |place| place.path);
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    (size(&file), size(&beside_it(&file, "-wal")))
}

pub(super) fn beside_it(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// `callbackd check` holds a lock for a moment, and an ending process releases it soon.
fn taken(mut file: File) -> Result<Flock<File>, File> {
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((refused, _)) => file = refused,
        }
        std::thread::sleep(PAUSE);
    }
    Err(file)
}

/// Locks the real file for this process, whatever name was used.
fn lock(path: &Path, file: &Path) -> Result<Flock<File>, OpenError> {
    let name = beside_it(file, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|error| {
            let problem =
                format!("{} cannot be written ({error}): {}", name.display(), remedy(&error));
            OpenError::new(path, problem)
        })?;
    match taken(file) {
        Ok(mut file) => {
            // For information only; the lock itself is the kernel's.
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(mut file) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(OpenError::held(path, &format!("process {}", holder.trim())))
        }
    }
}

/// Refuses what is not a sound ledger of a known schema.
pub(super) fn recognise(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    identify(path, connection)?;
    sound(path, connection)
}

fn identify(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let known = || -> rusqlite::Result<(i32, i32, i64)> {
        let tables =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((number("application_id")?, number("user_version")?, tables))
    };
    let (application, schema, tables) = known().map_err(|error| OpenError::of(path, &error))?;
    if tables == 0 && application == 0 {
        return Ok(());
    }
    if ![APPLICATION, epoch::COPY].contains(&application) {
        return Err(OpenError::new(
            path,
            "it is a database of another program: set ledger.path to a file of callbackd's own",
        ));
    }
    if schema > SCHEMA {
        let problem = format!(
            "it was written by a newer callbackd (schema {schema}; this one knows {SCHEMA}): run \
             that version again"
        );
        return Err(OpenError::newer(path, problem));
    }
    Ok(())
}

fn sound(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let verdict: Result<String, _> =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(OpenError::damaged(path, &verdict)),
        Err(error) => Err(OpenError::of(path, &error)),
    }
}

fn prepare(path: &Path, file: &Path, connection: &Connection) -> rusqlite::Result<()> {
    let newer = epoch::repeated(file).unwrap_or_default();
    // Before it has a log.
    if epoch::adopt(connection, newer)? {
        tracing::info!(
            event = "ledger_adopted",
            path = %path.display(),
            "the ledger is a copy made by `callbackd ledger backup`; the worker goes on with it"
        );
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is on the disk when it returns, whatever then happens to the process or the machine.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The log is folded back every 4 MiB and does not stay larger than 64 MiB after a burst.
    connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
    connection.pragma_update(None, "journal_size_limit", 67_108_864)?;
    schema::prepare(connection)?;
    epoch::repeat(file, epoch::raise(connection, newer)?);
    Ok(())
}

/// A path as SQLite's file: URI.
pub(super) fn uri(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let escape = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
            char::from(*byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    absolute.as_os_str().as_encoded_bytes().iter().map(escape).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_flushed_to_the_disk_before_it_returns() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let (connection, _lock) = open(&path).expect("it opens");
        let mode: String =
            connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("a mode");
        let synchronous: i32 =
            connection.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("a number");
        // 2 is FULL: with less, the log would be flushed only at checkpoints.
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }
}
