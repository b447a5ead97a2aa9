#![doc = include_str!("README.md")]

mod abandoned;
mod account;
mod checkpoint;
mod contain;
mod content;
mod limits;
mod lines;
mod program;
mod settings;
mod trouble;
mod watch;
mod workspace;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::sleep;

pub use account::AccountError;
pub use limits::Limits;
pub use settings::{AfterSigterm, Settings, SettingsError};
pub use workspace::{FileError, outputs_of};

use self::contain::{End, Remains, Terms};
use self::content::Content;
use self::program::{Ended, Program, Purpose};
use self::settings::Lacking;
use self::workspace::Workspace;
use super::given;
use crate::handler::{
    Completion, Context, Handler, HandlerError, HandlerResult, Leftover, Remark, host_trouble,
};
use crate::outcome::Reason;

/// The handler type `exec`.
#[derive(Debug)]
pub struct Exec {
    settings: Settings,
    terms: Terms,
    lacking: Lacking,
}

/// What the ledger keeps for a program between its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// Identifies the last run.
    run: Option<Remains>,
    /// What `$STEP_CHECKPOINT` held.
    file: Option<Content>,
    /// The directory of the last run, by name: a killed daemon can neither save what is in it nor
    /// remove it.
    workspace: Option<String>,
}

/// BSD's `EX_TEMPFAIL`: try again later.
const RETRY: i32 = 75;
/// Not done yet: run again after `poll_interval`.
const AGAIN: i32 = 76;
/// How soon outputs are read again if the machine failed to read them.
const READ_AGAIN: Duration = Duration::from_millis(500);

impl Exec {
    /// A handler with these settings. What the machine lacks at present, such as the program
    /// itself, is no error here but a [remark](Handler::remarks).
    ///
    /// # Errors
    /// [`SettingsError`] if the settings can never run a program.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let (settings, terms, lacking) = settings.checked()?;
        Ok(Self { settings, terms, lacking })
    }

    /// Runs one program to its end. No process of it, or of an earlier run of the step, is alive
    /// when this returns.
    async fn call(
        &self,
        cx: &Context,
        purpose: Purpose,
        command: &[String],
    ) -> Result<(Ended, Workspace), HandlerError> {
        let saved: Saved = cx.checkpoint()?.unwrap_or_default();
        end_remains(&saved, purpose).await?;
        let saved = checkpoint::recover(cx, saved).await?;
        let workspace = Workspace::new(cx.work_dir(), cx.token().as_str(), saved.file.as_ref())
            .map_err(|error| {
                let told = format!(
                    "no directory for the run could be created in {}: {error}",
                    cx.work_dir().display()
                );
                HandlerError::host(host_trouble(&error).unwrap_or("io"), told)
            })?;
        if let Some(reason) = cx.stop_reason().filter(|_| purpose == Purpose::Cleanup) {
            workspace.tell(reason);
        }
        let saved = Saved { workspace: Some(workspace.name()), ..saved };
        let account = self.terms.account.as_ref();
        let command = settings::command(&self.settings, account, command, cx, &workspace);
        if let Some(account) = account.filter(|account| !account.is_ours()) {
            account.give(workspace.directory()).map_err(|told| HandlerError::host("io", told))?;
        }
        let mut saved = saved;
        let record = async |remains: &Remains| {
            saved.run = Some(remains.clone());
            Ok(cx.save_checkpoint(&saved).await?)
        };
        let program = Program::spawn(command.as_std(), &self.terms, record).await?;
        cx.is_under_way();
        let stdin = format!("{}\n", given::step(cx)).into_bytes();
        let ended = program.end(cx, purpose, stdin, &workspace, saved).await?;
        Ok((ended, workspace))
    }

    /// Whether the program's end is the result of its work. A program that was told to end may have
    /// stopped anywhere.
    fn is_its_own(&self, ended: &Ended) -> bool {
        match self.settings.exit_after_sigterm {
            _ if ended.killed => false,
            AfterSigterm::Ignored => !ended.told,
            AfterSigterm::Kept => !ended.told || !ended.is_terminated(),
        }
    }

    async fn completion(&self, cx: &Context, workspace: &Workspace) -> HandlerResult {
        if self.settings.deferred {
            return Ok(Completion::Deferred);
        }
        loop {
            match workspace.outputs() {
                Ok(outputs) => return Ok(Completion::Success(outputs)),
                Err(error) => match error.trouble() {
                    // The program's result is not recomputed because of our own trouble.
                    Some(what) => {
                        cx.hindered_by(what, &error.to_string());
                        sleep(READ_AGAIN).await;
                    }
                    None if matches!(error, FileError::Gone(_)) => {
                        return Err(HandlerError::retry(error));
                    }
                    None => return Err(HandlerError::permanent(error)),
                },
            }
        }
    }
}

impl Handler for Exec {
    type Args = Value;

    async fn run(&self, cx: Context, _: Value) -> HandlerResult {
        let (ended, workspace) = self.call(&cx, Purpose::Run, &self.settings.command).await?;
        if !self.is_its_own(&ended) {
            return Err(HandlerError::retry("the program was stopped"));
        }
        let code = ended.status.code();
        // The next run of the step needs what is left there.
        let goes_on =
            matches!(code, Some(AGAIN | RETRY)) || code == Some(0) && self.settings.deferred;
        if let Some(unkept) = ended.unkept.as_ref().filter(|_| goes_on) {
            return Err(HandlerError::permanent(unkept));
        }
        match code {
            Some(0) => return self.completion(&cx, &workspace).await,
            Some(AGAIN) => return Ok(Completion::Again(self.settings.poll_interval)),
            _ => {}
        }
        let reason = ended.reason();
        if let Some(error) = workspace.ails(cx.work_dir(), cx.token().as_str()) {
            let told = format!(
                "the program failed while {} could not be written ({error}): {reason}",
                cx.work_dir().display()
            );
            return Err(HandlerError::host(host_trouble(&error).unwrap_or("io"), told));
        }
        Err(if code == Some(RETRY) {
            HandlerError::retry(reason)
        } else {
            HandlerError::permanent(reason)
        })
    }

    async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
        let Some(command) = &self.settings.cleanup else {
            let saved: Saved = cx.checkpoint()?.unwrap_or_default();
            end_remains(&saved, Purpose::Cleanup).await?;
            if let Some(left) = saved.left_behind(&cx) {
                left.discard();
            }
            return Ok(());
        };
        let (ended, workspace) = self.call(&cx, Purpose::Cleanup, command).await?;
        workspace.discard();
        if ended.status.success() { Ok(()) } else { Err(HandlerError::permanent(ended.reason())) }
    }

    fn remarks(&self, work_dir: &Path) -> Vec<Remark> {
        let silent = |path: &PathBuf| {
            Remark::warning(format!(
                "{} could not be examined: its file system does not answer; programs there will \
                 not start until it does",
                path.display()
            ))
        };
        let mut remarks = vec![contain::means()];
        remarks.extend(contain::limits(&self.settings.limits));
        remarks.extend(self.lacking.silent.iter().map(silent));
        remarks.extend(self.lacking.errors.iter().map(|error| Remark::error(error.to_string())));
        let account = self.terms.account.as_ref().filter(|account| !account.is_ours());
        remarks.extend(account.and_then(|account| account.bars(work_dir)).map(Remark::error));
        remarks
    }

    fn leftovers(&self, work_dir: &Path) -> Vec<Leftover> {
        abandoned::find(work_dir)
    }

    async fn reap(&self, cx: Context) {
        if let Ok(Some(saved)) = cx.checkpoint() {
            // If something cannot be killed, that is reported again when the step is to run.
            let _ = end_remains(&saved, Purpose::Cleanup).await;
        }
    }
}

impl Ended {
    /// It died of SIGTERM, or it is a shell and the program in it did.
    fn is_terminated(&self) -> bool {
        self.status.signal() == Some(Signal::SIGTERM as i32)
            || self.status.code() == Some(128 + Signal::SIGTERM as i32)
    }

    /// How the program ended, and its last output.
    fn reason(&self) -> Reason {
        let how = match (self.status.code(), self.status.signal()) {
            _ if self.no_memory => "it reached its memory limit (`limits`)".to_owned(),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        Reason::with_end_of(&how, &self.stderr)
    }
}

impl Saved {
    /// The directory of the last run, if its daemon left it.
    fn left_behind(&self, cx: &Context) -> Option<Workspace> {
        Workspace::left_behind(
            cx.work_dir(),
            cx.token().as_str(),
            self.workspace.as_deref()?,
            self.file.as_ref(),
        )
    }
}

/// A process that hangs in the kernel does nothing any more, so a cleanup need not wait for it. A
/// run does wait, because it would hang as well.
async fn end_remains(saved: &Saved, purpose: Purpose) -> Result<(), HandlerError> {
    let Some(run) = &saved.run else { return Ok(()) };
    match run.end().await {
        End::Nothing => {}
        End::Ended => tracing::warn!("killed what an earlier run of the step had left running"),
        End::Hangs if purpose == Purpose::Run => {
            return Err(HandlerError::host(
                "io",
                "an earlier run of the step is killed, but hangs in the kernel",
            ));
        }
        End::Hangs => {
            tracing::warn!("an earlier run of the step is killed, but hangs in the kernel");
        }
        End::Alive(pid) => {
            return Err(HandlerError::retry(format_args!(
                "process {pid}, which an earlier run of the step has left, cannot be killed: it \
                 runs as another user"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
