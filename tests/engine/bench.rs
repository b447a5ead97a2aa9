//! One worker in its simulated surroundings, with a handler that does what the test says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::clock::Clock;
use callbackd::engine::config::{HandlerConfig, QueueConfig};
use callbackd::engine::{Engine, HandlerParts, Intake, Monitor, Parts, QueueParts, Retries};
use callbackd::handler::{DynHandler, Registry};
use callbackd::ledger::{Commit, Ledger, Written};
use callbackd::lifecycle::{Completed, Lease, WorkerId, complete, forget};
use callbackd::outcome::Outcome;
use callbackd::seam::{ExecutionStanding, Observer, Pipelines, Queue, Standing};
use callbackd::step::QueueUrl;
use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::world::{Disk, FakePipelines, FakeQueue, QUEUE_URL};

/// What the handler was asked to do, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self, entry: &str) -> usize {
        self.entries().iter().filter(|other| *other == entry).count()
    }
}

/// A handler controlled by the step's arguments:
/// `{"do": "succeed" | "fail" | "error" | "panic" | "defer" | "again" | "wait" | "stubborn"}`, and
/// `"key"`, if the step is to have one.
pub struct Scripted {
    pub log: Log,
    /// Lets those that `wait` continue.
    pub go: Arc<Notify>,
    /// The machine works.
    pub well: Arc<AtomicBool>,
}

impl Handler for Scripted {
    type Args = Value;

    async fn run(&self, cx: Context, args: Value) -> HandlerResult {
        self.log.add(format!("run {}", cx.attempt()));
        if let Some(trace) = cx.trace() {
            self.log.add(format!("trace {}", trace.trace_id()));
        }
        let seconds = args["seconds"].as_u64().unwrap_or(0);
        if let Some(key) = args["key"].as_str() {
            cx.set_key(key).await?;
        }
        match args["do"].as_str().unwrap_or("succeed") {
            "fail" => return Err(HandlerError::permanent("no such table")),
            "error until well" if !self.well.load(Ordering::SeqCst) => {
                return Err(HandlerError::retry("no service"));
            }
            "error" => return Err(HandlerError::retry("no route")),
            "panic" => panic!("on purpose"),
            "need the machine" if !self.well.load(Ordering::SeqCst) => {
                return Err(HandlerError::host("space", "disk full"));
            }
            "defer" => return Ok(Completion::Deferred),
            "again" => {
                let done: u32 = cx.checkpoint()?.unwrap_or(0);
                cx.save_checkpoint(&(done + 1)).await?;
                cx.progress(f64::from(done) / 4.0, "looked at");
                if done < 3 {
                    return Ok(Completion::Again(Duration::from_secs(seconds)));
                }
            }
            "sleep" => sleep(Duration::from_secs(seconds)).await,
            "report" => {
                for text in args["texts"].as_array().expect("texts") {
                    cx.progress(None, text.as_str().expect("a text"));
                    sleep(Duration::from_secs(seconds)).await;
                }
                if cx.attempt() < 2 && args["fails"] == true {
                    return Err(HandlerError::retry("no route"));
                }
            }
            "again after a sleep" => {
                sleep(Duration::from_secs(seconds)).await;
                return Ok(Completion::Again(Duration::from_millis(10)));
            }
            "error after a sleep" => {
                sleep(Duration::from_secs(seconds)).await;
                return Err(HandlerError::retry("no route"));
            }
            "save too much" => {
                let refused = cx.save_checkpoint(&"x".repeat(100)).await.expect_err("too large");
                self.log.add(refused.to_string());
            }
            "wait" => {
                cx.save_checkpoint(&json!({"job": cx.token().as_str()})).await?;
                tokio::select! {
                    () = self.go.notified() => {}
                    reason = cx.stopping() => {
                        self.log.add(format!("told {}", reason.as_str()));
                        return Err(HandlerError::retry("told to end"));
                    }
                }
            }
            "finish when told" => {
                cx.stopping().await;
            }
            "stubborn" => std::future::pending().await,
            _ => {}
        }
        let mut outputs = Outputs::new();
        outputs.insert("answer", 42)?;
        Ok(Completion::Success(outputs))
    }

    async fn cleanup(&self, cx: Context, args: Value) -> Result<(), HandlerError> {
        let checkpoint: Option<Value> = cx.checkpoint()?;
        let reason = cx.stop_reason().map_or("none", callbackd::StopReason::as_str);
        self.log.add(format!("clean {reason} {}", checkpoint.unwrap_or_default()));
        match args["cleanup"].as_str() {
            Some("fail") => Err(HandlerError::permanent("no permission")),
            Some("hang") => std::future::pending().await,
            Some("panic") => panic!("on purpose"),
            Some("need the machine") if !self.well.load(Ordering::SeqCst) => {
                Err(HandlerError::host("space", "disk full"))
            }
            _ => Ok(()),
        }
    }
}

pub struct Bench {
    pub queue: Arc<FakeQueue>,
    pub pipelines: Arc<FakePipelines>,
    pub disk: Disk,
    pub log: Log,
    pub go: Arc<Notify>,
    pub well: Arc<AtomicBool>,
    pub queue_config: QueueConfig,
    pub handler_config: HandlerConfig,
    /// Of the handler `h`, if it differs.
    pub own_config: Option<HandlerConfig>,
    pub now: Timestamp,
    pub retention: Duration,
    pub observer: Arc<dyn Observer>,
    /// Queues beside the first.
    pub others: Vec<(QueueConfig, Arc<FakeQueue>)>,
    /// The queues and handlers that are paused from the start.
    pub paused: Vec<QueueUrl>,
    pub paused_handlers: Vec<String>,
    workers: usize,
}

pub struct Worker {
    engine: Engine,
    pub intake: Intake,
    pub retries: Retries,
    pub monitor: Monitor,
}

impl Bench {
    pub fn new() -> Self {
        let queue_config = json!({"url": QUEUE_URL, "handler": "h", "concurrency": 4});
        let handler_config = json!({"type": "scripted"});
        Self {
            queue: Arc::default(),
            pipelines: Arc::default(),
            disk: Disk::exclusive(),
            log: Log::default(),
            go: Arc::default(),
            well: Arc::default(),
            queue_config: serde_json::from_value(queue_config).expect("config"),
            handler_config: serde_json::from_value(handler_config).expect("config"),
            own_config: None,
            now: Timestamp::UNIX_EPOCH,
            retention: Duration::from_hours(14 * 24),
            observer: Arc::new(()),
            others: Vec::new(),
            paused: Vec::new(),
            paused_handlers: Vec::new(),
            workers: 0,
        }
    }

    #[expect(clippy::unused_async, reason = "a worker starts within a runtime")]
    pub async fn start(&mut self) -> Worker {
        self.workers += 1;
        let (log, go, well) = (self.log.clone(), self.go.clone(), self.well.clone());
        let scripted = move || Scripted { log: log.clone(), go: go.clone(), well: well.clone() };
        let registry = Registry::new().handler("scripted", scripted);
        let handler: DynHandler = registry.build("scripted", Value::Null).expect("no settings");
        let me = WorkerId(format!("worker-{}", self.workers).into());
        let lease = Duration::from_mins(1);
        let clock = Clock::starting_at(self.now);
        let lane = |config: &QueueConfig, queue: &Arc<FakeQueue>| QueueParts {
            elsewhere: BTreeMap::new(),
            config: config.clone(),
            name: config.url.as_str().rsplit('/').next().unwrap_or_default().into(),
            account: "123456789012".into(),
            region: "us-east-1".into(),
            queue: queue.clone() as Arc<dyn Queue>,
            pipelines: self.pipelines.clone() as Arc<dyn Pipelines>,
        };
        let first = std::iter::once(lane(&self.queue_config, &self.queue));
        // A problem of the machine may affect only one handler.
        let parts = HandlerParts { config: self.handler_config.clone(), handler };
        let config = self.own_config.clone().unwrap_or_else(|| parts.config.clone());
        let own = HandlerParts { config, ..parts.clone() };
        let engine = Engine::start(Parts {
            ledger: Ledger::new(
                Arc::new(self.disk.clone()),
                me,
                lease,
                clock.clone(),
                Arc::new(()),
            ),
            queues: first
                .chain(self.others.iter().map(|(config, queue)| lane(config, queue)))
                .collect(),
            handlers: [("h".to_owned(), own), ("other".to_owned(), parts)].into(),
            observer: self.observer.clone(),
            clock,
            drain_timeout: Duration::from_secs(100),
            retention: self.retention,
            work_dir: "work".into(),
            paused: self.paused.clone(),
            paused_handlers: self.paused_handlers.clone(),
        });
        let monitor = engine.monitor();
        Worker { intake: engine.intake(), retries: engine.retries(), engine, monitor }
    }

    /// A step that waits at SageMaker, with its message on the queue.
    pub fn step(&self, token: &str, arguments: &Value) -> String {
        self.pipelines.open(token);
        self.queue.put(&body(token, arguments, "Executing"))
    }

    /// Someone answers the step through the ledger, as a command does.
    pub async fn answer(&self, token: &str, answer: Outcome) {
        let (store, me) = (Arc::new(self.disk.beside()), WorkerId("command".into()));
        let (lease, clock) = (Duration::from_mins(1), Clock::starting_at(self.now));
        let ledger = Ledger::new(store, me, lease, clock, Arc::new(()));
        let token = token.parse().expect("a token");
        let record = ledger.load(&token).await.expect("it works").expect("a record");
        let Ok(Completed::Now(record)) = complete(&record, answer, ledger.now()) else {
            panic!("the step takes no answer")
        };
        let written = ledger.write(*record, Commit::Now).await.expect("it works");
        assert!(matches!(written, Written::Done(_)), "{written:?}");
        ledger.announce(&token).await.expect("it works");
    }

    /// An operator has the step forgotten, whose execution is gone, as a command does.
    pub async fn forget(&self, token: &str) {
        let store = Arc::new(self.disk.beside());
        let ledger = Ledger::beside(store);
        let token = token.parse().expect("a token");
        let record = ledger.load(&token).await.expect("it works").expect("a record");
        let gone = ExecutionStanding::NotFound;
        let left = forget(&record, Lease::Over, &Standing::NotFound, gone, ledger.now());
        let written = ledger.write(left.expect("it is not waited for"), Commit::Now).await;
        assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
        ledger.announce(&token).await.expect("it works");
    }

    pub fn stop(&self, token: &str, arguments: &Value) -> String {
        self.queue.put(&body(token, arguments, "Stopping"))
    }
}

impl Worker {
    pub async fn drain(self) {
        self.engine.drain(async || std::future::pending().await).await;
    }

    pub async fn drain_hurried(self) {
        self.engine.drain(async || ()).await;
    }
}

/// The process dies: its tasks stop without further effects, and what it held outside stays as it
/// is.
pub fn run_and_crash<T>(bench: Bench, life: impl AsyncFnOnce(&mut Bench) -> T) -> (Bench, T) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("runtime");
    let mut bench = bench;
    let value = runtime.block_on(life(&mut bench));
    drop(runtime);
    (bench, value)
}

pub fn body(token: &str, arguments: &Value, status: &str) -> String {
    body_of("e", token, arguments, status)
}

/// As [`body`], of another execution.
pub fn body_of(execution: &str, token: &str, arguments: &Value, status: &str) -> String {
    json!({
        "token": token,
        "pipelineExecutionArn": format!("arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/{execution}"),
        "arguments": arguments,
        "status": status,
    })
    .to_string()
}

/// Waits until something holds; a month of paused time counts as forever.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        let mut pause = Duration::from_millis(10);
        while !holds() {
            sleep(pause).await;
            pause = (pause * 11 / 10).min(Duration::from_secs(5));
        }
    };
    assert!(
        timeout(Duration::from_hours(30 * 24), waiting).await.is_ok(),
        "never came true: {what}"
    );
}
