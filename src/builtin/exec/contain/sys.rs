//! The system calls that the fork server, the keepers and their programs make.
//!
//! They run in processes that were forked from one with many threads, whose locks may stay held
//! there indefinitely. So nothing here, and nothing in `server`, `keeper` and `launch`, allocates,
//! takes a lock or panics: each function is one async-signal-safe call with its arguments on the
//! stack or in pages of its own.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_ptr_alignment,
    clippy::unnecessary_cast,
    reason = "C's types differ between libraries; each number was made from the type that it is \
              cast to"
)]
#![expect(
    unsafe_code,
    reason = "system calls by number and pointer; each takes what the function's own types \
              guarantee"
)]

use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

/// The maximum number of descriptors in a request: a plan, the control socket, three streams, a
/// cgroup.
pub(super) const FDS: usize = 6;

/// Room for a control message with that many descriptors.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

/// The state of a child process.
pub(super) enum Waited {
    /// This one ended, with its raw wait status.
    Ended(i32, i32),
    /// None has ended.
    Nothing,
    /// There are no children.
    Childless,
}

/// What came over a socket.
pub(super) enum Received {
    /// The number of descriptors received.
    Fds(usize),
    Nothing,
    /// The other end is closed.
    End,
}

pub(super) fn socket_pair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the array has room for two descriptors, which nothing else owns.
    unsafe {
        Errno::result(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// An anonymous file that holds `bytes`.
pub(super) fn file_of(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with NUL, and nothing else owns the descriptor.
    let fd = unsafe {
        OwnedFd::from_raw_fd(Errno::result(libc::memfd_create(
            c"callbackd-plan".as_ptr(),
            libc::MFD_CLOEXEC,
        ))?)
    };
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, bytes)?;
    Ok(file.into())
}

/// Sends descriptors with one byte; never waits.
pub(super) fn send(socket: BorrowedFd<'_>, fds: &[RawFd]) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut ancillary = Ancillary([0; 64]);
    let fds = &fds[..fds.len().min(FDS)];
    let size = u32::try_from(size_of_val(fds)).unwrap_or(0);
    // SAFETY: zero is a valid msghdr; the buffers outlive the call, and the control buffer has room
    // for FDS descriptors.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast::<RawFd>(), fds.len());
        Errno::result(libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        ))?;
    }
    Ok(())
}

/// Receives the descriptors of one message.
pub(super) fn receive(socket: RawFd, fds: &mut [RawFd; FDS]) -> Received {
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: as in `send`; what is copied out is bounded by FDS and by what the kernel says it has
    // written.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = 64;
        match libc::recvmsg(socket, &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) {
            0 => return Received::End,
            1.. => {}
            _ if matches!(Errno::last(), Errno::EAGAIN | Errno::EINTR) => return Received::Nothing,
            _ => return Received::End,
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Received::Fds(0);
        }
        let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
        let count = (bytes / size_of::<RawFd>()).min(FDS);
        ptr::copy_nonoverlapping(libc::CMSG_DATA(header).cast::<RawFd>(), fds.as_mut_ptr(), count);
        Received::Fds(count)
    }
}

/// Forks a process of one thread. If `cgroup` is its directory, the child starts in that cgroup if
/// the kernel supports it; the flag says whether it did. Zero in the child, negative on failure.
pub(super) fn fork_into(cgroup: RawFd) -> (i32, bool) {
    if let Ok(fd) = u64::try_from(cgroup) {
        // SAFETY: zero is valid for each field; the size is the struct's own.
        let pid = unsafe {
            let mut arguments: libc::clone_args = std::mem::zeroed();
            // CLONE_INTO_CGROUP: moving a process afterwards waits for all processors.
            arguments.flags = 0x2_0000_0000;
            arguments.exit_signal = libc::SIGCHLD as u64;
            arguments.cgroup = fd;
            libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
        };
        if pid >= 0 {
            return (i32::try_from(pid).unwrap_or(-1), true);
        }
    }
    (fork(), false)
}

pub(super) fn fork() -> i32 {
    // SAFETY: the child makes only async-signal-safe calls; see the module.
    unsafe { libc::fork() }
}

pub(super) fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

pub(super) fn close(fd: RawFd) {
    // SAFETY: descriptors in these processes are plain numbers; none is owned by a value.
    unsafe { libc::close(fd) };
}

pub(super) fn close_from(first: u32) {
    // SAFETY: as in `close`.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) == 0 {
            return;
        }
        // Before Linux 5.9.
        let most = libc::sysconf(libc::_SC_OPEN_MAX).clamp(1024, 1 << 20);
        for fd in first..u32::try_from(most).unwrap_or(1024) {
            libc::close(fd.cast_signed());
        }
    }
}

/// Makes `to` a duplicate of `fd` that survives an exec.
pub(super) fn duplicate(fd: RawFd, to: RawFd) -> bool {
    // SAFETY: as in `close`.
    unsafe { libc::dup2(fd, to) == to }
}

pub(super) fn open_at(directory: RawFd, path: &CStr, flags: i32) -> RawFd {
    // SAFETY: the path ends with NUL.
    unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_CLOEXEC) }
}

pub(super) fn open(path: &CStr, flags: i32) -> RawFd {
    open_at(libc::AT_FDCWD, path, flags)
}

/// The number of bytes read; negative on error.
pub(super) fn read(fd: RawFd, into: &mut [u8]) -> isize {
    // SAFETY: the buffer has this length.
    unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) }
}

pub(super) fn write(fd: RawFd, bytes: &[u8]) -> bool {
    // SAFETY: the buffer has this length.
    usize::try_from(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
        == Ok(bytes.len())
}

/// A pipe whose reading end does not block.
pub(super) fn pipe() -> Option<(RawFd, RawFd)> {
    let mut fds = [-1; 2];
    // SAFETY: the array has room for two.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) < 0
            || libc::fcntl(fds[0], libc::F_SETFL, libc::O_NONBLOCK) < 0
        {
            return None;
        }
    }
    Some((fds[0], fds[1]))
}

/// Waits until at least one can be read; returns which can. Negative descriptors are skipped.
pub(super) fn wait_for<const N: usize>(fds: [RawFd; N]) -> [bool; N] {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the array has this length.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) };
    polled.map(|polled| ready > 0 && polled.revents != 0)
}

/// Blocks all signals, and creates a descriptor that becomes readable when a child has ended.
pub(super) fn ends_of_children() -> RawFd {
    // SAFETY: the sets are initialised by the calls themselves.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }
}

/// Gives every signal its default disposition.
pub(super) fn default_signals() {
    // SIG_DFL, no flags, no restorer, an empty mask; by number, because libc keeps two signals for
    // itself.
    let default = [0_u64; 4];
    for signal in 1..=64_i32 {
        // SAFETY: the struct is as the kernel has it, or larger. A signal that cannot be set
        // (SIGKILL) is refused, which does no harm.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
    }
}

pub(super) fn unblock_signals() {
    // SAFETY: the set is initialised by the call.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Reaps one child that has ended.
pub(super) fn reap() -> Waited {
    let mut status = 0;
    // SAFETY: the status has room.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Waited::Nothing,
        pid @ 1.. => Waited::Ended(pid, status),
        _ if Errno::last() == Errno::ECHILD => Waited::Childless,
        _ => Waited::Nothing,
    }
}

pub(super) fn kill(pid: i32, signal: i32) -> bool {
    // SAFETY: no memory is involved.
    pid > 1 && unsafe { libc::kill(pid, signal) } == 0
}

pub(super) fn kill_group(leader: i32, signal: i32) -> bool {
    // SAFETY: no memory is involved.
    leader > 1 && unsafe { libc::kill(-leader, signal) } == 0
}

pub(super) fn limit(resource: usize, soft: usize, hard: usize) -> bool {
    let limit = libc::rlimit { rlim_cur: soft as libc::rlim_t, rlim_max: hard as libc::rlim_t };
    // SAFETY: the limit outlives the call.
    unsafe { libc::setrlimit(resource as _, &raw const limit) == 0 }
}

pub(super) fn remove_directory(path: *const c_char) {
    // SAFETY: a plan's paths end with NUL.
    unsafe { libc::rmdir(path) };
}

/// Changes to a user with its groups and drops all privileges of the daemon; returns the errno on
/// failure.
pub(super) fn become_user(uid: usize, gid: usize, groups: &[libc::gid_t]) -> Result<(), i32> {
    let (uid, gid) = (uid as libc::uid_t, gid as libc::gid_t);
    // SAFETY: the groups have this length.
    let done = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setresgid(gid, gid, gid) == 0
            && libc::setresuid(uid, uid, uid) == 0
            // If the daemon is not root, ambient capabilities would survive the change and the
            // exec. Before Linux 4.3 there are none.
            && (libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0
                || Errno::last() == Errno::EINVAL)
    };
    if done { Ok(()) } else { Err(Errno::last_raw()) }
}

/// What `look` must know about a file.
pub(super) fn stat(path: &CStr) -> super::look::Said {
    // SAFETY: zero is a valid stat, and the path ends with NUL.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::stat(path.as_ptr(), &raw mut stat) < 0 {
            return [0; 4];
        }
        let executable =
            libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0;
        [1, stat.st_mode.into(), u64::try_from(stat.st_size).unwrap_or(0), executable.into()]
    }
}

pub(super) fn change_directory(path: *const c_char) -> Result<(), i32> {
    // SAFETY: a plan's paths end with NUL.
    if unsafe { libc::chdir(path) } == 0 { Ok(()) } else { Err(Errno::last_raw()) }
}

/// Executes another program; returns the errno on failure. A file that is not a program is never
/// passed to a shell.
pub(super) fn execute(
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> i32 {
    // SAFETY: a plan's arrays end with a null pointer, and its strings with NUL.
    unsafe { libc::execve(program, argv, envp) };
    Errno::last_raw()
}
