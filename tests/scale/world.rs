//! What outlives every worker: both services, the table's weather, true time, the meter, and what
//! has become of each step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use callbackd::ledger::{Memory, Store};
use callbackd::local::clock::{Clock, Time};
use callbackd::local::{Event, EventKind, Options, Service};
use fastrand::Rng;
use futures_util::FutureExt;
use hyper::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::capacity::{Capacity, Touches};
use crate::meter::{Meter, Window};
use crate::steps::{Kind, Steps};
use crate::units::Units;

pub const QUEUE_URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";
const EPOCH: u64 = 1_800_000_000_000;
/// The steps of an execution.
pub const STEPS: usize = 10;

/// When jobs of a group end: from then on, spread over this time.
pub type End = Option<(Instant, Duration)>;

/// Which jobs end together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// While SageMaker is down; few.
    Early,
    Late,
}

pub struct World {
    service: Service,
    started: Instant,
    /// What the fleet shares.
    pub held: Memory,
    ends: HashMap<Group, watch::Sender<End>>,
    state: Mutex<State>,
}

struct State {
    events: Receiver<Event>,
    meter: Meter,
    steps: Steps,
    random: Rng,
    /// SageMaker answers nothing.
    outage: bool,
    /// How likely the table throttles a request, whatever is asked of it.
    throttled: f64,
    capacity: Capacity,
    /// What the index holds: entries and bytes.
    index: (usize, usize),
    requests: u64,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let options = Options {
            seed: Some(seed),
            // A late copy of a message may be about any of them.
            ended_executions: usize::MAX,
            ..Options::default()
        };
        let clock = Clock::start_at(Time::from_millis(EPOCH));
        let service = Service::new(
            "https://sqs.us-east-1.amazonaws.com",
            options,
            clock,
            CancellationToken::new(),
        );
        let state = State {
            events: service.events().subscribe(),
            meter: Meter::default(),
            steps: Steps::default(),
            random: Rng::with_seed(seed),
            outage: false,
            throttled: 0.0,
            capacity: Capacity::new(1.0),
            index: (0, 0),
            requests: 0,
        };
        let ends = [Group::Early, Group::Late].map(|group| (group, watch::Sender::new(None)));
        Arc::new(Self {
            service,
            started: Instant::now(),
            held: Memory::shared(),
            ends: ends.into(),
            state: Mutex::new(state),
        })
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    pub fn passed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn second(&self) -> usize {
        usize::try_from(self.passed().as_secs()).expect("small")
    }

    /// What every clock shows.
    pub fn shown(&self) -> Timestamp {
        let epoch = Timestamp::from_millisecond(EPOCH.cast_signed()).expect("a time");
        epoch + SignedDuration::try_from(self.passed()).expect("fits")
    }

    pub fn call(&self, operation: &str) {
        let second = self.second();
        self.state().meter.call(operation, second);
    }

    pub fn charge(&self, touches: Touches, units: Units) {
        let second = self.second();
        let mut state = self.state();
        state.meter.units(units, second);
        state.capacity.take(touches, units);
    }

    /// What the table serves, as a share of what a new one at DynamoDB does.
    pub fn limit(&self, share: f64) {
        self.state().capacity = Capacity::new(share);
    }

    pub fn meter<T>(&self, look: impl FnOnce(&mut Meter) -> T) -> T {
        look(&mut self.state().meter)
    }

    pub fn steps<T>(&self, look: impl FnOnce(&mut Steps) -> T) -> T {
        look(&mut self.state().steps)
    }

    /// Whether the table serves a request, and does not throttle it.
    pub fn admits(&self, touches: Touches) -> bool {
        let now = self.passed();
        let mut state = self.state();
        let odds = state.throttled;
        let unlucky = odds > 0.0 && state.random.f64() < odds;
        !unlucky && state.capacity.admits(touches, now)
    }

    /// A number below `end`; the world's own chance.
    pub fn draw(&self, end: u64) -> u64 {
        self.state().random.u64(..end)
    }

    pub fn throttle(&self, odds: f64) {
        self.state().throttled = odds;
    }

    pub fn is_down(&self) -> bool {
        self.state().outage
    }

    pub fn set_down(&self, down: bool) {
        self.state().outage = down;
    }

    /// The index has come to hold this much more of one entry, or less.
    pub fn indexed(&self, before: Option<usize>, after: Option<usize>) {
        let (entries, bytes) = &mut self.state().index;
        *entries = *entries + usize::from(after.is_some()) - usize::from(before.is_some());
        *bytes = *bytes + after.unwrap_or_default() - before.unwrap_or_default();
    }

    /// The bytes of so many entries of the index.
    pub fn bytes_of(&self, entries: usize) -> usize {
        let (all, bytes) = self.state().index;
        bytes.checked_div(all).unwrap_or_default() * entries
    }

    /// The jobs of a group end from now on, spread over this time.
    pub fn end(&self, group: Group, spread: Duration) {
        self.ends[&group].send_replace(Some((Instant::now(), spread)));
    }

    pub fn end_of(&self, group: Group) -> watch::Receiver<End> {
        self.ends[&group].subscribe()
    }

    /// Someone else answers the step, this much later.
    pub fn hand_over(self: &Arc<Self>, token: String, after: Duration) {
        let world = self.clone();
        tokio::spawn(async move {
            sleep(after).await;
            let request = format!("{token:0>32}");
            let answer = json!({"CallbackToken": token, "ClientRequestToken": request,
                "OutputParameters": []});
            world.ask("SageMaker.SendPipelineExecutionStepSuccess", answer).await;
        });
    }

    pub async fn set_up(&self) {
        let retention = json!({"MessageRetentionPeriod": "1209600"});
        let queue = json!({"QueueName": "sagemaker-callbacks", "Attributes": retention});
        assert_eq!(self.ask("AmazonSQS.CreateQueue", queue).await["QueueUrl"], QUEUE_URL);
        for kind in Kind::ALL {
            let step = |number| {
                json!({"Name": format!("step{number}"), "Type": "Callback",
                    "SqsQueueUrl": QUEUE_URL, "OutputParameters": [],
                    "Arguments": {"kind": kind.name(), "number": number,
                        "dataset": "s3://features/penguins/part-00000.parquet"}})
            };
            let steps: Vec<Value> = (0..STEPS).map(step).collect();
            let definition = json!({"Version": "2020-12-01", "Steps": steps}).to_string();
            let pipeline = json!({"PipelineName": kind.name(), "PipelineDefinition": definition,
                "ClientRequestToken": format!("{:0>32}", kind.name()),
                "RoleArn": "arn:aws:iam::123456789012:role/r"});
            self.ask("SageMaker.CreatePipeline", pipeline).await;
        }
    }

    /// Starts an execution, with [`STEPS`] steps.
    pub async fn start(&self, kind: Kind) {
        let request = {
            let mut state = self.state();
            state.requests += 1;
            state.requests
        };
        let start =
            json!({"PipelineName": kind.name(), "ClientRequestToken": format!("{request:032}")});
        let started = self.ask("SageMaker.StartPipelineExecution", start).await;
        assert!(started["PipelineExecutionArn"].is_string(), "{started}");
    }

    /// How many messages the queue has.
    pub async fn messages(&self) -> usize {
        let input = json!({"QueueUrl": QUEUE_URL, "AttributeNames": ["All"]});
        let answer = self.ask("AmazonSQS.GetQueueAttributes", input).await;
        let number = |name: &str| -> usize {
            let text = answer["Attributes"][name].as_str();
            text.and_then(|text| text.parse().ok()).expect("a number")
        };
        number("ApproximateNumberOfMessages") + number("ApproximateNumberOfMessagesNotVisible")
    }

    /// A request of a pipeline or an operator, which nothing troubles and no one counts.
    async fn ask(&self, target: &str, body: Value) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", target.parse().expect("a header"));
        let answer = self.service.answer(&headers, body.to_string().as_bytes()).await;
        self.hear();
        let body = http_body_util::BodyExt::collect(answer.expect("an answer").into_body())
            .await
            .expect("a body");
        serde_json::from_slice(&body.to_bytes()).unwrap_or_default()
    }

    /// Takes in what the services have just done.
    pub fn hear(&self) {
        let mut state = self.state();
        let State { events, steps, .. } = &mut *state;
        loop {
            match events.try_recv() {
                Ok(event) => match event.kind {
                    EventKind::StepStarted { token, execution, .. } => {
                        steps.opened(&token, &execution);
                    }
                    EventKind::AnswerAccepted { token, repeated: false, .. } => {
                        steps.answered(&token);
                    }
                    EventKind::StepEnded { token: Some(token), status, .. } => {
                        steps.closed(&token, status);
                    }
                    _ => {}
                },
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
                Err(TryRecvError::Lagged(count)) => panic!("{count} events were not heard"),
            }
        }
    }

    /// Waits until it holds; how long that took, to the second.
    pub async fn until(
        &self,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Steps) -> bool,
    ) -> Duration {
        let began = Instant::now();
        while !holds(&self.state().steps) {
            assert!(
                began.elapsed() < patience,
                "not within {patience:?}: {what}; {:?}",
                self.forsaken()
            );
            sleep(Duration::from_secs(1)).await;
        }
        began.elapsed()
    }

    /// The records of some steps that run nowhere.
    fn forsaken(&self) -> Vec<String> {
        let state = self.state();
        let record = |token: &str| {
            let row = self.held.get(&token.parse().expect("a token")).now_or_never();
            format!("{token}: {row:?}")
        };
        state.steps.forsaken().into_iter().map(record).collect()
    }

    /// From this second to the present one.
    pub fn since(&self, second: usize) -> Window {
        second..self.second()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}
