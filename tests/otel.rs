//! Traces of steps, as a collector receives them from the binary.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

#[path = "otel/collector.rs"]
mod collector;
#[path = "support/lines.rs"]
mod lines;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::{
    MessageSystemAttributeNameForSends as SystemAttribute, MessageSystemAttributeValue,
};
use callbackd::local::{Endpoint, Options};
use collector::{Collector, Span};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);
const TRACE: &str = "5759e988bd862e3fe1be46a994272793";
const SENDER: &str = "53995c3f42cd8ad8";
const HOUR: &str = "3600000";
/// Two runs, a report and the step.
const SPANS: usize = 4;

/// A pipeline whose one step is tried again once.
struct Account {
    endpoint: Endpoint,
    sagemaker: aws_sdk_sagemaker::Client,
    sqs: aws_sdk_sqs::Client,
    queue: String,
    folder: TempDir,
    retry_delay: &'static str,
}

impl Account {
    async fn new() -> Self {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let endpoint = Endpoint::start(loopback, Options::default()).await.expect("a free port");
        let credentials = Credentials::new("test", "test", None, None, "test");
        let config = aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .endpoint_url(endpoint.url())
            .region(aws_config::Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build();
        let sqs = aws_sdk_sqs::Client::new(&config);
        let created = sqs.create_queue().queue_name("sagemaker-callbacks").send().await;
        let queue = created.expect("created").queue_url.expect("a URL");
        let step = json!({
            "Name": "train", "Type": "Callback", "Arguments": {}, "SqsQueueUrl": queue, "OutputParameters": [],
        });
        let sagemaker = aws_sdk_sagemaker::Client::new(&config);
        let definition = json!({ "Version": "2020-12-01", "Steps": [step] }).to_string();
        let create = sagemaker.create_pipeline().pipeline_name("traced");
        let create = create.role_arn("arn:aws:iam::123456789012:role/pipelines");
        create.pipeline_definition(definition).send().await.expect("created");
        let folder = tempfile::tempdir().expect("a folder");
        Self { endpoint, sagemaker, sqs, queue, folder, retry_delay: "1s" }
    }

    /// A step waits.
    async fn start(&self) -> String {
        let started = self.sagemaker.start_pipeline_execution().pipeline_name("traced").send();
        started.await.expect("started").pipeline_execution_arn.expect("an ARN")
    }

    /// A step waits, and its message has the header of a trace.
    async fn start_traced(&self) -> String {
        let arn = self.start().await;
        let receive = self.sqs.receive_message().queue_url(&self.queue).wait_time_seconds(20);
        let message =
            receive.send().await.expect("received").messages.unwrap_or_default().remove(0);
        let receipt = message.receipt_handle.expect("it is received");
        let delete = self.sqs.delete_message().queue_url(&self.queue).receipt_handle(receipt);
        delete.send().await.expect("deleted");
        let header = format!("Root=1-{}-{};Parent={SENDER};Sampled=1", &TRACE[..8], &TRACE[8..]);
        let header =
            MessageSystemAttributeValue::builder().data_type("String").string_value(header).build();
        let send = self.sqs.send_message().queue_url(&self.queue);
        let send = send.message_body(message.body.expect("a body"));
        let send = send
            .message_system_attributes(SystemAttribute::AwsTraceHeader, header.expect("complete"));
        send.send().await.expect("sent");
        arn
    }

    /// The worker, with these variables.
    fn worker(&self, variables: &[(&str, &str)]) -> Child {
        let folder = self.folder.path();
        let script = folder.join("run");
        let text = "#!/bin/sh\necho \"$TRACEPARENT $X_AMZN_TRACE_ID\" >> \"$FOLDER/traces\"\n\
                    [ \"$STEP_ATTEMPT\" = 2 ] || { echo 'no licence' >&2; exit 75; }\n";
        fs::write(&script, text).expect("the folder is writable");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let config = format!(
            "worker.id = \"traced\"\nhttp.listen = \"off\"\nledger.path = \"{0}/ledger.db\"\n\
             [[queues]]\nurl = \"{1}\"\nhandler = \"job\"\npoll_wait = \"1s\"\n\
             [handlers.job]\ntype = \"exec\"\nretry_delay = \"{2}\"\n\
             [handlers.job.settings]\ncommand = [\"{0}/run\"]\nenv = {{ FOLDER = \"{0}\" }}\n",
            folder.display(),
            self.queue,
            self.retry_delay
        );
        fs::write(folder.join("callbackd.toml"), config).expect("the folder is writable");
        let log = fs::File::create(folder.join("log")).expect("the folder is writable");
        Command::new(env!("CARGO_BIN_EXE_callbackd"))
            .args(["--config", "callbackd.toml", "run"])
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("AWS_ENDPOINT_URL", self.endpoint.url())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("it starts")
    }

    /// Has the worker run a step to its end, and stops it; it must exit with 0.
    async fn through_a_step(&self, variables: &[(&str, &str)]) {
        let arn = self.start_traced().await;
        let worker = self.worker(variables);
        self.until_done(&arn).await;
        self.stop(worker).await;
    }

    async fn until_done(&self, arn: &str) {
        let is_done = async || {
            let describe = self.sagemaker.describe_pipeline_execution();
            let execution = describe.pipeline_execution_arn(arn).send().await.expect("it is there");
            execution.pipeline_execution_status.is_some_and(|status| status.as_str() == "Succeeded")
        };
        self.until(is_done).await;
    }

    async fn until(&self, holds: impl AsyncFn() -> bool) {
        let waiting = async {
            while !holds().await {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no end: {}", self.log()));
    }

    async fn stop(&self, mut worker: Child) {
        let pid = worker.id().expect("it runs").try_into().expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
        let ended = timeout(PATIENCE, worker.wait()).await.expect("it ends").expect("it is ours");
        assert_eq!(ended.code(), Some(0), "{}", self.log());
        assert_eq!(lines::nameless(&self.log()).next(), None);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The lines of the log with this event.
    fn said(&self, event: &str) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// `TRACEPARENT` and `X_AMZN_TRACE_ID` of each run.
    fn told(&self) -> Vec<(String, String)> {
        let told = fs::read_to_string(self.folder.path().join("traces")).expect("it has run");
        let pairs = told.lines().map(|line| line.split_once(' ').expect("two"));
        pairs.map(|(w3c, amazon)| (w3c.to_owned(), amazon.to_owned())).collect()
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_one_trace_of_its_runs_and_reports_below_what_sent_its_message() {
    let (account, collector) = (Account::new().await, Collector::start().await);
    // Nothing is exported before the end, which exports all that is left.
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", HOUR),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=s3cret"),
    ];
    account.through_a_step(&variables).await;
    assert_eq!(collector.tenants(), ["s3cret"]);
    assert!(!account.log().contains("s3cret"), "{}", account.log());
    let (resource, spans) = collector.received();
    for (name, value) in [
        ("service.name", "callbackd"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(resource.get(name).map(String::as_str), Some(value), "{resource:?}");
    }
    assert!(resource["service.instance.id"].starts_with("traced/"), "{resource:?}");

    assert!(spans.iter().all(|span| span.trace_id == TRACE), "{spans:#?}");
    let step = named(&spans, "step")[0];
    assert_eq!(
        (step.parent.as_str(), step.fields["callbackd.outcome"].as_str()),
        (SENDER, "success")
    );
    assert_eq!(step.fields["callbackd.attempts"], "2");
    let runs = named(&spans, "run");
    let results: Vec<&str> =
        runs.iter().map(|run| run.fields["callbackd.result"].as_str()).collect();
    assert_eq!(results, ["retry", "success"]);
    assert!(runs[0].error.as_deref().is_some_and(|error| error.contains("no licence")));
    let reports = named(&spans, "report");
    assert_eq!(reports.len(), 1, "{spans:#?}");
    for part in runs.iter().chain(&reports) {
        assert_eq!(part.parent, step.id, "{part:?}");
        assert!(step.begun <= part.begun && part.begun <= part.ended && part.ended <= step.ended);
    }
    // Each program was told the span of its run.
    for (run, (w3c, amazon)) in runs.iter().zip(account.told()) {
        assert_eq!(w3c, format!("00-{TRACE}-{}-01", run.id));
        assert!(amazon.contains(&format!(";Parent={};", run.id)), "{amazon}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_another_process_continues_stays_one_trace_also_without_a_header() {
    let (mut account, collector) = (Account::new().await, Collector::start().await);
    account.retry_delay = "5s";
    let url = collector.url();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())];
    let arn = account.start().await;
    let first = account.worker(&variables);
    account.until(async || !account.said("attempt_failed").is_empty()).await;
    account.stop(first).await;
    assert_eq!(collector.received().1.len(), 1, "the first run is exported at the end");
    let second = account.worker(&variables);
    account.until_done(&arn).await;
    account.stop(second).await;

    let (_, spans) = collector.received();
    let step = named(&spans, "step")[0];
    let (runs, told) = (named(&spans, "run"), account.told());
    assert_eq!((spans.len(), runs.len(), told.len()), (SPANS, 2, 2), "{spans:#?}");
    assert_eq!(step.parent, "");
    for (run, (w3c, _)) in runs.iter().zip(told) {
        assert_eq!((&run.trace_id, &run.parent), (&step.trace_id, &step.id));
        assert_eq!(w3c, format!("00-{}-{}-01", step.trace_id, run.id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_its_sender_does_not_record_is_not_exported() {
    let (account, collector) = (Account::new().await, Collector::start().await);
    let url = collector.url();
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_TRACES_SAMPLER", "always_off")];
    account.through_a_step(&variables).await;
    assert!(collector.received().1.is_empty());
    assert!(account.told().iter().all(|(w3c, _)| w3c.ends_with("-00")), "{:?}", account.told());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_one_warning() {
    let (account, nowhere) = (Account::new().await, Collector::nowhere().await);
    let url = nowhere.as_str();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url), ("OTEL_BSP_SCHEDULE_DELAY", "1")];
    account.through_a_step(&variables).await;
    let said = account.said("traces_not_exported");
    assert_eq!(said.len(), 1, "{said:#?}");
    assert_eq!(said[0]["code"], "CBD608");
    assert!(said[0]["error"].as_str().is_some_and(|why| why.contains("refused")), "{said:#?}");
    assert_eq!(account.said("spans_lost")[0]["lost"], SPANS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_does_not_keep_the_worker_from_its_end() {
    let (account, silent) = (Account::new().await, Collector::silent().await);
    let url = silent.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", HOUR),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
    ];
    account.through_a_step(&variables).await;
    assert!(silent.was_asked());
    // Its queue is full of the first span.
    let said = account.said("traces_not_exported");
    assert_eq!(said.len(), 1, "{said:#?}");
    let why = said[0]["error"].as_str().expect("a text");
    assert!(why.contains("OTEL_BSP_MAX_QUEUE_SIZE"), "{why}");
    assert_eq!(account.said("spans_lost")[0]["lost"], SPANS);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_cannot_be_used_are_told_at_once_without_their_secrets() {
    let account = Account::new().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:s3cret@collector"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization s3cret"),
        ("OTEL_TRACES_SAMPLER", "xray"),
    ];
    account.through_a_step(&variables).await;
    let said = account.said("traces_misconfigured");
    assert_eq!((said.len(), &said[0]["code"]), (1, &json!("CBD609")));
    let error = said[0]["error"].as_str().expect("a text");
    assert!(variables.iter().all(|(name, _)| error.contains(name)), "{error}");
    assert!(!account.log().contains("s3cret"), "{}", account.log());
    assert!(account.told().iter().all(|(w3c, _)| w3c.contains(SENDER)), "{:?}", account.told());
}
