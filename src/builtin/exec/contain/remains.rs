//! What a run may leave behind, as recorded in its directory, and how it is killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cgroup;
use super::mark::{self, End};

/// How the processes of a run can be identified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Remains {
    pub(super) mark: u64,
    /// When it was created, since boot.
    made: Duration,
    /// The kernel's id of this boot.
    boot: String,
    /// Identifies the process of the daemon.
    life: u64,
    /// The run's cgroup, if it has one.
    pub(super) cgroup: Option<PathBuf>,
}

/// Runs of this life that were dropped before they had ended.
static LET_GO: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

impl Remains {
    pub(super) fn new(mark: u64, cgroup: Option<PathBuf>) -> Self {
        Self { mark, made: mark::since_boot(), boot: boot(), life: life(), cgroup }
    }

    /// Kills what is left of the run. A run of this life leaves nothing, unless it was dropped:
    /// every other one is awaited to its end. So this scans the machine's processes at most once
    /// per life of the daemon, and once for each dropped run.
    pub(in super::super) async fn end(&self) -> End {
        let may_be_there = self.may_be_there();
        let cgroup = self.cgroup(may_be_there);
        if let Some(path) = cgroup {
            cgroup::kill(path);
        }
        let end = if may_be_there { mark::end(self.mark).await } else { End::Nothing };
        if let Some(path) = cgroup {
            cgroup::remove(path);
        }
        if self.is_ours() && matches!(end, End::Nothing | End::Ended) {
            let_go().remove(&self.mark);
        }
        end
    }

    /// Like [`end`](Self::end), without waiting for the end; returns whether anything was alive.
    pub(in super::super) fn kill(&self) -> bool {
        let may_be_there = self.may_be_there();
        let cgroup = self.cgroup(may_be_there);
        if let Some(path) = cgroup {
            cgroup::kill(path);
        }
        let was_alive = may_be_there && mark::kill(self.mark);
        if let Some(path) = cgroup.filter(|_| !was_alive) {
            cgroup::remove(path);
        }
        if self.is_ours() && !was_alive {
            let_go().remove(&self.mark);
        }
        was_alive
    }

    /// It is of this life, and was dropped before it had ended.
    pub(in super::super) fn is_let_go(&self) -> bool {
        self.is_ours() && let_go().contains(&self.mark)
    }

    pub(super) fn let_go(&self) {
        let_go().insert(self.mark);
    }

    fn is_ours(&self) -> bool {
        self.life == life()
    }

    fn may_be_there(&self) -> bool {
        if self.is_ours() {
            self.is_let_go()
        } else {
            self.boot == boot() && mark::may_be_borne(self.mark, self.made)
        }
    }

    /// The cgroup that may still hold something.
    fn cgroup(&self, may_be_there: bool) -> Option<&Path> {
        let may_hold = may_be_there || !self.is_ours() && self.boot == boot();
        self.cgroup.as_deref().filter(|path| may_hold && path.exists())
    }
}

fn let_go() -> MutexGuard<'static, BTreeSet<u64>> {
    LET_GO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no other process has.
fn life() -> u64 {
    static LIFE: OnceLock<u64> = OnceLock::new();
    *LIFE.get_or_init(|| fastrand::u64(..))
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
