#![doc = include_str!("README.md")]

mod abandoned;
mod account;
mod checkpoint;
mod contain;
mod content;
mod earlier;
mod inherit;
mod key;
mod limits;
mod lines;
mod program;
mod progress;
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
pub use inherit::Group;
pub use limits::Limits;
pub use settings::{AfterSigterm, Settings, SettingsError};
pub use workspace::{FileError, outputs_of};

use self::contain::{Remains, Terms};
use self::content::Content;
use self::earlier::{Earlier, Run};
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
    /// What `$STEP_CHECKPOINT` held.
    file: Option<Content>,
    /// The directory of the run that wrote it, by name. Of version 0.1: that of the last run.
    workspace: Option<String>,
    /// Identifies the last run, in a record of version 0.1.
    #[serde(default, skip_serializing)]
    run: Option<Remains>,
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
        let earlier = Earlier::of(cx, &saved)?;
        earlier.end(purpose).await?;
        let saved = earlier.recover(cx, saved).await?;
        let trouble = |error: std::io::Error| {
            let told = format!(
                "no directory for the run could be created in {}: {error}",
                cx.work_dir().display()
            );
            HandlerError::host(host_trouble(&error).unwrap_or("io"), told)
        };
        let mut workspace = Workspace::new(cx.work_dir(), cx.token().as_str(), saved.file.as_ref())
            .map_err(trouble)?;
        if let Some(reason) = cx.stop_reason().filter(|_| purpose == Purpose::Cleanup) {
            workspace.tell(reason);
        }
        let account = self.terms.account.as_ref();
        let command = settings::command(&self.settings, account, command, cx, &workspace);
        if let Some(account) = account.filter(|account| !account.is_ours()) {
            workspace.give_to(account).map_err(|told| HandlerError::host("io", told))?;
        }
        let record = |processes: &Remains| {
            let (processes, after) = (processes.clone(), saved.workspace.clone());
            workspace.is_of(Run { processes, fence: cx.fence(), after }).map_err(trouble)
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
        let reason = ended.reason(&workspace);
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
            let earlier = Earlier::of(&cx, &cx.checkpoint()?.unwrap_or_default())?;
            earlier.end(Purpose::Cleanup).await?;
            earlier.discard();
            return Ok(());
        };
        let (ended, workspace) = self.call(&cx, Purpose::Cleanup, command).await?;
        let failure =
            (!ended.status.success()).then(|| HandlerError::permanent(ended.reason(&workspace)));
        workspace.discard();
        failure.map_or(Ok(()), Err)
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
        let missing = inherit::missing(std::env::vars_os(), &self.settings.inherit_env);
        remarks.extend(missing.map(Remark::warning));
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
        // What cannot be read or killed is reported again when the step is to run.
        if let Ok(saved) = cx.checkpoint()
            && let Ok(earlier) = Earlier::of(&cx, &saved.unwrap_or_default())
        {
            let _ = earlier.end(Purpose::Cleanup).await;
        }
    }
}

impl Ended {
    /// It died of SIGTERM, or it is a shell and the program in it did.
    fn is_terminated(&self) -> bool {
        self.status.signal() == Some(Signal::SIGTERM as i32)
            || self.status.code() == Some(128 + Signal::SIGTERM as i32)
    }

    /// Why the program failed: what it says itself, or how it ended and the end of its stderr.
    fn reason(&self, workspace: &Workspace) -> String {
        let own = workspace.reason();
        let how = match (self.status.code(), self.status.signal()) {
            _ if self.no_memory => "it reached its memory limit (`limits`)".to_owned(),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        match own {
            // What has killed the program is not known to it.
            Some(own) if self.no_memory || self.status.code().is_none() => format!("{how}: {own}"),
            Some(own) => own,
            None => Reason::with_end_of(&how, &self.stderr).to_string(),
        }
    }
}

impl Saved {
    /// What the run in this directory wrote.
    fn by(directory: &str, file: Content) -> Self {
        Self { file: Some(file), workspace: Some(directory.to_owned()), run: None }
    }
}

#[cfg(test)]
mod tests;
