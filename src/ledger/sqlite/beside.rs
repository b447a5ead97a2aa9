//! The file as a command opens it: for single writes, beside a daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use super::epoch::{self, Older};
use super::error::{OpenError, remedy};
use super::file::{self, FileLock, Progress};
use super::files::Files;
use super::inbox::Inbox;
use super::place::Place;
use super::schema::{self, SCHEMA};
use super::thread::{Ended, Thread};
use super::{Sqlite, writer};

/// How long a command waits for the daemon's lock: it has one thing to write, and no one waits
/// behind it.
const PATIENT: Duration = Duration::from_secs(10);

impl Sqlite {
    /// Opens the file for single writes, which a daemon may have open at the same time: it is
    /// neither created nor migrated.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be written.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let (connection, place, lock) = open_to_write(path)?;
        let (ended, seen) = watch::channel(None);
        let write = |connection: Connection, inbox: &Inbox| {
            writer::serve(&connection, inbox, &());
        };
        let writer = Thread::start("ledger", connection, Ended::new(ended), write)
            .map_err(|error| OpenError::new(path, format!("a thread could not start: {error}")))?;
        let files = Arc::new(Files::at(&place.path));
        let (known, lists, reader) = (None, None, None);
        Ok(Self { known, lists, reader, writer, ended: seen, files, _lock: lock })
    }
}

/// Opens the file for single writes, beside a daemon that may have it open. On a network file
/// system only one process can, and the lock says that it is this one.
fn open_to_write(path: &Path) -> Result<(Connection, Place, Option<FileLock>), OpenError> {
    file::exists(path)?;
    let place = Place::find(path)?;
    if place.network.is_some() {
        let (connection, lock) = file::open_at(path, &place, Older::Refused, &Progress::default())?;
        return Ok((connection, place, Some(lock)));
    }
    // SQLite would open a file that is not writable for reading.
    access(&place.path, AccessFlags::R_OK | AccessFlags::W_OK).map_err(|error| {
        let error = std::io::Error::from(error);
        OpenError::new(path, format!("it cannot be written ({error}): {}", remedy(&error)))
    })?;
    let opened = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&place.path, flags)?;
        connection.busy_timeout(PATIENT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    };
    let connection = opened().map_err(|error| OpenError::of(path, &error))?;
    file::recognise(path, &connection)?;
    epoch::check(path, &place.path, &connection)?;
    let schema = schema::of(&connection).map_err(|error| OpenError::of(path, &error))?;
    if schema != SCHEMA {
        let problem = format!(
            "it is of an older callbackd (schema {schema}; this one knows {SCHEMA}): the daemon \
             converts it when it starts"
        );
        return Err(OpenError::new(path, problem));
    }
    Ok((connection, place, None))
}
