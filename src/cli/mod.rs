//! The commands. The only place that prints to standard output, and the only one that decides an
//! exit code.

mod admin;
mod check;
mod complete;
mod config;
#[cfg(feature = "local")]
mod demo;
mod drain;
mod executions;
mod explain;
mod failure;
mod fleet;
mod health;
mod ledger;
#[cfg(feature = "local")]
mod local;
mod manual;
mod pause;
mod place;
mod probe;
mod reconcile;
mod reload;
mod retry;
mod route;
mod run;
mod selection;
mod show;
mod status;
mod steps;
mod tempo;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::config::CheckedConfig;
use crate::handler::Registry;
use crate::observe::events::coded;
use crate::{observe, orders};
use failure::Failure;

/// Answers Amazon SageMaker Pipelines' callback steps.
#[derive(Parser)]
#[command(
    name = "callbackd",
    version,
    about = "Answers Amazon SageMaker Pipelines' callback steps",
    long_about = "Answers Amazon SageMaker Pipelines' callback steps.\n\nA pipeline that reaches a \
                  callback step puts a message with a token on an SQS queue and waits indefinitely \
                  until someone reports success or failure with that token. callbackd polls the \
                  queue, runs your program or Rust handler for each message, and reports the \
                  result, even after a crash.",
    after_long_help = "Begin with `callbackd demo`: it needs no AWS account.\n\n\
        Exit codes: 0 done, 1 failed while running, 2 wrong usage, 78 wrong configuration."
)]
struct Arguments {
    /// The configuration file; else `$CALLBACKD_CONFIG`, else /etc/callbackd/callbackd.toml.
    ///
    /// Environment variables `CALLBACKD_<KEY>__<KEY>` take precedence over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the worker until SIGTERM, SIGINT or SIGQUIT, then let running steps finish.
    ///
    /// The first signal stops the polling and waits for running steps, up to the drain timeout;
    /// then they are told to end and released to other workers, not failed. A second signal ends
    /// the waiting.
    Run,
    /// Demonstrate everything on this machine, without an AWS account: a pipeline, its queue, the
    /// worker, and a stop.
    #[cfg(feature = "local")]
    Demo,
    /// Serve a local emulation of SQS and SageMaker Pipelines on loopback, for boto3, the AWS CLI
    /// and any other SDK.
    #[cfg(feature = "local")]
    Local(local::Arguments),
    /// Check the configuration and this machine without running anything; --online also checks
    /// queues, permissions and the clock.
    Check(check::Arguments),
    /// Show what the ledger holds: running, waiting, deferred, unreported and settled steps. The
    /// worker may be running; then it is asked at `http.listen` how far its steps are.
    Steps(steps::Arguments),
    /// Show everything that is known of a step, with its history: its last hundred events. The
    /// worker may be running; then it is asked at `http.listen` how far the step is.
    Show(show::Arguments),
    /// Answer a deferred step, such as an approval, by its token or by the key that its handler
    /// gave it. The worker may be running; otherwise the next one reports the answer.
    ///
    /// The first answer counts. To repeat it changes nothing, and exits 0.
    Complete(complete::Arguments),
    /// Show which handler a message would get, and why: for each route what matches and what
    /// differs, and whether the arguments fit the handler. It asks neither AWS nor the worker.
    ///
    /// Exits 0 if there is a handler for the message, else 1.
    Route(route::Arguments),
    /// Receive nothing more from a queue, or start no more runs of a handler, until it is resumed,
    /// also after a restart. Steps in hand, or runs, go on, and their stops are answered.
    ///
    /// The order is a file beside the ledger, which the worker on this machine reads every 2 s. Its
    /// user and root can give it.
    Pause(pause::Arguments),
    /// Poll a paused queue again, or start a paused handler, and end the pause of its handlers, or
    /// of that one, because steps failed (`breaker`).
    Resume(pause::Arguments),
    /// Start the next attempt of a step that waits for it, or look at its job again, now. The
    /// worker must be running.
    ///
    /// Attempts count as usual. A step that runs, or waits for something else than time, is refused
    /// with what it is.
    Retry(retry::Arguments),
    /// Let the running worker finish its steps and end, as SIGTERM does, and wait for that.
    ///
    /// The command may be interrupted: the drain goes on. Under systemd and in ECS the worker is
    /// started again after it; to keep it stopped, stop the service.
    ///
    /// Exits 0 once the worker is drained.
    Drain(admin::Socket),
    /// Have the running worker read its configuration again, as SIGHUP does, and print what it took
    /// over and what waits for its next start.
    ///
    /// Exits 78 if the configuration is refused: the worker goes on with the one that it had.
    Reload(admin::Socket),
    /// Find callback steps that wait on our queues and that no ledger record, no message and no run
    /// accounts for: lost by retention, in the dead-letter queue, never delivered. The workers may
    /// be running.
    ///
    /// Exits 0 only if every waiting step is accounted for, or began to wait recently.
    Reconcile(reconcile::Arguments),
    /// Find out, in your own account, what AWS leaves undocumented, and print a report to publish.
    ///
    /// Creates a queue and pipelines of callback steps, which cost nothing, and deletes them again.
    /// Asks before. The report goes to standard output, everything else to standard error.
    ///
    /// Exits 0 only if it was not interrupted, found something out, and left nothing behind.
    Probe(probe::Arguments),
    /// Take care of the ledger: copy it, examine it, accept an older copy, forget a step, create
    /// the table of one that workers share.
    Ledger(ledger::Arguments),
    /// Start an execution of a pipeline: the canary after a deployment.
    Start(executions::Start),
    /// Stop an execution of a pipeline.
    Stop(executions::Stop),
    /// Ask the daemon on this machine whether it is alive: the health check of a container. It asks
    /// the configured address.
    Health,
    /// Explain a code (CBD101), an event of the log or an alert: what it means, what to look at,
    /// what to do.
    Explain(explain::Arguments),
    /// Print the configuration in force with secrets hidden, or its JSON Schema.
    Config(config::Arguments),
    /// Print the completions of these commands for a shell.
    Completions(manual::Completions),
    /// Write the man pages of all commands into a directory, for those who make packages.
    #[command(hide = true)]
    Man(manual::Man),
}

impl Registry {
    /// The whole `main` of a worker: runs the command that the process was started with (`run`,
    /// `check`, `steps`, …) with these handler types, and returns when that has ended.
    ///
    /// Exit codes: 0 done, 1 failed while running, 2 wrong usage, 78 wrong configuration or a
    /// handler type registered twice.
    #[must_use]
    pub fn main(self) -> ExitCode {
        main(self)
    }
}

fn main(registry: Registry) -> ExitCode {
    crate::process::signals::reset();
    if let Err(error) = registry.check() {
        return end(Err(Failure::Configuration(error.to_string())));
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, errors to standard error; if those cannot be written,
            // there is nowhere to report it.
            let printed = error.print();
            if error.use_stderr() {
                return ExitCode::from(2);
            }
            note(printed);
            return end(Ok(ExitCode::SUCCESS));
        }
    };
    #[cfg(feature = "local")]
    if matches!(arguments.command, Command::Demo) {
        demo::prepare_environment();
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            return end(Err(Failure::Runtime(format!(
                "the runtime could not be started: {error}"
            ))));
        }
    };
    let is_daemon = matches!(arguments.command, Command::Run);
    let ended = runtime.block_on(perform(arguments, Arc::new(registry)));
    // A handler that blocks its thread must not keep the process from exiting: its step is released
    // already.
    runtime.shutdown_background();
    if is_daemon { end_daemon(ended) } else { end(ended) }
}

/// If the machine refuses it a thread, tokio panics, and waits indefinitely for the threads that it
/// has.
#[expect(clippy::exit, reason = "tokio's panic would not end the process")]
fn runtime() -> std::io::Result<Runtime> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        let why = panic.payload_as_str().unwrap_or("it panicked");
        let remedy = "raise the limit of processes (TasksMax=, a container's pids limit, ulimit \
                      -u) or of memory";
        let failure = Failure::Runtime(coded(
            format!("the runtime could not be started: {why}; {remedy}"),
            "threads_refused",
        ));
        let _ = end(Err(failure));
        std::process::exit(1);
    }));
    let built = Builder::new_multi_thread().enable_all().thread_keep_alive(KEPT).build();
    if let Ok(runtime) = &built {
        // One more thread, for blocking work.
        runtime.spawn_blocking(|| ());
    }
    std::panic::set_hook(before);
    built
}

async fn perform(arguments: Arguments, registry: Arc<Registry>) -> Result<ExitCode, Failure> {
    let (file, types) = (arguments.config.clone(), registry.clone());
    let load = move || CheckedConfig::load(file.as_deref(), std::env::vars_os(), &types);
    match arguments.command {
        Command::Run => Box::pin(run::run(load)).await,
        #[cfg(feature = "local")]
        Command::Demo => demo::run(&registry).await,
        #[cfg(feature = "local")]
        Command::Local(arguments) => local::run(arguments).await,
        Command::Check(options) => check::run(&load()?, &options).await,
        Command::Complete(options) => complete::run(options, arguments.config.as_deref()).await,
        Command::Route(options) => route::run(&load()?, &options),
        Command::Steps(options) => steps::run(&options, arguments.config.as_deref()).await,
        Command::Show(options) => show::run(&options, arguments.config.as_deref()).await,
        Command::Pause(queue) => {
            pause::run(&queue, orders::Kind::Pause, arguments.config.as_deref())
        }
        Command::Resume(queue) => {
            pause::run(&queue, orders::Kind::Resume, arguments.config.as_deref())
        }
        Command::Retry(options) => retry::run(&options, arguments.config.as_deref()).await,
        Command::Drain(socket) => drain::run(&socket, arguments.config.as_deref()).await,
        Command::Reload(socket) => reload::run(&socket, arguments.config.as_deref()).await,
        Command::Ledger(options) => ledger::run(options, arguments.config.as_deref()).await,
        Command::Reconcile(options) => reconcile::run(options, arguments.config.as_deref()).await,
        Command::Probe(options) => probe::run(options, arguments.config.as_deref()).await,
        Command::Start(options) => executions::start(options, arguments.config.as_deref()).await,
        Command::Stop(options) => executions::stop(options, arguments.config.as_deref()).await,
        Command::Health => health::run(arguments.config.as_deref()).await,
        Command::Explain(options) => explain::run(&options),
        Command::Config(options) => config::run(&options, arguments.config.as_deref()),
        Command::Completions(options) => manual::completions(&options),
        Command::Man(options) => manual::man(&options),
    }
}

/// How long an idle blocking thread is kept. The daemon needs one more often than that: if there
/// were none and the machine refused a new one, tokio would panic.
const KEPT: Duration = Duration::from_mins(1);
/// How long the end of the daemon waits for its last log lines to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

fn end(ended: Result<ExitCode, Failure>) -> ExitCode {
    let (code, complaint) = told(ended.and_then(|code| printed().map(|()| code)));
    if let Some(complaint) = complaint {
        complain(complaint);
    }
    code
}

/// [`end`], even if stderr is not being read: the service manager waits for the exit.
fn end_daemon(ended: Result<ExitCode, Failure>) -> ExitCode {
    let (code, complaint) = told(ended);
    observe::log::end(complaint.map(complained).as_deref(), LAST_LINES);
    code
}

fn told(ended: Result<ExitCode, Failure>) -> (ExitCode, Option<String>) {
    match ended {
        Ok(code) => (code, None),
        Err(Failure::Runtime(text)) => (ExitCode::FAILURE, Some(text)),
        Err(Failure::Logged) => (ExitCode::FAILURE, None),
        Err(Failure::Usage(text)) => (ExitCode::from(2), Some(text)),
        Err(Failure::Configuration(text)) => (ExitCode::from(78), Some(text)),
    }
}

/// Why standard output could not be written, if it could not.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Prints a line to standard output. If the reader has stopped, as with `head`, that is fine;
/// otherwise the command fails at its end.
fn say(line: impl Display) {
    use std::io::Write;
    note(writeln!(std::io::stdout().lock(), "{line}"));
}

fn note(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        UNWRITTEN.get_or_init(|| error.to_string());
    }
}

/// Checks that the output was written.
fn printed() -> Result<(), Failure> {
    use std::io::Write;
    note(std::io::stdout().lock().flush());
    let unwritten = |error: &String| {
        let text = format!("standard output could not be written: {error}");
        Failure::Runtime(coded(text, "output_not_written"))
    };
    UNWRITTEN.get().map_or(Ok(()), |error| Err(unwritten(error)))
}

/// Prints an error to standard error.
fn complain(text: impl Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{}", complained(text));
}

fn complained(text: impl Display) -> String {
    format!("callbackd: {text}")
}

/// Text from outside, without characters that a terminal would interpret.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
