//! A number that every process of one run carries, and no other process of the machine.
//!
//! It is a resource limit, because all descendants inherit those, whatever session, environment and
//! parents they have, and any process may read them. The limit on the uninterrupted CPU time of
//! real-time processes (`RLIMIT_RTTIME`) is unlimited on all systems that we know; ours is at least
//! a century, so it limits nothing. After a daemon was killed together with its keepers, its next
//! life uses the mark to find what they left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

use super::sys;

/// The lowest value, in microseconds.
const CENTURY: u64 = 1 << 52;
/// A killed process that still exists after this belongs to another user, or hangs in the kernel.
const LOOKS: u32 = 200;
const LOOK: Duration = Duration::from_millis(20);

/// The result of killing the processes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum End {
    /// There were none.
    Nothing,
    /// They are gone.
    Ended,
    /// The rest hangs in the kernel, for example on a dead file system, and disappears as soon as
    /// the call returns.
    Hangs,
    /// One is alive: it belongs to another user.
    Alive(i32),
}

/// The marks that existed at a moment.
struct Look {
    /// Time since boot.
    at: Duration,
    marks: BTreeSet<u64>,
}

static LAST: Mutex<Look> = Mutex::new(Look { at: Duration::ZERO, marks: BTreeSet::new() });

pub(super) fn new() -> u64 {
    match getrlimit(Resource::RLIMIT_RTTIME) {
        Ok((_, hard)) if hard != RLIM_INFINITY && hard < 2 * CENTURY => {
            fastrand::u64(hard / 2..hard.max(2))
        }
        _ => CENTURY + fastrand::u64(..CENTURY),
    }
}

/// Marks this process and all that it will start.
pub(super) fn bear(mark: usize) -> bool {
    sys::limit(libc::RLIMIT_RTTIME as usize, mark, mark)
}

pub(super) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Whether a process may carry a mark that was created at `made`. One scan of the machine's
/// processes serves all older marks.
pub(super) fn may_be_borne(mark: u64, made: Duration) -> bool {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.at <= made {
        *last = Look { at: since_boot(), marks: bearers().into_keys().collect() };
    }
    last.marks.contains(&mark)
}

/// Kills all processes with a mark; returns whether there were any.
pub(super) fn kill(mark: u64) -> bool {
    let Some(pids) = bearers().remove(&mark) else { return false };
    for pid in pids {
        sys::kill(pid, libc::SIGKILL);
    }
    true
}

/// Kills all processes with a mark until none is left.
pub(super) async fn end(mark: u64) -> End {
    let mut end = End::Nothing;
    for _ in 0..LOOKS {
        if !kill(mark) {
            return end;
        }
        end = End::Ended;
        sleep(LOOK).await;
    }
    match bearers().remove(&mark) {
        None => end,
        Some(left) => {
            left.into_iter().find(|pid| state(*pid) != Some('D')).map_or(End::Hangs, End::Alive)
        }
    }
}

/// All marked processes, except those that only wait to be reaped.
fn bearers() -> BTreeMap<u64, Vec<i32>> {
    let mut found: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(mark) = mark_of(pid)
            && state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
        {
            found.entry(mark).or_default().push(pid);
        }
    }
    found
}

fn mark_of(pid: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max realtime timeout"))?;
    limit.split_whitespace().next()?.parse().ok()
}

fn state(pid: i32) -> Option<char> {
    // The name is in parentheses and may contain anything, including parentheses.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()?
        .rsplit_once(')')?
        .1
        .trim_start()
        .chars()
        .next()
}
