//! Examines a file as a given user, with a time limit: on a dead network file system the answer
//! never comes.
//!
//! A separate process does it, because a thread that hangs in the kernel would keep the whole
//! process from exiting. It runs as the user, so that the kernel checks everything that matters:
//! each directory on the path, groups, access control lists, mount options.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::super::account::Account;
use super::{plan, sys};

/// What exists at a program's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Program {
    Executable,
    /// An empty file, which no kernel runs.
    Empty,
    /// Nothing, or nothing that this user may execute.
    None,
    Silent,
}

/// The answer about a file: whether it exists, its mode and length, and whether it may be executed,
/// or entered if it is a directory.
pub(super) type Said = [u64; 4];

const SIZE: usize = size_of::<Said>();
/// A local file system answers within microseconds, a slow remote one within a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// The descriptor on which the process answers.
const ANSWER: i32 = 3;

/// What exists at `path`, for an account, or for this process's own user.
pub(in super::super) fn program(path: &Path, account: Option<&Account>) -> Program {
    let Some([there, mode, length, executable]) = ask(path, account) else {
        return Program::Silent;
    };
    if there == 0 || mode & u64::from(libc::S_IFMT) != u64::from(libc::S_IFREG) || executable == 0 {
        Program::None
    } else if length == 0 {
        Program::Empty
    } else {
        Program::Executable
    }
}

/// Whether the directory exists and an account, or this process's own user, may enter it; `None` if
/// the file system does not answer.
pub(in super::super) fn may_enter(path: &Path, account: Option<&Account>) -> Option<bool> {
    let [there, mode, _, executable] = ask(path, account)?;
    Some(
        there == 1 && mode & u64::from(libc::S_IFMT) == u64::from(libc::S_IFDIR) && executable == 1,
    )
}

fn ask(path: &Path, account: Option<&Account>) -> Option<Said> {
    let path = plan::text(path).ok()?;
    let account = account.filter(|account| !account.is_ours());
    within(|| {
        match account.map(|account| {
            sys::become_user(account.uid as usize, account.gid as usize, &account.groups)
        }) {
            Some(Err(_)) => [0; 4],
            Some(Ok(())) | None => sys::stat(&path),
        }
    })
}

/// The result of `look`, if it comes in time. It runs in another process and uses only the calls of
/// `sys`.
fn within(look: impl FnOnce() -> Said) -> Option<Said> {
    let (mut ours, theirs) = UnixStream::pair().ok()?;
    let pid = sys::fork();
    if pid == 0 {
        // No descriptor of the daemon stays open in it.
        if sys::duplicate(theirs.as_raw_fd(), ANSWER) {
            sys::close_from(4);
            let mut said = [0; SIZE];
            for (bytes, word) in said.chunks_exact_mut(size_of::<u64>()).zip(look()) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            sys::write(ANSWER, &said);
        }
        sys::exit(0);
    }
    drop(theirs);
    let mut said = [0; SIZE];
    let answered =
        ours.set_read_timeout(Some(PATIENCE)).and_then(|()| ours.read_exact(&mut said)).is_ok();
    if pid > 0 {
        if !answered {
            sys::kill(pid, libc::SIGKILL);
        }
        // A process that hangs in the kernel is left to be reaped later.
        let _ = waitpid(Pid::from_raw(pid), (!answered).then_some(WaitPidFlag::WNOHANG));
    }
    let mut words = said
        .chunks_exact(size_of::<u64>())
        .filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)));
    answered.then(|| std::array::from_fn(|_| words.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_not_waited_for() {
        let silent = || loop {
            sys::wait_for([-1]);
        };
        assert_eq!(within(silent), None);
        assert_eq!(within(|| [1, 2, 3, 4]), Some([1, 2, 3, 4]));
    }

    #[test]
    fn programs_directories_and_nothing_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(may_enter(folder.path(), None), Some(true));
        assert_eq!(may_enter(Path::new("/bin/true"), None), Some(false));
        assert_eq!(may_enter(&folder.path().join("none"), None), Some(false));
        assert_eq!(program(Path::new("/bin/true"), None), Program::Executable);
        assert_eq!(program(Path::new("/etc/passwd"), None), Program::None);
        assert_eq!(program(folder.path(), None), Program::None);
        assert_eq!(program(&folder.path().join("none"), None), Program::None);
    }
}
