//! Everything that outlives a worker's process: both services, true time, the judge, and the trace
//! of events.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use callbackd::ledger::Memory;
use callbackd::local::clock::{Clock, Time};
use callbackd::local::undocumented::StoppingMessage;
use callbackd::local::{Event, EventKind, Options, Service, Undocumented};
use fastrand::Rng;
use hyper::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::approval::Approval;
use crate::hardship::{Forgery, Hardship, Trouble};
use crate::judge::{About, Broken, Judge, Seen, Worker};
use crate::limits::{Bound, Limits};
use crate::plan::{Bounds, Fleet, Plan};
use crate::tally::Tally;

/// Where copies of messages lie that belong on the other.
pub const SECOND_URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-second";
pub const QUEUE_URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";
const DEAD_LETTERS: &str = "sagemaker-dead-letters";
/// A run is told of its stop at most this long after the stop is known.
const PROMPT: Duration = Duration::from_secs(30);
/// How recently SageMaker must have been asked before a step that was never run is cleaned up
/// after.
const ASKED_LATELY: Duration = Duration::from_secs(5);
const EPOCH: u64 = 1_800_000_000_000;
/// More trace lines than any story has. If time stands still because something is always busy, only
/// this ends it.
const CIRCLES: usize = 200_000;

/// Whether the trace is told as it comes about.
pub static LIVE: AtomicBool = AtomicBool::new(false);

pub struct World {
    plan: Arc<Plan>,
    service: Service,
    /// The services' own.
    clock: Clock,
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
    /// How long the machine was suspended in all.
    suspended: Duration,
    limits: Limits,
    /// Until when each key is good.
    keys: BTreeMap<String, Timestamp>,
    /// The last checkpoint of a step that a ledger has confirmed.
    checkpoints: BTreeMap<(u8, String), u64>,
    runs: BTreeMap<String, usize>,
    /// The crashes and attempts of a step as a ledger has them.
    crashes: BTreeMap<(u8, String), (u64, u64)>,
    /// What the ledgers hold, by their numbers.
    ledgers: Vec<Memory>,
    /// Tokens that someone else has as well.
    handed_over: BTreeSet<String>,
    /// Bodies of unreadable messages, and their ids.
    unreadable: BTreeSet<String>,
    /// Bodies of forged messages, and the tokens that they name.
    forged: BTreeMap<String, String>,
    executions: Vec<Value>,
    /// Messages on queues, by the queues' names.
    lying: BTreeMap<String, String>,
    /// What each message is about that a pipeline sent, and its body.
    works: BTreeMap<String, String>,
    bounds: BTreeMap<String, Bounds>,
    /// The last receive brings what it received to a process that lives.
    arrives: bool,
    stops: BTreeMap<String, String>,
    /// Since when a run has to be told of its stop, by tokio's clock.
    due: BTreeMap<String, Duration>,
    closed: BTreeMap<String, Duration>,
    dead: BTreeSet<String>,
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
    pub fn new(plan: Arc<Plan>) -> Arc<Self> {
        let seed = plan.seed;
        let (undocumented, faults) = (plan.undocumented.clone(), plan.rules.clone());
        let options = Options { seed: Some(seed), undocumented, faults, ..Options::default() };
        options.check().expect("options that can be");
        let clock = Clock::start_at(Time::from_millis(EPOCH));
        let stopping = CancellationToken::new();
        let service =
            Service::new("https://sqs.us-east-1.amazonaws.com", options, clock.clone(), stopping);
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
            suspended: Duration::ZERO,
            limits: Limits::default(),
            keys: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            runs: BTreeMap::new(),
            crashes: BTreeMap::new(),
            ledgers: Vec::new(),
            handed_over: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            forged: BTreeMap::new(),
            executions: Vec::new(),
            lying: BTreeMap::new(),
            works: BTreeMap::new(),
            bounds: BTreeMap::new(),
            arrives: false,
            stops: BTreeMap::new(),
            due: BTreeMap::new(),
            closed: BTreeMap::new(),
            dead: BTreeSet::new(),
        };
        Arc::new(Self { plan, service, clock, started: Instant::now(), state: Mutex::new(state) })
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    /// True time.
    pub fn now(&self) -> Timestamp {
        let epoch =
            Timestamp::from_millisecond(i64::try_from(EPOCH).expect("fits")).expect("a time");
        epoch + SignedDuration::try_from(self.passed()).expect("fits")
    }

    /// Since the beginning, with the time for which the machine was suspended.
    pub fn passed(&self) -> Duration {
        self.started.elapsed() + self.state().suspended
    }

    /// The machine sleeps this long; the services do not.
    pub fn suspend(&self, time: Duration) {
        let from = self.passed();
        let mut state = self.state();
        state.suspended += time;
        state.limits.suspended(from, from + time);
        drop(state);
        self.clock.skip(time);
        self.count("fault: suspended");
        self.note(&format!("the machine was suspended for {time:?}"));
    }

    /// Whether something lasts now.
    pub fn is_in(&self, trouble: Trouble) -> bool {
        let state = self.state();
        let spells = &self.plan.hardships.spells;
        let denied =
            trouble == Trouble::Denied && self.plan.hardships.denied_for_good && !state.faults;
        let lasts = spells
            .iter()
            .any(|spell| spell.trouble == trouble && spell.covers(self.started.elapsed()));
        denied || state.faults && lasts
    }

    /// What the workers' wall clocks show.
    pub fn shown(&self) -> Timestamp {
        let skew = self.state().skew;
        self.now() + skew
    }

    pub fn jump(&self, skew: SignedDuration) {
        let at = self.passed();
        let mut state = self.state();
        let by = (skew - state.skew).unsigned_abs();
        if self.plan.fleet != Fleet::Sharing {
            state.limits.clock_set(at, by);
        }
        state.skew = skew;
        drop(state);
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

    /// Passes an event to the judge; the first broken promise ends the run.
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
        let left = open.chain(state.judge.in_the_end());
        left.filter(
            |broken| !matches!(broken, Broken::Hung(token) if self.is_excused(&state, token)),
        )
        .collect()
    }

    /// A step that only a lost message mentioned cannot be answered; but the workers' own refusals
    /// do not excuse them.
    fn is_excused(&self, state: &State, token: &String) -> bool {
        let hardships = &self.plan.hardships;
        let by_itself =
            hardships.alone && hardships.of == [Hardship::Throttled] && state.dead.contains(token);
        !by_itself && state.judge.is_excused(token, self.plan.fleet == Fleet::Apart)
    }

    /// An operator's or pipeline's request, which nothing troubles.
    pub async fn ask(&self, target: &str, body: Value) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", target.parse().expect("a header"));
        let answer = self.service.answer(&headers, body.to_string().as_bytes()).await;
        self.hear(None);
        let body = http_body_util::BodyExt::collect(answer.expect("an answer").into_body())
            .await
            .expect("a body");
        serde_json::from_slice(&body.to_bytes()).unwrap_or_default()
    }

    /// Someone else has the token now, and answers with it this much later.
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

    /// Someone answers the step through the ledger, this much later.
    pub fn answer_through(
        self: &Arc<Self>,
        ledger: u8,
        token: &str,
        after: Duration,
        success: bool,
    ) {
        let held = self.state().ledgers[usize::from(ledger)].clone();
        let approval = Approval { world: self.clone(), held, ledger, token: token.to_owned() };
        tokio::spawn(async move {
            sleep(after).await;
            approval.give(success).await;
        });
    }

    /// The content of the next ledger.
    pub fn keep(&self, held: Memory) {
        self.state().ledgers.push(held);
    }

    /// Whether the run of a step with these arguments is to answer it.
    pub fn answers_itself(&self, arguments: &Value) -> bool {
        self.plan.answering && arguments["kind"] == true
    }

    pub async fn create_queues(&self) {
        let hardships = &self.plan.hardships;
        let retention = hardships.retention.map_or(1_209_600, |time| time.as_secs()).to_string();
        let mut attributes = json!({"MessageRetentionPeriod": retention});
        if let Some(most) = hardships.max_receives {
            self.ask("AmazonSQS.CreateQueue", json!({"QueueName": DEAD_LETTERS})).await;
            let target = format!("arn:aws:sqs:us-east-1:123456789012:{DEAD_LETTERS}");
            let policy = json!({"deadLetterTargetArn": target, "maxReceiveCount": most});
            attributes["RedrivePolicy"] = policy.to_string().into();
        }
        let urls = [QUEUE_URL, SECOND_URL];
        for url in urls.into_iter().take(1 + usize::from(hardships.second_queue)) {
            let body = json!({"QueueName": url.rsplit('/').next(), "Attributes": attributes});
            assert_eq!(self.ask("AmazonSQS.CreateQueue", body).await["QueueUrl"], url);
        }
    }

    /// Takes in what the services have just done: for a worker's `report`, where it was one.
    pub fn hear(&self, report: Option<(Worker, &str)>) {
        loop {
            let event = self.state().events.try_recv();
            match event {
                Ok(event) => self.happened(event.kind, report),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
                Err(TryRecvError::Lagged(count)) => {
                    return self.fail(&format!("{count} events were not heard"));
                }
            }
        }
    }

    fn happened(&self, kind: EventKind, report: Option<(Worker, &str)>) {
        match kind {
            EventKind::MessageSent { id, body, queue } => {
                self.state().lying.insert(id.to_string(), queue);
                let forged = self.state().forged.get(&*body).cloned();
                if let Some(token) = forged {
                    return self.see(&Seen::Forged { message: id.to_string(), token });
                }
                let about = self.about(&body);
                self.introduce(&about, &id, &body);
                if about == About::Unreadable {
                    self.state().unreadable.insert(id.to_string());
                }
                self.see(&Seen::Sent { message: id.to_string(), about });
            }
            EventKind::MessageDeleted { id, .. } => {
                self.state().lying.remove(&*id);
                self.see(&Seen::Deleted { message: id.to_string() });
            }
            EventKind::MessageExpired { id, .. } => {
                self.count("fault: a message expires");
                self.lost(&id);
            }
            EventKind::MessageDeadLettered { id, .. } => {
                self.count("fault: a message is given up");
                self.given_up(&id);
                self.lost(&id);
            }
            EventKind::QueuePurged { queue, .. } => {
                let lying = self.state().lying.clone();
                for (id, _) in lying.into_iter().filter(|(_, of)| *of == queue) {
                    self.count("fault: a message is purged");
                    self.lost(&id);
                }
            }
            EventKind::MessageReceived { id, receives, .. } => {
                self.stop_arrives(&id);
                if self.state().unreadable.contains(&*id) {
                    self.count("path: unreadable message");
                }
                self.note(&format!("received {id} {receives}"));
            }
            EventKind::StepStarted { token, .. } => {
                self.count("step");
                self.opened(&token);
                self.see(&Seen::Opened { token });
            }
            EventKind::StepStopping { token, .. } => self.see(&Seen::Stopping { token }),
            EventKind::StepEnded { token: Some(token), status, .. } => {
                let now = self.elapsed();
                self.state().closed.insert(token.clone(), now);
                self.count(&format!("step {status}"));
                self.see(&Seen::Closed { token, succeeded: status == "Succeeded" });
            }
            EventKind::AnswerAccepted { token, repeated, .. } => {
                self.count(if repeated {
                    "path: the same answer again"
                } else {
                    "path: an answer taken"
                });
                // The step has come back, and the answer was to what it was before.
                let stale = repeated && self.open().contains(&token);
                self.reported(report, token, !stale);
            }
            EventKind::AnswerRefused { token, .. } => {
                self.count("path: an answer refused");
                self.reported(report, token, false);
            }
            EventKind::FaultApplied { operation, fault } => {
                self.count(&format!("fault: {fault} {operation}"));
            }
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

    /// What a message from a pipeline, or from someone else, is about.
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
        self.ask("AmazonSQS.SendMessage", json!({"QueueUrl": QUEUE_URL, "MessageBody": body}))
            .await;
    }

    fn opened(&self, token: &str) {
        let mut state = self.state();
        if state.closed.remove(token).is_some() {
            state.limits.came_back(token);
            state.due.remove(token);
            state.checkpoints.retain(|(_, other), _| other != token);
            drop(state);
            self.count("fault: a token comes back");
        }
    }

    /// Retries every execution that has failed or was stopped.
    pub async fn retry_all(&self, number: usize) {
        let executions = self.state().executions.clone();
        for (place, execution) in executions.into_iter().enumerate() {
            let request = format!("retry-{number:0>13}-{place:0>13}");
            let body = json!({"PipelineExecutionArn": execution, "ClientRequestToken": request});
            // Refused where it has not failed.
            self.ask("SageMaker.RetryPipelineExecution", body).await;
        }
    }

    fn lost(&self, id: &str) {
        self.state().lying.remove(id);
        self.see(&Seen::Lost { message: id.to_owned() });
    }

    fn given_up(&self, id: &str) {
        let mut state = self.state();
        if let Some(token) =
            state.works.iter().find(|(message, _)| *message == id).map(|(_, body)| token_of(body))
        {
            state.dead.insert(token);
        }
    }

    /// A message that a pipeline or a worker has sent: what it is about, and how often its step may
    /// be run.
    fn introduce(&self, about: &About<String>, id: &str, body: &str) {
        match about {
            About::Work(token) => {
                let (token, bounds) = (token.clone(), self.bounds(body));
                let attempts = bounds.attempts;
                self.state().bounds.insert(token.clone(), bounds);
                self.state().works.insert(id.to_owned(), body.to_owned());
                self.see(&Seen::Allowed { token, attempts });
            }
            About::Stop(token) => drop(self.state().stops.insert(id.to_owned(), token.clone())),
            About::Unreadable => {}
        }
    }

    /// What bounds the step of a message.
    fn bounds(&self, body: &str) -> Bounds {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        self.plan.bounds[usize::from(body["arguments"]["kind"] == true)]
    }

    /// Whether what is received from now on comes to a process that lives.
    pub fn receives(&self, arrives: bool) {
        self.state().arrives = arrives;
    }

    fn stop_arrives(&self, id: &str) {
        let now = self.elapsed();
        let mut state = self.state();
        let watched = self.plan.is_prompt()
            && self.plan.verify != "always"
            && self.plan.fleet == Fleet::Single;
        let stop = state.stops.get(id).filter(|token| !state.limits.has_come_back(token)).cloned();
        if let Some(token) = stop.filter(|_| watched && state.arrives) {
            state.due.entry(token).or_insert(now);
        }
    }

    pub fn life_ended(&self, worker: Worker) {
        let now = self.passed();
        let mut state = self.state();
        state.limits.life_ended(worker, now);
        // Its messages come again.
        state.due.clear();
    }

    /// A run is told to end, or ends without that: it began so long after the beginning, by the
    /// clock that counts suspension and by tokio's.
    pub fn run_ends(&self, worker: Worker, token: &str, begun: (Duration, Duration)) {
        let (passed, elapsed) = (self.passed(), self.elapsed());
        let state = self.state();
        let late = state.limits.is_late(worker.ledger, token, Bound::Time, begun.0, passed);
        let told_late =
            state.due.get(token).is_some_and(|due| elapsed > begun.1.max(*due) + PROMPT);
        drop(state);
        if late {
            self.fail(&Broken::LimitLate(token.to_owned()).to_string());
        }
        if told_late {
            self.fail(&Broken::ToldLate(token.to_owned()).to_string());
        }
    }

    pub fn limit_acted(&self, worker: Worker, token: &str, bound: Bound) {
        let now = self.passed();
        if self.state().limits.is_early(worker.ledger, token, bound, now) {
            self.fail(&Broken::LimitEarly(token.to_owned()).to_string());
        }
    }

    /// What a record that has become durable says of limits; it was written as things stood when it
    /// was `asked` for.
    pub fn limits(&self, worker: Worker, token: &str, record: &Value, asked: Duration) {
        let bounds = self.state().bounds.get(token).copied().unwrap_or_default();
        let deferred = record["status"] == "deferred";
        if !record["deadline"].is_null() && !bounds.time_limit.is_zero() {
            let (bound, limit) = if deferred {
                (Bound::Deferral, bounds.deferred_limit)
            } else {
                (Bound::Time, bounds.time_limit)
            };
            self.state().limits.written(worker, token, bound, asked + limit);
        }
        let outcome = record["outcome"].to_string();
        if outcome.contains("the time limit of") {
            self.limit_acted(worker, token, Bound::Time);
        } else if outcome.contains("nobody completed the deferred step")
            || outcome.contains("but did not answer the step")
        {
            self.limit_acted(worker, token, Bound::Deferral);
        }
    }

    /// What a record that has become durable says of the last death of a worker at this step.
    pub fn judged(&self, ledger: u8, token: &str, record: &Value) {
        let number = |field: &str| record[field].as_u64().unwrap_or_default();
        let now = (number("crashes"), number("attempt"));
        let before =
            self.state().crashes.insert((ledger, token.to_owned()), now).unwrap_or_default();
        if now.0 <= before.0 || !record["stop_requested"].is_null() {
            return;
        }
        // Either it says so itself, or the claim that goes with it does.
        let charged = record["status"] == "waiting" || record["resume"] != true && now.1 > before.1;
        self.count(if charged { "path: a crash is charged" } else { "path: a crash is spared" });
        self.see(&Seen::Judged { ledger, token: token.to_owned(), charged });
    }

    /// A cleanup begins: where nobody of that ledger ever ran the step, SageMaker was asked just
    /// now whether it waits.
    pub fn cleaning(&self, worker: Worker, token: &str) {
        let now = self.elapsed();
        let state = self.state();
        let long = state.closed.get(token).is_some_and(|at| now > *at + ASKED_LATELY);
        let has_run = state.judge.has_run(worker.ledger, &token.to_owned());
        drop(state);
        if long && !has_run && self.plan.is_prompt() && self.plan.hardships.spells.is_empty() {
            self.fail(&Broken::CleanedAfterClose(token.to_owned()).to_string());
        }
    }

    pub async fn purge(&self) {
        self.count("fault: the queue is purged");
        self.ask("AmazonSQS.PurgeQueue", json!({"QueueUrl": QUEUE_URL})).await;
    }

    fn open(&self) -> Vec<String> {
        self.state().judge.open().cloned().collect()
    }

    /// Someone else answers whatever SageMaker waits for.
    pub async fn complete_all(&self) {
        for token in self.open() {
            self.count("fault: completed by others");
            self.note(&format!("{token} is completed by others"));
            self.state().handed_over.insert(token.clone());
            let answer = json!({"CallbackToken": token, "ClientRequestToken": format!("others{token:0>26}"),
                "OutputParameters": [{"Name": "x", "Value": "1"}]});
            self.ask("SageMaker.SendPipelineExecutionStepSuccess", answer).await;
        }
    }

    /// The body of a step's message, if SageMaker waits for the step.
    fn bodies(&self) -> Vec<(String, String)> {
        let state = self.state();
        let open: Vec<String> = state.judge.open().cloned().collect();
        let works: BTreeMap<String, String> =
            state.works.values().map(|body| (token_of(body), body.clone())).collect();
        works.into_iter().filter(|(token, _)| open.contains(token)).collect()
    }

    pub async fn copy_to_second(&self) {
        for (_, body) in self.bodies() {
            self.count("fault: a copy on another queue");
            self.ask("AmazonSQS.SendMessage", json!({"QueueUrl": SECOND_URL, "MessageBody": body}))
                .await;
        }
    }

    /// Sends a message that no pipeline sends. Where workers do not ask SageMaker, they can know it
    /// only by their records.
    pub async fn forge(&self, forgery: Forgery) {
        const NOWHERE: &str =
            "arn:aws:sagemaker:us-east-1:123456789012:pipeline/pipeline0/execution/forgedforged";
        let ledgers: &[u8] = if self.plan.fleet == Fleet::Apart { &[0, 1] } else { &[0] };
        let always = self.plan.verify == "always";
        let known = |token: &String| always || self.state().judge.is_recorded(ledgers, token);
        let others = matches!(forgery, Forgery::OthersStop | Forgery::OthersWork);
        let victim = self.bodies().into_iter().map(|(token, _)| token).find(known);
        let token = match victim {
            Some(token) if others => token,
            None if others => return,
            _ if always => format!("FORGED{:04}", self.draw(10_000)),
            _ => return,
        };
        let status = match forgery {
            Forgery::UnknownStop | Forgery::OthersStop => "Stopping",
            Forgery::UnknownWork | Forgery::OthersWork => "Executing",
        };
        let body = json!({"token": token, "pipelineExecutionArn": NOWHERE, "arguments": {"script": 0, "kind": false},
            "status": status});
        let body = body.to_string();
        self.count(&format!("fault: forged {forgery:?}"));
        self.state().forged.insert(body.clone(), token);
        self.ask("AmazonSQS.SendMessage", json!({"QueueUrl": QUEUE_URL, "MessageBody": body}))
            .await;
    }

    pub fn started(&self, execution: Value) {
        self.state().executions.push(execution);
    }

    /// Stops every execution, and no message says so.
    pub async fn stop_all_silently(&self) {
        let silent = Undocumented {
            stopping_message: StoppingMessage::Never,
            ..self.service.undocumented()
        };
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

fn token_of(body: &str) -> String {
    match About::of(body) {
        About::Work(token) | About::Stop(token) => token,
        About::Unreadable => String::new(),
    }
}
