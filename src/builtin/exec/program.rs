//! One running program, from its first instruction until nothing of it is left.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::files::{Stamp, Workspace};
use super::group::Group;
use super::{Saved, lines, spawner};
use crate::handler::{Context, HandlerError};

/// A program that runs. Dropped before its end, it takes its whole group with it.
pub(super) struct Program {
    child: Child,
    group: Killed,
}

/// What a program is started for. A stop may come before the program has begun, so that a stop there is does not tell them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be told when the step is stopped.
    Run,
    /// To clean up once it was.
    Cleanup,
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// It was told to end before it did.
    pub(super) told: bool,
    /// It was made to end.
    pub(super) killed: bool,
    /// The end of what it said there.
    pub(super) stderr: String,
}

/// How often the checkpoint file is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Once the group is gone, only a process that left it can hold its streams open; it is not waited for.
const STREAMS: Duration = Duration::from_secs(1);

/// A group that is killed when this is dropped, unless it has ended: its number may be another's then.
struct Killed {
    group: Group,
    ended: bool,
}

impl Drop for Killed {
    fn drop(&mut self) {
        if !self.ended {
            self.group.signal(Signal::SIGKILL);
        }
    }
}

impl Program {
    /// Starts a program, but lets it begin only once `record` has its group on record.
    pub(super) async fn spawn(
        command: Command,
        record: impl AsyncFnOnce(Group) -> Result<(), HandlerError>,
    ) -> Result<Self, HandlerError> {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ExecutableFileBusy => {
                HandlerError::permanent(format_args!(
                    "the program {name:?} cannot be run: {error}; see that it (and the interpreter in its first line) is there and executable"
                ))
            }
            _ => HandlerError::retry(format_args!("the program {name:?} could not be started: {error}")),
        };
        let gated = spawner::start(command).await.map_err(failed)?;
        let Some(group) = Group::of_leader(gated.pid) else {
            return Err(HandlerError::retry(format_args!("the program {name:?} died before it began")));
        };
        // From here on, whoever drops this ends it, also while its gate is being opened.
        let group = Killed { group, ended: false };
        record(group.group.clone()).await?;
        let child = gated.open().await.map_err(failed)?;
        Ok(Self { child, group })
    }

    pub(super) fn group(&self) -> &Group {
        &self.group.group
    }

    /// Sees the program to its end: feeds it, logs it, saves its checkpoints, stops it when told to unless it is the answer to that,
    /// and leaves nothing of it alive.
    pub(super) async fn end(
        mut self,
        cx: &Context,
        purpose: Purpose,
        stdin: Vec<u8>,
        workspace: &Workspace,
        mut saved: Saved,
    ) -> Ended {
        let (mut out, mut err) = (VecDeque::new(), VecDeque::new());
        let (feed, stdout, stderr) = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let budget = lines::Budget::new();
        let feeding = async move {
            if let Some(mut feed) = feed {
                // A program need not read what it is given.
                let _ = feed.write_all(&stdin).await;
            }
        };
        let logging_out = async {
            if let Some(stdout) = stdout {
                lines::log(stdout, "stdout", &mut out, &budget).await;
            }
        };
        let logging_err = async {
            if let Some(stderr) = stderr {
                lines::log(stderr, "stderr", &mut err, &budget).await;
            }
        };
        let mut streams = Box::pin(async { tokio::join!(feeding, logging_out, logging_err) });
        let mut streaming = true;
        let mut told: Option<Instant> = None;
        let mut killed = false;
        let mut look = interval(LOOK);
        // Not as it is now: the program may have written it already.
        let mut stamp = Stamp::default();
        let status = loop {
            let deadline = told.map(|at| at + cx.stop_grace());
            tokio::select! {
                biased;
                status = self.child.wait() => break status,
                _ = &mut streams, if streaming => streaming = false,
                reason = cx.stopping(), if told.is_none() && purpose == Purpose::Run => {
                    // It may have ended by itself, and nobody has looked yet.
                    if let Ok(Some(status)) = self.child.try_wait() {
                        break Ok(status);
                    }
                    tracing::info!(reason = reason.as_str(), "telling the program to end");
                    workspace.tell(reason);
                    self.group.group.signal(Signal::SIGTERM);
                    told = Some(Instant::now());
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() && !killed => {
                    tracing::warn!("the program did not end within its grace and is killed");
                    self.group.group.signal(Signal::SIGKILL);
                    killed = true;
                }
                _ = look.tick() => keep_checkpoint(cx, workspace, &mut stamp, &mut saved).await,
            }
        };
        self.group.group.end().await;
        self.group.ended = true;
        if streaming && timeout(STREAMS, &mut streams).await.is_err() {
            tracing::warn!(
                "a process that left the program's group holds its output open; the rest of that is not logged"
            );
        }
        drop(streams);
        keep_checkpoint(cx, workspace, &mut stamp, &mut saved).await;
        let status = status.unwrap_or_else(|error| {
            tracing::error!(%error, "the program's exit status could not be had");
            ExitStatus::from_raw(1 << 8)
        });
        Ended { told: told.is_some(), killed, status, stderr: lines::text(err) }
    }
}

/// Saves the checkpoint file if it has changed. What cannot be saved now is tried again at the next look.
async fn keep_checkpoint(cx: &Context, workspace: &Workspace, stamp: &mut Stamp, saved: &mut Saved) {
    let now = workspace.checkpoint_stamp();
    if now == *stamp {
        return;
    }
    match workspace.read_checkpoint() {
        Ok(file) if file == saved.file => *stamp = now,
        Ok(file) => {
            let next = Saved { file, ..saved.clone() };
            match cx.save_checkpoint(&next).await {
                Ok(()) => (*stamp, *saved) = (now, next),
                Err(error) => tracing::warn!(%error, "tried again"),
            }
        }
        Err(error) => {
            *stamp = now;
            tracing::warn!(%error, "the checkpoint is not saved; the last one that could be is kept");
        }
    }
}
