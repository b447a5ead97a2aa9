//! Workers that share a ledger in a table, at moto's DynamoDB, and one queue.

mod clocks;
#[cfg(debug_assertions)]
mod deaths;
mod frozen;
mod messages;
#[cfg(debug_assertions)]
mod standstill;
mod stops;
mod table;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;

use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::daemon::{Config, Daemon, Environment};
use crate::http;
use crate::moto::{self, Moto};
use crate::proxy::Proxy;
use crate::scene::{Scene, Step, random_token, until};

/// Saves where it is, and waits until another run of the step finds that, and ends well.
const HANDS_OVER: &str = r#"
if [ -s $STEP_CHECKPOINT ]; then
    echo "$(cat $STEP_CHECKPOINT) $STEP_FENCE" >> $FOLDER/found
    end 0
fi
echo here > $STEP_CHECKPOINT.new && mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT
echo $STEP_FENCE >> $FOLDER/fence
echo $$ >> $FOLDER/pids
until_there never
"#;

/// How many stories are told at once: with more, moto does not answer within a lease.
const AT_ONCE: usize = 4;
/// How many stories are being told, by all tests.
static TOLD: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Workers with ways of their own to the queue and the table.
pub struct Fleet {
    pub scene: Scene,
    pub table: String,
    pub ways: Vec<Way>,
}

pub struct Way {
    pub to_sqs: Proxy,
    pub to_table: Proxy,
}

/// Where moto's DynamoDB is, one for all tests.
fn dynamodb() -> SocketAddr {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(|| Moto::start(&[], Stdio::inherit())).address
}

impl Fleet {
    pub async fn new(workers: usize, script: &str) -> Self {
        Self::with_cleanup(workers, script, "").await
    }

    async fn with_cleanup(workers: usize, script: &str, cleanup: &str) -> Self {
        let fleet = Self::without_table(workers, script, cleanup).await;
        fleet.create_table();
        fleet
    }

    pub async fn without_table(workers: usize, script: &str, cleanup: &str) -> Self {
        let mut ways = Vec::new();
        for _ in 0..workers {
            let to_sqs = Proxy::start(moto::address()).await;
            ways.push(Way { to_sqs, to_table: Proxy::start(dynamodb()).await });
        }
        let scene = Scene::with_cleanup(script, cleanup).await;
        Self { scene, table: format!("steps-{}", random_token()), ways }
    }

    pub fn create_table(&self) {
        let created = self.environment(0).run(&self.config(0), &["ledger", "create"]);
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    }

    pub fn config(&self, worker: usize) -> Config {
        let work = self.scene.path(&format!("work{worker}"));
        self.scene
            .config()
            .with("ledger.type", "dynamodb")
            .with("ledger.table", self.table.as_str())
            .with("ledger.lease", "6s")
            .with("worker.id", format!("worker{worker}"))
            .with("worker.work_dir", work.to_str().expect("UTF-8"))
            // The stop of a run is heard of by its message alone.
            .with("queues.0.stop_watch", "0s")
    }

    pub fn environment(&self, worker: usize) -> Environment {
        let way = &self.ways[worker];
        let table = format!("AWS_ENDPOINT_URL_DYNAMODB={}", way.to_table.url());
        Environment {
            prefix: vec!["/usr/bin/env".to_owned(), table],
            sqs: way.to_sqs.url(),
            ..self.scene.environment()
        }
    }

    pub fn start(&self, worker: usize) -> Daemon {
        self.start_as(worker, &self.config(worker), &[])
    }

    /// With another configuration, and more variables.
    fn start_as(&self, worker: usize, config: &Config, variables: &[(&str, &str)]) -> Daemon {
        self.environment(worker).start_in(config, &format!("worker{worker}"), variables)
    }

    /// Starts all workers but the first; they receive nothing before
    /// [`let_receive`](Self::let_receive).
    async fn start_others(&self, config: impl Fn(Config) -> Config) -> Vec<Daemon> {
        let others = 1..self.ways.len();
        let daemons: Vec<Daemon> = others
            .map(|worker| {
                self.ways[worker].to_sqs.hold("receivemessage");
                self.start_as(worker, &config(self.config(worker)), &[])
            })
            .collect();
        until("the others are up", async || daemons.iter().all(Daemon::is_up)).await;
        daemons
    }

    /// The messages that the first worker had received are visible again, as after their visibility
    /// timeout.
    async fn first_is_timed_out(&self) {
        for message in self.ways[0].to_sqs.received() {
            self.scene.queue.show(&message.receipt_handle).await;
        }
    }

    /// With one slot, which its step takes: no poll is open that could receive messages after the
    /// worker's end.
    fn start_busy(&self, worker: usize, variables: &[(&str, &str)]) -> Daemon {
        let config = self.config(worker).with("queues.0.concurrency", 1);
        self.start_as(worker, &config, variables)
    }

    fn let_receive(&self) {
        for way in &self.ways {
            way.to_sqs.let_go("receivemessage");
        }
    }

    /// The first worker runs a step and has saved its checkpoint, and no other is up.
    async fn running(&self) -> (Daemon, Step) {
        let step = self.scene.step_sent().await;
        let first = self.start(0);
        self.checkpoint_is_recorded(&step).await;
        (first, step)
    }

    async fn checkpoint_is_recorded(&self, step: &Step) {
        let saved = async || !self.checkpoint(step).await["file"].is_null();
        until("the checkpoint is recorded", saved).await;
    }

    /// What `steps` prints of a step at a worker.
    pub fn record_seen_by(&self, worker: usize, step: &Step) -> Option<Value> {
        let output = self.environment(worker).run(&self.config(worker), &["steps", "--json"]);
        let records: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        records.into_iter().find(|record| record["token"] == step.token.as_str())
    }

    pub async fn recorded_as(&self, step: &Step, status: &str) {
        let is_so = async || self.item(step).await["status"]["S"] == status;
        until(&format!("the step is recorded as {status}"), is_so).await;
    }

    /// What the ledger keeps for the program. Besides its own checkpoint, which is the `file`, that
    /// identifies the processes of its run.
    async fn checkpoint(&self, step: &Step) -> Value {
        let item = self.item(step).await;
        let checkpoint = item["checkpoint"]["S"].as_str().unwrap_or("null");
        serde_json::from_str(checkpoint).expect("JSON")
    }

    /// Asks the table itself, which is faster than `steps`, and has the checkpoint.
    pub async fn item(&self, step: &Step) -> Value {
        let key = json!({ "id": { "S": format!("step#{}", step.token) } });
        self.dynamodb("GetItem", &json!({ "TableName": self.table, "Key": key })).await["Item"]
            .take()
    }

    /// Puts an item, as another program would.
    pub async fn put(&self, item: &Value) {
        self.dynamodb("PutItem", &json!({ "TableName": self.table, "Item": item })).await;
    }

    /// Calls moto's DynamoDB, past the proxies.
    pub async fn dynamodb(&self, operation: &str, input: &Value) -> Value {
        let headers = format!(
            "Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: \
             DynamoDB_20120810.{operation}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, \
             Signature=0\r\n"
        );
        let answer = http::post(dynamodb(), &headers, &input.to_string()).await;
        let (status, body) = answer.expect("moto answers");
        assert_eq!(status, 200, "{operation}: {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Another worker has gone on where the first was, under a greater fence, and that run alone
    /// has an outcome.
    async fn handed_over(&self, step: &Step) {
        self.scene.answered_once(step).await;
        assert_eq!(self.scene.runs(), [step.attempt(1), step.attempt(1)]);
        let fence: u64 = self.scene.lines("fence")[0].parse().expect("a number");
        let found = self.scene.lines("found");
        let (checkpoint, greater) = found[0].split_once(' ').expect("two words");
        assert_eq!(checkpoint, "here");
        assert!(greater.parse::<u64>().expect("a number") > fence, "{greater} after {fence}");
        assert_eq!(self.scene.lines("ends").len(), 1);
        self.recorded_as(step, "settled").await;
    }
}

/// Whether it knows that another worker has taken over.
fn has_lost(daemon: &Daemon) -> bool {
    !daemon.complaints(&["ERROR"], "the worker's lease in the ledger is lost").is_empty()
}

fn was_told(daemon: &Daemon) -> usize {
    daemon.complaints(&["INFO"], "the run is told to end").len()
}

/// Tells the stories of a table, some at once, each in a thread of its own, so that a failing one
/// does not stop the others; it has printed its reason.
fn all<T: Copy + Debug + Send + Sync>(cases: &[T], tell: impl AsyncFn(T) + Copy + Send + Sync) {
    let waiting = Mutex::new(cases.iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = waiting.lock().unwrap().next() else { return };
                    let story = move || {
                        let runtime = Builder::new_multi_thread().enable_all().build();
                        runtime.expect("a runtime").block_on(tell(*case));
                    };
                    let told = TOLD.lock().unwrap();
                    *ENDED.wait_while(told, |told| *told >= AT_ONCE).unwrap() += 1;
                    let outcome = scope.spawn(story).join();
                    *TOLD.lock().unwrap() -= 1;
                    ENDED.notify_one();
                    if outcome.is_err() {
                        failed.lock().unwrap().push(format!("{case:?}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
