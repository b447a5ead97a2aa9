//! A copy of a ledger's file, made while a daemon may be writing it.
//!
//! SQLite writes the copy in one statement (`VACUUM INTO`), which reads the ledger as it was at one
//! moment. In write-ahead mode a reader delays no commit; only the log is not folded back
//! meanwhile, so it grows by what is committed. SQLite's backup in steps would begin anew after
//! each commit of the daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode};

use super::epoch;
use super::error::OpenError;
use super::file;
use super::{Sqlite, place};

/// A ledger could not be copied. Nothing is left under the copy's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Ledger(#[from] OpenError),
    #[error("the copy {}: {problem}", path.display())]
    Copy { path: PathBuf, problem: String },
}

impl Sqlite {
    /// Copies the ledger at `path` to the new file `to`, which only its owner can read. When it
    /// returns, the copy survives a crash of the machine. `examine` is called with the complete
    /// copy, under a name that it has until then.
    ///
    /// # Errors
    /// [`CopyError`] if the ledger cannot be read, if `to` exists or cannot be written, or what
    /// `examine` returns.
    pub fn copy<T>(
        path: &Path,
        to: &Path,
        examine: impl FnOnce(&Path) -> Result<T, OpenError>,
    ) -> Result<T, CopyError> {
        let (connection, schema) = file::open_to_read(path)?;
        if schema == 0 {
            return Err(OpenError::new(path, "it is empty: there is nothing to copy").into());
        }
        let failed = |problem| CopyError::Copy { path: to.to_owned(), problem };
        let unwritten = |error: io::Error| failed(unwritten(&error));
        if to.symlink_metadata().is_ok() {
            return Err(failed(EXISTS.to_owned()));
        }
        remove_left_behind(place::directory(to));
        let part = Part::create(to).map_err(unwritten)?;
        write(&connection, path, &part.path).map_err(|error| match error {
            Broken::Ledger(error) => error.into(),
            Broken::Copy(problem) => failed(problem),
        })?;
        let examined = examine(&part.path)?;
        part.become_file(to).map_err(unwritten)?;
        Ok(examined)
    }
}

const EXISTS: &str = "the file exists, and is not overwritten: name another one";

/// What a failed statement is about.
enum Broken {
    Ledger(OpenError),
    Copy(String),
}

fn write(from: &Connection, path: &Path, to: &Path) -> Result<(), Broken> {
    let name = format!("file:{}", file::uri(to));
    from.execute("VACUUM INTO ?1", [name]).and_then(|_| epoch::mark(to)).map_err(
        |error| match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase,
            ) => Broken::Ledger(OpenError::of(path, &error)),
            Some(ErrorCode::DiskFull) => {
                Broken::Copy(format!("its disk is full ({error}): free some space"))
            }
            _ => Broken::Copy(format!("it cannot be written ({error}): check its disk")),
        },
    )
}

fn unwritten(error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::AlreadyExists => return EXISTS.to_owned(),
        ErrorKind::NotFound => "create its directory, or name another file",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        ErrorKind::InvalidFilename => "choose a shorter name",
        _ => "fix the permissions of its directory, or name another file",
    };
    format!("it cannot be written ({error}): {remedy}")
}

/// An incomplete copy beside the final one. It is removed when dropped.
struct Part {
    path: PathBuf,
    /// Held for as long as someone writes it.
    _lock: Flock<File>,
}

/// The names of incomplete copies: independent of the copy's name, which may be a new one each day.
const PART: (&str, &str) = (".callbackd-", ".part");
/// How often another backup may take a new part for one that was left behind.
const TRIES: usize = 10;

impl Part {
    /// Only its owner can read the outcomes and arguments.
    fn create(of: &Path) -> io::Result<Self> {
        of.file_name().ok_or(ErrorKind::InvalidInput)?;
        for _ in 0..TRIES {
            // A process's id is not unique among containers.
            let path = of.with_file_name(format!("{}{:016x}{}", PART.0, fastrand::u64(..), PART.1));
            let mut options = OpenOptions::new();
            let made = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            if let Ok(lock) = Flock::lock(made, FlockArg::LockExclusiveNonblock)
                && path.exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    /// Gives it its name, unless there is such a file by now.
    fn become_file(self, to: &Path) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        match fs::hard_link(&self.path, to) {
            // Not every file system has hard links.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                rename_to_new(&self.path, to)?;
            }
            linked => linked?,
        }
        let directory = place::directory(to).to_owned();
        drop(self);
        File::open(directory)?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Renames a file unless the new name is taken. On a file system that cannot do both at once, a
/// file that appears in between is replaced.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    {
        use nix::errno::Errno;
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EINVAL | Errno::ENOSYS) => {}
            renamed => return renamed.map_err(Into::into),
        }
    }
    if to.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// Removes the incomplete copies in a directory whose writers were killed.
fn remove_left_behind(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_part = name.to_str().is_some_and(|name| {
            name.strip_prefix(PART.0)
                .and_then(|rest| rest.strip_suffix(PART.1))
                .is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if !is_part {
            continue;
        }
        let path = entry.path();
        let options = OpenOptions::new().read(true).write(true).open(&path);
        // Another user's is not ours to remove, and who writes one holds its lock.
        let lock = options.map(|part| Flock::lock(part, FlockArg::LockExclusiveNonblock));
        if let Ok(Ok(_lock)) = lock {
            remove(&path);
        }
    }
}

fn remove(part: &Path) {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        // Most do not exist.
        let _ = fs::remove_file(file::beside_it(part, suffix));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::ledger::sqlite::tests as rows;
    use crate::ledger::store::{Commit, Put, Row, Store};

    fn row(number: usize) -> Row {
        let arguments = Some("x".repeat(2000));
        Row { arguments, ..rows::row(&format!("tok{number:07}")) }
    }

    async fn put(store: &Sqlite, number: usize) {
        assert_eq!(store.put(row(number), None, Commit::Now).await, Ok(Put::Done));
    }

    fn tokens(path: &Path) -> Result<Vec<String>, OpenError> {
        let mut tokens = Vec::new();
        let sound = |row: Result<Row, _>| row.expect("sound").head.token.as_str().to_owned();
        Sqlite::read(path, |row| tokens.push(sound(row))).map(|()| tokens)
    }

    /// The names in a directory.
    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_is_of_one_moment_while_the_daemon_goes_on_writing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let store = Arc::new(Sqlite::open(&path, Arc::new(())).expect("it opens"));
        for number in 0..500 {
            put(&store, number).await;
        }
        let done = Arc::new(AtomicBool::new(false));
        let (daemon, until) = (store.clone(), done.clone());
        let task = tokio::spawn(async move {
            let mut next = 500;
            while !until.load(Ordering::Relaxed) || next == 500 {
                put(&daemon, next).await;
                next += 1;
            }
            next
        });
        let copies = folder.path().join("copies");
        fs::create_dir(&copies).expect("a folder");
        let to = copies.join("a 'copy' at 100%.db");
        let target = to.clone();
        let held = tokio::task::spawn_blocking(move || Sqlite::copy(&path, &target, tokens));
        let held = held.await.expect("it ends").expect("it is copied");
        done.store(true, Ordering::Relaxed);
        let last = task.await.expect("it writes");
        let expected: Vec<String> = (0..held.len()).map(|n| format!("tok{n:07}")).collect();
        assert_eq!(held, expected, "what was committed first is there, and nothing is missing");
        assert!((500..=last).contains(&held.len()));
        assert_eq!(tokens(&to), Ok(held));
        assert_eq!(names(&copies), ["a 'copy' at 100%.db"]);
        assert_eq!(to.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        drop(Sqlite::open(&to, Arc::new(())).expect("a daemon opens it"));
    }

    #[tokio::test]
    async fn what_a_killed_backup_left_is_removed_by_the_next_and_a_living_one_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        put(&Sqlite::open(&path, Arc::new(())).expect("it opens"), 1).await;
        let copies = folder.path().join("copies");
        fs::create_dir(&copies).expect("a folder");
        let left = format!("{}{:016x}{}", PART.0, 7, PART.1);
        for name in [&left, &format!("{left}-journal"), ".callbackd-mine.part"] {
            fs::write(copies.join(name), "half").expect("it is ours");
        }
        let living = Part::create(&copies.join("another.db")).expect("it is ours");
        let beside = living.path.file_name().expect("a name").to_string_lossy().into_owned();
        Sqlite::copy(&path, &copies.join("new.db"), tokens).expect("it is copied");
        let mut expected = [beside, ".callbackd-mine.part".to_owned(), "new.db".to_owned()];
        expected.sort();
        assert_eq!(names(&copies), expected);
    }

    #[tokio::test]
    async fn a_name_may_be_as_long_as_the_file_system_lets_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        put(&Sqlite::open(&path, Arc::new(())).expect("it opens"), 1).await;
        let named = |length: usize| folder.path().join("x".repeat(length));
        assert!(Sqlite::copy(&path, &named(255), tokens).is_ok());
        let refused = Sqlite::copy(&path, &named(256), tokens).expect_err("refused").to_string();
        assert!(refused.contains("choose a shorter name"), "{refused}");
        let refused = Sqlite::open(&named(252), Arc::new(())).err().expect("refused").to_string();
        assert!(refused.contains("a shorter name"), "{refused}");
    }

    #[test]
    fn without_hard_links_too_a_file_that_appears_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "new").expect("it is ours");
        fs::write(&to, "old").expect("it is ours");
        let refused = rename_to_new(&from, &to).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        fs::remove_file(&to).expect("it is there");
        rename_to_new(&from, &to).expect("it is renamed");
        assert_eq!(names(folder.path()), ["to"]);
    }

    #[tokio::test]
    async fn nothing_is_overwritten_and_of_a_failed_copy_nothing_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        put(&Sqlite::open(&path, Arc::new(())).expect("it opens"), 1).await;
        let copies = folder.path().join("copies");
        fs::create_dir(&copies).expect("a folder");
        let (file, link) = (copies.join("file"), copies.join("link"));
        fs::write(&file, "mine").expect("it is ours");
        symlink("nowhere", &link).expect("it is ours");
        for to in [&file, &link, &path] {
            let refused = Sqlite::copy(&path, to, tokens).expect_err("refused").to_string();
            assert!(refused.contains(&to.display().to_string()), "{refused}");
            assert!(refused.contains("is not overwritten"), "{refused}");
        }
        // It appears while the copy is made.
        let late = copies.join("late");
        let appears = |_: &Path| {
            fs::write(&late, "mine").expect("it is ours");
            Ok(())
        };
        let refused = Sqlite::copy(&path, &late, appears).expect_err("refused").to_string();
        assert!(refused.contains("is not overwritten"), "{refused}");
        let doubted = |_: &Path| Err::<(), _>(OpenError::new(&path, "it is wrong"));
        assert!(Sqlite::copy(&path, &copies.join("new"), doubted).is_err());
        assert_eq!(names(&copies), ["file", "late", "link"]);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
        assert_eq!(fs::read_to_string(&late).expect("it is there"), "mine");

        let nowhere = Sqlite::copy(&path, &copies.join("no/copy"), tokens).expect_err("refused");
        assert!(nowhere.to_string().contains("create its directory"), "{nowhere}");
        fs::write(copies.join("empty"), "").expect("it is ours");
        let empty = Sqlite::copy(&copies.join("empty"), &copies.join("new"), tokens);
        assert!(empty.expect_err("refused").to_string().contains("nothing to copy"));
    }
}
