//! The process between the daemon and a program: everything that the program starts finally becomes
//! its child, and it ends when all of that has ended.
//!
//! It reports how the program began and ended, and kills what is left when the program has ended,
//! when it is told to, and when the daemon has died. A process cannot escape by a process group, a
//! session or an environment of its own, nor by losing its parent, because orphans are reparented
//! to the nearest ancestor that is a *subreaper*. Killing its children repeatedly therefore reaches
//! all descendants. If the keeper itself is killed, the kernel kills the program (its parent-death
//! signal), and the rest is reparented to the fork server, which kills it.

use std::os::fd::RawFd;

use nix::libc;
use nix::sys::prctl;
use nix::unistd::getpid;

use super::launch::{Given, Stage, launch};
use super::plan::Mapped;
use super::sys::{self, FDS, Waited};

/// What a keeper reports: one of these, with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The program runs.
    Begun,
    /// It could not be started; the stage and the errno.
    Failed(Stage, i32),
    /// It has ended, with this wait(2) status.
    Ended(i32),
    /// Nothing is left of it.
    Gone,
}

/// Send `SIGTERM` to the program's group.
pub(super) const TELL: u8 = b't';
/// Kill everything.
pub(super) const KILL: u8 = b'k';
pub(super) const SIZE: usize = 8;

const BEGUN: i32 = 100;
const ENDED: i32 = 101;
const GONE: i32 = 102;

pub(super) fn words(first: i32, second: i32) -> [u8; SIZE] {
    (u64::from(first.cast_unsigned()) << 32 | u64::from(second.cast_unsigned())).to_ne_bytes()
}

fn numbers(words: [u8; SIZE]) -> (i32, i32) {
    let words = u64::from_ne_bytes(words);
    let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0).cast_signed();
    (half(words >> 32), half(words))
}

impl Said {
    pub(super) fn read(bytes: [u8; SIZE]) -> Option<Self> {
        match numbers(bytes) {
            (BEGUN, _) => Some(Self::Begun),
            (ENDED, status) => Some(Self::Ended(status)),
            (GONE, _) => Some(Self::Gone),
            (stage, errno) => Stage::of(stage).map(|stage| Self::Failed(stage, errno)),
        }
    }
}

/// Reports that there is no program, because the last system call failed.
pub(super) fn refuse(control: RawFd, stage: Stage) {
    sys::write(control, &words(stage as i32, nix::errno::Errno::last_raw()));
    sys::write(control, &words(GONE, 0));
}

struct Keeper {
    control: RawFd,
    children: RawFd,
    cgroup: RawFd,
    plan: Mapped,
    /// Written by the program until its exec.
    trouble: RawFd,
    program: i32,
    failed: bool,
    /// The program has been reaped, so its process id may be reused.
    ended: bool,
    /// The run is over; only killing the rest is left.
    ending: bool,
}

/// Serves one request with these descriptors, then exits.
pub(super) fn keep(children: RawFd, fds: &[RawFd; FDS]) -> ! {
    let [plan, control, stdin, stdout, stderr, cgroup] = *fds;
    let fail = |stage: Stage| -> ! {
        refuse(control, stage);
        sys::exit(0)
    };
    let _ = prctl::set_name(c"exec-keeper");
    let _ = prctl::set_child_subreaper(true);
    let Some(mapped) = Mapped::of(plan) else { fail(Stage::Resources) };
    sys::close(plan);
    // From here on this process and its descendants can be told apart from others.
    if !super::mark::bear(mapped.mark()) {
        fail(Stage::Limits);
    }
    let Some((trouble, to_trouble)) = sys::pipe() else { fail(Stage::Resources) };
    let keeper = getpid();
    let (program, is_inside) = sys::fork_into(cgroup);
    if program == 0 {
        let streams = [stdin, stdout, stderr];
        let cgroup = if is_inside { -1 } else { cgroup };
        launch(&Given { plan: mapped, keeper, streams, trouble: to_trouble, cgroup });
    }
    if program < 0 {
        fail(Stage::Resources);
    }
    for fd in [to_trouble, stdin, stdout, stderr] {
        sys::close(fd);
    }
    let (failed, ended, ending) = (false, false, false);
    Keeper { control, children, cgroup, plan: mapped, trouble, program, failed, ended, ending }
        .serve()
}

impl Keeper {
    fn serve(mut self) -> ! {
        loop {
            let [_, said, _] = sys::wait_for([self.trouble, self.control, self.children]);
            // Before the program's end: why it could not begin.
            self.look_for_trouble();
            if said {
                self.listen();
            }
            super::server::drain(self.children);
            self.reap();
            if self.ending {
                self.end_children();
            }
        }
    }

    fn look_for_trouble(&mut self) {
        let mut said = [0; SIZE];
        match (self.trouble, if self.trouble < 0 { -1 } else { sys::read(self.trouble, &mut said) })
        {
            (..0, _) | (_, ..0) => return,
            (_, 0) => {
                self.offer_to_the_kernel();
                self.say(words(BEGUN, 0));
            }
            _ => {
                self.failed = true;
                self.say(said);
            }
        }
        sys::close(self.trouble);
        self.trouble = -1;
    }

    fn listen(&mut self) {
        let mut said = [0; 16];
        let length = sys::read(self.control, &mut said);
        let Ok(length @ 1..) = usize::try_from(length) else {
            if length == 0 || nix::errno::Errno::last() != nix::errno::Errno::EAGAIN {
                // The daemon has dropped the run, or has died.
                sys::close(self.control);
                self.control = -1;
                self.ending = true;
            }
            return;
        };
        for byte in said.iter().take(length) {
            match *byte {
                TELL if !self.ended => {
                    sys::kill_group(self.program, libc::SIGTERM);
                }
                KILL => self.ending = true,
                _ => {}
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match sys::reap() {
                Waited::Ended(pid, status) if pid == self.program && !self.ended => {
                    self.ended = true;
                    self.ending = true;
                    if !self.failed {
                        self.say(words(ENDED, status));
                    }
                }
                Waited::Ended(..) => {}
                Waited::Nothing => return,
                Waited::Childless => self.finish(),
            }
        }
    }

    fn finish(&self) -> ! {
        if self.control < 0
            && let Some(cgroup) = self.plan.cgroup()
        {
            sys::remove_directory(cgroup);
        }
        self.say(words(GONE, 0));
        sys::exit(0)
    }

    fn end_children(&self) {
        if self.cgroup >= 0 {
            let kill = sys::open_at(self.cgroup, c"cgroup.kill", libc::O_WRONLY);
            if kill >= 0 {
                sys::write(kill, b"1");
                sys::close(kill);
            }
        }
        let found = children(|pid| {
            sys::kill(pid, libc::SIGKILL);
        });
        if !found && !self.ended {
            sys::kill_group(self.program, libc::SIGKILL);
        }
    }

    /// If memory is short, the kernel should kill a program rather than the daemon. The file can be
    /// written only now: until its exec the process is a copy of the daemon, which other processes
    /// may not access.
    fn offer_to_the_kernel(&self) {
        let mut path = [0_u8; 64];
        let parts: [&[u8]; 2] = [b"/proc/", b"/oom_score_adj"];
        let mut digits = [0_u8; 12];
        let mut number = self.program.unsigned_abs();
        let mut first = digits.len();
        while number > 0 && first > 0 {
            first -= 1;
            digits[first] = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
        let mut end = 0;
        for part in [parts[0], digits.get(first..).unwrap_or_default(), parts[1]] {
            for byte in part {
                path[end] = *byte;
                end += 1;
            }
        }
        let Ok(path) = std::ffi::CStr::from_bytes_until_nul(&path) else { return };
        let file = sys::open(path, libc::O_WRONLY);
        if file >= 0 {
            sys::write(file, self.plan.oom_score_adj());
            sys::close(file);
        }
    }

    fn say(&self, said: [u8; SIZE]) {
        if self.control >= 0 {
            sys::write(self.control, &said);
        }
    }
}

/// Calls `each` with every child of this process; returns whether they could be listed.
pub(super) fn children(mut each: impl FnMut(i32)) -> bool {
    let file = sys::open(c"/proc/thread-self/children", libc::O_RDONLY);
    if file < 0 {
        return false;
    }
    let mut buffer = [0_u8; 4096];
    let mut pid = 0_i32;
    while let Ok(length @ 1..) = usize::try_from(sys::read(file, &mut buffer)) {
        for byte in buffer.iter().take(length) {
            if byte.is_ascii_digit() {
                pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
            } else if pid > 0 {
                each(std::mem::take(&mut pid));
            }
        }
    }
    sys::close(file);
    true
}
