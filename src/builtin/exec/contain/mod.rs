//! Starts programs so that none of their processes outlives the run.
//!
//! ```text
//! daemon ── fork server (one) ── keeper (one per run) ── program ── its children
//! ```
//! The daemon writes a plan and passes it, with the program's streams and a socket, to the fork
//! server (`server`), which forks a keeper (`keeper`), which forks the program (`launch`). The
//! keeper reports how the program ended, and kills all of its descendants. If the run has a cgroup
//! (`cgroup`), that is killed too, which also reaches processes of other users. All processes of a
//! run carry a mark (`mark`), by which the next life of a killed daemon finds them (`remains`).

mod cgroup;
mod keeper;
mod launch;
pub(super) mod look;
mod mark;
mod plan;
mod remains;
mod server;
mod sys;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::pipe2;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::timeout;

pub(super) use self::mark::End;
pub(super) use self::remains::Remains;

use self::cgroup::{Base, Cgroup};
use self::keeper::{SIZE, Said};
use self::launch::Stage;
use self::plan::Plan;
use super::account::Account;
use super::limits::Limits;
use crate::handler::Remark;

/// How a handler's programs are started, whatever their step.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) account: Option<Account>,
    pub(super) limits: Limits,
    /// Give each run a cgroup if possible.
    pub(super) cgroup: bool,
}

/// A run that has not begun yet, with what must be recorded first.
pub(super) struct Ready {
    pub(super) remains: Remains,
    cgroup: Option<Cgroup>,
}

/// A running program with everything that it starts. Dropping it before its end kills all of it.
pub(super) struct Run {
    control: UnixStream,
    heard: ([u8; SIZE], usize),
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: Option<pipe::Receiver>,
    pub(super) stderr: Option<pipe::Receiver>,
    ready: Ready,
    gone: bool,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// It does not exist, is not executable, or is not a program.
    #[error("{0}")]
    Exec(io::Error),
    #[error("its working directory: {0}")]
    WorkingDir(io::Error),
    #[error("its user: {0}")]
    User(io::Error),
    #[error("its limits: {0}")]
    Limits(io::Error),
    /// The machine lacks the resources.
    #[error("{0}")]
    Resources(io::Error),
    #[error(
        "it did not begin within {START:?}; the file system of the program or of its working \
         directory does not answer"
    )]
    Slow,
    /// The keeper was killed.
    #[error("the process that was to start it has ended")]
    Lost,
}

/// The keeper was killed, so it is unknown how the program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// A program is loaded within milliseconds, from a slow disk within seconds. If it takes longer,
/// its file system does not answer.
const START: Duration = Duration::from_secs(30);
/// Killed processes disappear within milliseconds, unless they hang in the kernel.
const GONE: Duration = Duration::from_secs(4);

/// Descriptors that are reserved for the daemon itself: its connections, ledger, log and health
/// checks. With a low limit, an eighth of it.
const LEFT: u64 = 128;

/// Whether any handler of this process has limits; it must be known before the first program is
/// started.
static LIMITED: AtomicBool = AtomicBool::new(false);

/// The last run has no cgroup although it should; that is logged once.
static WITHOUT: AtomicBool = AtomicBool::new(false);

impl Terms {
    pub(super) fn new(account: Option<Account>, limits: Limits) -> Self {
        if limits.is_any() {
            LIMITED.store(true, Ordering::Relaxed);
        }
        Self { account, limits, cgroup: true }
    }

    /// Prepares a run.
    pub(super) fn ready(&self) -> Ready {
        let mark = mark::new();
        let base = if self.cgroup { Base::ready(LIMITED.load(Ordering::Relaxed)) } else { None };
        let made = match base.map(|base| base.make(mark, &self.limits)).transpose() {
            Ok(made) => {
                WITHOUT.store(false, Ordering::Relaxed);
                made
            }
            Err(error) => {
                if !WITHOUT.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        event = "cgroup_not_created",
                        %error,
                        "no cgroup could be created for a run; its processes are killed by its \
                         keeper alone"
                    );
                }
                None
            }
        };
        let path = made.as_ref().map(|cgroup| cgroup.path().to_owned());
        Ready { remains: Remains::new(mark, path), cgroup: made }
    }
}

/// How runs are contained on this machine.
pub(super) fn means() -> Remark {
    if !Path::new("/proc/thread-self/children").exists() {
        return Remark::warning(
            "this kernel does not list a process's children (CONFIG_PROC_CHILDREN): processes that \
             leave a program's process group are killed late",
        );
    }
    match Base::look() {
        Ok(path) => Remark::note(format!(
            "each run is contained by a cgroup of its own below {}, and by a keeper process",
            path.display()
        )),
        Err(why) => Remark::note(format!(
            "each run is contained by a keeper process, without a cgroup: {why}"
        )),
    }
}

/// How limits are enforced on this machine, if there are any.
pub(super) fn limits(limits: &Limits) -> Option<Remark> {
    let shared = limits.memory.is_some() || limits.processes.is_some();
    shared.then(|| match Base::look().and_then(|path| Base::hands_out(&path)) {
        Ok(()) => Remark::note("limits apply to all processes of a run together"),
        Err(why) => Remark::note(format!(
            "`limits.memory` applies to each process, and `limits.processes` to all processes of \
             the user: {why}"
        )),
    })
}

/// Starts a program: `command` gives its arguments, environment and directory.
pub(super) async fn start(
    command: &Command,
    terms: &Terms,
    ready: Ready,
) -> Result<Run, StartError> {
    let resources = StartError::Resources;
    let plan = plan(command, terms, &ready).map_err(resources)?.write().map_err(resources)?;
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| StartError::Resources(errno.into()));
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) =
        (pipe()?, pipe()?, pipe()?);
    let (ours, theirs) = sys::socket_pair(libc::SOCK_STREAM).map_err(resources)?;
    leave_some([&ours, &theirs, &to_stdin, &from_stdout, &from_stderr]).map_err(resources)?;
    let mut run = Run {
        control: UnixStream::from_std(StdStream::from(ours)).map_err(resources)?,
        heard: ([0; SIZE], 0),
        stdin: Some(pipe::Sender::from_owned_fd(to_stdin).map_err(resources)?),
        stdout: Some(pipe::Receiver::from_owned_fd(from_stdout).map_err(resources)?),
        stderr: Some(pipe::Receiver::from_owned_fd(from_stderr).map_err(resources)?),
        ready,
        gone: false,
    };
    let mut fds = vec![plan, theirs, stdin, stdout, stderr];
    fds.extend(run.ready.cgroup.as_mut().and_then(Cgroup::take_directory));
    server::ask(fds).await.map_err(resources)?;
    let said = timeout(START, run.hear()).await.map_err(|_| StartError::Slow)?;
    match said {
        Ok(Said::Failed(stage, errno)) => {
            run.finish().await;
            let error = io::Error::from_raw_os_error(errno);
            Err(match stage {
                Stage::Exec => StartError::Exec(error),
                Stage::Directory => StartError::WorkingDir(error),
                Stage::User => StartError::User(error),
                Stage::Limits => StartError::Limits(error),
                Stage::Resources | Stage::Cgroup => StartError::Resources(error),
            })
        }
        Ok(_) => Ok(run),
        Err(Lost) => {
            run.finish().await;
            Err(StartError::Lost)
        }
    }
}

impl Run {
    /// The program's status, once it has ended. Cancel safe.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus, Lost> {
        loop {
            if let Said::Ended(status) = self.hear().await? {
                return Ok(ExitStatus::from_raw(status));
            }
        }
    }

    /// The program's status, if its keeper has already reported it.
    pub(super) fn try_wait(&mut self) -> Result<Option<ExitStatus>, Lost> {
        loop {
            let (bytes, length) = &mut self.heard;
            match sys::read(self.control.as_raw_fd(), &mut bytes[*length..]) {
                0 => return Err(Lost),
                read @ 1.. => *length += read.cast_unsigned(),
                _ => return Ok(None),
            }
            if let Some(Said::Ended(status)) = self.whole() {
                return Ok(Some(ExitStatus::from_raw(status)));
            }
        }
    }

    /// Sends `SIGTERM` to the program's group.
    pub(super) fn tell(&self) {
        self.order(keeper::TELL);
    }

    /// Kills all of it.
    pub(super) fn kill(&self) {
        self.order(keeper::KILL);
    }

    /// Whether the kernel killed it because it had used all of its memory limit.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.ready.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    /// Returns once no process of the run is left, whatever has become of its keeper.
    pub(super) async fn finish(&mut self) {
        let gone = async { while matches!(self.hear().await, Ok(said) if said != Said::Gone) {} };
        let in_time = timeout(GONE, gone).await.is_ok();
        let mut end = End::Ended;
        if !self.gone || !in_time {
            if let Some(cgroup) = &self.ready.cgroup {
                cgroup::kill(cgroup.path());
            }
            end = mark::end(self.ready.remains.mark).await;
        }
        match end {
            End::Nothing | End::Ended => self.gone = true,
            End::Hangs => tracing::error!(
                event = "program_hangs",
                "a killed program does not end; it hangs in the kernel"
            ),
            End::Alive(pid) => tracing::error!(
                event = "process_unkillable",
                pid,
                "a process of the program cannot be killed: it belongs to another user"
            ),
        }
        if let Some(cgroup) = &self.ready.cgroup {
            cgroup::remove(cgroup.path());
        }
    }

    fn order(&self, order: u8) {
        // This fails only if the keeper is gone, and with it the run.
        let _ = nix::unistd::write(&self.control, &[order]);
    }

    /// The next report of the keeper. Cancel safe.
    async fn hear(&mut self) -> Result<Said, Lost> {
        loop {
            self.control.readable().await.map_err(|_| Lost)?;
            let (bytes, length) = &mut self.heard;
            match self.control.try_read(&mut bytes[*length..]) {
                Ok(0) => return Err(Lost),
                Ok(read) => *length += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Err(Lost),
            }
            if let Some(said) = self.whole() {
                return Ok(said);
            }
        }
    }

    fn whole(&mut self) -> Option<Said> {
        if self.heard.1 < SIZE {
            return None;
        }
        self.heard.1 = 0;
        let said = Said::read(self.heard.0);
        self.gone |= said == Some(Said::Gone);
        said
    }
}

/// The keeper kills everything as soon as the socket is closed.
impl Drop for Run {
    fn drop(&mut self) {
        if !self.gone {
            self.ready.remains.let_go();
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            // If the run is still ending, the keeper removes it.
            cgroup::remove(cgroup.path());
        }
    }
}

/// Refuses descriptors that are among the last. The lowest free number is given out each time, so a
/// high number shows how many are in use.
fn leave_some(fds: [&OwnedFd; 5]) -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let first_of_the_last = limit - LEFT.min(limit / 8);
    let is_one =
        |fd: &OwnedFd| u64::try_from(fd.as_raw_fd()).is_ok_and(|fd| fd >= first_of_the_last);
    if fds.into_iter().any(is_one) { Err(Errno::EMFILE.into()) } else { Ok(()) }
}

fn plan(command: &Command, terms: &Terms, ready: &Ready) -> io::Result<Plan> {
    let environment =
        || command.get_envs().filter_map(|(name, value)| value.map(|value| (name, value)));
    let path = environment()
        .find(|(name, _)| *name == "PATH")
        .map(|(_, value)| value.to_owned())
        .unwrap_or_default();
    let program = Path::new(command.get_program());
    let programs: Vec<PathBuf> = if program.as_os_str().as_bytes().contains(&b'/') {
        vec![program.to_owned()]
    } else {
        std::env::split_paths(&path).map(|directory| directory.join(program)).collect()
    };
    let argv = std::iter::once(command.get_program()).chain(command.get_args());
    let variable = |(name, value): (&std::ffi::OsStr, &std::ffi::OsStr)| {
        let mut variable = name.to_owned();
        variable.push("=");
        variable.push(value);
        plan::text(variable)
    };
    let cgroup = ready.cgroup.as_ref();
    let (memory, processes) =
        cgroup.map_or((false, false), |cgroup| (cgroup.memory, cgroup.processes));
    let other = terms.account.as_ref().filter(|account| !account.is_ours());
    Ok(Plan {
        programs: programs.iter().map(plan::text).collect::<io::Result<_>>()?,
        argv: argv.map(plan::text).collect::<io::Result<_>>()?,
        envp: environment().map(variable).collect::<io::Result<_>>()?,
        directory: command.get_current_dir().map(plan::text).transpose()?,
        cgroup: cgroup.map(|cgroup| plan::text(cgroup.path())).transpose()?,
        user: other.map(|account| (account.uid, account.gid, account.groups.clone())),
        limits: terms.limits.resources(memory, processes),
        mark: ready.remains.mark,
        oom_score_adj: oom_score_adj(),
    })
}

/// If memory is short, a program is this much more likely to be killed than the daemon, which
/// manages all steps.
fn oom_score_adj() -> CString {
    const MORE: i32 = 500;
    let own = fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    CString::new((own.unwrap_or(0) + MORE).min(1000).to_string()).unwrap_or_default()
}

impl StartError {
    /// The system error behind it, if there is one.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Exec(error)
            | Self::WorkingDir(error)
            | Self::User(error)
            | Self::Limits(error)
            | Self::Resources(error) => error.raw_os_error().map(Errno::from_raw),
            Self::Slow | Self::Lost => None,
        }
    }
}
