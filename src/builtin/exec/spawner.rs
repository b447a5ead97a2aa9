//! The thread that starts programs.
//!
//! The kernel sends a parent-death signal when the *thread* that started the child ends. Tokio's threads come and go; this one lives as long
//! as the process. It also starts one program at a time, so that no other child can inherit a gate that is not its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{close, getpid, getppid, pipe2, read, write};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A program that exists as a process and has not executed an instruction of its own.
pub(super) struct Gated {
    pub(super) pid: i32,
    gate: OwnedFd,
    started: oneshot::Receiver<io::Result<Child>>,
}

/// Starts a program up to the gate before its first instruction.
pub(super) async fn start(mut command: Command) -> io::Result<Gated> {
    let (pid_read, pid_write) = pipe2(OFlag::O_CLOEXEC)?;
    let (gate_read, gate) = pipe2(OFlag::O_CLOEXEC)?;
    let parent = getpid();
    let own_end = gate.as_raw_fd();
    let before_exec = move || {
        // Its own copy of the gate's other end would keep it waiting for ever.
        close(own_end)?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The daemon may have died before the kernel was told to watch it.
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        write(&pid_write, &getpid().as_raw().to_ne_bytes())?;
        // Waits to be let through; the daemon's death, too, ends the wait, with nothing read.
        match read(gate_read.as_fd(), &mut [0])? {
            1 => Ok(()),
            _ => Err(Errno::ECANCELED.into()),
        }
    };
    #[expect(
        unsafe_code,
        reason = "between fork and exec only async-signal-safe calls are made: close, prctl, getpid, getppid, read, write"
    )]
    unsafe {
        command.pre_exec(before_exec);
    }
    let (reply, mut started) = oneshot::channel();
    let runtime = Handle::current();
    thread()?
        .send(Box::new(move || {
            let _entered = runtime.enter();
            // Blocks until the program has passed its gate. Whoever asked may have gone: then the child is dropped here, and killed.
            let _ = reply.send(command.kill_on_drop(true).spawn());
        }))
        .map_err(|_| io::Error::other("the thread that starts programs has ended"))?;

    let mut pid = [0; 4];
    let mut pids = pipe::Receiver::from_owned_fd(pid_read)?;
    tokio::select! {
        read = pids.read_exact(&mut pid) => read.map(drop)?,
        // It ended before the gate: the program could not even be forked.
        ended = &mut started => {
            let error = ended.ok().and_then(Result::err);
            return Err(error.unwrap_or_else(|| io::Error::other("the program ended before it began")));
        }
    }
    Ok(Gated { pid: i32::from_ne_bytes(pid), gate, started })
}

impl Gated {
    /// Lets the program begin. Where this is not called, it never does.
    pub(super) async fn open(self) -> io::Result<Child> {
        write(&self.gate, &[1])?;
        drop(self.gate);
        self.started.await.map_err(|_| io::Error::other("the thread that starts programs has ended"))?
    }
}

/// The thread, started with the first program.
fn thread() -> io::Result<Sender<Job>> {
    static JOBS: OnceLock<Mutex<Option<Sender<Job>>>> = OnceLock::new();
    let mut jobs = JOBS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(jobs) = &*jobs {
        return Ok(jobs.clone());
    }
    let (send, receive) = channel::<Job>();
    std::thread::Builder::new().name("programs".to_owned()).spawn(move || receive.iter().for_each(|job| job()))?;
    *jobs = Some(send.clone());
    Ok(send)
}
