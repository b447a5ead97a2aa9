//! Tells an older copy of a ledger's file from the ledger itself.
//!
//! A ledger counts its starts, and the hours of its use. The file `NAME.epoch` beside it repeats
//! the number. It is written after the ledger, so it is never ahead: a ledger that has counted less
//! was put in the place of a newer one. What `ledger backup` makes says of itself that it is a
//! copy. Without that file, on another machine for example, nothing can be told, and the ledger is
//! used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::error::OpenError;
use super::file::beside_it;
use super::place;
use super::schema::{self, APPLICATION};

/// "cbkc": a copy that no daemon has opened yet.
pub(super) const COPY: i32 = 0x6362_6b63;

/// What is done with an older copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Older {
    Refused,
    /// It is the ledger from now on.
    Accepted,
}

/// Refuses an open ledger in whose place a newer one was. `file` is where it really is.
pub(super) fn check(path: &Path, file: &Path, connection: &Connection) -> Result<(), OpenError> {
    let Some(newer) = repeated(file) else { return Ok(()) };
    let found = || Ok((is_copy(connection)?, count(connection)?));
    let (is_copy, count) = found().map_err(|error| OpenError::of(path, &error))?;
    let what = match count {
        _ if is_copy => "it is a copy made by `callbackd ledger backup`".to_owned(),
        // Someone begins with an empty ledger.
        None => return Ok(()),
        Some(count) if count < newer => {
            format!("it is an older copy (it has counted to {count}, the one before it to {newer})")
        }
        Some(_) => return Ok(()),
    };
    let problem = format!(
        "{what}, in the place of a newer ledger, and its steps have gone on since: put the newer \
         one back, or, if that is lost, run `callbackd ledger accept`, which asks SageMaker about \
         them"
    );
    Err(OpenError::older(path, problem))
}

/// Makes a ledger of a copy, if it is one. A copy has no log: what is written here is in the file
/// itself when it returns.
pub(super) fn adopt(connection: &Connection, newer: u64) -> rusqlite::Result<bool> {
    if !is_copy(connection)? {
        return Ok(false);
    }
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    raise(&transaction, newer)?;
    transaction.commit()?;
    Ok(true)
}

/// Marks a file as a copy.
pub(super) fn mark(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    // A daemon must tell its log, which begins later, from one that was left beside it.
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    connection.pragma_update(None, "application_id", COPY)
}

/// Counts on, beyond `newer` too; returns the number.
pub(super) fn raise(connection: &Connection, newer: u64) -> rusqlite::Result<u64> {
    let sql = "INSERT INTO probe (id, count) VALUES (1, ?1 + 1) ON CONFLICT DO UPDATE SET count = \
               max(count, ?1) + 1 RETURNING count";
    connection.prepare_cached(sql)?.query_row([newer], |row| row.get(0))
}

/// The number of a ledger; `None` if it has not begun.
fn count(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    if schema::of(connection)? == 0 {
        return Ok(None);
    }
    let sql = "SELECT count FROM probe WHERE id = 1";
    Ok(Some(connection.query_row(sql, [], |row| row.get(0)).optional()?.unwrap_or_default()))
}

fn is_copy(connection: &Connection) -> rusqlite::Result<bool> {
    connection.pragma_query_value(None, "application_id", |row| Ok(row.get::<_, i32>(0)? == COPY))
}

/// The number beside a ledger. One that cannot be read tells nothing.
pub(super) fn repeated(file: &Path) -> Option<u64> {
    fs::read_to_string(beside_it(file, EPOCH)).ok()?.trim().parse().ok()
}

/// Repeats the number of a ledger beside it, once the ledger has it. If that fails, an older copy
/// may not be noticed, and nothing else is lost.
pub(super) fn repeat(file: &Path, count: u64) {
    if let Err(error) = write(file, count) {
        tracing::debug!(%error, "the ledger's number could not be repeated beside it");
    }
}

fn write(file: &Path, count: u64) -> io::Result<()> {
    let part = beside_it(file, ".epoch.part");
    let mut begun =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
    writeln!(begun, "{count}")?;
    begun.sync_all()?;
    fs::rename(&part, beside_it(file, EPOCH))?;
    File::open(place::directory(file))?.sync_all()
}

/// The suffix of the file beside a ledger.
pub(super) const EPOCH: &str = ".epoch";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::ledger::Sqlite;
    use crate::ledger::sqlite::tests::row;
    use crate::ledger::store::{Age, Commit, Put, Store};

    struct Folder {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("ledger.db");
            Self { _folder: folder, path }
        }

        fn open(&self) -> Result<Sqlite, OpenError> {
            Sqlite::open(&self.path, Arc::new(()))
        }

        fn refusal(&self) -> OpenError {
            let error = self.open().err().expect("it is refused");
            assert!(error.is_older(), "{error}");
            assert!(error.to_string().contains("callbackd ledger accept"), "{error}");
            let read = Sqlite::refused_as_older(&self.path).expect("it is read");
            assert_eq!(read.as_ref(), Some(&error));
            assert_eq!(Sqlite::look(&self.path), Err(error.clone()), "`check` says so too");
            assert_eq!(Sqlite::open_beside(&self.path).err(), Some(error.clone()));
            error
        }

        fn is_accepted(&self) {
            drop(Sqlite::accept(&self.path).expect("it is accepted"));
            assert_eq!(Sqlite::refused_as_older(&self.path), Ok(None));
            drop(self.open().expect("it is the ledger now"));
        }

        /// A copy of the closed ledger, by other means than ours.
        fn set_aside(&self) -> PathBuf {
            let aside = self.path.with_extension("aside");
            fs::copy(&self.path, &aside).expect("it is there");
            aside
        }

        fn epoch(&self) -> PathBuf {
            beside_it(&self.path, EPOCH)
        }
    }

    #[test]
    fn an_older_copy_is_refused_until_it_is_accepted_and_the_newer_ledger_is_then_older() {
        let folder = Folder::new();
        drop(folder.open().expect("it opens"));
        let old = folder.set_aside();
        drop(folder.open().expect("it opens"));
        let newer = fs::read(&folder.path).expect("it is there");
        fs::rename(&old, &folder.path).expect("it is ours");
        assert!(folder.refusal().to_string().contains("it has counted to 1, the one before it to"));
        folder.is_accepted();
        fs::write(&folder.path, newer).expect("it is ours");
        folder.refusal();
    }

    #[tokio::test]
    async fn an_hour_of_use_makes_a_copy_an_older_one() {
        let folder = Folder::new();
        let store = folder.open().expect("it opens");
        drop(store);
        let old = folder.set_aside();
        let store = folder.open().expect("it opens");
        let moment = jiff::Timestamp::UNIX_EPOCH;
        let counted = repeated(&folder.path).expect("it is repeated");
        store.purge(Age { named: moment, me: "me".into(), moment }).await.expect("it works");
        assert_eq!(repeated(&folder.path), Some(counted + 1));
        drop(store);
        fs::rename(&old, &folder.path).expect("it is ours");
        folder.refusal();
    }

    #[tokio::test]
    async fn what_backup_makes_is_refused_beside_the_number_of_a_ledger_and_else_goes_on() {
        let folder = Folder::new();
        let store = folder.open().expect("it opens");
        assert_eq!(store.put(row("aaaaaaaaaa"), None, Commit::Now).await, Ok(Put::Done));
        let copy = folder.path.with_extension("copy");
        let sound = |row: Result<_, _>| assert!(row.is_ok());
        let examined = |path: &Path| Sqlite::examine(path, |what| panic!("{what}"), sound);
        assert_eq!(Sqlite::copy(&folder.path, &copy, examined), Ok(()));
        // Killed: its log stays.
        let log = beside_it(&folder.path, "-wal");
        let left = fs::read(&log).expect("a log");
        drop(store);
        fs::copy(&copy, &folder.path).expect("it is ours");
        assert!(folder.refusal().to_string().contains("made by `callbackd ledger backup`"));

        fs::write(&log, left).expect("it is ours");
        let mixed = folder.open().err().expect("refused").to_string();
        assert!(mixed.contains("belongs to another file: move"), "{mixed}");
        assert!(Sqlite::accept(&folder.path).is_err(), "that is no older copy, but a mix");
        fs::remove_file(log).expect("it is there");
        folder.is_accepted();

        let elsewhere = Folder::new();
        fs::copy(&copy, &elsewhere.path).expect("it is ours");
        let store = elsewhere.open().expect("nothing newer is known there");
        let held = store.get(&"aaaaaaaaaa".parse().expect("a token")).await;
        assert_eq!(held, Ok(Some(Ok(row("aaaaaaaaaa")))));
        // Killed, and begun again with its log.
        drop(elsewhere.open().err().expect("it is open"));
        drop(store);
        drop(elsewhere.open().expect("it is no copy any more"));
    }

    #[test]
    fn a_crash_between_the_two_numbers_or_a_lost_one_never_refuses_the_ledger() {
        let folder = Folder::new();
        for beside in [None, Some("0"), Some("1"), Some(""), Some("half a num"), Some("-3")] {
            drop(folder.open().expect("it opens"));
            match beside {
                Some(text) => fs::write(folder.epoch(), text).expect("it is ours"),
                None => fs::remove_file(folder.epoch()).expect("it is there"),
            }
            drop(folder.open().unwrap_or_else(|error| panic!("{beside:?}: {error}")));
        }
    }

    #[test]
    fn an_empty_ledger_may_be_begun_and_what_it_replaces_is_older_then() {
        let folder = Folder::new();
        drop(folder.open().expect("it opens"));
        let old = folder.path.with_extension("old");
        fs::rename(&folder.path, &old).expect("it is there");
        drop(folder.open().expect("it begins anew"));
        fs::rename(&old, &folder.path).expect("it is ours");
        folder.refusal();
    }
}
