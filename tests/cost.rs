//! What a step costs in figures that do not depend on the machine: calls to AWS, commits,
//! allocations.
//!
//! The whole worker, with the real SDK and a ledger on disk, answers steps that do nothing, which
//! were on the queue before it began. Costs in time are measured by `tests/bench`, beside the same
//! bare loop.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expected"
)]
#![allow(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]

#[path = "cost/allocations.rs"]
mod allocations;
#[allow(dead_code, reason = "the bench runs it as a process")]
#[path = "bench/bare.rs"]
mod bare;
#[path = "bench/http.rs"]
mod http;

use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::time::Duration;

use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use callbackd::aws::Outside;
use callbackd::config::CheckedConfig;
use callbackd::daemon::Daemon;
use callbackd::local::{Endpoint, Fault, Options, Rule};
use callbackd::{Context, HandlerError, Registry};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use http::Http;

const STEPS: usize = 500;
/// The first receives take this long: by then all one-time work is done.
const WARM_UP: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(3);
const REPORT: &str = "SendPipelineExecutionStepSuccess";
const OPERATIONS: [&str; 9] = [
    "ReceiveMessage",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "SendMessage",
    REPORT,
    "ListPipelineExecutionSteps",
    "DescribePipelineExecution",
];

/// For each step.
#[derive(Debug)]
struct Cost {
    #[expect(dead_code, reason = "told by a failure")]
    concurrency: usize,
    calls: f64,
    commits: f64,
    allocations: f64,
    /// Of the bare loop, doing the same calls.
    bare_allocations: f64,
}

/// Measured once, by the first test, while the others wait.
static COSTS: LazyLock<[Cost; 2]> = LazyLock::new(|| {
    let of = |concurrency| {
        let bare = measure(concurrency, start_bare);
        let ours = measure(concurrency, start_worker);
        Cost {
            concurrency,
            calls: ours.calls,
            commits: ours.commits,
            allocations: ours.allocations,
            bare_allocations: bare.allocations,
        }
    };
    [of(10), of(64)]
});

/// A tenth of a receive, one report, a tenth of a delete, and the remainders at the end: 1.2 on a
/// quiet machine. On a busy one batches are smaller, and it is 1.3.
#[test]
fn a_short_step_takes_little_more_than_a_call() {
    assert!(COSTS.iter().all(|cost| cost.calls <= 1.4), "{COSTS:#.2?}");
}

/// Claim, outcome and settlement are three writes; together with those of other steps they are
/// fewer flushes of the disk.
#[test]
fn steps_that_run_together_share_their_commits() {
    // The faster the disk, the fewer share a commit: 0.3 to 0.5 on the machines where this was
    // measured, up to 0.9 beside a compilation; without sharing it would be 3.
    assert!(COSTS.iter().all(|cost| cost.commits <= 1.5), "{COSTS:#.2?}");
}

#[test]
fn a_step_allocates_little_more_than_its_calls_do() {
    assert!(
        COSTS.iter().all(|cost| cost.allocations <= 1.4 * cost.bare_allocations),
        "{COSTS:#.2?}"
    );
}

struct Used {
    calls: f64,
    commits: f64,
    allocations: f64,
}

/// An endpoint whose memory is not counted, and an account on it.
struct Stage {
    runtime: Runtime,
    endpoint: Option<Endpoint>,
    http: Http,
    queue: String,
    status: SocketAddr,
    folder: tempfile::TempDir,
}

fn measure(concurrency: usize, start: impl Fn(&Stage, usize) -> Runtime) -> Used {
    allocations::ignore_this_thread();
    let stage = Stage::set();
    stage.count(WARM_UP);
    let worker = start(&stage, concurrency);
    until("the first poll", || stage.calls("ReceiveMessage") > 0);
    std::thread::sleep(WARM_UP / 2);
    let (early, allocated) = (stage.calls("ReceiveMessage"), allocations::so_far());
    stage.count(Duration::ZERO);
    until("all steps answered", || stage.calls(REPORT) == STEPS as u64);
    until("all messages deleted", || stage.messages() == 0);
    let allocated = allocations::so_far() - allocated;
    let calls: u64 = OPERATIONS.iter().map(|operation| stage.calls(operation)).sum();
    let commits = stage.commits();
    worker.shutdown_background();
    let each = |total: f64| total / STEPS as f64;
    Used {
        calls: each((calls + early) as f64),
        commits: each(commits),
        allocations: each(allocated as f64),
    }
}

impl Stage {
    fn set() -> Self {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .enable_all()
            .on_thread_start(allocations::ignore_this_thread)
            .build()
            .expect("a runtime");
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let endpoint =
            runtime.block_on(Endpoint::start(loopback, Options::default())).expect("a free port");
        let http = Http::to(endpoint.addr());
        let queue = http.call("AmazonSQS.CreateQueue", &json!({"QueueName": "steps"}));
        let queue = queue["QueueUrl"].as_str().expect("a URL").to_owned();
        let step = json!({"Name": "work", "Type": "Callback", "SqsQueueUrl": queue, "OutputParameters": [],
            "Arguments": {"dataset": "s3://features/penguins/part-00000.parquet", "rows": 333}});
        let definition = json!({"Version": "2020-12-01", "Steps": [step]}).to_string();
        let token = |number: usize| format!("{number:032}");
        let create = json!({"PipelineName": "p", "PipelineDefinition": definition, "ClientRequestToken": token(0),
            "RoleArn": "arn:aws:iam::123456789012:role/pipelines"});
        http.call("SageMaker.CreatePipeline", &create);
        for number in 0..STEPS {
            let start = json!({"PipelineName": "p", "ClientRequestToken": token(number)});
            http.call("SageMaker.StartPipelineExecution", &start);
        }
        let status = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the target folder is writable");
        Self { runtime, endpoint: Some(endpoint), http, queue, status, folder }
    }

    fn endpoint(&self) -> &Endpoint {
        self.endpoint.as_ref().expect("it is there until it is dropped")
    }

    /// Counts calls from now on, and makes each receive take so much longer.
    fn count(&self, receives_take: Duration) {
        let latency = |millis| Fault::Latency { millis, acted: false };
        // A rule that never applies still counts every call of its operation.
        let mut rules: Vec<Rule> =
            OPERATIONS.map(|operation| Rule::new(operation, latency(0)).times(0)).into();
        if !receives_take.is_zero() {
            rules.push(Rule::new("ReceiveMessage", latency(1_000)));
        }
        self.endpoint().set_faults(rules).expect("rules that can be");
    }

    fn calls(&self, operation: &str) -> u64 {
        let rules = self.endpoint().faults();
        rules.iter().find(|armed| armed.rule.operation == operation).map_or(0, |armed| armed.seen)
    }

    fn messages(&self) -> u64 {
        let input = json!({"QueueUrl": self.queue, "AttributeNames": ["All"]});
        let answer = self.http.call("AmazonSQS.GetQueueAttributes", &input);
        let number = |name: &str| {
            answer["Attributes"][name].as_str().and_then(|text| text.parse::<u64>().ok())
        };
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        names.iter().map(|name| number(name).expect("a number")).sum()
    }

    /// Of the worker so far; none where nobody has a status server.
    fn commits(&self) -> f64 {
        if std::net::TcpStream::connect(self.status).is_err() {
            return 0.0;
        }
        let text = Http::to(self.status).send("GET", "/metrics", "", "");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("callbackd_ledger_commit_seconds_count "));
        line.expect("a metric that is always there").parse().expect("a number")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            self.runtime.block_on(endpoint.shutdown());
        }
    }
}

fn start_bare(stage: &Stage, concurrency: usize) -> Runtime {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (url, queue) = (stage.endpoint().url().to_owned(), stage.queue.clone());
    runtime.spawn(async move { bare::answer(&url, &queue, concurrency).await });
    runtime
}

fn start_worker(stage: &Stage, concurrency: usize) -> Runtime {
    async fn nothing(_: Context, _: Value) -> Result<(), HandlerError> {
        Ok(())
    }
    let registry = Registry::new().function("nothing", nothing);
    let loaded = CheckedConfig::from_toml("cost", &stage.config(concurrency), &registry)
        .expect("a configuration that can be");
    let credentials =
        SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "test"));
    let outside = Outside { credentials: Some(credentials), ..Outside::default() };
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.spawn(async move {
        Daemon::new(loaded).outside(outside).run(async || pending().await).await
    });
    runtime
}

impl Stage {
    fn config(&self, concurrency: usize) -> String {
        let (endpoint, queue, status) = (self.endpoint().url(), &self.queue, self.status);
        format!(
            r#"
            aws = {{ endpoint_url = "{endpoint}", region = "us-east-1" }}
            ledger = {{ path = "{}" }}
            http = {{ listen = "{status}" }}
            [[queues]]
            url = "{queue}"
            handler = "h"
            concurrency = {concurrency}
            [handlers.h]
            type = "nothing"
            "#,
            self.folder.path().join("ledger.db").display()
        )
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
