//! The endpoint, the two daemons with their queues, and what the endpoint tells of them.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use callbackd::ledger;
use callbackd::lifecycle::{Record, Status};
use callbackd::local::{Endpoint, Event, Options, Rule};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::Times;
use crate::daemon::{Config, Daemon, Environment};
use crate::history::History;
use crate::http;
use crate::samples::{COLUMNS, Sample, Samples};

/// What each step's program does, by its arguments. At its end it leaves a line
/// `TOKEN STATUS NANOSECONDS` in `ends`, unless it is killed.
const PROGRAM: &str = r#"#!/bin/sh
end() { echo "$STEP_TOKEN $1 $(date +%s%N)" >> "${0%/*}/ends"; exit $1; }
case $(cat) in
    *'"kind":"slow"'*) sleep SLOW ;;
    *'"kind":"failing"'*) echo "no such table" >&2; end 3 ;;
    *'"kind":"retry"'*) [ "$STEP_ATTEMPT" -ge 2 ] || end 75 ;;
    *'"kind":"again"'*) [ -s "$STEP_CHECKPOINT" ] || { echo begun > "$STEP_CHECKPOINT"; end 76; } ;;
    *'"kind":"noisy"'*) head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2 ;;
    *'"kind":"stopped"'*) sleep 30 & wait ;;
esac
echo "done=yes" >> "$STEP_OUTPUT"
end 0
"#;
/// A body that is no step.
pub const UNREADABLE: &str = r#"{"token":"none"}"#;
const STEADY: &str = "sagemaker-steady";
const CLEANUP: &str = "#!/bin/sh\nexit 0\n";

pub struct Stage {
    endpoint: Option<Endpoint>,
    pub queues: [Queue; 2],
    folder: TempDir,
    history: Arc<Mutex<History>>,
    listening: JoinHandle<()>,
    pub samples: Samples,
    /// Of the daemon that was never restarted, when all is done.
    pub rest: Option<Sample>,
    pub lives: u32,
    /// The signal that the battered one was sent.
    asked: Option<Signal>,
    /// How it died if that was not requested.
    pub crashes: Vec<ExitStatus>,
}

/// A queue and the daemon that works on it.
pub struct Queue {
    pub url: String,
    dead: String,
    pub daemon: Option<Daemon>,
    folder: PathBuf,
    config: Config,
}

impl Stage {
    pub async fn set(times: Times) -> Self {
        let endpoint = Endpoint::start(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default())
            .await
            .expect("a free port");
        let history = Arc::new(Mutex::new(History::default()));
        let listening = tokio::spawn(listen(endpoint.events(), history.clone()));
        let folder = tempfile::tempdir().expect("a folder");
        let steady = Queue::new(&endpoint, folder.path(), "steady", times).await;
        let battered = Queue::new(&endpoint, folder.path(), "battered", times).await;
        let mut stage = Self {
            endpoint: Some(endpoint),
            queues: [steady, battered],
            folder,
            history,
            listening,
            samples: Samples::default(),
            rest: None,
            lives: 0,
            asked: None,
            crashes: Vec::new(),
        };
        for queue in 0..2 {
            stage.start(queue);
        }
        stage
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    pub async fn call(&self, target: &str, request: &Value) -> Option<Value> {
        call(self.endpoint().addr(), target, request).await
    }

    pub fn set_faults(&self, rules: Vec<Rule>) {
        self.endpoint().set_faults(rules).expect("rules that can be");
    }

    fn endpoint(&self) -> &Endpoint {
        self.endpoint.as_ref().expect("it is there until all is closed")
    }

    fn start(&mut self, queue: usize) {
        let url = self.endpoint().url().to_owned();
        let queue = &mut self.queues[queue];
        let environment = Environment {
            prefix: Vec::new(),
            folder: queue.folder.clone(),
            sqs: url.clone(),
            sagemaker: url,
        };
        queue.end_line();
        queue.daemon = Some(environment.start(&queue.config, "daemon"));
        self.lives += 1;
    }

    /// The battered one dies: by turns it is killed, and told to stop without waiting for its runs.
    pub fn end_a_life(&mut self) {
        let daemon = self.queues[1].daemon.as_mut().expect("it lives");
        let signal = if self.lives.is_multiple_of(2) { Signal::SIGKILL } else { Signal::SIGTERM };
        daemon.signal(signal);
        self.asked = Some(signal);
    }

    /// Where the battered one is dead, another one takes over.
    pub fn begin_a_life(&mut self) -> bool {
        let Some(status) = self.queues[1].daemon.as_mut().and_then(Daemon::ended) else {
            return false;
        };
        // It dies of SIGTERM where it is only just starting.
        let is_as_asked = |signal| status.success() || status.signal() == Some(signal as i32);
        if !self.asked.take().is_some_and(is_as_asked) {
            self.crashes.push(status);
        }
        self.queues[1].daemon = None;
        self.start(1);
        true
    }

    /// Waits until both daemons are up and have found their way to the endpoint.
    pub async fn wait_for_first_samples(&mut self) {
        while self.samples.of(0).is_empty() || self.samples.of(1).is_empty() {
            sleep(Duration::from_secs(1)).await;
            self.sample(Duration::ZERO).await;
        }
    }

    /// Looks at both daemons and their ledgers.
    pub async fn sample(&mut self, at: Duration) {
        let records = self.look();
        for (number, queue) in self.queues.iter().enumerate() {
            if let (Some(daemon), Some(records)) = (&queue.daemon, records[number])
                && let Some(sample) = Sample::of(daemon, &queue.ledger(), records, at).await
            {
                self.samples.add(number, sample);
            }
        }
    }

    /// Records what the ledgers hold, and returns how many records that is; `None` if one cannot be
    /// read at the moment.
    pub fn look(&self) -> [Option<usize>; 2] {
        [0_u8, 1].map(|number| {
            let mut records = Vec::new();
            ledger::read(&self.queues[usize::from(number)].ledger(), |record| records.push(record))
                .ok()?;
            self.history().look(number, &records);
            Some(records.len())
        })
    }

    /// Whether the daemon that was never restarted holds no more than before the load; takes the
    /// sample that says so.
    pub async fn is_at_rest(&mut self, at: Duration, leeway: f64) -> bool {
        let [Some(records), _] = self.look() else { return false };
        let daemon = self.queues[0].daemon.as_ref().expect("it lives");
        self.rest = Sample::of(daemon, &self.queues[0].ledger(), records, at).await;
        let (Some(rest), Some(first)) = (&self.rest, self.samples.of(0).first()) else {
            return false;
        };
        let values = first.values.into_iter().zip(rest.values);
        COLUMNS
            .iter()
            .zip(values)
            .all(|(column, (first, rest))| column.is_back(first, rest, leeway))
    }

    /// Whether every execution has ended and nothing is left on the queues but what nobody can
    /// read.
    pub async fn is_over(&self) -> bool {
        self.history().all_ended() && self.messages_left().await == Some(self.history().unreadable)
    }

    /// How many steps the ledgers hold that are not settled; none where one cannot be read.
    pub fn unsettled(&self) -> Option<usize> {
        let is_open = |record: &Result<Record, _>| {
            !record.as_ref().is_ok_and(|record| record.status == Status::Settled)
        };
        let open = |queue: &Queue| {
            let mut open = 0;
            ledger::read(&queue.ledger(), |record| open += usize::from(is_open(&record))).ok()?;
            Some(open)
        };
        self.queues.iter().map(open).sum()
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

    /// Keeps the directory for inspection.
    pub fn keep(self) {
        let _ = self.folder.keep();
    }

    /// Stops both daemons, and says how they ended. The endpoint goes too: it answers the last long
    /// polls at once.
    pub async fn close(&mut self) -> Vec<Option<i32>> {
        for daemon in self.queues.iter().filter_map(|queue| queue.daemon.as_ref()) {
            daemon.signal(Signal::SIGTERM);
        }
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.shutdown().await;
        }
        let mut codes = Vec::new();
        for queue in &mut self.queues {
            let mut daemon = queue.daemon.take().expect("it lives");
            while daemon.ended().is_none() {
                sleep(Duration::from_millis(100)).await;
            }
            codes.push(daemon.ended().and_then(|status| status.code()));
        }
        // All is told: the endpoint was the last to tell anything.
        let _ = (&mut self.listening).await;
        codes
    }
}

impl Queue {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn ledger(&self) -> PathBuf {
        self.folder.join("ledger/ledger.db")
    }

    /// The next daemon's log must not begin in the middle of a line that a kill cut short.
    fn end_line(&self) {
        let log = File::options().create(true).append(true).open(self.folder.join("daemon.log"));
        log.and_then(|mut log| log.write_all(b"\n")).expect("the folder is writable");
    }

    /// How many directories are left where the programs had theirs.
    pub fn directories_left(&self) -> usize {
        fs::read_dir(self.folder.join("ledger/work")).map_or(0, Iterator::count)
    }

    async fn new(endpoint: &Endpoint, folder: &Path, name: &str, times: Times) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("ledger")).expect("the folder is writable");
        let program = PROGRAM.replace("SLOW", &times.slow.as_secs().to_string());
        for (name, text) in [("run", program.as_str()), ("cleanup", CLEANUP)] {
            fs::write(folder.join(name), text).expect("the folder is writable");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755))
                .expect("it is ours");
        }
        let created = async |name: String, attributes: Value| {
            let request = json!({ "QueueName": name, "Attributes": attributes });
            let answer =
                call(endpoint.addr(), "AmazonSQS.CreateQueue", &request).await.expect("a queue");
            answer["QueueUrl"].as_str().expect("a URL").to_owned()
        };
        let dead = created(format!("sagemaker-{name}-dead"), json!({})).await;
        let redrive = json!({
            "deadLetterTargetArn": format!("arn:aws:sqs:us-east-1:123456789012:sagemaker-{name}-dead"), "maxReceiveCount": 100,
        });
        let url =
            created(format!("sagemaker-{name}"), json!({ "RedrivePolicy": redrive.to_string() }))
                .await;
        let config = Config::new(&folder, &url).listening().with("handlers.job.max_attempts", 1000);
        let config = config
            .with("handlers.job.settings.poll_interval", "2s")
            .with("queues.0.concurrency", 200);
        let config = config.with("worker.drain_timeout", "1s").with("queues.0.repost_after", "15s");
        let config = config.with("ledger.retention", format!("{}s", times.retention.as_secs()));
        Self { url, dead, daemon: None, folder, config }
    }
}

async fn call(address: SocketAddr, target: &str, request: &Value) -> Option<Value> {
    let version = if target.starts_with("AmazonSQS") { "1.0" } else { "1.1" };
    let headers =
        format!("X-Amz-Target: {target}\r\nContent-Type: application/x-amz-json-{version}\r\n");
    let (status, body) = http::post(address, &headers, &request.to_string()).await.ok()?;
    (status == 200).then(|| serde_json::from_str(&body).unwrap_or_default())
}

async fn listen(mut events: broadcast::Receiver<Event>, history: Arc<Mutex<History>>) {
    loop {
        let event = events.recv().await;
        let mut history = history.lock().unwrap();
        match event {
            Ok(event) => history.hear(event, |queue| u8::from(queue != STEADY)),
            Err(RecvError::Lagged(count)) => history.missed += count,
            Err(RecvError::Closed) => return,
        }
    }
}
