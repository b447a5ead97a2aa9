//! A step's work done by a program of any language: the step on stdin and in `STEP_*`, the outcome by exit code and `$STEP_OUTPUT`.
//!
//! No shell is involved. The program leads a process group of its own, and no process of that group outlives the step, nor a daemon that
//! was killed: the group is in the ledger before the program's first instruction, and is ended before the step runs again here. A process
//! that leaves the group (`setsid`) is out of reach.

mod files;
mod group;
mod lines;
mod program;
mod settings;
mod spawner;

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use files::{FileError, outputs_of};
pub use settings::{AfterSigterm, Settings, SettingsError};

use self::files::Workspace;
use self::group::Group;
use self::program::{Ended, Program, Purpose};
use crate::handler::{Completion, Context, Handler, HandlerError, HandlerResult};
use crate::outcome::{Outputs, Reason};

/// The handler type `exec`.
#[derive(Debug)]
pub struct Exec {
    settings: Settings,
}

/// What the ledger keeps for a program between its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// Who ran last.
    group: Option<Group>,
    /// What `$STEP_CHECKPOINT` held.
    file: Option<String>,
    /// The directory of the last run, by name: a daemon that is killed cannot remove it.
    workspace: Option<String>,
}

/// BSD's `EX_TEMPFAIL`: try again later.
const RETRY: i32 = 75;
/// Not done yet: run again after `poll_interval`.
const AGAIN: i32 = 76;

impl Exec {
    /// # Errors
    /// [`SettingsError`] where the program cannot be run as the settings say.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        Ok(Self { settings: settings.checked()? })
    }

    /// Runs one program to its end. Nothing of it, or of an earlier run of the step, is alive when this returns.
    async fn call(
        &self,
        cx: &Context,
        purpose: Purpose,
        command: &[String],
    ) -> Result<(Ended, Workspace), HandlerError> {
        let saved: Saved = cx.checkpoint()?.unwrap_or_default();
        end_remains(cx, &saved).await;
        let workspace = Workspace::new(saved.file.as_deref()).map_err(|error| {
            HandlerError::retry(format_args!("no directory for STEP_OUTPUT could be made: {error}; look at $TMPDIR"))
        })?;
        if let Some(reason) = cx.stop_reason().filter(|_| purpose == Purpose::Cleanup) {
            workspace.tell(reason);
        }
        let saved = Saved { workspace: Some(workspace.name()), ..saved };
        let command = settings::command(&self.settings, command, cx, &workspace);
        let begun = |group| Saved { group: Some(group), ..saved.clone() };
        let program = Program::spawn(command, async |group| Ok(cx.save_checkpoint(&begun(group)).await?)).await?;
        let saved = begun(program.group().clone());
        let ended = program.end(cx, purpose, stdin(cx), &workspace, saved).await;
        Ok((ended, workspace))
    }

    /// Whether the program's end says what its work came to. One that was told to end may have left off anywhere.
    fn is_its_own(&self, ended: &Ended) -> bool {
        match self.settings.exit_after_sigterm {
            _ if ended.killed => false,
            AfterSigterm::Ignored => !ended.told,
            AfterSigterm::Kept => !ended.told || !ended.is_terminated(),
        }
    }

    fn completion(&self, workspace: &Workspace) -> HandlerResult {
        if self.settings.deferred {
            return Ok(Completion::Deferred);
        }
        let outputs: Outputs = workspace.outputs().map_err(HandlerError::permanent)?;
        Ok(Completion::Success(outputs))
    }
}

impl Handler for Exec {
    type Args = Value;

    async fn run(&self, cx: Context, _: Value) -> HandlerResult {
        let (ended, workspace) = self.call(&cx, Purpose::Run, &self.settings.command).await?;
        if !self.is_its_own(&ended) {
            return Err(HandlerError::retry("the program was stopped"));
        }
        match ended.status.code() {
            Some(0) => self.completion(&workspace),
            Some(AGAIN) => Ok(Completion::Again(self.settings.poll_interval)),
            Some(RETRY) => Err(HandlerError::retry(ended.reason())),
            _ => Err(HandlerError::permanent(ended.reason())),
        }
    }

    async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
        let Some(command) = &self.settings.cleanup else {
            end_remains(&cx, &cx.checkpoint()?.unwrap_or_default()).await;
            return Ok(());
        };
        let (ended, _) = self.call(&cx, Purpose::Cleanup, command).await?;
        if ended.status.success() { Ok(()) } else { Err(HandlerError::permanent(ended.reason())) }
    }

    async fn reap(&self, cx: Context) {
        if let Ok(Some(saved)) = cx.checkpoint() {
            end_remains(&cx, &saved).await;
        }
    }
}

impl Ended {
    /// It, or the program in it where it is a shell, died of SIGTERM.
    fn is_terminated(&self) -> bool {
        self.status.signal() == Some(Signal::SIGTERM as i32) || self.status.code() == Some(128 + Signal::SIGTERM as i32)
    }

    /// How the program ended, and what it said last.
    fn reason(&self) -> Reason {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        Reason::with_end_of(&how, &self.stderr)
    }
}

async fn end_remains(cx: &Context, saved: &Saved) {
    if let Some(group) = &saved.group
        && group.end_if_ours(cx.token()).await
    {
        tracing::warn!(group = group.id(), "ended what an earlier run of the step had left running");
    }
    if let Some(name) = &saved.workspace {
        files::remove_left_behind(name);
    }
}

fn stdin(cx: &Context) -> Vec<u8> {
    let mut step = json!({
        "token": cx.token(),
        "pipelineExecutionArn": cx.execution(),
        "pipeline": cx.pipeline(),
        "queueUrl": cx.queue_url(),
        "attempt": cx.attempt(),
        "arguments": cx.arguments(),
    });
    if let Some(reason) = cx.stop_reason() {
        step["stopReason"] = reason.as_str().into();
    }
    format!("{step}\n").into_bytes()
}

#[cfg(test)]
mod tests;
