//! Reaps the orphans of a container in which this is the first process: no other process can.
//!
//! Programs and everything that they start are reaped by their keepers. What arrives here was
//! started by others, such as `docker exec`.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::time::interval;

/// Our own children are awaited within milliseconds by the code that started them; one that has
/// been dead for longer is an orphan.
const LOOK: Duration = Duration::from_secs(5);

/// Whether this is the first process of its container.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Reaps, as long as it is polled, processes that have been dead for a while. Never returns.
pub async fn reap() {
    let mut looks = interval(LOOK);
    let mut seen = BTreeSet::new();
    loop {
        looks.tick().await;
        let dead = dead_children();
        for pid in dead.intersection(&seen) {
            if waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)).is_ok() {
                tracing::debug!(pid, "reaped an orphaned process");
            }
        }
        seen = dead;
    }
}

fn dead_children() -> BTreeSet<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = children.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    pids.filter(|pid| is_dead(*pid)).collect()
}

fn is_dead(pid: i32) -> bool {
    // The name is in parentheses and may contain anything, including parentheses.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_has_ended_is_dead_until_it_is_waited_for() {
        let mut child =
            std::process::Command::new("/bin/sleep").arg("600").spawn().expect("it starts");
        let pid = i32::try_from(child.id()).expect("a number");
        assert!(!dead_children().contains(&pid));
        child.kill().expect("it is alive");
        while !dead_children().contains(&pid) {
            std::thread::yield_now();
        }
        child.wait().expect("it is ours");
        assert!(!dead_children().contains(&pid));
    }
}
