//! The endpoint, the two daemons with their queues, and what the endpoint tells of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::local::{Endpoint, EventKind, Options, Rule};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::daemon::{Config, Daemon, Environment};
use crate::http;
use crate::samples::{Sample, Samples};

/// What each step's program does, by its arguments.
const PROGRAM: &str = r#"#!/bin/sh
case $(cat) in
    *'"kind":"slow"'*) sleep 25 ;;
    *'"kind":"failing"'*) echo "no such table" >&2; exit 3 ;;
    *'"kind":"retry"'*) [ "$STEP_ATTEMPT" -ge 2 ] || exit 75 ;;
    *'"kind":"again"'*) [ -s "$STEP_CHECKPOINT" ] || { echo begun > "$STEP_CHECKPOINT"; exit 76; } ;;
    *'"kind":"noisy"'*) head -c 300000 /dev/urandom; head -c 300000 /dev/urandom >&2 ;;
    *'"kind":"stopped"'*) sleep 30 & wait ;;
esac
echo "done=yes" >> "$STEP_OUTPUT"
"#;
/// A body that is no step.
pub const UNREADABLE: &str = r#"{"token":"none"}"#;
const CLEANUP: &str = "#!/bin/sh\nexit 0\n";

pub struct Stage {
    endpoint: Endpoint,
    pub queues: [Queue; 2],
    folder: TempDir,
    told: Arc<Mutex<Told>>,
    listening: JoinHandle<()>,
    pub samples: Samples,
    pub lives: u32,
}

/// A queue and the daemon that works on it.
pub struct Queue {
    pub url: String,
    dead: String,
    pub daemon: Option<Daemon>,
    folder: PathBuf,
    config: Config,
}

/// What the endpoint told so far.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub ended: BTreeMap<&'static str, u64>,
    pub steps: u64,
    pub answers: u64,
    /// The same answer again: its first reply was lost, or its daemon died.
    pub repeated: u64,
    pub refused: u64,
    pub faults: BTreeMap<String, u64>,
    /// Messages that no worker can read, as the endpoint took them: replies are lost too.
    pub unreadable: u64,
    /// Events that came faster than they were counted.
    pub missed: u64,
}

impl Stage {
    pub async fn set() -> Self {
        let endpoint =
            Endpoint::start(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default()).await.expect("a free port");
        let told = Arc::new(Mutex::new(Told::default()));
        let listening = tokio::spawn(listen(endpoint.events(), told.clone()));
        let folder = tempfile::tempdir().expect("a folder");
        let steady = Queue::new(&endpoint, folder.path(), "steady").await;
        let battered = Queue::new(&endpoint, folder.path(), "battered").await;
        let mut stage = Self {
            endpoint,
            queues: [steady, battered],
            folder,
            told,
            listening,
            samples: Samples::default(),
            lives: 0,
        };
        for queue in 0..2 {
            stage.start(queue);
        }
        stage
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap().clone()
    }

    pub async fn call(&self, target: &str, request: &Value) -> Option<Value> {
        call(self.endpoint.addr(), target, request).await
    }

    pub fn set_faults(&self, rules: Vec<Rule>) {
        self.endpoint.set_faults(rules).expect("rules that can be");
    }

    fn start(&mut self, queue: usize) {
        let url = self.endpoint.url().to_owned();
        let queue = &mut self.queues[queue];
        let environment =
            Environment { prefix: Vec::new(), folder: queue.folder.clone(), sqs: url.clone(), sagemaker: url };
        queue.daemon = Some(environment.start(&queue.config, "daemon"));
        self.lives += 1;
    }

    /// The battered one dies, by turns of a kill and of a stop that cannot wait for what runs; then another one takes over.
    pub async fn end_a_life(&mut self) {
        let mut daemon = self.queues[1].daemon.take().expect("it lives");
        if self.lives.is_multiple_of(2) {
            daemon.kill();
        } else {
            daemon.signal(Signal::SIGTERM);
            while daemon.ended().is_none() {
                sleep(Duration::from_millis(100)).await;
            }
        }
        drop(daemon);
        self.start(1);
    }

    pub async fn sample(&mut self, at: Duration) {
        for (number, queue) in self.queues.iter().enumerate() {
            if let Some(daemon) = &queue.daemon
                && let Some(sample) = Sample::of(daemon, &queue.folder, at).await
            {
                self.samples.add(number, sample);
            }
        }
    }

    pub fn all_ended(&self, begun: u64) -> bool {
        self.told().ended.values().sum::<u64>() >= begun
    }

    /// How many messages are on the queues, visible or not, those for dead letters among them.
    pub async fn messages_left(&self) -> Option<u64> {
        let mut left = 0;
        for queue in self.queues.iter().flat_map(|queue| [&queue.url, &queue.dead]) {
            left += self.messages(queue).await?;
        }
        Some(left)
    }

    async fn messages(&self, queue: &str) -> Option<u64> {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let request = json!({ "QueueUrl": queue, "AttributeNames": names });
        let answer = self.call("AmazonSQS.GetQueueAttributes", &request).await?;
        names.iter().map(|name| answer["Attributes"][name].as_str()?.parse::<u64>().ok()).sum()
    }

    /// Leaves the folder behind, for whoever wants to know.
    pub fn keep(self) {
        let _ = self.folder.keep();
    }

    /// Stops both daemons, and says how they ended.
    pub async fn close(&mut self) -> Vec<Option<i32>> {
        let mut codes = Vec::new();
        for queue in &mut self.queues {
            let mut daemon = queue.daemon.take().expect("it lives");
            daemon.signal(Signal::SIGTERM);
            while daemon.ended().is_none() {
                sleep(Duration::from_millis(100)).await;
            }
            codes.push(daemon.ended().and_then(|status| status.code()));
        }
        self.listening.abort();
        codes
    }
}

impl Queue {
    pub fn log(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    /// How many directories are left where the programs had theirs.
    pub fn directories_left(&self) -> usize {
        fs::read_dir(self.folder.join("tmp")).map_or(0, Iterator::count)
    }

    async fn new(endpoint: &Endpoint, folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("ledger")).expect("the folder is writable");
        for (name, text) in [("run", PROGRAM), ("cleanup", CLEANUP)] {
            fs::write(folder.join(name), text).expect("the folder is writable");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let created = async |name: String, attributes: Value| {
            let request = json!({ "QueueName": name, "Attributes": attributes });
            let answer = call(endpoint.addr(), "AmazonSQS.CreateQueue", &request).await.expect("a queue");
            answer["QueueUrl"].as_str().expect("a URL").to_owned()
        };
        let dead = created(format!("sagemaker-{name}-dead"), json!({})).await;
        let redrive = json!({
            "deadLetterTargetArn": format!("arn:aws:sqs:us-east-1:123456789012:sagemaker-{name}-dead"), "maxReceiveCount": 100,
        });
        let url = created(format!("sagemaker-{name}"), json!({ "RedrivePolicy": redrive.to_string() })).await;
        let config = Config::new(&folder, &url).listening().with("handlers.job.max_attempts", 1000);
        let config = config.with("handlers.job.settings.poll_interval", "2s").with("queues.0.concurrency", 200);
        let config = config.with("worker.drain_timeout", "1s").with("queues.0.repost_after", "15s");
        Self { url, dead, daemon: None, folder, config }
    }
}

async fn call(address: SocketAddr, target: &str, request: &Value) -> Option<Value> {
    let version = if target.starts_with("AmazonSQS") { "1.0" } else { "1.1" };
    let headers = format!("X-Amz-Target: {target}\r\nContent-Type: application/x-amz-json-{version}\r\n");
    let (status, body) = http::post(address, &headers, &request.to_string()).await.ok()?;
    (status == 200).then(|| serde_json::from_str(&body).unwrap_or_default())
}

async fn listen(mut events: tokio::sync::broadcast::Receiver<callbackd::local::Event>, told: Arc<Mutex<Told>>) {
    loop {
        let event = events.recv().await;
        let mut told = told.lock().unwrap();
        match event.map(|event| event.kind) {
            Ok(EventKind::ExecutionEnded { status, .. }) => *told.ended.entry(status).or_default() += 1,
            Ok(EventKind::StepStarted { .. }) => told.steps += 1,
            Ok(EventKind::AnswerAccepted { repeated: false, .. }) => told.answers += 1,
            Ok(EventKind::AnswerAccepted { repeated: true, .. }) => told.repeated += 1,
            Ok(EventKind::AnswerRefused { .. }) => told.refused += 1,
            Ok(EventKind::MessageSent { body, .. }) if *body == *UNREADABLE => told.unreadable += 1,
            Ok(EventKind::FaultApplied { fault, .. }) => *told.faults.entry(fault.to_owned()).or_default() += 1,
            Ok(_) => {}
            Err(RecvError::Lagged(count)) => told.missed += count,
            Err(RecvError::Closed) => return,
        }
    }
}
