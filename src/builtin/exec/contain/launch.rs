//! The program's process, from the fork to its exec.

use std::os::fd::RawFd;

use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid, setsid};

use super::plan::Mapped;
use super::sys;

/// The step that failed while starting a program, reported with the errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A process, a descriptor or memory was not available.
    Resources = 1,
    Cgroup,
    Limits,
    User,
    Directory,
    Exec,
}

impl Stage {
    pub(super) fn of(number: i32) -> Option<Self> {
        [Self::Resources, Self::Cgroup, Self::Limits, Self::User, Self::Directory, Self::Exec]
            .into_iter()
            .find(|stage| *stage as i32 == number)
    }
}

/// What the program is given.
pub(super) struct Given {
    pub(super) plan: Mapped,
    pub(super) keeper: Pid,
    pub(super) streams: [RawFd; 3],
    /// Where to report a failure; closed by the exec.
    pub(super) trouble: RawFd,
    /// The run's cgroup, if the process is not in it yet.
    pub(super) cgroup: RawFd,
}

/// More groups than any known account has; a kernel allows 65,536.
const GROUPS: usize = 1024;

/// Becomes the program.
pub(super) fn launch(given: &Given) -> ! {
    let (stage, errno) = prepare(given).err().unwrap_or_else(|| (Stage::Exec, execute(given.plan)));
    sys::write(given.trouble, &super::keeper::words(stage as i32, errno));
    sys::exit(127)
}

fn prepare(given: &Given) -> Result<(), (Stage, i32)> {
    let plan = given.plan;
    die_with(given.keeper);
    if given.cgroup >= 0 {
        let procs = sys::open_at(given.cgroup, c"cgroup.procs", libc::O_WRONLY);
        if procs < 0 || !sys::write(procs, b"0") {
            return Err((Stage::Cgroup, nix::errno::Errno::last_raw()));
        }
        sys::close(procs);
    }
    // No terminal, and a process group of its own.
    let _ = setsid();
    for (stream, to) in given.streams.into_iter().zip(0..) {
        if !sys::duplicate(stream, to) {
            return Err((Stage::Resources, nix::errno::Errno::last_raw()));
        }
    }
    let mut index = 0;
    while let Some((resource, soft, hard)) = plan.limit(index) {
        if !sys::limit(resource, soft, hard) {
            return Err((Stage::Limits, nix::errno::Errno::last_raw()));
        }
        index += 1;
    }
    if plan.has_user() {
        let mut groups = [0; GROUPS];
        let count = plan.groups(&mut groups);
        let (uid, gid) = plan.user();
        sys::become_user(uid, gid, groups.get(..count).unwrap_or_default())
            .map_err(|errno| (Stage::User, errno))?;
        // Changing the user cleared it.
        die_with(given.keeper);
    }
    if let Some(directory) = plan.directory() {
        sys::change_directory(directory).map_err(|errno| (Stage::Directory, errno))?;
    }
    // Their dispositions have been the defaults since the fork server began.
    sys::unblock_signals();
    Ok(())
}

/// Has the kernel kill this process when its keeper dies.
fn die_with(keeper: Pid) {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid() != keeper {
        // The keeper has died already.
        sys::exit(127);
    }
}

/// Tries each path as `execvp` does, but never a shell; returns the most telling errno.
fn execute(plan: Mapped) -> i32 {
    let mut said = libc::ENOENT;
    let mut index = 0;
    while let Some(program) = plan.program(index) {
        match sys::execute(program, plan.argv(), plan.envp()) {
            libc::ENOENT | libc::ENOTDIR => {}
            // Another file of the same name may be meant.
            libc::EACCES => said = libc::EACCES,
            errno => return errno,
        }
        index += 1;
    }
    said
}
