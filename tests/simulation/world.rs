//! All that outlives a worker's process: both services, true time, the judge, and the trace of what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use callbackd::local::clock::{Clock, Time};
use callbackd::local::undocumented::StoppingMessage;
use callbackd::local::{Event, EventKind, Options, Rule, Service, Undocumented};
use fastrand::Rng;
use hyper::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::judge::{About, Broken, Judge, Seen, Worker};
use crate::tally::Tally;

pub const QUEUE_URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";
const EPOCH: u64 = 1_800_000_000_000;
/// Lines of a trace that no story has. Where time stands still because somebody is always busy, only this ends it.
const CIRCLES: usize = 200_000;

/// Whether the trace is told as it comes about.
pub static LIVE: AtomicBool = AtomicBool::new(false);

pub struct World {
    service: Service,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    events: Receiver<Event>,
    judge: Judge<String>,
    broken: Option<String>,
    lines: Vec<String>,
    hash: DefaultHasher,
    tally: Tally,
    random: Rng,
    faults: bool,
    skew: SignedDuration,
    /// Until when each key is good.
    keys: BTreeMap<String, Timestamp>,
    /// The last checkpoint of a step that a ledger has confirmed.
    checkpoints: BTreeMap<(u8, String), u64>,
    runs: BTreeMap<String, usize>,
    /// Tokens that somebody else has as well.
    handed_over: BTreeSet<String>,
    /// Bodies of messages that nobody can read, and their ids.
    unreadable: BTreeSet<String>,
    executions: Vec<Value>,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    pub hash: u64,
    pub lines: Vec<String>,
    pub tally: Tally,
    pub broken: Option<String>,
}

impl World {
    pub fn new(seed: u64, undocumented: Undocumented, rules: Vec<Rule>) -> Arc<Self> {
        let options = Options { seed: Some(seed), undocumented, faults: rules, ..Options::default() };
        options.check().expect("options that can be");
        let clock = Clock::start_at(Time::from_millis(EPOCH));
        let service = Service::new("https://sqs.us-east-1.amazonaws.com", options, clock, CancellationToken::new());
        let events = service.events().subscribe();
        let state = State {
            events,
            judge: Judge::default(),
            broken: None,
            lines: Vec::new(),
            hash: DefaultHasher::new(),
            tally: Tally::default(),
            random: Rng::with_seed(seed ^ 0x5eed),
            faults: true,
            skew: SignedDuration::ZERO,
            keys: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            runs: BTreeMap::new(),
            handed_over: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            executions: Vec::new(),
        };
        Arc::new(Self { service, started: Instant::now(), state: Mutex::new(state) })
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    /// True time.
    pub fn now(&self) -> Timestamp {
        let epoch = Timestamp::from_millisecond(i64::try_from(EPOCH).expect("fits")).expect("a time");
        epoch + SignedDuration::try_from(self.started.elapsed()).expect("fits")
    }

    /// What the workers' wall clocks show.
    pub fn shown(&self) -> Timestamp {
        let skew = self.state().skew;
        self.now() + skew
    }

    pub fn jump(&self, skew: SignedDuration) {
        self.state().skew = skew;
        self.count("fault: clock jump");
        self.note(&format!("the clocks jump to {skew:#}"));
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A number below `end`; the world's own chance.
    pub fn draw(&self, end: u64) -> u64 {
        self.state().random.u64(..end)
    }

    pub fn chance(&self, probability: f64) -> bool {
        self.state().random.f64() < probability
    }

    pub fn has_faults(&self) -> bool {
        self.state().faults
    }

    /// From now on everything works.
    pub fn heal(&self) {
        self.state().faults = false;
        self.service.set_faults(Vec::new(), Some(0));
        self.note("faults end");
    }

    pub fn count(&self, what: &str) {
        self.state().tally.count(what);
    }

    pub fn note(&self, line: &str) {
        let at = self.started.elapsed().as_millis();
        let mut state = self.state();
        let line = format!("{:>9}.{:03} {line}", at / 1000, at % 1000);
        if LIVE.load(Ordering::Relaxed) {
            eprintln!("{line}");
        }
        line.hash(&mut state.hash);
        state.lines.push(line);
        let lines = state.lines.len();
        drop(state);
        assert!(lines < CIRCLES, "it goes round in circles");
    }

    /// Tells the judge; the first thing that is broken ends the run.
    pub fn see(&self, seen: &Seen<String>) {
        self.note(&format!("{seen:?}"));
        let verdict = self.state().judge.see(seen);
        if let Err(broken) = verdict {
            self.fail(&broken.to_string());
        }
    }

    pub fn fail(&self, why: &str) {
        self.note(&format!("BROKEN: {why}"));
        self.state().broken.get_or_insert_with(|| why.to_owned());
    }

    pub fn is_broken(&self) -> bool {
        self.state().broken.is_some()
    }

    /// A deferred step has a limit, which a plan leaves time for: so none may wait in the end.
    pub fn left_over(&self) -> Vec<Broken<String>> {
        let state = self.state();
        let open = state.judge.open().map(|token| Broken::Hung(token.clone()));
        open.chain(state.judge.in_the_end()).collect()
    }

    /// An operator's or pipeline's request, which nothing troubles.
    pub async fn ask(&self, target: &str, body: Value) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", target.parse().expect("a header"));
        let answer = self.service.answer(&headers, body.to_string().as_bytes()).await;
        self.hear(None);
        let body = http_body_util::BodyExt::collect(answer.expect("an answer").into_body()).await.expect("a body");
        serde_json::from_slice(&body.to_bytes()).unwrap_or_default()
    }

    /// Somebody else has the token now, and answers with it so much later.
    pub fn hand_over(self: &Arc<Self>, token: &str, after: Duration) {
        self.note(&format!("{token} is handed over"));
        self.state().handed_over.insert(token.to_owned());
        let world = self.clone();
        let answer = json!({"CallbackToken": token, "ClientRequestToken": format!("{token:0>32}"),
            "OutputParameters": [{"Name": "x", "Value": "1"}]});
        tokio::spawn(async move {
            sleep(after).await;
            world.ask("SageMaker.SendPipelineExecutionStepSuccess", answer).await;
        });
    }

    pub async fn create_queue(&self) {
        let body = json!({"QueueName": "sagemaker-callbacks", "Attributes": {"MessageRetentionPeriod": "1209600"}});
        assert_eq!(self.ask("AmazonSQS.CreateQueue", body).await["QueueUrl"], QUEUE_URL);
    }

    /// Takes in what the services have just done: for a worker's `report`, where it was one.
    pub fn hear(&self, report: Option<(Worker, &str)>) {
        loop {
            let event = self.state().events.try_recv();
            match event {
                Ok(event) => self.happened(event.kind, report),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
                Err(TryRecvError::Lagged(count)) => return self.fail(&format!("{count} events were not heard")),
            }
        }
    }

    fn happened(&self, kind: EventKind, report: Option<(Worker, &str)>) {
        match kind {
            EventKind::MessageSent { id, body, .. } => {
                let about = self.about(&body);
                if about == About::Unreadable {
                    self.state().unreadable.insert(id.to_string());
                }
                self.see(&Seen::Sent { message: id.to_string(), about });
            }
            EventKind::MessageDeleted { id, .. } => self.see(&Seen::Deleted { message: id.to_string() }),
            EventKind::MessageExpired { id, .. } | EventKind::MessageDeadLettered { id, .. } => {
                self.see(&Seen::Lost { message: id.to_string() });
            }
            EventKind::MessageReceived { id, receives, .. } => {
                if self.state().unreadable.contains(&*id) {
                    self.count("path: unreadable message");
                }
                self.note(&format!("received {id} {receives}"));
            }
            EventKind::StepStarted { token, .. } => {
                self.count("step");
                self.see(&Seen::Opened { token });
            }
            EventKind::StepStopping { token, .. } => self.see(&Seen::Stopping { token }),
            EventKind::StepEnded { token: Some(token), status, .. } => {
                self.count(&format!("step {status}"));
                self.see(&Seen::Closed { token, succeeded: status == "Succeeded" });
            }
            EventKind::AnswerAccepted { token, repeated, .. } => {
                self.count(if repeated { "path: the same answer again" } else { "path: an answer taken" });
                self.reported(report, token, true);
            }
            EventKind::AnswerRefused { token, .. } => {
                self.count("path: an answer refused");
                self.reported(report, token, false);
            }
            EventKind::FaultApplied { operation, fault } => self.count(&format!("fault: {fault} {operation}")),
            _ => {}
        }
    }

    fn reported(&self, report: Option<(Worker, &str)>, token: String, accepted: bool) {
        match report {
            Some((worker, request)) => {
                self.see(&Seen::Reported { worker, token, request: request.to_owned(), accepted });
            }
            None if self.state().handed_over.contains(&token) => {
                self.count(if accepted {
                    "path: answered by somebody else"
                } else {
                    "path: somebody else is too late"
                });
            }
            None => self.fail("an answer came from nowhere"),
        }
    }

    /// What a message is about that the pipelines sent, or somebody else.
    fn about(&self, body: &str) -> About<String> {
        if self.state().unreadable.contains(body) {
            return About::Unreadable;
        }
        let about = About::of(body);
        assert_ne!(about, About::Unreadable, "SageMaker wrote {body}");
        about
    }

    pub async fn send_unreadable(&self, body: &str) {
        self.state().unreadable.insert(body.to_owned());
        self.ask("AmazonSQS.SendMessage", json!({"QueueUrl": QUEUE_URL, "MessageBody": body})).await;
    }

    pub fn started(&self, execution: Value) {
        self.state().executions.push(execution);
    }

    /// Stops every execution, and no message says so.
    pub async fn stop_all_silently(&self) {
        let silent = Undocumented { stopping_message: StoppingMessage::Never, ..self.service.undocumented() };
        self.service.set_undocumented(silent);
        let executions = std::mem::take(&mut self.state().executions);
        for (number, execution) in executions.into_iter().enumerate() {
            let request = format!("stop-all-{number:0>23}");
            let body = json!({"PipelineExecutionArn": execution, "ClientRequestToken": request});
            self.ask("SageMaker.StopPipelineExecution", body).await;
        }
    }

    pub fn issue_key(&self, lifetime: Duration) -> (String, Timestamp) {
        let end = self.now() + SignedDuration::try_from(lifetime).expect("fits");
        let mut state = self.state();
        let key = format!("KEY{}", state.keys.len());
        state.keys.insert(key.clone(), end);
        (key, end)
    }

    pub fn is_good(&self, key: &str) -> bool {
        let now = self.now();
        self.state().keys.get(key).is_some_and(|end| now < *end)
    }

    /// Takes all keys back, whatever their date says.
    pub fn revoke_keys(&self) {
        self.state().keys.clear();
        self.count("fault: keys revoked");
    }

    /// How often the step was run before, by anybody.
    pub fn next_run(&self, token: &str) -> usize {
        let mut state = self.state();
        let runs = state.runs.entry(token.to_owned()).or_default();
        *runs += 1;
        *runs - 1
    }

    pub fn confirmed(&self, ledger: u8, token: &str) -> u64 {
        self.state().checkpoints.get(&(ledger, token.to_owned())).copied().unwrap_or_default()
    }

    pub fn confirm(&self, ledger: u8, token: &str, checkpoint: u64) {
        self.state().checkpoints.insert((ledger, token.to_owned()), checkpoint);
    }

    pub fn story(&self) -> Story {
        let mut state = self.state();
        let (lines, mut tally) = (std::mem::take(&mut state.lines), state.tally.clone());
        tally.simulated = self.started.elapsed();
        Story { hash: state.hash.finish(), lines, tally, broken: state.broken.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}
