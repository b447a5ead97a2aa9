//! A worker of your own: the stock handlers, and one compiled-in handler type that the
//! configuration selects.
//!
//! It submits a job to a service, and follows it. The service here is a directory, so that the
//! example runs anywhere: a job is a file `NAME.job`; someone does the work and writes `NAME.done`
//! (with the result) or `NAME.failed` (with the reason). Put EMR, Kubernetes or Slurm in its place.
//!
//! ```sh
//! cargo run --example job -- --config examples/job.toml check
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs, Registry};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    // Every command of the stock binary: run, check, steps, …
    Registry::with_builtins().handler("job", Jobs::new).main()
}

/// `[handlers.NAME.settings]` with `type = "job"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The job service.
    service: PathBuf,
    /// How often a job is polled.
    #[serde(default = "half_a_minute", with = "callbackd::duration")]
    poll_interval: Duration,
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

/// The callback step's arguments.
#[derive(Deserialize)]
struct Args {
    dataset: String,
    #[serde(default = "one")]
    nodes: u32,
}

fn one() -> u32 {
    1
}

/// What must survive a crash: which job is ours.
#[derive(Serialize, Deserialize)]
struct Submitted {
    job: String,
}

/// The handler type.
struct Jobs {
    service: Service,
    poll_interval: Duration,
}

impl Jobs {
    /// Called once for each `[handlers.NAME]` of this type; an error is reported as a mistake in
    /// the configuration.
    fn new(settings: Settings) -> Result<Self, String> {
        if settings.poll_interval.is_zero() {
            return Err("poll_interval must be more than 0s".to_owned());
        }
        Ok(Self {
            service: Service { folder: settings.service },
            poll_interval: settings.poll_interval,
        })
    }
}

impl Handler for Jobs {
    type Args = Args;

    async fn run(&self, cx: Context, args: Args) -> HandlerResult {
        let job = match cx.checkpoint()? {
            Some(Submitted { job }) => job,
            None => {
                // The name comes from the token: if the process dies right here, the next attempt
                // finds the job that this one submitted.
                let job = format!("callback-{}", cx.token().as_str());
                self.service
                    .submit(&job, &format!("dataset {} nodes {}\n", args.dataset, args.nodes))
                    .await?;
                cx.save_checkpoint(&Submitted { job: job.clone() }).await?;
                job
            }
        };
        match self.service.state(&job).await? {
            State::Done(result) => Ok(Outputs::of([("job", job), ("result", result)])?.into()),
            State::Failed(reason) => {
                Err(HandlerError::permanent(format_args!("the job {job} failed: {reason}")))
            }
            State::Gone => {
                Err(HandlerError::permanent(format_args!("the job {job} is gone from the service")))
            }
            State::Running => {
                cx.progress(None, format!("the job {job} runs"));
                // Nothing waits here meanwhile, not even this future: the next poll is a call of
                // its own.
                Ok(Completion::Again(self.poll_interval))
            }
        }
    }

    /// The pipeline was stopped, or the time limit is over: no one needs the job any more.
    async fn cleanup(&self, cx: Context, _: Args) -> Result<(), HandlerError> {
        // Without a checkpoint there may still be a job, submitted just before a crash.
        let job = cx
            .checkpoint()?
            .map_or_else(|| format!("callback-{}", cx.token().as_str()), |Submitted { job }| job);
        self.service.cancel(&job).await?;
        Ok(())
    }
}

/// A client of the job service.
struct Service {
    folder: PathBuf,
}

enum State {
    Running,
    Done(String),
    Failed(String),
    Gone,
}

impl Service {
    /// Does nothing if a job of this name exists already.
    async fn submit(&self, job: &str, work: &str) -> io::Result<()> {
        tokio::fs::create_dir_all(&self.folder).await?;
        if self.read(job, "job").await?.is_none() {
            // Renamed when complete, so that no one sees half a job.
            let draft = self.path(job, "draft");
            tokio::fs::write(&draft, work).await?;
            tokio::fs::rename(&draft, self.path(job, "job")).await?;
        }
        Ok(())
    }

    async fn state(&self, job: &str) -> io::Result<State> {
        if let Some(result) = self.read(job, "done").await? {
            return Ok(State::Done(result));
        }
        if let Some(reason) = self.read(job, "failed").await? {
            return Ok(State::Failed(reason));
        }
        Ok(if self.read(job, "job").await?.is_some() { State::Running } else { State::Gone })
    }

    /// Does nothing if there is no such job (any more).
    async fn cancel(&self, job: &str) -> io::Result<()> {
        if self.read(job, "job").await?.is_none() {
            return Ok(());
        }
        tokio::fs::rename(self.path(job, "job"), self.path(job, "cancelled")).await
    }

    async fn read(&self, job: &str, kind: &str) -> io::Result<Option<String>> {
        match tokio::fs::read_to_string(self.path(job, kind)).await {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, job: &str, kind: &str) -> PathBuf {
        Path::new(&self.folder).join(format!("{job}.{kind}"))
    }
}
