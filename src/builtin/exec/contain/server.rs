//! The fork server: a process that is forked off once, while the daemon is small, and forks a
//! keeper for each program.
//!
//! # Why a process of its own, and why without an exec
//! - The daemon has many threads and much memory. A fork of it copies its page tables each time,
//!   and a keeper that lives as long as its program would keep every page as it was then. The fork
//!   server is small, has one thread, and is forked from once per program.
//! - No thread of the daemon waits for an exec, and no lock is held over one: a program on a dead
//!   file system hangs alone.
//! - An exec of this binary in a hidden mode would need the help of each `main` that uses this
//!   library, and of each test's.
//!
//! It has none of the daemon's descriptors, and the daemon's death closes its socket, as it does
//! each keeper's. It stays until the last keeper has ended, and kills what a keeper that was itself
//! killed has left: as their subreaper it gets them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid, setsid};
use tokio::time::sleep;

use super::keeper::{children, keep, refuse};
use super::launch::Stage;
use super::sys::{self, FDS, Received, Waited};

/// The daemon's end.
struct Server {
    socket: OwnedFd,
    pid: Pid,
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// How long to wait where more requests are on their way than the socket takes.
const BUSY: Duration = Duration::from_millis(1);
/// The server's end of the socket, in the server.
const SOCKET: RawFd = 3;

/// Asks for a keeper that gets these descriptors.
pub(super) async fn ask(fds: Vec<OwnedFd>) -> io::Result<()> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    while !send(&numbers)? {
        sleep(BUSY).await;
    }
    Ok(())
}

/// False if the socket takes no more just now.
fn send(fds: &[RawFd]) -> io::Result<bool> {
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = &*server {
        match sys::send(running.socket.as_fd(), fds) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                tracing::warn!(
                    "the process that starts programs has ended; another takes its place"
                );
                // It may have been reaped already, by whoever reaps all.
                let _ = waitpid(running.pid, Some(WaitPidFlag::WNOHANG));
                *server = None;
            }
            sent => return taken(sent),
        }
    }
    // That there is no room for it is told, and not waited for.
    let started = start()?;
    taken(sys::send(server.insert(started).socket.as_fd(), fds))
}

fn taken(sent: io::Result<()>) -> io::Result<bool> {
    match sent.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
        Ok(()) => Ok(true),
        Err((Some(Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS), _)) => Ok(false),
        Err((_, error)) => Err(error),
    }
}

fn start() -> io::Result<Server> {
    let (ours, theirs) = sys::socket_pair(libc::SOCK_SEQPACKET)?;
    // No handler of the daemon's may run in the child.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let pid = sys::fork();
    if pid == 0 {
        serve(theirs.as_raw_fd());
    }
    let error = io::Error::last_os_error();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if pid < 0 {
        return Err(error);
    }
    Ok(Server { socket: ours, pid: Pid::from_raw(pid) })
}

fn serve(socket: RawFd) -> ! {
    sys::default_signals();
    let _ = prctl::set_name(c"exec-forkserver");
    let _ = prctl::set_child_subreaper(true);
    // The daemon may do without huge pages; its programs need not.
    let _ = prctl::set_thp_disable(false);
    let _ = setsid();
    // Its number may be that of a stream; a copy is safe beyond them.
    if !sys::duplicate(socket, SOCKET) {
        sys::exit(1);
    }
    for stream in 0..3 {
        let null = sys::open(c"/dev/null", libc::O_RDWR);
        sys::duplicate(null, stream);
    }
    sys::close_from(4);
    let ends = sys::ends_of_children();
    let mut listening = SOCKET;
    let mut hunting = false;
    loop {
        let [asked, _] = sys::wait_for([listening, ends]);
        let mut fds: [RawFd; FDS] = [-1; FDS];
        match if asked { sys::receive(listening, &mut fds) } else { Received::Nothing } {
            Received::Fds(count) if count >= FDS - 1 => {
                let pid = sys::fork();
                if pid == 0 {
                    sys::close(listening);
                    keep(ends, &fds);
                }
                if pid < 0 {
                    refuse(fds[1], Stage::Resources);
                }
            }
            Received::End => {
                sys::close(listening);
                listening = -1;
            }
            _ => {}
        }
        for fd in fds.into_iter().filter(|fd| *fd >= 0) {
            sys::close(fd);
        }
        drain(ends);
        let childless = loop {
            match sys::reap() {
                // A keeper ends well, or something was left to us.
                Waited::Ended(_, status) => hunting |= status != 0,
                Waited::Nothing => break false,
                Waited::Childless => break true,
            }
        };
        if childless && listening < 0 {
            sys::exit(0);
        }
        if hunting {
            hunting = kill_orphans() && !childless;
        }
    }
}

/// Kills the children that are no keepers: only these are of another session. Whether there are
/// any.
fn kill_orphans() -> bool {
    let ours = getsid(None);
    let mut any = false;
    children(|pid| {
        if getsid(Some(Pid::from_raw(pid))) != ours {
            any = true;
            sys::kill(pid, libc::SIGKILL);
        }
    });
    any
}

/// Takes what waits at a descriptor for signals.
pub(super) fn drain(signals: RawFd) {
    let mut taken = [0_u8; 512];
    while sys::read(signals, &mut taken) > 0 {}
}
