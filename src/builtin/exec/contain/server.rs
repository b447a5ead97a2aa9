//! The fork server: a process that is forked once, while the daemon is small, and forks a keeper
//! for each program.
//!
//! # Why a separate process, and why without an exec
//! - The daemon has many threads and much memory. A fork of it copies its page tables each time,
//!   and a keeper that lives as long as its program would keep every page in its old state. The
//!   fork server is small, has one thread, and forks once per program.
//! - No thread of the daemon waits for an exec, and no lock is held during one: a program on a dead
//!   file system hangs alone.
//! - An exec of this binary in a hidden mode would need support in the `main` of each program that
//!   uses this library, and of each test.
//!
//! It has none of the daemon's descriptors. The daemon's death closes its socket, as it does each
//! keeper's. It stays until the last keeper has ended, and kills what a killed keeper left behind,
//! which is reparented to it as the subreaper.

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

/// The daemon's end of the socket.
struct Server {
    socket: OwnedFd,
    pid: Pid,
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// How long to wait if the socket is full of requests.
const BUSY: Duration = Duration::from_millis(1);
/// The server's end of the socket, in the server.
const SOCKET: RawFd = 3;

/// Requests a keeper for these descriptors.
pub(super) async fn ask(fds: Vec<OwnedFd>) -> io::Result<()> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    while !send(&numbers)? {
        sleep(BUSY).await;
    }
    Ok(())
}

/// `false` if the socket is full.
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
                    event = "program_starter_replaced",
                    "the process that starts programs has ended; a new one replaces it"
                );
                // It may already have been reaped by the process that reaps all orphans.
                let _ = waitpid(running.pid, Some(WaitPidFlag::WNOHANG));
                *server = None;
            }
            sent => return taken(sent),
        }
    }
    // A lack of resources is reported, not waited for.
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
    // No signal handler of the daemon may run in the child.
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
    // Its number may be that of a stream; a copy is safe above them.
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
                // A keeper ends with zero, or something was reparented to us.
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

/// Kills the children that are not keepers: only those are in another session. Returns whether
/// there are any.
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

/// Reads everything from a signal descriptor.
pub(super) fn drain(signals: RawFd) {
    let mut taken = [0_u8; 512];
    while sys::read(signals, &mut taken) > 0 {}
}
