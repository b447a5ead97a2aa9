//! How many files this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For connections, the ledger and the log, beside what programs take.
const OURS: u64 = 1024;
/// The pipes of a running program, its files while they are looked at, and what watches over it.
const EACH: u64 = 12;

/// Raises the soft limit to what so many programs at once need, as far as the hard one lets it. Not
/// beyond: programs inherit it, and some go through all descriptors that there could be.
pub fn raise_open_files(programs: usize) {
    let wanted = OURS.saturating_add(EACH.saturating_mul(programs as u64));
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let granted = wanted.min(hard);
    if soft < granted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, granted, hard)
    {
        tracing::warn!(%error, soft, granted, "the limit of open files could not be raised");
    }
    if hard < wanted {
        tracing::warn!(
            hard,
            wanted,
            "the hard limit of open files is less than `concurrency` may need; raise it \
             (LimitNOFILE= with systemd)"
        );
    }
}
