//! A cgroup for each run, if the kernel allows one: below the daemon's own, on the unified
//! hierarchy.
//!
//! Everything in it is killed by one write, whichever user it runs as, and limits apply to all of
//! it together. A systemd unit with `Delegate=yes` and a container with a writable `/sys/fs/cgroup`
//! allow it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{AccessFlags, access, getpid, getppid};

use super::super::limits::Limits;

/// The parent cgroup of all runs.
#[derive(Debug)]
pub(super) struct Base {
    path: PathBuf,
    /// The controllers that can set limits.
    memory: bool,
    processes: bool,
}

/// The cgroup of one run, created and empty.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    /// Passed to the keeper.
    directory: Option<OwnedFd>,
    /// Which limits it enforces.
    pub(super) memory: bool,
    pub(super) processes: bool,
}

/// The cgroup that the daemon moves into: a cgroup with processes of its own cannot delegate
/// controllers.
const DAEMON: &str = "callbackd-daemon";

impl Base {
    /// The cgroup of this process, if runs can have cgroups below it; otherwise why not. Changes
    /// nothing.
    pub(super) fn look() -> Result<PathBuf, String> {
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| format!("mountinfo: {error}"))?;
        let (path, is_root) = place(&own, &mounts).ok_or("there is no cgroup2 file system here")?;
        let writable = |path: &Path| access(path, AccessFlags::W_OK);
        if let Err(error) = writable(&path).and_then(|()| writable(&path.join("cgroup.procs"))) {
            return Err(format!(
                "{} cannot be written ({error}); under systemd, set Delegate=yes",
                path.display()
            ));
        }
        // The root has no such file, although its children have.
        if !is_root && !path.join("cgroup.kill").exists() {
            return Err("this kernel has no cgroup.kill (Linux 5.14)".to_owned());
        }
        if fs::read_to_string(path.join("cgroup.type")).is_ok_and(|kind| kind.trim() != "domain") {
            return Err(format!("{} is not a domain cgroup", path.display()));
        }
        Ok(path)
    }

    /// Whether the cgroups below can have the controllers for limits; otherwise why not.
    pub(super) fn hands_out(path: &Path) -> Result<(), String> {
        let available = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let has = |name| available.split_whitespace().any(|one| one == name);
        if !has("memory") || !has("pids") {
            return Err(format!("{} has no controllers `memory` and `pids`", path.display()));
        }
        let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        let own = [getpid(), getppid()].map(|pid| pid.to_string());
        // The processes of a whole container or unit would have to move, not only the daemon; and
        // the caller may not be the daemon itself.
        if processes.lines().filter(|pid| !own.iter().any(|own| own == pid)).count() > 1 {
            return Err(format!("other processes share the cgroup {}", path.display()));
        }
        Ok(())
    }

    /// The base of this process, prepared. To set limits, the daemon moves into a cgroup of its
    /// own, so this must happen before the daemon has children.
    pub(super) fn ready(limits: bool) -> Option<&'static Self> {
        static BASE: OnceLock<Option<Base>> = OnceLock::new();
        BASE.get_or_init(|| {
            let path = Self::look().ok()?;
            let try_out = path.join(format!("callbackd-{}", getpid()));
            fs::create_dir(&try_out).ok()?;
            let can_kill = try_out.join("cgroup.kill").exists();
            remove(&try_out);
            can_kill.then(|| {
                let (memory, processes) = if limits { hand_out(&path) } else { (false, false) };
                Base { path, memory, processes }
            })
        })
        .as_ref()
    }

    pub(super) fn make(&self, mark: u64, limits: &Limits) -> io::Result<Cgroup> {
        let path = self.path.join(format!("callbackd-{mark:x}"));
        fs::create_dir(&path)?;
        let made = File::open(&path).and_then(|directory| {
            let (memory, processes) = (
                self.memory && limits.memory.is_some(),
                self.processes && limits.processes.is_some(),
            );
            if let Some(memory) = limits.memory.filter(|_| self.memory) {
                fs::write(path.join("memory.max"), memory.to_string())?;
                // The whole run is killed, not only its largest process.
                fs::write(path.join("memory.oom.group"), "1")?;
            }
            if let Some(processes) = limits.processes.filter(|_| self.processes) {
                fs::write(path.join("pids.max"), processes.to_string())?;
            }
            Ok((directory, memory, processes))
        });
        match made {
            Ok((directory, memory, processes)) => {
                Ok(Cgroup { path, directory: Some(directory.into()), memory, processes })
            }
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }
}

impl Cgroup {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, for the process that starts in it.
    pub(super) fn take_directory(&mut self) -> Option<OwnedFd> {
        self.directory.take()
    }

    /// Whether the kernel killed something in it because its memory was used up.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count != "0")
    }
}

/// Kills everything in a cgroup.
pub(super) fn kill(path: &Path) {
    if let Err(error) = fs::write(path.join("cgroup.kill"), "1") {
        // If something survives therefore, the end of the run says so.
        tracing::debug!(path = %path.display(), %error, "a run's cgroup could not be killed");
    }
}

pub(super) fn remove(path: &Path) {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "a run's cgroup could not be removed");
        }
        _ => {}
    }
}

/// Enables the controllers for the cgroups below; returns which of memory and processes they have.
fn hand_out(path: &Path) -> (bool, bool) {
    let has = |name: &str| {
        let given = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        given.split_whitespace().any(|one| one == name)
    };
    let give = || {
        for name in ["memory", "pids"] {
            if !has(name) {
                let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
            }
        }
        has("memory") && has("pids")
    };
    if !give() {
        let daemon = path.join(DAEMON);
        let available = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        if available.split_whitespace().any(|name| name == "memory" || name == "pids") {
            let _ = fs::create_dir(&daemon);
            let _ = fs::write(daemon.join("cgroup.procs"), getpid().to_string());
            give();
        }
    }
    (has("memory"), has("pids"))
}

/// The path of the cgroup in `/proc/self/cgroup`, resolved by the mounts in `/proc/self/mountinfo`,
/// and whether it is the root.
fn place(own: &str, mounts: &str) -> Option<(PathBuf, bool)> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        kind.starts_with("cgroup2 ").then_some((*fields.get(3)?, *fields.get(4)?))
    });
    let (root, point) = mount?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some((Path::new(point).join(below), own == "/" && root == "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_a_process_is_found_below_its_mount() {
        let plain = "25 21 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let unit = ("0::/system.slice/callbackd.service\n", plain);
        assert_eq!(
            place(unit.0, unit.1),
            Some(("/sys/fs/cgroup/system.slice/callbackd.service".into(), false))
        );
        assert_eq!(place("0::/\n", plain), Some(("/sys/fs/cgroup/".into(), true)));
        let mixed = "9 1 0:3 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n9 1 0:4 / \
                     /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(
            place("4:memory:/x\n0::/y\n", mixed),
            Some(("/sys/fs/cgroup/unified/y".into(), false))
        );
        let within = "25 21 0:22 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(place("0::/docker/1/a\n", within), Some(("/sys/fs/cgroup/a".into(), false)));
        assert_eq!(place("0::/other\n", within), None);
        assert_eq!(place("4:memory:/x\n", plain), None);
    }

    #[test]
    fn limits_are_written_where_there_are_controllers_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = Base { path: folder.path().to_owned(), memory: true, processes: false };
        let limits = Limits { memory: Some(5 << 20), processes: Some(3), open_files: None };
        let made = base.make(7, &limits).expect("a folder like any other");
        assert!(made.memory && !made.processes);
        assert_eq!(
            fs::read_to_string(made.path().join("memory.max")).expect("written"),
            (5 << 20).to_string()
        );
        assert!(!made.path().join("pids.max").exists());
    }
}
