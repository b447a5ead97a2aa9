//! A process group that a program leads, and its end.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::step::CallbackToken;

/// A process group by what tells it from any later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    /// The process id of its leader.
    pgid: i32,
    /// When the leader was started, in the kernel's ticks since boot.
    started: u64,
    /// The kernel's id of this boot of this machine.
    boot: String,
}

/// A killed process that is still there after this hangs in the kernel, on a dead file system for one; nothing more can be done.
const LOOKS: u32 = 200;
const LOOK: Duration = Duration::from_millis(20);

impl Group {
    /// The group that the process `pid` leads; none where it has gone.
    pub(super) fn of_leader(pid: i32) -> Option<Self> {
        Some(Self { pgid: pid, started: stat(pid)?.started, boot: boot()? })
    }

    pub(super) fn id(&self) -> i32 {
        self.pgid
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Fails only where no process of the group is left.
        let _ = killpg(Pid::from_raw(self.pgid), signal);
    }

    /// Kills what is left of the group, and returns once it is gone.
    pub(super) async fn end(&self) {
        for _ in 0..LOOKS {
            if members(self.pgid).is_empty() {
                return;
            }
            self.signal(Signal::SIGKILL);
            sleep(LOOK).await;
        }
        tracing::error!(group = self.pgid, "a killed program does not end; it hangs in the kernel");
    }

    /// Ends the group, if it is the one of this record and any of it is alive; says whether there was anything to end.
    ///
    /// A number is not given to a new process while a group of that number has members. So if the leader is alive with the recorded start,
    /// or it is gone and a member bears the step's token, this is the group; if not, the number has come into other hands.
    pub(super) async fn end_if_ours(&self, token: &CallbackToken) -> bool {
        if boot().as_ref() != Some(&self.boot) {
            return false;
        }
        let members = members(self.pgid);
        let ours = match stat(self.pgid).filter(|leader| !leader.dead) {
            Some(leader) => leader.started == self.started,
            None => members.iter().any(|pid| bears(*pid, token)),
        };
        if members.is_empty() || !ours {
            return false;
        }
        self.end().await;
        true
    }
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    group: i32,
    started: u64,
    dead: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, parentheses too.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        dead: matches!(*fields.first()?, "Z" | "X"),
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// The living processes of a group; those that only wait to be reaped do nothing any more.
fn members(pgid: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.group == pgid && !stat.dead)).collect()
}

fn bears(pid: i32, token: &CallbackToken) -> bool {
    let wanted = format!("STEP_TOKEN={token}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
}

fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}
