//! The examples as a user runs them: the binary, its configuration, a pipeline, and someone who
//! does the jobs or approves.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

#[path = "support/output.rs"]
mod output;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use callbackd::local::{Endpoint, Options};
use output::printed;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Far beyond what anything here takes: the shortest allowed visibility timeout, 10 s, is the
/// longest wait.
const PATIENCE: Duration = Duration::from_secs(90);

/// An account with one pipeline, and an example as its worker.
struct Account {
    example: &'static str,
    endpoint: Endpoint,
    sagemaker: aws_sdk_sagemaker::Client,
    queue: String,
    folder: TempDir,
}

impl Account {
    /// The pipeline of `job`: a job on the cluster, then a report on its result.
    async fn new() -> Self {
        let train = json!({"Name": "train", "Arguments": {"on": "cluster", "dataset": "penguins", "nodes": 3}});
        let report = json!({"Name": "report", "Arguments": {"result": {"Get": "Steps.train.OutputParameters['result']"}}});
        Self::of("job", [(train, ["job", "result"].as_slice()), (report, &["report"])]).await
    }

    /// The worker and the callback steps, each with the names of its outputs.
    async fn of<const N: usize>(example: &'static str, steps: [(Value, &[&str]); N]) -> Self {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let endpoint = Endpoint::start(loopback, Options::default()).await.expect("a free port");
        let credentials = aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test");
        let config = aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .endpoint_url(endpoint.url())
            .region(aws_config::Region::from_static("us-east-1"))
            .credentials_provider(aws_sdk_sqs::config::SharedCredentialsProvider::new(credentials))
            .build();
        let create =
            aws_sdk_sqs::Client::new(&config).create_queue().queue_name("sagemaker-callbacks");
        let queue = create.send().await.expect("created").queue_url.expect("a URL");
        let sagemaker = aws_sdk_sagemaker::Client::new(&config);
        let steps = steps.map(|(mut step, outputs)| {
            let outputs =
                outputs.iter().map(|name| json!({"OutputName": name, "OutputType": "String"}));
            step["Type"] = "Callback".into();
            step["SqsQueueUrl"] = queue.as_str().into();
            step["OutputParameters"] = outputs.collect();
            step
        });
        let definition = json!({"Version": "2020-12-01", "Steps": Vec::from(steps)});
        let create = sagemaker
            .create_pipeline()
            .pipeline_name("examples")
            .pipeline_definition(definition.to_string());
        create.role_arn("arn:aws:iam::123456789012:role/pipelines").send().await.expect("created");
        Self { example, endpoint, sagemaker, queue, folder: tempfile::tempdir().expect("a folder") }
    }

    async fn start(&self) -> String {
        let started =
            self.sagemaker.start_pipeline_execution().pipeline_name("examples").send().await;
        started.expect("started").pipeline_execution_arn.expect("an ARN")
    }

    async fn stop(&self, execution: &str) {
        let stop = self.sagemaker.stop_pipeline_execution().pipeline_execution_arn(execution);
        stop.client_request_token("x".repeat(32)).send().await.expect("stopping");
    }

    /// Waits for the end of the execution: its status.
    async fn end(&self, execution: &str) -> String {
        eventually("the execution's end", async || {
            let describe =
                self.sagemaker.describe_pipeline_execution().pipeline_execution_arn(execution);
            let status = describe
                .send()
                .await
                .expect("described")
                .pipeline_execution_status
                .expect("a status");
            let status = status.as_str().to_owned();
            ["Succeeded", "Failed", "Stopped"].contains(&status.as_str()).then_some(status)
        })
        .await
    }

    /// The outputs of a step, and its failure's reason.
    async fn step(&self, execution: &str, name: &str) -> (Value, Option<String>) {
        let list = self.sagemaker.list_pipeline_execution_steps().pipeline_execution_arn(execution);
        let steps = list.send().await.expect("listed").pipeline_execution_steps.expect("steps");
        let step = steps
            .into_iter()
            .find(|step| step.step_name.as_deref() == Some(name))
            .expect("the step");
        let callback =
            step.metadata.and_then(|metadata| metadata.callback).expect("a callback step");
        let outputs =
            callback.output_parameters.unwrap_or_default().into_iter().map(|o| (o.name, o.value));
        let outputs = outputs.filter_map(|(name, value)| Some((name?, json!(value?)))).collect();
        (Value::Object(outputs), step.failure_reason)
    }

    /// The example with its own configuration; what depends on this test comes from the
    /// environment.
    fn worker(&self, arguments: &[&str]) -> Command {
        let mut command = example(self.example);
        command
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("CALLBACKD_AWS__REGION", "us-east-1")
            .env("CALLBACKD_AWS__ENDPOINT_URL", self.endpoint.url())
            .env("CALLBACKD_QUEUES__0__URL", &self.queue)
            .env("CALLBACKD_QUEUES__0__VISIBILITY_TIMEOUT", "10s")
            .env("CALLBACKD_LEDGER__PATH", self.folder.path().join("ledger.db"))
            .env("CALLBACKD_LEDGER__LEASE", "3s")
            .env("CALLBACKD_HTTP__LISTEN", "off");
        match self.example {
            "job" => command
                .env("CALLBACKD_HANDLERS__CLUSTER__SETTINGS__SERVICE", self.service())
                .env("CALLBACKD_HANDLERS__CLUSTER__SETTINGS__POLL_INTERVAL", "100ms"),
            "approval" => {
                command.env("CALLBACKD_HANDLERS__APPROVAL__SETTINGS__REQUESTS", self.service())
            }
            _ => &mut command,
        };
        command
    }

    fn run(&self) -> Worker {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let child =
            self.worker(&["run"]).stderr(log).stdin(Stdio::null()).kill_on_drop(true).spawn();
        Worker(child.expect("the example starts"))
    }

    fn service(&self) -> PathBuf {
        self.folder.path().join("jobs")
    }

    /// Waits for a file of the job service with this ending.
    async fn file(&self, ending: &str) -> PathBuf {
        eventually(&format!("a {ending} file"), async || self.files(ending).pop()).await
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.service()) else { return Vec::new() };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().unwrap_or_default() == ending).collect()
    }
}

struct Worker(Child);

impl Worker {
    async fn end(mut self) -> ExitStatus {
        let pid = i32::try_from(self.0.id().expect("it runs")).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
            .expect("signalled");
        timeout(PATIENCE, self.0.wait()).await.expect("it drains").expect("it ends")
    }

    async fn kill(mut self) {
        self.0.kill().await.expect("killed");
    }
}

/// An example's binary with its configuration. `cargo test` builds it beside the tests;
/// `cargo test --test example` does not.
fn example(name: &str) -> Command {
    let this = std::env::current_exe().expect("this test");
    let folder = this.parent().and_then(Path::parent).expect("target/debug/deps");
    let program = folder.join("examples").join(name);
    assert!(program.exists(), "{} is not there: `cargo build --example {name}`", program.display());
    let mut command = Command::new(program);
    let toml =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).with_extension("toml");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .arg("--config")
        .arg(toml);
    command
}

async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never came true: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_to_its_end_and_feeds_the_next_step() {
    let account = Account::new().await;
    let worker = account.run();
    let execution = account.start().await;

    let job = account.file("job").await;
    assert_eq!(std::fs::read_to_string(&job).expect("the job"), "dataset penguins nodes 3\n");
    std::fs::write(job.with_extension("done"), "0.93\n").expect("written");
    assert_eq!(account.end(&execution).await, "Succeeded");

    let (outputs, _) = account.step(&execution, "train").await;
    let name = job.file_stem().and_then(|name| name.to_str()).expect("UTF-8");
    assert_eq!(outputs, json!({"job": name, "result": "0.93"}));
    let (outputs, _) = account.step(&execution, "report").await;
    assert_eq!(outputs, json!({"report": "none"}), "the step went to the stock exec handler");
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_killed_finds_its_job_again_and_submits_no_second_one() {
    let account = Account::new().await;
    let worker = account.run();
    let execution = account.start().await;
    let job = account.file("job").await;
    worker.kill().await;

    std::fs::write(&job, "taken by node 7\n").expect("written");
    std::fs::write(job.with_extension("done"), "0.91\n").expect("written");
    let worker = account.run();
    assert_eq!(account.end(&execution).await, "Succeeded");
    assert_eq!(account.files("job"), std::slice::from_ref(&job));
    assert_eq!(std::fs::read_to_string(&job).expect("the job"), "taken by node 7\n");
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_fails_its_step_with_the_reason() {
    let account = Account::new().await;
    let worker = account.run();
    let execution = account.start().await;
    let job = account.file("job").await;
    std::fs::write(job.with_extension("failed"), "the dataset is empty\n").expect("written");
    assert_eq!(account.end(&execution).await, "Failed");
    let (_, reason) = account.step(&execution, "train").await;
    let reason = reason.expect("a reason");
    assert!(reason.ends_with("failed: the dataset is empty"), "{reason}");
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_pipeline_cancels_the_job() {
    let account = Account::new().await;
    let worker = account.run();
    let execution = account.start().await;
    let job = account.file("job").await;
    account.stop(&execution).await;
    assert_eq!(account.end(&execution).await, "Stopped");
    assert!(
        job.with_extension("cancelled").exists(),
        "the job was not cancelled before the answer"
    );
    assert!(!job.exists());
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_answers_its_step() {
    let step = json!({"Name": "greet", "Arguments": {"name": "Ada"}});
    let account = Account::of("hello", [(step, &["greeting"])]).await;
    let worker = account.run();
    let execution = account.start().await;
    assert_eq!(account.end(&execution).await, "Succeeded");
    assert_eq!(account.step(&execution, "greet").await.0, json!({"greeting": "hello, Ada"}));
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_answers_the_step_or_the_request_is_withdrawn() {
    let step = json!({"Name": "approve", "Arguments": {"model": "penguins-7"}});
    let account = Account::of("approval", [(step, &["approved_by"])]).await;
    let worker = account.run();
    let execution = account.start().await;
    let request = account.file("").await;
    let text = eventually("the request's text", async || {
        std::fs::read_to_string(&request).ok().filter(|text| text.ends_with('\n'))
    });
    let text = text.await;
    assert!(text.starts_with("approve penguins-7 for examples\n"), "{text}");
    let approval = ["complete", "--key", "penguins-7", "--output", "approved_by=ada"];
    let approved = eventually("the step is deferred", async || {
        let output = account.worker(&approval).output().await.expect("the example starts");
        output.status.success().then_some(output)
    });
    assert!(printed(&approved.await).contains("is answered"));
    assert_eq!(account.end(&execution).await, "Succeeded");
    assert_eq!(account.step(&execution, "approve").await.0, json!({"approved_by": "ada"}));
    std::fs::remove_file(request).expect("it is done with");

    let execution = account.start().await;
    let request = account.file("").await;
    account.stop(&execution).await;
    assert_eq!(account.end(&execution).await, "Stopped");
    assert!(!request.exists(), "the request was not withdrawn before the answer");
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test]
async fn their_configuration_is_right_as_it_is_shipped() {
    for (name, wants) in
        [("job", "1 queue(s), 2 handler(s)"), ("hello", "1 queue(s), 1 handler(s)")]
    {
        let output = example(name).arg("check").output().await.expect("the example starts");
        assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
        assert!(printed(&output).contains(wants), "{}", printed(&output));
    }
}

#[tokio::test]
async fn a_type_that_it_does_not_have_is_refused_with_those_that_it_has() {
    let output = example("job")
        .arg("check")
        .env("CALLBACKD_HANDLERS__CLUSTER__TYPE", "jobs")
        .output()
        .await
        .expect("it starts");
    assert_eq!(output.status.code(), Some(78));
    assert!(
        printed(&output)
            .contains("`jobs` is not a handler type of this binary, which has: exec, http, job"),
        "{}",
        printed(&output)
    );
}

#[tokio::test]
async fn settings_that_the_type_refuses_are_a_mistake_in_the_configuration() {
    let variable = "CALLBACKD_HANDLERS__CLUSTER__SETTINGS__POLL_INTERVAL";
    for (value, wants) in
        [("0s", "poll_interval must be more than 0s"), ("often", "is not a duration")]
    {
        let output =
            example("job").arg("check").env(variable, value).output().await.expect("it starts");
        assert_eq!(output.status.code(), Some(78));
        let told = printed(&output);
        assert!(told.contains("handlers.cluster.settings") && told.contains(wants), "{told}");
    }
}
