//! One running program, from its start until none of its processes is left.

use std::collections::VecDeque;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::checkpoint::Checkpoint;
use super::contain::{self, Remains, Run, Terms};
use super::key::Key;
use super::workspace::Workspace;
use super::{Saved, lines, progress, trouble};
use crate::handler::{Context, HandlerError};

/// A running program. Dropping it before its end kills everything that it has started.
pub(super) struct Program {
    run: Run,
}

/// What a program is started for. A stop may come before the program has begun, so the presence of
/// a stop does not tell these apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be told when the step is stopped.
    Run,
    /// To clean up after a stop.
    Cleanup,
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// It was told to end before it ended.
    pub(super) told: bool,
    /// It was killed.
    pub(super) killed: bool,
    /// The kernel killed it, or a process that it had started, because its memory limit was
    /// reached.
    pub(super) no_memory: bool,
    /// Why the content of `$STEP_CHECKPOINT` or `$STEP_KEY` is not in the ledger, if it cannot be
    /// saved.
    pub(super) unkept: Option<String>,
    /// The end of its stderr.
    pub(super) stderr: String,
}

/// Once all of it is gone, only a process that hangs in the kernel can hold its streams open; that
/// is not waited for.
const STREAMS: Duration = Duration::from_secs(1);

impl Program {
    /// Starts a program, after `record` has written down how its processes can be identified.
    pub(super) async fn spawn(
        command: &Command,
        terms: &Terms,
        record: impl FnOnce(&Remains) -> Result<(), HandlerError>,
    ) -> Result<Self, HandlerError> {
        let ready = terms.ready();
        record(&ready.remains)?;
        let run = contain::start(command, terms, ready)
            .await
            .map_err(|error| trouble::of_start(command, &error))?;
        Ok(Self { run })
    }

    /// Drives the program to its end: feeds it, logs it, saves its checkpoints, stops it when told
    /// to unless it is the cleanup, and kills everything that is left.
    pub(super) async fn end(
        mut self,
        cx: &Context,
        purpose: Purpose,
        stdin: Vec<u8>,
        workspace: &Workspace,
        saved: Saved,
    ) -> Result<Ended, HandlerError> {
        let (mut out, mut err) = (VecDeque::new(), VecDeque::new());
        let (feed, stdout, stderr) =
            (self.run.stdin.take(), self.run.stdout.take(), self.run.stderr.take());
        let budget = lines::Budget::new();
        let kept = |stream, line: &str| cx.printed(stream, line);
        let feeding = async move {
            if let Some(mut feed) = feed {
                // A program need not read its input.
                let _ = feed.write_all(&stdin).await;
            }
        };
        let logging_out = async {
            if let Some(stdout) = stdout {
                lines::log(stdout, "stdout", &mut out, &budget, &kept).await;
            }
        };
        let logging_err = async {
            if let Some(stderr) = stderr {
                lines::log(stderr, "stderr", &mut err, &budget, &kept).await;
            }
        };
        let mut streams = Box::pin(async { tokio::join!(feeding, logging_out, logging_err) });
        let mut streaming = true;
        let mut told: Option<Instant> = None;
        let mut killed = false;
        let mut checkpoint = Checkpoint::new(cx, workspace, saved);
        let over = Notify::new();
        let mut keeping = Box::pin(checkpoint.keep(&over));
        let mut key = Key::new(cx, workspace);
        let mut reporting =
            Box::pin(async { tokio::join!(progress::report(cx, workspace), key.keep()) });
        let status = loop {
            let deadline = told.map(|at| at + cx.stop_grace());
            tokio::select! {
                biased;
                status = self.run.wait() => break status,
                _ = &mut streams, if streaming => streaming = false,
                reason = cx.stopping(), if told.is_none() && purpose == Purpose::Run => {
                    // It may have ended by itself without having been polled.
                    if let Ok(Some(status)) = self.run.try_wait() {
                        break Ok(status);
                    }
                    tracing::info!(
                        event = "program_told_to_end",
                        reason = reason.as_str(),
                        "telling the program to end"
                    );
                    workspace.tell(reason);
                    self.run.tell();
                    told = Some(Instant::now());
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() && !killed => {
                    tracing::warn!(
                        event = "program_killed",
                        "the program did not end within its grace and is killed"
                    );
                    self.run.kill();
                    killed = true;
                }
                () = &mut keeping => {}
                _ = &mut reporting => {}
            }
        };
        over.notify_one();
        let no_memory = self.run.ran_out_of_memory();
        self.run.finish().await;
        // A look at a job elsewhere is over before its progress is read.
        progress::look(cx, workspace);
        if streaming && timeout(STREAMS, &mut streams).await.is_err() {
            tracing::warn!(
                event = "output_held_open",
                "a process that could not be killed holds the program's output open; the rest of \
                 it is not logged"
            );
        }
        drop((streams, reporting));
        // What is saved in a cleanup helps no later run.
        let unkept = match purpose {
            Purpose::Run => {
                // A save that is under way would have to be made again.
                keeping.await;
                checkpoint.finish().await.or(key.finish().await)
            }
            Purpose::Cleanup => None,
        };
        // It is unknown how the program ended: that is no outcome.
        let status = status.map_err(|contain::Lost| {
            HandlerError::retry(
                "the program's exit status is unknown, because the process that waits for it was \
                 killed; what was left of the program has been killed too",
            )
        })?;
        Ok(Ended {
            told: told.is_some(),
            killed,
            status,
            no_memory,
            unkept,
            stderr: lines::text(err),
        })
    }
}
