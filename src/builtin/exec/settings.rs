//! The settings of an `exec` handler, and the command built from them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::account::{Account, AccountError};
use super::contain::{Terms, look};
use super::inherit::{self, Group};
use super::limits::Limits;
use super::workspace::Workspace;
use crate::handler::Context;

/// `[handlers.NAME.settings]` of the type `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The program and its arguments. They are not passed through a shell.
    pub command: Vec<String>,
    /// The program, with its arguments, that runs after a stop and after the time limit.
    #[serde(default)]
    pub cleanup: Option<Vec<String>>,
    /// Added to the environment, which is otherwise PATH, HOME, LANG and `STEP_*`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables that are passed on from the daemon's environment, by name or glob (`*`, `?`).
    #[serde(default)]
    pub inherit_env: Vec<String>,
    /// A group of variables that are passed on from the daemon's environment.
    #[serde(default)]
    pub inherit: Option<Group>,
    /// Where the programs run; by default the daemon's working directory.
    #[serde(default)]
    pub working_dir: Option<PathBuf>,
    /// How long after an exit with 76 the program is run again.
    #[serde(with = "crate::duration", default = "poll_interval")]
    #[schemars(with = "String")]
    pub poll_interval: Duration,
    /// An exit with 0 means that someone else will complete the step.
    #[serde(default)]
    pub deferred: bool,
    /// How the exit of a program counts that was told to end.
    #[serde(default)]
    pub exit_after_sigterm: AfterSigterm,
    /// The user that the programs run as, with its groups and home; by default the daemon's own.
    #[serde(default)]
    pub user: Option<String>,
    /// Limits of one run.
    #[serde(default)]
    pub limits: Limits,
}

/// How an exit after our SIGTERM counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AfterSigterm {
    /// Not at all, whatever its status: at a shutdown the step is given back; after a stop or the
    /// time limit the cleanup runs.
    #[default]
    Ignored,
    /// Like any other exit, unless the program died of the signal.
    Kept,
}

/// The settings can never run a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum SettingsError {
    #[error("`{0}` is empty; it names the program and its arguments")]
    Empty(&'static str),
    #[error(
        "`{key}`: there is no executable program {program:?}{where_}; use its absolute path, and \
         check that {who} may execute it and enter each directory on the path"
    )]
    NoProgram { key: &'static str, program: String, where_: &'static str, who: String },
    #[error("`{key}`: {text:?} contains a NUL character, which no program can be given")]
    Nul { key: &'static str, text: String },
    #[error(
        "`{key}`: {name:?} cannot be a variable's name here; names are not empty, have no `=`, and \
         do not begin with STEP_"
    )]
    Variable { key: &'static str, name: String },
    #[error("`working_dir`: {directory} is not a directory that {who} may enter")]
    WorkingDir { directory: String, who: String },
    #[error("`poll_interval` is less than a second")]
    PollInterval,
    #[error("`{key}`: {program:?} is empty, which is not a program")]
    EmptyFile { key: &'static str, program: String },
    #[error("`user`: {0}")]
    User(#[from] AccountError),
    #[error("{0}")]
    Limits(String),
    #[error("{}", told(.0))]
    Several(Vec<SettingsError>),
}

fn told(errors: &[SettingsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and ")
}

/// What this machine lacks for the settings at present. It may appear later: with a mount, or at
/// the end of a deployment.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// What is missing.
    pub(super) errors: Vec<SettingsError>,
    /// Paths that could not be examined because their file system did not answer.
    pub(super) silent: Vec<PathBuf>,
}

/// Taken from the daemon's own environment, always.
const ALWAYS: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Used if the daemon itself has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn poll_interval() -> Duration {
    Settings::POLL_INTERVAL
}

impl Settings {
    /// How long after an exit with 76 a program is run again by default.
    pub(crate) const POLL_INTERVAL: Duration = Duration::from_mins(1);

    /// The checked settings, independent of the directory that a program changes to, how all
    /// programs of the handler are started, and what this machine lacks for them.
    pub(super) fn checked(mut self) -> Result<(Self, Terms, Lacking), SettingsError> {
        if let Some(directory) = &mut self.working_dir
            && let Ok(absolute) = std::path::absolute(&*directory)
        {
            *directory = absolute;
        }
        let mut mistakes = self.mistakes();
        let account = self.user.as_deref().map(Account::of).transpose().unwrap_or_else(|error| {
            mistakes.push(error.into());
            None
        });
        match mistakes.len() {
            0 => {
                let lacking = self.lacking(account.as_ref());
                let terms = Terms::new(account, self.limits);
                Ok((self, terms, lacking))
            }
            1 => Err(mistakes.remove(0)),
            _ => Err(SettingsError::Several(mistakes)),
        }
    }

    fn commands(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let cleanup = self.cleanup.as_deref().map(|cleanup| ("cleanup", cleanup));
        std::iter::once(("command", &*self.command)).chain(cleanup)
    }

    /// What is wrong on any machine.
    fn mistakes(&self) -> Vec<SettingsError> {
        let mut mistakes = Vec::new();
        for (key, command) in self.commands() {
            if command.first().is_none_or(String::is_empty) {
                mistakes.push(SettingsError::Empty(key));
            }
            if let Some(text) = command.iter().find(|text| text.contains('\0')) {
                mistakes.push(SettingsError::Nul { key, text: text.clone() });
            }
        }
        mistakes.extend(self.limits.mistakes().map(SettingsError::Limits));
        let names = self.env.keys().map(|name| ("env", name));
        for (key, name) in names.chain(self.inherit_env.iter().map(|name| ("inherit_env", name))) {
            if name.is_empty() || name.contains(['=', '\0']) || name.starts_with(inherit::RESERVED)
            {
                mistakes.push(SettingsError::Variable { key, name: name.clone() });
            }
        }
        if let Some(text) = self.env.values().find(|value| value.contains('\0')) {
            mistakes.push(SettingsError::Nul { key: "env", text: text.clone() });
        }
        if self.poll_interval < Duration::from_secs(1) {
            mistakes.push(SettingsError::PollInterval);
        }
        mistakes
    }

    /// What this machine lacks for settings without mistakes.
    fn lacking(&self, account: Option<&Account>) -> Lacking {
        let mut lacking = Lacking::default();
        if let Some(directory) = &self.working_dir {
            match look::may_enter(directory, account) {
                Some(true) => {}
                Some(false) => {
                    let directory = directory.display().to_string();
                    lacking.errors.push(SettingsError::WorkingDir { directory, who: self.who() });
                }
                None => lacking.silent.push(directory.clone()),
            }
        }
        for (key, command) in self.commands() {
            self.look_for(key, &command[0], account, &mut lacking);
        }
        lacking
    }

    fn look_for(
        &self,
        key: &'static str,
        program: &str,
        account: Option<&Account>,
        lacking: &mut Lacking,
    ) {
        let (places, where_) = if program.contains('/') {
            (vec![self.working_dir.as_deref().unwrap_or(Path::new("")).join(program)], "")
        } else {
            let path = self.env.get("PATH").map(Into::into).or_else(|| std::env::var_os("PATH"));
            let path = path.unwrap_or_else(|| PATH.into());
            (
                std::env::split_paths(&path).map(|directory| directory.join(program)).collect(),
                " on the PATH",
            )
        };
        for place in places {
            match look::program(&place, account) {
                look::Program::Executable => return,
                look::Program::Empty => {
                    lacking.errors.push(SettingsError::EmptyFile {
                        key,
                        program: place.display().to_string(),
                    });
                    return;
                }
                look::Program::None => {}
                look::Program::Silent => {
                    lacking.silent.push(place);
                    return;
                }
            }
        }
        // Its directory was reported already.
        if lacking.errors.is_empty() {
            lacking.errors.push(SettingsError::NoProgram {
                key,
                program: program.to_owned(),
                where_,
                who: self.who(),
            });
        }
    }

    /// The user that programs run as, in words.
    fn who(&self) -> String {
        self.user
            .as_ref()
            .map_or_else(|| "the daemon's user".to_owned(), |user| format!("the user {user}"))
    }
}

/// The command of one run.
pub(super) fn command(
    settings: &Settings,
    account: Option<&Account>,
    line: &[String],
    cx: &Context,
    workspace: &Workspace,
) -> Command {
    let (program, arguments) =
        line.split_first().map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
    // A relative path is relative to where the program runs, not to where the daemon runs.
    let program = match &settings.working_dir {
        Some(directory) if program.contains('/') => directory.join(program),
        _ => PathBuf::from(program),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.env("PATH", PATH);
    for name in ALWAYS {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(inherit::chosen(std::env::vars_os(), settings.inherit, &settings.inherit_env));
    if let Some(account) = account {
        command.env("HOME", &account.home);
    }
    command.envs(&settings.env);
    command
        .env("STEP_TOKEN", cx.token().as_str())
        .env("STEP_EXECUTION_ARN", cx.execution().as_str());
    command.env("STEP_PIPELINE", cx.pipeline()).env("STEP_QUEUE_URL", cx.queue_url());
    command.env("STEP_ATTEMPT", cx.attempt().to_string());
    command.env("STEP_FENCE", cx.fence().to_string());
    command.env("STEP_OUTPUT", workspace.output()).env("STEP_CHECKPOINT", workspace.checkpoint());
    command.env("STEP_PROGRESS", workspace.progress_file());
    command.env("STEP_KEY", workspace.key_file());
    command.env("STEP_REASON", workspace.reason_file());
    command.env("STEP_STOP_FILE", workspace.stop_file());
    if let Some(reason) = cx.stop_reason() {
        command.env("STEP_STOP_REASON", OsStr::new(reason.as_str()));
    }
    if let Some(trace) = cx.trace() {
        command.env("X_AMZN_TRACE_ID", trace.as_str());
        if let Some(parent) = trace.traceparent() {
            // What the settings pass on of a state belongs to another trace.
            command.env("TRACEPARENT", parent).env_remove("TRACESTATE");
        }
    }
    if let Some(directory) = &settings.working_dir {
        command.current_dir(directory);
    }
    command.process_group(0);
    command
}
