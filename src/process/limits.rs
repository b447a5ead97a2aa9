//! The limit on this process's open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For connections, the ledger and the log, in addition to programs.
const OURS: u64 = 1024;
/// The pipes of a running program, its files while they are read, and its supervision.
const EACH: u64 = 12;

/// Raises the soft limit to what this many concurrent programs need, up to the hard limit. Not
/// further: programs inherit it, and some iterate over all possible descriptors.
pub fn raise_open_files(programs: usize) {
    let wanted = OURS.saturating_add(EACH.saturating_mul(programs as u64));
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let granted = wanted.min(hard);
    if soft < granted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, granted, hard)
    {
        tracing::warn!(
            event = "open_files_not_raised",
            %error,
            soft,
            granted,
            "the limit of open files could not be raised"
        );
    }
    if hard < wanted {
        tracing::warn!(
            event = "open_files_limited",
            hard,
            wanted,
            "the hard limit of open files is less than `concurrency` may need; raise it \
             (LimitNOFILE= with systemd)"
        );
    }
}
