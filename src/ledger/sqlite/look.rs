//! Examines a ledger's file for `check`: nothing is created, changed, or locked for longer than a
//! moment.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};
use rusqlite::{Connection, OpenFlags};

use super::epoch::{self, EPOCH};
use super::error::OpenError;
use super::file;
use super::place::{self, Place};

/// What a daemon of this user would find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// As a sentence.
    pub text: String,
    /// A worker has it open.
    pub in_use: bool,
    /// Things that work but may not be intended.
    pub doubts: Vec<String>,
}

/// Less free space than this is soon used up: the log alone may take 64 MiB after a burst.
const LITTLE: u64 = 128 << 20;

impl Look {
    /// Examines the file at `path`, or the place where it would be created.
    ///
    /// # Errors
    /// [`OpenError`] if a daemon of this user could not use it.
    pub(super) fn at(path: &Path) -> Result<Self, OpenError> {
        let place = Place::find(path)?;
        let directory = place::directory(&place.path);
        let mut doubts = Vec::new();
        if let Err(error) = access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
            let problem = format!(
                "files cannot be created in its directory {} ({}): run this as the user that \
                 callbackd runs as, fix the permissions of the directory, or set ledger.path",
                directory.display(),
                error.desc()
            );
            return Err(OpenError::new(path, problem));
        }
        if let Some(kind) = place.network {
            doubts.push(format!(
                "it is on {kind}: only the worker can open it, `callbackd steps` cannot read it \
                 meanwhile, and each commit costs a round trip"
            ));
        }
        if let Ok(disk) = nix::sys::statvfs::statvfs(directory) {
            let free = disk.blocks_available() * disk.fragment_size();
            if free < LITTLE {
                doubts.push(format!("its disk has {} MiB left", free >> 20));
            }
        }
        let Ok(found) = fs::metadata(&place.path) else {
            return Ok(Self {
                text: "will be created at the first start".to_owned(),
                in_use: false,
                doubts,
            });
        };
        doubts.extend(owners(&place.path, directory));
        if let Some(holder) = holder(&place.path) {
            return Ok(Self {
                text: format!("is open in another callbackd ({holder})"),
                in_use: true,
                doubts,
            });
        }
        if let Err(error) = access(&place.path, AccessFlags::R_OK | AccessFlags::W_OK) {
            let problem = format!(
                "it cannot be written ({}): run this as the user that callbackd runs as, or fix \
                 its permissions",
                error.desc()
            );
            return Err(OpenError::new(path, problem));
        }
        file::whole(&place.path)?;
        if found.len() == 0 {
            return Ok(Self {
                text: "is empty and can be written".to_owned(),
                in_use: false,
                doubts,
            });
        }
        if !file::wal_is_empty(&place.path) {
            let text =
                "can be written; its log is folded in at the next start, and the file is checked \
                 then"
                    .to_owned();
            return Ok(Self { text, in_use: false, doubts });
        }
        // As an immutable file: SQLite then creates no files beside it.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let name = format!("file:{}?immutable=1", file::uri(&place.path));
        let connection = Connection::open_with_flags(name, flags)
            .map_err(|error| OpenError::of(path, &error))?;
        file::recognise(path, &connection)?;
        epoch::check(path, &place.path, &connection)?;
        Ok(Self { text: "is intact and can be written".to_owned(), in_use: false, doubts })
    }
}

/// Files there that belong to another user and that the daemon could not write.
fn owners(file: &Path, directory: &Path) -> Vec<String> {
    let Ok(home) = fs::metadata(directory) else { return Vec::new() };
    let beside = ["", ".lock", EPOCH, "-wal", "-shm"].map(|suffix| file::beside_it(file, suffix));
    let foreign = |path: &std::path::PathBuf| {
        let owner = fs::metadata(path).ok()?.uid();
        (owner != home.uid()).then(|| {
            format!(
                "{} belongs to the user {owner}, but its directory to {}, whose daemon cannot \
                 write it: chown it",
                path.display(),
                home.uid()
            )
        })
    };
    beside.iter().filter_map(foreign).collect()
}

/// The process that has the file open, if any. A shared lock that is released at once disturbs
/// nothing: a starting daemon tries again.
fn holder(path: &Path) -> Option<String> {
    let locked = |path: &Path| {
        let file = File::open(path).ok()?;
        Flock::lock(file, FlockArg::LockSharedNonblock).err().map(|(file, _)| file)
    };
    if let Some(mut file) = locked(&file::beside_it(path, ".lock")) {
        let mut pid = String::new();
        // Only its pid is missing then.
        let _ = file.read_to_string(&mut pid);
        return Some(format!("process {}", pid.trim()));
    }
    locked(path).map(|_| {
        place::holders(path).first().cloned().unwrap_or_else(|| "another process".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::ledger::Sqlite;

    /// Everything in a directory, with its bytes, owner, mode and times.
    fn state(folder: &Path) -> BTreeMap<std::path::PathBuf, (Vec<u8>, u32, u32, i64, i64)> {
        let entries =
            fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let one = |path: std::path::PathBuf| {
            let found = fs::metadata(&path).expect("it is there");
            (
                path.clone(),
                (
                    fs::read(&path).expect("it is read"),
                    found.uid(),
                    found.permissions().mode(),
                    found.mtime(),
                    found.mtime_nsec(),
                ),
            )
        };
        entries.map(one).collect()
    }

    #[test]
    fn a_look_tells_what_a_daemon_would_find_and_leaves_no_trace() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let look = || {
            let before = state(folder.path());
            let look = Look::at(&path);
            assert_eq!(state(folder.path()), before);
            look
        };
        assert_eq!(look().expect("a look").text, "will be created at the first start");
        assert!(state(folder.path()).is_empty());
        fs::write(&path, "").expect("made");
        assert_eq!(look().expect("a look").text, "is empty and can be written");
        let store = Sqlite::open(&path, Arc::new(())).expect("it opens");
        let seen = look().expect("a look");
        assert!(
            seen.in_use && seen.text.contains(&format!("process {}", std::process::id())),
            "{seen:?}"
        );
        drop(store);
        let sound = look().expect("a look");
        assert_eq!((sound.text.as_str(), sound.in_use), ("is intact and can be written", false));
        fs::write(&path, "neither empty nor a database, and longer than a header has to be for it")
            .expect("written");
        assert!(look().expect_err("refused").to_string().contains("damaged or not a ledger"));
    }

    #[test]
    fn files_of_another_user_than_the_directorys_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        drop(Sqlite::open(&path, Arc::new(())).expect("it opens"));
        assert_eq!(Look::at(&path).expect("a look").doubts, [""; 0]);
        if std::os::unix::fs::chown(folder.path(), Some(4711), None).is_err() {
            // Only root may change a directory's owner.
            return;
        }
        let doubts = Look::at(&path).expect("a look").doubts;
        assert_eq!(doubts.len(), 3, "{doubts:?}");
        assert!(
            doubts[0].contains("ledger.db belongs to the user 0, but its directory to 4711"),
            "{doubts:?}"
        );
    }
}
