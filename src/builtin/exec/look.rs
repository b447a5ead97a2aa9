//! What a file is, asked with a time limit: on a dead network file system the answer never comes, and the daemon is not to wait for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};

use super::account::Account;

/// What there is where a program should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Executable,
    /// A file without content, which no kernel runs.
    Empty,
    /// Nothing, or nothing that this user may execute.
    None,
    Silent,
}

/// A local file system answers within microseconds, a slow remote one within a second.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn program(path: PathBuf, account: Option<Account>) -> Program {
    let look = move || {
        let Ok(metadata) = path.metadata() else { return Program::None };
        let may_execute = match account {
            Some(account) => account.may_use(&metadata, 0o1),
            None => eaccess(&path, AccessFlags::X_OK).is_ok(),
        };
        match metadata.len() {
            _ if !metadata.is_file() || !may_execute => Program::None,
            0 => Program::Empty,
            _ => Program::Executable,
        }
    };
    within(look).unwrap_or(Program::Silent)
}

/// Whether there is a directory; none where the file system does not answer.
pub(super) fn is_directory(path: &Path) -> Option<bool> {
    let path = path.to_owned();
    within(move || fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()))
}

/// What `look` comes to, if it comes to anything in time. Else its thread stays behind, in the kernel.
fn within<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = channel();
    let asking = move || {
        // Whoever asked may have given up.
        let _ = answer.send(look());
    };
    std::thread::Builder::new().name("look".to_owned()).spawn(asking).ok()?;
    answered.recv_timeout(PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_not_waited_for() {
        let (never, comes) = channel::<()>();
        assert_eq!(within(move || comes.recv()), None);
        drop(never);
        assert_eq!(within(|| 5), Some(5));
    }
}
