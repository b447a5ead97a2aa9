//! Two workers that share a ledger in a table, at moto's DynamoDB: one dies, is frozen, or is cut
//! off from the table.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::daemon::{Config, Daemon, Environment};
use crate::http;
use crate::moto::{self, Moto};
use crate::proxy::Proxy;
use crate::scene::{Scene, Step, never, random_token, until};

/// Saves where it is, and waits until another run of the step finds that, and ends well.
const HANDS_OVER: &str = r#"
if [ -s $STEP_CHECKPOINT ]; then
    echo "$(cat $STEP_CHECKPOINT) $STEP_FENCE" >> $FOLDER/found
    end 0
fi
echo here > $STEP_CHECKPOINT.new && mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT
echo $STEP_FENCE >> $FOLDER/fence
until_there never
"#;

/// Where moto's DynamoDB is, one for all tests.
fn dynamodb() -> SocketAddr {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(|| Moto::start(&[], Stdio::inherit())).address
}

/// Two workers with ways of their own to the queue and the table.
pub struct Fleet {
    pub scene: Scene,
    pub table: String,
    /// Of each worker, to the queue and to the table.
    pub ways: [(Proxy, Proxy); 2],
}

impl Fleet {
    pub async fn new(script: &str) -> Self {
        let fleet = Self::without_table(script).await;
        fleet.create_table();
        fleet
    }

    pub async fn without_table(script: &str) -> Self {
        let way = async || (Proxy::start(moto::address()).await, Proxy::start(dynamodb()).await);
        Self {
            scene: Scene::new(script).await,
            table: format!("steps-{}", random_token()),
            ways: [way().await, way().await],
        }
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
            .with("ledger.lease", "3s")
            .with("worker.id", format!("worker{worker}"))
            .with("worker.work_dir", work.to_str().expect("UTF-8"))
            // The stop of a run is heard of by its message alone.
            .with("queues.0.stop_watch", "0s")
    }

    pub fn environment(&self, worker: usize) -> Environment {
        let (to_sqs, to_table) = &self.ways[worker];
        let table = format!("AWS_ENDPOINT_URL_DYNAMODB={}", to_table.url());
        Environment {
            prefix: vec!["/usr/bin/env".to_owned(), table],
            sqs: to_sqs.url(),
            ..self.scene.environment()
        }
    }

    pub fn start(&self, worker: usize) -> Daemon {
        self.environment(worker).start(&self.config(worker), &format!("worker{worker}"))
    }

    /// The first worker runs a step and has saved its checkpoint, and no other is up.
    async fn running(&self) -> (Daemon, Step) {
        let step = self.scene.step_sent().await;
        let first = self.start(0);
        until("the checkpoint is recorded", async || self.has_checkpoint(&step).await).await;
        (first, step)
    }

    pub fn record(&self, step: &Step) -> Option<Value> {
        let output = self.environment(1).run(&self.config(1), &["steps", "--json"]);
        let records: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        records.into_iter().find(|record| record["token"] == step.token.as_str())
    }

    /// Asks the table itself, because `steps` leaves checkpoints out. The handler keeps there what
    /// it needs itself, before the program has written anything.
    async fn has_checkpoint(&self, step: &Step) -> bool {
        let item = self.item(step).await;
        item["checkpoint"]["S"].as_str().is_some_and(|saved| saved.contains("here"))
    }

    /// The item of a step as DynamoDB has it; null if there is none.
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

    /// The second worker has gone on where the first was, under a greater fence, and that run alone
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
        until("the record is settled", async || {
            self.record(step).is_some_and(|record| record["status"] == "settled")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_leaves_its_step_and_its_checkpoint_to_another() {
    let fleet = Fleet::new(HANDS_OVER).await;
    let (mut first, step) = fleet.running().await;
    let _second = fleet.start(1);
    first.kill();
    fleet.handed_over(&step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_for_longer_than_its_lease_gives_up_what_another_has_taken() {
    let fleet = Fleet::new(HANDS_OVER).await;
    let (first, step) = fleet.running().await;
    let _second = fleet.start(1);
    first.signal(Signal::SIGSTOP);
    fleet.handed_over(&step).await;
    first.signal(Signal::SIGCONT);
    until("it knows that its lease is lost", async || {
        !first.complaints(&["ERROR"], "the worker's lease in the ledger is lost").is_empty()
    })
    .await;
    // It works on, as another.
    fleet.ways[1].0.hold("receivemessage");
    let next = fleet.scene.step_sent().await;
    until("it runs another step", async || fleet.scene.runs().contains(&next.attempt(1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cut_off_from_the_table_ends_its_runs_before_another_starts_them() {
    let fleet = Fleet::new(HANDS_OVER).await;
    let (first, step) = fleet.running().await;
    fleet.ways[0].1.go_down();
    until("its run is told to end", async || {
        !first.complaints(&["INFO"], "the run is told to end").is_empty()
    })
    .await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
    let _second = fleet.start(1);
    // The first does not keep the message from the second, which has no other way to the step
    // before the message counts as lost.
    fleet.handed_over(&step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_another_worker_receives_reaches_the_owner_with_its_next_renewal() {
    let fleet = Fleet::new("until_there never").await;
    let step = fleet.scene.step_sent().await;
    let first = fleet.start(0);
    until("it runs", async || fleet.scene.runs() == [step.attempt(1)]).await;
    // A poll that is open still ends, and brings nothing.
    fleet.ways[0].0.hold("receivemessage");
    let second = fleet.start(1);
    until("the other polls", async || second.is_up()).await;
    fleet.scene.stop(&step).await;
    fleet.scene.answered_once(&step).await;
    assert_eq!(fleet.scene.cleanups(), [step.cleaned("pipeline_stopped")]);
    let told = |daemon: &Daemon| daemon.complaints(&["INFO"], "the run is told to end").len();
    assert_eq!((told(&first), told(&second)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_written_stops_new_work_and_loses_nothing() {
    let fleet = Fleet::new("end 0").await;
    let daemon = fleet.start(0);
    until("it is up", async || daemon.is_up()).await;
    fleet.ways[0].1.refuse("updateitem");
    fleet.ways[0].1.refuse("putitem");
    let step = fleet.scene.step_sent().await;
    never("a step is started", Duration::from_secs(3), async || !fleet.scene.runs().is_empty())
        .await;
    fleet.ways[0].1.heal();
    fleet.scene.answered_once(&step).await;
    assert_eq!(fleet.scene.runs(), [step.attempt(1)]);
}
