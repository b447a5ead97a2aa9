//! Earlier runs of a step on this machine, which their daemon did not see end: it was killed, or
//! dropped them.
//!
//! What ends their processes lies in their directories and not in the ledger: it is of use on this
//! machine only, and a write less for each step. It need not survive the machine, because no
//! process does, so nothing here is flushed to the disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::contain::{End, Remains};
use super::program::Purpose;
use super::workspace::{self, FILES, FileError, Found};
use super::{Saved, abandoned};
use crate::handler::{CheckpointError, Context, HandlerError, host_trouble};

/// What is known of a run before its program starts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// Identifies its processes.
    pub(super) processes: Remains,
    /// That of its claim.
    pub(super) fence: u64,
    /// The run whose checkpoint it was given.
    pub(super) after: Option<String>,
}

/// The earlier runs of one step.
pub(super) struct Earlier {
    /// The latest first.
    left: Vec<Left>,
    /// Of the last run, if it was that of a daemon that kept this in the ledger.
    recorded: Option<Remains>,
}

/// The directory of an earlier run.
struct Left {
    directory: PathBuf,
    name: String,
    /// Unknown of a run of a daemon that kept this in the ledger.
    run: Option<Run>,
}

/// The name of a [`Run`] in its run's directory.
const RUN: &str = "run";
/// The longest path of a cgroup takes 4 KiB.
const MAX_RUN: u64 = 16 << 10;

impl Run {
    /// Has this known to the next life of the daemon, should this one be killed.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(directory.join(RUN))?.write_all(&text)
    }

    /// The run in a directory of ours, if its program may have been started.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, FileError> {
        // What a program could have put there is no word of ours.
        let is_ours =
            |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw();
        if !fs::symlink_metadata(directory).is_ok_and(is_ours) {
            return Ok(None);
        }
        match workspace::read(&directory.join(RUN), "the file `run`", MAX_RUN) {
            // A daemon that was killed while it wrote the file had not started the program.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(FileError::Gone(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Earlier {
    /// Those of the step that no live process looks after.
    pub(super) fn of(cx: &Context, saved: &Saved) -> Result<Self, HandlerError> {
        let trouble = |what, error: &dyn std::fmt::Display| {
            let told = format!("{} cannot be read: {error}", cx.work_dir().display());
            HandlerError::host(what, told)
        };
        let names = abandoned::names(cx.work_dir(), cx.token().as_str())
            .map_err(|error| trouble(host_trouble(&error).unwrap_or("io"), &error))?;
        let mut left = Vec::new();
        for name in names {
            let directory = cx.work_dir().join(&name);
            if abandoned::is_in_use(&directory) {
                continue;
            }
            let run = Run::read(&directory)
                .map_err(|error| trouble(error.trouble().unwrap_or("io"), &error))?;
            // One that is being created by another worker has neither.
            if run.is_some() || saved.workspace.as_ref() == Some(&name) {
                left.push(Left { directory, name, run });
            }
        }
        left.sort_by_key(|left| std::cmp::Reverse(left.run.as_ref().map_or(0, |run| run.fence)));
        Ok(Self { left, recorded: saved.run.clone() })
    }

    /// Ends their processes. One that hangs in the kernel does nothing any more, so a cleanup need
    /// not wait for it. A run does wait, because it would hang as well.
    pub(super) async fn end(&self, purpose: Purpose) -> Result<(), HandlerError> {
        let runs = self.left.iter().filter_map(|left| left.run.as_ref());
        for processes in runs.map(|run| &run.processes).chain(&self.recorded) {
            match processes.end().await {
                End::Nothing => {}
                End::Ended => {
                    tracing::warn!(
                        event = "leftovers_killed",
                        "killed what an earlier run of the step had left running"
                    );
                }
                End::Hangs if purpose == Purpose::Run => {
                    return Err(HandlerError::host(
                        "io",
                        "an earlier run of the step is killed, but hangs in the kernel",
                    ));
                }
                End::Hangs => {
                    tracing::warn!(
                        event = "leftovers_hang",
                        "an earlier run of the step is killed, but hangs in the kernel"
                    );
                }
                End::Alive(pid) => {
                    return Err(HandlerError::retry(format_args!(
                        "process {pid}, which an earlier run of the step has left, cannot be \
                         killed: it runs as another user"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Takes over the checkpoint that the latest of them wrote and its daemon could not save; it is
    /// durable when this returns. Nothing else is needed of them then, and they are removed.
    pub(super) async fn recover(self, cx: &Context, saved: Saved) -> Result<Saved, HandlerError> {
        let mut saved = saved;
        for left in self.left {
            if left.goes_on_from(&saved) {
                saved = left.recover(cx, saved).await?;
            }
            left.remove();
        }
        Ok(saved)
    }

    /// Removes all that they have left.
    pub(super) fn discard(self) {
        self.left.into_iter().for_each(Left::remove);
    }
}

impl Left {
    /// Whether no other run has saved a checkpoint since this one began: what it wrote is newer.
    fn goes_on_from(&self, saved: &Saved) -> bool {
        saved.workspace.as_ref() == Some(&self.name)
            || self.run.as_ref().is_some_and(|run| run.after == saved.workspace)
    }

    async fn recover(&self, cx: &Context, saved: Saved) -> Result<Saved, HandlerError> {
        let content = match workspace::checkpoint_in(&self.files()) {
            Ok(Found::Content(content)) if saved.file.as_ref() != Some(&content) => content,
            Ok(_) => return Ok(saved),
            Err(error) => {
                if let Some(what) = error.trouble() {
                    return Err(HandlerError::host(
                        what,
                        format_args!("what the last run left cannot be read: {error}"),
                    ));
                }
                tracing::warn!(
                    event = "left_checkpoint_ignored",
                    %error,
                    "the checkpoint that the last run left is ignored"
                );
                return Ok(saved);
            }
        };
        let next = Saved::by(&self.name, content);
        match cx.save_checkpoint(&next).await {
            Err(error @ CheckpointError::Unfit(_)) => {
                tracing::warn!(
                    event = "left_checkpoint_ignored",
                    %error,
                    "the checkpoint that the last run left is ignored"
                );
                return Ok(saved);
            }
            ended => ended?,
        }
        tracing::info!(
            event = "left_checkpoint_saved",
            "the checkpoint that the last run left is saved"
        );
        Ok(next)
    }

    /// In version 0.1 a run had one directory.
    fn files(&self) -> PathBuf {
        if self.run.is_some() { self.directory.join(FILES) } else { self.directory.clone() }
    }

    fn remove(self) {
        workspace::remove(&self.directory);
    }
}
