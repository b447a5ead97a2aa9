//! The programs of `examples/jobs`, by the daemon, where their jobs run: at moto's services, and at
//! a Slurm of one machine.

mod lambda;
mod services;
mod slurm;

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use services::Service;
use slurm::Slurm;

use crate::daemon::{Config, Daemon};
use crate::sagemaker::SUCCESS;
use crate::scene::{Scene, Step, until};

/// Where jobs run, for one test.
trait Site {
    /// The program's file.
    fn program(&self) -> &'static str;
    /// What its handler needs in its environment.
    fn variables(&self) -> toml::Table;
    /// What the daemon's `PATH` begins with.
    fn path(&self) -> String;
    /// All jobs of the test, those that have ended too.
    async fn jobs(&self) -> Vec<Job>;
    /// Ends a job: with a message it has failed.
    async fn end(&self, job: &Job, message: Option<&str>);
    /// What happens to submits from now on.
    async fn lose(&self, what: Loss);
    /// The state of a job that was cancelled.
    fn cancelled(&self) -> &'static str;
    /// The outputs of a job that has succeeded.
    fn outputs(&self, job: &Job) -> Value;
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    /// Jobs are submitted, and no submit is answered.
    Answers,
    /// A job is submitted, and the connection of its submit ends without an answer; once.
    OneAnswer,
    /// Everything is refused: there are too many requests.
    Requests,
}

#[derive(Clone, Debug)]
struct Job {
    id: String,
    state: String,
    /// What it was given, as it comes.
    given: String,
}

/// A step whose program submits jobs to a site.
struct Stage<S> {
    site: S,
    scene: Scene,
    step: Step,
    config: Config,
}

impl<S: Site> Stage<S> {
    async fn new(site: S) -> Self {
        let scene = Scene::new("").await;
        let step = scene.step_sent_with(json!({ "day": "2026-01-02", "rows": 7 })).await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jobs");
        let program = folder.join(site.program()).display().to_string();
        let mut variables = site.variables();
        variables.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into());
        let config = scene
            .config()
            .with("handlers.job.settings.command", vec![program.clone()])
            .with("handlers.job.settings.cleanup", vec![program, "cleanup".to_owned()])
            .with("handlers.job.settings.env", variables)
            .with("handlers.job.settings.poll_interval", "1s");
        Self { site, scene, step, config }
    }

    fn start(&self) -> Daemon {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.site.path());
        self.scene.start_in(&self.config, &[("PATH", &path)])
    }

    /// Kills the daemon. Its message shows at once, for the next one.
    async fn kill(&self, daemon: &mut Daemon) {
        daemon.kill();
        for message in self.scene.to_sqs.received() {
            self.scene.queue.show(&message.receipt_handle).await;
        }
    }

    async fn only_job(&self) -> Job {
        until("a job is submitted", async || !self.site.jobs().await.is_empty()).await;
        let jobs = self.site.jobs().await;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.into_iter().next().expect("one")
    }

    /// Waits until the step has a checkpoint, and no program and no slot.
    async fn sleeps(&self) {
        let sleeps = async || {
            self.scene.record(&self.step).is_some_and(|record| record["status"] == "waiting")
        };
        until("the step waits for its next poll", sleeps).await;
    }

    async fn succeeds_with(&self, job: &Job) {
        let answer = self.scene.answered_once(&self.step).await;
        assert_eq!(answer.operation, SUCCESS, "{answer:?}");
        assert_eq!(answer.outputs(), self.site.outputs(job));
        assert_eq!(self.only_job().await.id, job.id);
    }

    async fn is_stopped(&self) {
        self.scene.stop(&self.step).await;
        let reason = self.scene.answered_once(&self.step).await.reason();
        assert!(reason.contains("the pipeline was stopped"), "{reason}");
        // It ends on its own time where it runs.
        let ends = async || self.only_job().await.state == self.site.cancelled();
        until("the job is cancelled", ends).await;
    }
}

mod claims {
    use super::*;

    pub async fn succeeds(site: impl Site) {
        let stage = Stage::new(site).await;
        let mut daemon = stage.start();
        let job = stage.only_job().await;
        assert!(job.given.contains("2026-01-02"), "the step's arguments: {job:?}");
        stage.sleeps().await;
        stage.kill(&mut daemon).await;
        stage.site.end(&job, None).await;
        let _next = stage.start();
        stage.succeeds_with(&job).await;
    }

    pub async fn fails(site: impl Site) {
        let stage = Stage::new(site).await;
        let _daemon = stage.start();
        let job = stage.only_job().await;
        stage.site.end(&job, Some("no such column: age")).await;
        let reason = stage.scene.answered_once(&stage.step).await.reason();
        assert!(reason.contains("no such column: age"), "{reason}");
        stage.only_job().await;
    }

    pub async fn stops(site: impl Site) {
        let stage = Stage::new(site).await;
        let _daemon = stage.start();
        stage.only_job().await;
        stage.sleeps().await;
        stage.is_stopped().await;
    }

    pub async fn is_found_after_a_crash(site: impl Site) {
        let stage = Stage::new(site).await;
        stage.site.lose(Loss::Answers).await;
        let mut daemon = stage.start();
        let job = stage.only_job().await;
        stage.kill(&mut daemon).await;
        stage.site.lose(Loss::Nothing).await;
        stage.site.end(&job, None).await;
        let _next = stage.start();
        stage.succeeds_with(&job).await;
    }

    pub async fn is_found_after_a_lost_answer(site: impl Site) {
        let stage = Stage::new(site).await;
        stage.site.lose(Loss::OneAnswer).await;
        let _daemon = stage.start();
        let job = stage.only_job().await;
        stage.sleeps().await;
        stage.site.end(&job, None).await;
        stage.succeeds_with(&job).await;
    }

    pub async fn is_found_by_the_cleanup(site: impl Site) {
        let stage = Stage::new(site).await;
        stage.site.lose(Loss::Answers).await;
        let _daemon = stage.start();
        stage.only_job().await;
        stage.is_stopped().await;
    }
}

/// The same claims about the jobs of each program.
macro_rules! jobs_of {
    ($program:ident, $site:expr) => {
        mod $program {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn a_job_is_polled_across_a_crash_and_its_end_is_the_outputs() {
                if let Some(site) = $site {
                    claims::succeeds(site).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_job_that_fails_gives_its_message_as_the_reason() {
                if let Some(site) = $site {
                    claims::fails(site).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_stop_cancels_the_job() {
                if let Some(site) = $site {
                    claims::stops(site).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_crash_between_submit_and_checkpoint_submits_nothing_twice() {
                if let Some(site) = $site {
                    claims::is_found_after_a_crash(site).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_lost_answer_submits_nothing_twice() {
                if let Some(site) = $site {
                    claims::is_found_after_a_lost_answer(site).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_stop_before_the_checkpoint_cancels_the_job() {
                if let Some(site) = $site {
                    claims::is_found_by_the_cleanup(site).await;
                }
            }
        }
    };
}

jobs_of!(glue, Some(Service::new("glue").await));
jobs_of!(emr, Some(Service::new("emr").await));
jobs_of!(batch, Some(Service::new("batch").await));
jobs_of!(step_functions, Some(Service::new("step_functions").await));
jobs_of!(ecs, Some(Service::new("ecs").await));
jobs_of!(on_slurm, Slurm::new());

#[tokio::test(flavor = "multi_thread")]
async fn polls_that_are_refused_for_now_are_no_attempts() {
    let mut stage = Stage::new(Service::new("glue").await).await;
    stage.config = stage.config.with("handlers.job.max_attempts", 1);
    let daemon = stage.start();
    let job = stage.only_job().await;
    stage.sleeps().await;
    stage.site.lose(Loss::Requests).await;
    until("some were refused", async || {
        daemon.complaints(&["INFO"], "ThrottlingException").len() > 1
    })
    .await;
    stage.site.lose(Loss::Nothing).await;
    stage.site.end(&job, None).await;
    stage.succeeds_with(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_that_is_refused_for_good_fails_the_step_with_the_service_s_words() {
    let mut stage = Stage::new(Service::new("batch").await).await;
    stage.config = stage.config.with("handlers.job.settings.env.BATCH_DEFINITION", "nightly");
    let _daemon = stage.start();
    let reason = stage.scene.answered_once(&stage.step).await.reason();
    assert!(reason.contains("Job definition nightly does not exist"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_limit_cancels_a_job_whose_step_sleeps() {
    let mut stage = Stage::new(Service::new("glue").await).await;
    stage.config = stage
        .config
        .with("handlers.job.time_limit", "30s")
        .with("handlers.job.settings.poll_interval", "1h");
    let _daemon = stage.start();
    stage.only_job().await;
    stage.sleeps().await;
    let reason = stage.scene.answered_once(&stage.step).await.reason();
    assert!(reason.contains("the time limit of 30s was reached"), "{reason}");
    assert_eq!(stage.only_job().await.state, "STOPPED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_slurm_s_controller_has_forgotten_is_looked_up_in_its_database() {
    let Some(site) = Slurm::new() else { return };
    let stage = Stage::new(site).await;
    let _daemon = stage.start();
    let job = stage.only_job().await;
    stage.sleeps().await;
    // No database runs here.
    stage.site.script("bin/sacct", "#!/bin/sh\necho 'CANCELLED by 1000|0:15'\n");
    let forgets = "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n";
    stage.site.script("bin/scontrol", forgets);
    let reason = stage.scene.answered_once(&stage.step).await.reason();
    let wanted = format!("job {} CANCELLED with exit code 0:15", job.id);
    assert!(reason.contains(&wanted), "{reason}");
    stage.site.end(&job, None).await;
}

#[test]
fn the_examples_configurations_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["examples/jobs/callbackd.toml", "examples/lambda/callbackd.toml"] {
        let check = Command::new(env!("CARGO_BIN_EXE_callbackd"))
            .args(["--config", file, "check"])
            .current_dir(root)
            .env("CALLBACKD_HTTP__LISTEN", "off")
            .output()
            .expect("it starts");
        assert!(check.status.success(), "{file}: {check:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_the_id_of_a_job_that_is_being_submitted() {
    let mut stage = Stage::new(Service::new("glue").await).await;
    stage.config =
        stage.config.with("worker.drain_timeout", "0s").with("handlers.job.stop_grace", "1m");
    stage.site.lose(Loss::Answers).await;
    let mut daemon = stage.start();
    let job = stage.only_job().await;
    daemon.signal(Signal::SIGTERM);
    let told = async || !daemon.complaints(&["INFO"], "telling the program to end").is_empty();
    until("the program is told", told).await;
    stage.site.lose(Loss::Nothing).await;
    until("the daemon has ended", async || daemon.ended().is_some()).await;
    let record = stage.scene.record(&stage.step).expect("it is not answered");
    assert!(record.to_string().contains(&job.id), "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_job_whose_name_differs_in_case_is_another_step_s() {
    let stage = Stage::new(Service::new("batch").await).await;
    let token: String = stage.step.token.chars().map(swapped).collect();
    let other = stage.site.submit(&format!("callbackd-{token}")).await;
    let _daemon = stage.start();
    until("a second job is submitted", async || stage.site.jobs().await.len() == 2).await;
    stage.sleeps().await;
    let record = stage.scene.record(&stage.step).expect("it is not answered");
    assert!(!record.to_string().contains(&other), "{record}");
}

fn swapped(letter: char) -> char {
    if letter.is_ascii_lowercase() {
        letter.to_ascii_uppercase()
    } else {
        letter.to_ascii_lowercase()
    }
}
