//! One running program, from its first instruction until nothing of it is left.

use std::collections::VecDeque;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::checkpoint::Checkpoint;
use super::contain::{self, Remains, Run, Terms};
use super::workspace::Workspace;
use super::{Saved, lines, trouble};
use crate::handler::{Context, HandlerError};

/// A program that runs. Dropped before its end, it takes all that it has started with it.
pub(super) struct Program {
    run: Run,
}

/// What a program is started for. A stop may come before the program has begun, so that a stop
/// there is does not tell them apart.
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
    /// The kernel ended it, or something that it had started, since all memory that it may use was
    /// used.
    pub(super) no_memory: bool,
    /// Why the ledger does not have what it left in `$STEP_CHECKPOINT`, if that cannot be kept.
    pub(super) unkept: Option<String>,
    /// The end of what it said there.
    pub(super) stderr: String,
}

/// Once all of it is gone, only a process that hangs in the kernel can hold its streams open; it is
/// not waited for.
const STREAMS: Duration = Duration::from_secs(1);

impl Program {
    /// Starts a program, once `record` has on record what its processes can be told by.
    pub(super) async fn spawn(
        command: &Command,
        terms: &Terms,
        record: impl AsyncFnOnce(&Remains) -> Result<(), HandlerError>,
    ) -> Result<Self, HandlerError> {
        let ready = terms.ready();
        record(&ready.remains).await?;
        let run = contain::start(command, terms, ready)
            .await
            .map_err(|error| trouble::of_start(command, &error))?;
        Ok(Self { run })
    }

    /// Sees the program to its end: feeds it, logs it, saves its checkpoints, stops it when told to
    /// unless it is the answer to that, and leaves nothing of it alive.
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
        let mut checkpoint = Checkpoint::new(cx, workspace, saved);
        let mut keeping = Box::pin(checkpoint.keep());
        let status = loop {
            let deadline = told.map(|at| at + cx.stop_grace());
            tokio::select! {
                biased;
                status = self.run.wait() => break status,
                _ = &mut streams, if streaming => streaming = false,
                reason = cx.stopping(), if told.is_none() && purpose == Purpose::Run => {
                    // It may have ended by itself, and nobody has looked yet.
                    if let Ok(Some(status)) = self.run.try_wait() {
                        break Ok(status);
                    }
                    tracing::info!(reason = reason.as_str(), "telling the program to end");
                    workspace.tell(reason);
                    self.run.tell();
                    told = Some(Instant::now());
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() && !killed => {
                    tracing::warn!("the program did not end within its grace and is killed");
                    self.run.kill();
                    killed = true;
                }
                () = &mut keeping => {}
            }
        };
        drop(keeping);
        let no_memory = self.run.ran_out_of_memory();
        self.run.finish().await;
        if streaming && timeout(STREAMS, &mut streams).await.is_err() {
            tracing::warn!(
                "a process that could not be ended holds the program's output open; the rest of \
                 that is not logged"
            );
        }
        drop(streams);
        // What is saved in a cleanup helps nobody who comes after.
        let unkept = match purpose {
            Purpose::Run => checkpoint.finish().await,
            Purpose::Cleanup => None,
        };
        // Whatever the program did, nobody knows how it ended: that is no outcome.
        let status = status.map_err(|contain::Lost| {
            HandlerError::retry(
                "the program's exit status cannot be had: the process that kept it was killed; \
                 what was left of it is ended",
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
