//! Directories of runs whose worker was killed, and whose step then ended without another run that
//! would have removed them.
//!
//! A directory is removed only if it is certainly ours: it has a run's name, no live process uses
//! it, and the ledger has its step as settled, so nothing will read the checkpoint in it. Workers
//! that share `worker.work_dir` lock the directories that they use.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::earlier::Run;
use crate::handler::Leftover;

/// A directory exists for a moment before it is locked.
const AGE: i64 = 60;
/// The hexadecimal digits in a directory's name.
const DIGITS: usize = 16;

/// The name of a run's directory.
pub(super) fn name(token: &str, number: u64) -> String {
    format!("{token}-{number:0DIGITS$x}")
}

/// The token in such a name.
pub(super) fn token(name: &str) -> Option<&str> {
    let (token, digits) = name.rsplit_once('-')?;
    let is_number = digits.len() == DIGITS
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (!token.is_empty() && is_number).then_some(token)
}

/// The names of the directories of a step's runs.
pub(super) fn names(work_dir: &Path, of: &str) -> io::Result<Vec<String>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let entries = match fs::read_dir(work_dir) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && token(&name) == Some(of)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Locks a directory as long as the value lives and this process does; `None` if another process
/// holds the lock, or the file system has no locks.
pub(super) fn lock(directory: &Path, how: FlockArg) -> Option<Flock<File>> {
    try_lock(directory, how).ok()
}

/// Whether a live process has locked it.
pub(super) fn is_in_use(directory: &Path) -> bool {
    try_lock(directory, FlockArg::LockExclusiveNonblock)
        .is_err_and(|errno| errno == Errno::EWOULDBLOCK)
}

fn try_lock(directory: &Path, how: FlockArg) -> Result<Flock<File>, Errno> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory);
    let opened = opened.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Flock::lock(opened, how).map_err(|(_, errno)| errno)
}

/// Candidates in `work_dir`, for a caller that knows whether their steps are settled: directories
/// that no process uses, now and when they are removed.
pub(super) fn find(work_dir: &Path) -> Vec<Leftover> {
    older(work_dir, Timestamp::now().as_second() - AGE)
}

fn older(work_dir: &Path, than: i64) -> Vec<Leftover> {
    let entries = fs::read_dir(work_dir).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let token = token(entry.file_name().to_str()?)?.to_owned();
        let metadata = entry.metadata().ok()?;
        let directory = entry.path();
        if !metadata.is_dir() || metadata.ctime() > than {
            return None;
        }
        lock(&directory, FlockArg::LockExclusiveNonblock)?;
        Some(Leftover::new(token, move || remove(&directory)))
    });
    found.collect()
}

pub(super) fn remove(directory: &Path) {
    let Some(_until_it_is_gone) = lock(directory, FlockArg::LockExclusiveNonblock) else { return };
    // As long as something of it is alive, it must be possible to find that.
    match Run::read(directory) {
        Ok(Some(run)) if run.processes.kill() => return,
        Ok(_) => {}
        Err(_) => return,
    }
    let removed = fs::remove_dir_all(directory);
    let directory = directory.display();
    match removed {
        Ok(()) => {
            tracing::info!(
                event = "leftovers_removed",
                %directory,
                "removed what a killed worker had left of a settled step"
            );
        }
        Err(error) => {
            tracing::warn!(
                event = "leftovers_not_removed",
                %directory,
                %error,
                "what a killed worker had left of a settled step could not be removed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_with_a_run_s_name_that_nobody_uses_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let gone = ["T-00000000000000ab", "U-1-00000000000000cd"];
        let used = "V-00000000000000ef";
        let others =
            ["T-ab", "-00000000000000ab", "T-00000000000000AB", "T-0000000000000000ab", "data"];
        for name in gone.into_iter().chain(others).chain([used]) {
            fs::create_dir(at(name)).expect("made");
            fs::write(at(name).join("output"), "half=").expect("written");
        }
        fs::write(at("W-0000000000000001"), "").expect("written");
        std::os::unix::fs::symlink(at("data"), at("X-0000000000000001")).expect("made");
        let in_use = lock(&at(used), FlockArg::LockSharedNonblock).expect("locked");
        assert!(find(folder.path()).is_empty(), "all are as good as new");
        let all = || older(folder.path(), i64::MAX);
        let mut tokens: Vec<String> = all().iter().map(|left| left.token().to_owned()).collect();
        tokens.sort();
        assert_eq!(tokens, ["T", "U-1"]);
        all().into_iter().for_each(Leftover::remove);
        assert!(gone.iter().all(|name| !at(name).exists()));
        assert!(others.iter().all(|name| at(name).join("output").exists()) && at(used).exists());
        assert!(all().is_empty());
        drop(in_use);
        all().into_iter().for_each(Leftover::remove);
        assert!(
            all().is_empty() && at("data/output").exists() && at("W-0000000000000001").exists()
        );
    }
}
