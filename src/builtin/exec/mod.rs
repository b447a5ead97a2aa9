//! A step's work done by a program of any language: the step on stdin and in `STEP_*`, the outcome by exit code and `$STEP_OUTPUT`.
//!
//! No shell is involved. No process of a run outlives it, whatever group, session and environment it has, nor a daemon that was killed: what
//! it can be told by is in the ledger before its first instruction, and it is ended before the step runs again here.

mod account;
mod contain;
mod files;
mod limits;
mod lines;
mod program;
mod settings;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use account::AccountError;
pub use files::{FileError, outputs_of};
pub use limits::Limits;
pub use settings::{AfterSigterm, Settings, SettingsError};

use self::contain::{End, Remains, Terms};
use self::files::Workspace;
use self::program::{Ended, Program, Purpose};
use crate::handler::{Completion, Context, Handler, HandlerError, HandlerResult, Remark};
use crate::outcome::{Outputs, Reason};

/// The handler type `exec`.
#[derive(Debug)]
pub struct Exec {
    settings: Settings,
    terms: Terms,
    /// Paths that could not be looked at, since their file system did not answer.
    silent: Vec<PathBuf>,
}

/// What the ledger keeps for a program between its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// Who ran last.
    run: Option<Remains>,
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
        let (settings, silent) = settings.checked()?;
        Ok(Self { terms: settings.terms()?, settings, silent })
    }

    /// Runs one program to its end. Nothing of it, or of an earlier run of the step, is alive when this returns.
    async fn call(
        &self,
        cx: &Context,
        purpose: Purpose,
        command: &[String],
    ) -> Result<(Ended, Workspace), HandlerError> {
        let saved: Saved = cx.checkpoint()?.unwrap_or_default();
        end_remains(&saved).await?;
        let workspace = Workspace::new(saved.file.as_deref()).map_err(|error| {
            HandlerError::retry(format_args!("no directory for STEP_OUTPUT could be made: {error}; look at $TMPDIR"))
        })?;
        if let Some(reason) = cx.stop_reason().filter(|_| purpose == Purpose::Cleanup) {
            workspace.tell(reason);
        }
        let saved = Saved { workspace: Some(workspace.name()), ..saved };
        let command = settings::command(&self.settings, command, cx, &workspace);
        if let Some(account) = self.terms.account.as_ref().filter(|account| !account.is_ours()) {
            let output = workspace.output();
            account.give(output.parent().unwrap_or(&output)).map_err(HandlerError::retry)?;
        }
        let mut saved = saved;
        let record = async |remains: &Remains| {
            saved.run = Some(remains.clone());
            Ok(cx.save_checkpoint(&saved).await?)
        };
        let program = Program::spawn(command.as_std(), &self.terms, record).await?;
        let ended = program.end(cx, purpose, stdin(cx), &workspace, saved).await?;
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
            return end_remains(&cx.checkpoint()?.unwrap_or_default()).await;
        };
        let (ended, _) = self.call(&cx, Purpose::Cleanup, command).await?;
        if ended.status.success() { Ok(()) } else { Err(HandlerError::permanent(ended.reason())) }
    }

    fn remarks(&self) -> Vec<Remark> {
        let silent = |path: &PathBuf| {
            Remark::warning(format!(
                "{} could not be looked at: its file system does not answer; programs there will not begin until it does",
                path.display()
            ))
        };
        let mut remarks = vec![contain::means()];
        remarks.extend(contain::limits(&self.settings.limits));
        remarks.extend(self.silent.iter().map(silent));
        remarks
    }

    async fn reap(&self, cx: Context) {
        if let Ok(Some(saved)) = cx.checkpoint() {
            // What cannot be ended is said again when the step is to run.
            let _ = end_remains(&saved).await;
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
            _ if self.no_memory => "it ran out of the memory that `limits` gives it".to_owned(),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        Reason::with_end_of(&how, &self.stderr)
    }
}

async fn end_remains(saved: &Saved) -> Result<(), HandlerError> {
    if let Some(run) = &saved.run {
        match run.end().await {
            End::Nothing => {}
            End::Ended => tracing::warn!("ended what an earlier run of the step had left running"),
            End::Alive(pid) => {
                return Err(HandlerError::retry(format_args!(
                    "process {pid}, which an earlier run of the step has left, cannot be ended: it runs as another user"
                )));
            }
        }
    }
    if let Some(name) = &saved.workspace {
        files::remove_left_behind(name);
    }
    Ok(())
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
