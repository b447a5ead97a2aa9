//! Thousands of steps at once: what they cost, and that none is lost.
//!
//! No route matches them, so a step fails at once and costs no program. SQS is the local endpoint,
//! which is fast enough.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, iter};

use callbackd::local::{Endpoint, EventKind, Fault as EndpointFault, Options, Rule};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;

use crate::daemon::{Config, Daemon, Environment};
use crate::http;
use crate::sagemaker::{FAILURE, Fault, SageMaker};
use crate::scene::{confessions, random_token, until_within};

/// A machine with other work takes minutes for what takes it seconds alone.
const PATIENCE: Duration = Duration::from_secs(300);
const KB: u64 = 1;
const MB: u64 = 1024 * KB;

struct Crowd {
    endpoint: Endpoint,
    sagemaker: SageMaker,
    folder: TempDir,
    queue: String,
    /// Counts the messages that were received more than once.
    repeated: Arc<AtomicUsize>,
}

impl Crowd {
    async fn new() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::start(loopback, Options::default()).await.expect("a free port");
        let mut events = endpoint.events();
        let repeated = Arc::new(AtomicUsize::new(0));
        let count = repeated.clone();
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event)
                        if matches!(
                            event.kind,
                            EventKind::MessageReceived { receives: 2.., .. }
                        ) =>
                    {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(_) => {}
                    // A lost event may have been one: better a false alarm.
                    Err(RecvError::Lagged(_)) => drop(count.fetch_add(1, Ordering::SeqCst)),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("ledger")).expect("the folder is writable");
        for name in ["run", "cleanup"] {
            let path = folder.path().join(name);
            fs::write(&path, "#!/bin/sh\n").expect("it is writable");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let queue = format!("{}/123456789012/sagemaker-crowd", endpoint.url());
        let crowd = Self { endpoint, sagemaker: SageMaker::start().await, folder, queue, repeated };
        crowd.sqs("CreateQueue", json!({ "QueueName": "sagemaker-crowd" })).await;
        crowd
    }

    fn config(&self) -> Config {
        let route = toml::Table::from_iter([
            ("pipeline".to_owned(), "other".into()),
            ("handler".to_owned(), "job".into()),
        ]);
        let config =
            Config::new(self.folder.path(), &self.queue).listening().without("queues.0.handler");
        let config = config.with("queues.0.routes", vec![toml::Value::from(route)]);
        config.with("queues.0.stop_watch", "0s").with("queues.0.concurrency", 64)
    }

    fn start(&self, config: &Config) -> Daemon {
        let environment = Environment {
            prefix: Vec::new(),
            folder: self.folder.path().to_owned(),
            sqs: self.endpoint.url().to_owned(),
            sagemaker: format!("http://{}", self.sagemaker.address),
        };
        environment.start(config, "daemon")
    }

    /// This many steps wait at SageMaker, and their `status` messages are on the queue. Returns
    /// their tokens.
    async fn send(&self, count: usize, status: &str, arguments: &Value) -> Vec<String> {
        let tokens: Vec<String> = iter::repeat_with(random_token).take(count).collect();
        for tokens in tokens.chunks(if arguments.to_string().len() > 20_000 { 2 } else { 10 }) {
            let entries = tokens.iter().map(|token| {
                let arn =
                    format!("arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/{}", token.to_lowercase());
                self.sagemaker.begin(&arn, token, &self.queue);
                if status == "Stopping" {
                    self.sagemaker.stop(&arn);
                }
                let body =
                    json!({ "token": token, "pipelineExecutionArn": arn, "arguments": arguments, "status": status });
                json!({ "Id": token, "MessageBody": body.to_string() })
            });
            let entries: Vec<Value> = entries.collect();
            self.sqs("SendMessageBatch", json!({ "QueueUrl": self.queue, "Entries": entries }))
                .await;
        }
        tokens
    }

    async fn sqs(&self, operation: &str, input: Value) -> Value {
        let headers = format!(
            "Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.{operation}\r\n"
        );
        let answer = http::post(self.endpoint.addr(), &headers, &input.to_string()).await;
        let (status, body) = answer.expect("the endpoint answers");
        assert_eq!(status, 200, "{operation}: {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// How many messages are visible, and how many are held.
    async fn messages(&self) -> (usize, usize) {
        let input = json!({ "QueueUrl": self.queue, "AttributeNames": ["All"] });
        let attributes = self.sqs("GetQueueAttributes", input).await["Attributes"].take();
        let count = |name: &str| {
            attributes[name].as_str().and_then(|count| count.parse().ok()).expect("a count")
        };
        (count("ApproximateNumberOfMessages"), count("ApproximateNumberOfMessagesNotVisible"))
    }

    async fn are_held(&self, count: usize) {
        until_within(PATIENCE, "all messages are held", async || {
            self.messages().await == (0, count)
        })
        .await;
    }

    async fn are_answered(&self, tokens: &[String]) {
        until_within(PATIENCE, "the queue is empty", async || self.messages().await == (0, 0))
            .await;
        for token in tokens {
            assert!(self.sagemaker.accepted(token).is_some(), "{token} is not answered");
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default();
        let confessions: Vec<&str> = confessions(&log).collect();
        if !std::thread::panicking() {
            assert!(confessions.is_empty(), "the daemon was mistaken: {confessions:#?}");
            return;
        }
        let lines = log.lines().count();
        let begins = log.lines().take(60).collect::<Vec<_>>().join("\n");
        eprintln!("{confessions:#?}\n{begins}\n… of {lines} lines");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_step_costs_little_memory() {
    let crowd = Crowd::new().await;
    let config = crowd
        .config()
        .with("queues.0.visibility_timeout", "20m")
        .with("queues.0.repost_after", "11h");
    let daemon = crowd.start(&config.with("queues.0.stop_takeover_after", "12h"));
    let (few, many) = (300, 1_500);
    let mut held = 0;
    let mut resident = Vec::new();
    for count in [few, many, many] {
        crowd.send(count, "Stopping", &json!({ "n": 1 })).await;
        held += count;
        crowd.are_held(held).await;
        let owed = async || {
            daemon.steps().await.is_some_and(|_| true)
                && crowd.sagemaker.number_of_requests() >= held
        };
        until_within(PATIENCE, "SageMaker was asked about each", owed).await;
        resident.push(daemon.memory("VmRSS:"));
    }
    // What is allocated once, for the most that ever happened at a time, counts in one of them.
    let each = resident.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) * 1024 / many as u64);
    let each = each.min().expect("two");
    eprintln!("{each} bytes a held step: {resident:?} kB");
    assert!(each < 5 * 1024, "{each} bytes a held step: {resident:?} kB");
    let (status, steps) = daemon.status("/steps").await.expect("it answers");
    assert_eq!(status, 200, "{steps}");
    assert!(steps.len() < 2_000_000, "/steps is {} bytes", steps.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_steps_is_small_whatever_their_arguments_are() {
    let crowd = Crowd::new().await;
    crowd.sagemaker.always(FAILURE, Fault::Answer(503, "ServiceUnavailable"));
    let daemon = crowd.start(&crowd.config().with("queues.0.visibility_timeout", "10m"));
    let tokens = crowd.send(300, "Executing", &json!({ "long": "x".repeat(100_000) })).await;
    until_within(PATIENCE, "all are reported", async || {
        crowd.sagemaker.requests(FAILURE).len() >= tokens.len()
    })
    .await;
    let look = async || {
        daemon.forget_the_peak();
        let before = daemon.memory("VmRSS:");
        let (status, steps) = daemon.status("/steps").await.expect("it answers");
        assert_eq!(status, 200, "{steps}");
        assert!(steps.len() < 2_000_000, "/steps is {} bytes", steps.len());
        let grown = daemon.memory("VmHWM:").saturating_sub(before);
        assert!(grown < 20 * MB, "it took {grown} kB to tell of {} steps", tokens.len());
    };
    look().await;
    crowd.sagemaker.heal();
    crowd.are_answered(&tokens).await;
    look().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_steps_that_end_together_are_reported_a_few_at_a_time_and_their_messages_kept()
{
    const STEPS: usize = 1_500;
    let crowd = Crowd::new().await;
    // No report is answered until all messages are held and all outcomes wait to be reported.
    crowd.sagemaker.always(FAILURE, Fault::Hang);
    let daemon = crowd.start(&crowd.config().with("queues.0.visibility_timeout", "60s"));
    let tokens = crowd.send(STEPS, "Executing", &json!({ "n": 1 })).await;
    crowd.are_held(STEPS).await;
    until_within(PATIENCE, "reports are under way", async || {
        crowd.sagemaker.most_at_once(FAILURE) > 0
    })
    .await;
    let failing = EndpointFault::Error {
        status: 500,
        code: "InternalFailure".to_owned(),
        message: String::new(),
        acted: false,
    };
    let rule = Rule::new("ChangeMessageVisibilityBatch", failing).times(200);
    crowd.endpoint.set_faults(vec![rule]).expect("a rule that can be");
    until_within(PATIENCE, "calls to keep messages have failed", async || {
        crowd.endpoint.faults()[0].struck == 200
    })
    .await;
    let most = crowd.sagemaker.most_at_once(FAILURE);
    crowd.sagemaker.heal();
    crowd.are_answered(&tokens).await;
    assert!(most <= 128, "{most} reports at once");
    let complaints = daemon.complaints(&["WARN", "ERROR"], "visib");
    assert!(complaints.len() <= 200, "{} lines for 200 calls that failed", complaints.len());
    let lines = daemon.log().lines().count();
    assert!(lines <= 6 * STEPS, "{lines} lines for {STEPS} steps");
    assert_eq!(crowd.repeated.load(Ordering::SeqCst), 0, "messages came back");
}
