//! The endpoint without its network: one lock around all state, and calls on it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::call::Call;
use super::clock::{Clock, Time};
use super::events::{EventKind, Events};
use super::faults::{Armed, Misbehaviour, Plan, Rule};
use super::ids::Ids;
use super::options::Options;
use super::protocol::{self, ApiError, Service as Dialect, Target};
use super::sagemaker::{self, SageMaker};
use super::sqs::{self, Queues, Receive, Waiting};
use super::sts::{self, ExternalIds};
use super::undocumented::Undocumented;

/// A request without an answer: its connection ends, as a fault rule demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is dropped, as a fault rule demands")]
pub struct Dropped {
    pub reset: bool,
}

/// Both services as one callable object.
#[derive(Debug)]
pub struct Service {
    region: String,
    account: String,
    ended_executions: usize,
    role_lifetime: Duration,
    clock: Clock,
    events: Events,
    state: Mutex<State>,
    /// Long polls end with it.
    stopping: CancellationToken,
}

#[derive(Debug)]
struct State {
    queues: Queues,
    /// By account. Others than the endpoint's own are made when a role of theirs calls.
    sagemaker: BTreeMap<String, SageMaker>,
    ids: Ids,
    plan: Plan,
    undocumented: Undocumented,
    external_ids: ExternalIds,
}

impl Service {
    /// `url` is what queue URLs begin with: scheme, host and port.
    pub fn new(url: &str, options: Options, clock: Clock, stopping: CancellationToken) -> Self {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        let state = State {
            queues: Queues::new(url, &options.region, &options.account),
            sagemaker: BTreeMap::new(),
            ids: Ids::seeded(seed),
            plan: Plan::new(options.faults, seed),
            undocumented: options.undocumented,
            external_ids: options.external_ids,
        };
        Self {
            region: options.region,
            account: options.account,
            role_lifetime: options.role_lifetime,
            ended_executions: options.ended_executions,
            clock,
            events: Events::new(),
            state: Mutex::new(state),
            stopping,
        }
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The faults of the next call of an operation. The caller must apply them.
    pub fn strike(&self, operation: &str) -> Misbehaviour {
        let misbehaviour = self.state().plan.strike(operation);
        for fault in &misbehaviour.struck {
            let operation = operation.to_owned();
            self.events.tell(self.clock.now(), || EventKind::FaultApplied { operation, fault });
        }
        misbehaviour
    }

    /// Replaces the rules.
    pub fn set_faults(&self, rules: Vec<Rule>, seed: Option<u64>) {
        self.state().plan = Plan::new(rules, seed.unwrap_or_else(|| fastrand::u64(..)));
    }

    pub fn faults(&self) -> Vec<Armed> {
        self.state().plan.rules().to_vec()
    }

    pub fn set_undocumented(&self, undocumented: Undocumented) {
        self.state().undocumented = undocumented;
    }

    pub fn undocumented(&self) -> Undocumented {
        self.state().undocumented.clone()
    }

    /// Replaces the external ids that roles require, by the role's ARN.
    pub fn set_external_ids(&self, external_ids: ExternalIds) {
        self.state().external_ids = external_ids;
    }

    pub fn external_ids(&self) -> ExternalIds {
        self.state().external_ids.clone()
    }

    pub fn request_id(&self) -> String {
        self.state().ids.uuid()
    }

    /// Answers one request as it arrives over the network, including its faults.
    ///
    /// # Errors
    /// [`Dropped`] if a fault rule suppresses the answer.
    pub async fn answer(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response<Full<Bytes>>, Dropped> {
        let target = match Target::read(headers, body) {
            Ok(target) => target,
            Err(error) => {
                return Ok(protocol::respond(Dialect::Sqs, &self.request_id(), &Err(error)));
            }
        };
        let suffers = self.strike(&target.operation);
        let respond = |answer| Ok(protocol::respond(target.service, &self.request_id(), &answer));
        let error = suffers.error.as_ref().map(|refusal| {
            let error = ApiError::new(refusal.code.clone(), refusal.message.clone());
            (refusal.acted, ApiError { status: refusal.status, ..error })
        });
        self.pause(suffers.before).await;
        if let Some(disconnect) = suffers.disconnect.filter(|disconnect| !disconnect.acted) {
            return Err(Dropped { reset: disconnect.reset });
        }
        if let Some((false, error)) = error {
            return respond(Err(error));
        }
        let answer = match protocol::body(body) {
            _ if target.service == Dialect::Sts => self.with(&suffers, |state, call| {
                let role = sts::account_of_role(headers);
                let terms = (state.external_ids, self.role_lifetime);
                sts::call(&target.operation, body, role, &self.account, terms, call)
            }),
            Ok(_) if let Err(error) = sts::refuse_expired(headers, self.clock.now()) => Err(error),
            Ok(body) => {
                let account = sts::account_of_role(headers).unwrap_or(&self.account);
                self.call_as(account, &target, body, &suffers).await
            }
            Err(error) => Err(error),
        };
        self.pause(suffers.after).await;
        if let Some(disconnect) = suffers.disconnect {
            return Err(Dropped { reset: disconnect.reset });
        }
        respond(error.map_or(answer, |(_, error)| Err(error)))
    }

    async fn pause(&self, latency: Duration) {
        // Even a sleep of zero would cost a tick of the timer.
        if !latency.is_zero() {
            self.stopping.run_until_cancelled(sleep(latency)).await;
        }
    }

    /// Performs an operation in the endpoint's own account; a long poll returns when it has
    /// something, or when its time or the endpoint ends.
    ///
    /// # Errors
    /// The operation's own.
    pub async fn call(
        &self,
        target: &Target,
        body: Value,
        suffers: &Misbehaviour,
    ) -> Result<Value, ApiError> {
        self.call_as(&self.account, target, body, suffers).await
    }

    async fn call_as(
        &self,
        account: &str,
        target: &Target,
        body: Value,
        suffers: &Misbehaviour,
    ) -> Result<Value, ApiError> {
        let operation = target.operation.as_str();
        match target.service {
            Dialect::Sqs if operation == "ReceiveMessage" => self.receive(body, suffers).await,
            Dialect::Sts => Err(ApiError::unknown_operation(operation)),
            Dialect::Sqs => self
                .with(suffers, |state, call| sqs::api::call(operation, body, state.queues, call)),
            Dialect::SageMaker => self.with(suffers, |state, call| {
                let sagemaker = state.sagemaker.entry(account.to_owned()).or_insert_with(|| {
                    SageMaker::new(&self.region, account, self.ended_executions)
                });
                sagemaker::api::call(operation, &body, sagemaker, state.queues, call)
            }),
        }
    }

    async fn receive(&self, body: Value, suffers: &Misbehaviour) -> Result<Value, ApiError> {
        let receive = self.with(suffers, |state, call| Receive::read(body, state.queues, call))?;
        let end = self.clock.now().plus(receive.wait);
        loop {
            let Waiting { until, changed } =
                match self.with(suffers, |state, call| receive.look(state.queues, call))? {
                    Ok(output) => return Ok(output),
                    Err(_) if self.clock.now() >= end || self.stopping.is_cancelled() => {
                        return Ok(json!({}));
                    }
                    Err(waiting) => waiting,
                };
            let until = until.map_or(end, |time: Time| time.min(end));
            let changed = pin!(changed);
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(self.clock.instant(until)) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    fn with<T>(
        &self,
        suffers: &Misbehaviour,
        act: impl FnOnce(Parts<'_>, &mut Call<'_>) -> T,
    ) -> T {
        let mut state = self.state();
        let State { queues, sagemaker, ids, plan, undocumented, external_ids } = &mut *state;
        let mut call = Call {
            now: self.clock.now(),
            ids,
            undocumented,
            events: &self.events,
            misbehaviour: suffers,
            plan,
        };
        act(Parts { queues, sagemaker, external_ids }, &mut call)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves nothing half done that matters more than continuing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Parts<'a> {
    queues: &'a mut Queues,
    sagemaker: &'a mut BTreeMap<String, SageMaker>,
    external_ids: &'a ExternalIds,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::faults::Fault;
    use std::sync::Arc;
    use tokio::time::Instant;

    const REQUEST_TOKEN: &str = "0123456789abcdef0123456789abcdef";

    /// A service with a queue `q` and time that moves only when everything waits.
    struct Bench {
        service: Arc<Service>,
        stopping: CancellationToken,
        url: String,
    }

    impl Bench {
        async fn new(options: Options) -> Self {
            let stopping = CancellationToken::new();
            let options = Options { seed: Some(1), ..options };
            let clock = Clock::start_at(Time::from_millis(1_700_000_000_000));
            let service = Service::new("http://localhost:1", options, clock, stopping.clone());
            let bench = Self { service: Arc::new(service), stopping, url: String::new() };
            let created =
                bench.sqs("CreateQueue", json!({"QueueName": "q"})).await.expect("created");
            Self { url: created["QueueUrl"].as_str().expect("a URL").to_owned(), ..bench }
        }

        async fn sqs(&self, operation: &str, body: Value) -> Result<Value, ApiError> {
            self.call(Dialect::Sqs, operation, body).await
        }

        async fn sagemaker(&self, operation: &str, body: Value) -> Result<Value, ApiError> {
            self.call(Dialect::SageMaker, operation, body).await
        }

        async fn call(
            &self,
            service: Dialect,
            operation: &str,
            body: Value,
        ) -> Result<Value, ApiError> {
            let suffers = self.service.strike(operation);
            self.service
                .call(&Target { service, operation: operation.to_owned() }, body, &suffers)
                .await
        }

        async fn send(&self, body: &str) {
            self.sqs("SendMessage", json!({"QueueUrl": self.url, "MessageBody": body}))
                .await
                .expect("sent");
        }

        /// The result of a receive; `wait` in seconds.
        async fn receive(&self, wait: u64) -> Vec<Value> {
            let ask = json!({"QueueUrl": self.url, "WaitTimeSeconds": wait, "MaxNumberOfMessages": 10,
                "MessageSystemAttributeNames": ["All"]});
            let output = self.sqs("ReceiveMessage", ask).await.expect("received");
            output["Messages"].as_array().cloned().unwrap_or_default()
        }

        /// The bodies of step messages that are visible now.
        async fn step_messages(&self) -> Vec<Value> {
            let bodies = self.receive(0).await;
            bodies
                .iter()
                .map(|it| serde_json::from_str(it["Body"].as_str().expect("text")).expect("JSON"))
                .collect()
        }

        /// Starts a pipeline of one step; returns the execution's ARN.
        async fn start(&self) -> String {
            let step = json!({"Name": "a", "Type": "Callback", "SqsQueueUrl": self.url, "Arguments": {"n": 1},
                "OutputParameters": [{"OutputName": "x", "OutputType": "String"}]});
            let definition = json!({"Version": "2020-12-01", "Steps": [step]}).to_string();
            let pipeline = json!({"PipelineName": "p", "PipelineDefinition": definition, "ClientRequestToken": REQUEST_TOKEN,
                "RoleArn": "arn:aws:iam::123456789012:role/r"});
            self.sagemaker("CreatePipeline", pipeline).await.expect("created");
            let start = json!({"PipelineName": "p", "ClientRequestToken": REQUEST_TOKEN});
            let started = self.sagemaker("StartPipelineExecution", start).await.expect("started");
            started["PipelineExecutionArn"].as_str().expect("an ARN").to_owned()
        }

        async fn status(&self, arn: &str) -> String {
            let described = self
                .sagemaker("DescribePipelineExecution", json!({"PipelineExecutionArn": arn}))
                .await;
            described.expect("described")["PipelineExecutionStatus"]
                .as_str()
                .expect("a status")
                .to_owned()
        }

        async fn stop(&self, arn: &str) {
            let stop = json!({"PipelineExecutionArn": arn, "ClientRequestToken": REQUEST_TOKEN});
            self.sagemaker("StopPipelineExecution", stop).await.expect("stopping");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_wakes_the_moment_a_message_is_sent() {
        let bench = Arc::new(Bench::new(Options::default()).await);
        let started = Instant::now();
        let polling = tokio::spawn({
            let bench = bench.clone();
            async move { bench.receive(20).await }
        });
        // Paused time moves on once the poll waits too.
        tokio::time::sleep(Duration::from_secs(7)).await;
        bench.send("hello").await;
        assert_eq!(polling.await.expect("polled").len(), 1);
        assert_eq!(started.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_wakes_when_a_hidden_message_comes_back() {
        let bench = Bench::new(Options::default()).await;
        bench.send("hello").await;
        assert_eq!(bench.receive(0).await.len(), 1);
        let all = json!({"QueueUrl": bench.url, "AttributeNames": ["All"]});
        let attributes = bench.sqs("GetQueueAttributes", all).await.expect("attributes");
        assert_eq!(attributes["Attributes"]["ApproximateNumberOfMessagesNotVisible"], "1");
        tokio::time::sleep(Duration::from_secs(15)).await;
        let started = Instant::now();
        let again = bench.receive(20).await;
        assert_eq!(again[0]["Attributes"]["ApproximateReceiveCount"], "2");
        assert_eq!(started.elapsed().as_secs(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_that_brings_nothing_lasts_as_long_as_it_asked_for() {
        let bench = Bench::new(Options::default()).await;
        let started = Instant::now();
        assert_eq!(bench.receive(20).await, Vec::<Value>::new());
        assert_eq!(started.elapsed().as_secs(), 20);
        assert_eq!(bench.receive(0).await, Vec::<Value>::new());
        assert_eq!(started.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_is_answered_when_the_endpoint_stops() {
        let bench = Bench::new(Options::default()).await;
        let started = Instant::now();
        let stop = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            bench.stopping.cancel();
        };
        let (messages, ()) = tokio::join!(bench.receive(20), stop);
        assert_eq!(messages, Vec::<Value>::new());
        assert_eq!(started.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_poll_on_a_queue_that_is_deleted_says_so() {
        let bench = Bench::new(Options::default()).await;
        let delete = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bench.sqs("DeleteQueue", json!({"QueueUrl": bench.url})).await.expect("deleted");
        };
        let poll =
            bench.sqs("ReceiveMessage", json!({"QueueUrl": bench.url, "WaitTimeSeconds": 20}));
        let (polled, ()) = tokio::join!(poll, delete);
        assert_eq!(polled.expect_err("gone").code, "QueueDoesNotExist");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_ended_executions_are_forgotten() {
        let bench = Bench::new(Options { ended_executions: 1, ..Options::default() }).await;
        let mut arns = vec![bench.start().await];
        for number in 1..3 {
            let start =
                json!({"PipelineName": "p", "ClientRequestToken": format!("{number:0>32}")});
            let started = bench.sagemaker("StartPipelineExecution", start).await.expect("started");
            arns.push(started["PipelineExecutionArn"].as_str().expect("an ARN").to_owned());
        }
        let step = |arn: &str| {
            let list = json!({"PipelineExecutionArn": arn});
            bench.sagemaker("ListPipelineExecutionSteps", list)
        };
        for message in bench.step_messages().await {
            let token = message["token"].as_str().expect("a token");
            let answer = json!({"CallbackToken": token,
                "ClientRequestToken": format!("{token:0>32}"), "OutputParameters": [{"Name": "x", "Value": "1"}]});
            // The third goes on.
            if message["pipelineExecutionArn"] != *arns[2] {
                bench
                    .sagemaker("SendPipelineExecutionStepSuccess", answer)
                    .await
                    .expect("answered");
            }
        }
        assert_eq!(step(&arns[0]).await.expect_err("forgotten").code, "ResourceNotFound");
        assert_eq!(bench.status(&arns[1]).await, "Succeeded");
        assert_eq!(bench.status(&arns[2]).await, "Executing");
    }

    #[tokio::test(start_paused = true)]
    async fn one_message_wakes_many_polls_and_goes_to_one() {
        let bench = Bench::new(Options::default()).await;
        let send = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bench.send("hello").await;
        };
        let (a, b, c, ()) =
            tokio::join!(bench.receive(5), bench.receive(5), bench.receive(5), send);
        assert_eq!(a.len() + b.len() + c.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn system_attributes_come_only_when_asked_for() {
        let bench = Bench::new(Options::default()).await;
        bench.send("hello").await;
        let shown = |names: Value| {
            let ask = json!({"QueueUrl": bench.url, "VisibilityTimeout": 0, "MessageSystemAttributeNames": names});
            let bench = &bench;
            async move {
                bench.sqs("ReceiveMessage", ask).await.expect("received")["Messages"][0]["Attributes"].clone()
            }
        };
        assert_eq!(shown(json!([])).await, Value::Null);
        assert_eq!(
            shown(json!(["SentTimestamp"])).await,
            json!({"SentTimestamp": "1700000000000"})
        );
        assert_eq!(
            shown(json!(["ApproximateReceiveCount"])).await,
            json!({"ApproximateReceiveCount": "3"})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_keeps_its_first_timestamp() {
        let bench = Bench::new(Options::default()).await;
        bench.sqs("CreateQueue", json!({"QueueName": "dead"})).await.expect("created");
        let policy = json!({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": 1});
        let set = json!({"QueueUrl": bench.url, "Attributes": {"RedrivePolicy": policy.to_string(), "VisibilityTimeout": "1"}});
        bench.sqs("SetQueueAttributes", set).await.expect("set");
        bench.send("hello").await;
        assert_eq!(bench.receive(0).await.len(), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.receive(0).await.len(), 0);
        let dead = Bench {
            url: "https://sqs.us-east-1.amazonaws.com/123456789012/dead".to_owned(),
            ..bench
        };
        let letter = dead.receive(0).await.remove(0);
        assert_eq!(letter["Attributes"]["SentTimestamp"], "1700000000000");
        assert_eq!(
            letter["Attributes"]["DeadLetterQueueSourceArn"],
            "arn:aws:sqs:us-east-1:123456789012:q"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_fails_entry_by_entry() {
        let fault = Fault::FailEntries { first: 1, code: "InternalError".to_owned() };
        let bench = Bench::new(Options {
            faults: vec![Rule::new("DeleteMessageBatch", fault)],
            ..Options::default()
        })
        .await;
        bench.send("a").await;
        bench.send("b").await;
        let receipt_handles: Vec<Value> =
            bench.receive(0).await.iter().map(|it| it["ReceiptHandle"].clone()).collect();
        let entries = json!([{"Id": "0", "ReceiptHandle": receipt_handles[0]}, {"Id": "1", "ReceiptHandle": receipt_handles[1]},
            {"Id": "2", "ReceiptHandle": "nonsense"}]);
        let batch = json!({"QueueUrl": bench.url, "Entries": entries});
        let output = bench.sqs("DeleteMessageBatch", batch).await.expect("a batch");
        assert_eq!(output["Successful"], json!([{"Id": "1"}]));
        let failed: Vec<_> = output["Failed"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it["Code"].clone())
            .collect();
        assert_eq!(failed, ["InternalError", "ReceiptHandleIsInvalid"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_told_to_start_and_to_stop_with_the_same_token_and_arguments() {
        let bench = Bench::new(Options::default()).await;
        let arn = bench.start().await;
        let executing = bench.step_messages().await.remove(0);
        bench.stop(&arn).await;
        let stopping = bench.step_messages().await.remove(0);
        assert_eq!(executing["status"], "Executing");
        assert_eq!(executing["arguments"], json!({"n": 1}));
        assert_eq!(executing["pipelineExecutionArn"], json!(arn));
        assert_eq!(stopping["status"], "Stopping");
        assert_eq!(
            (&stopping["token"], &stopping["arguments"]),
            (&executing["token"], &executing["arguments"])
        );
        assert_eq!(bench.status(&arn).await, "Stopping");
        let answer = json!({"CallbackToken": executing["token"], "FailureReason": "stopped"});
        bench.sagemaker("SendPipelineExecutionStepFailure", answer).await.expect("accepted");
        assert_eq!(bench.status(&arn).await, "Stopped");
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_start_again_starts_nothing() {
        let bench = Bench::new(Options::default()).await;
        let arn = bench.start().await;
        let start = json!({"PipelineName": "p", "ClientRequestToken": REQUEST_TOKEN});
        let again = bench.sagemaker("StartPipelineExecution", start.clone()).await.expect("known");
        assert_eq!(again["PipelineExecutionArn"], json!(arn));
        assert_eq!(bench.step_messages().await.len(), 1);
        let mut other = start;
        other["PipelineExecutionDescription"] = json!("another");
        assert_eq!(
            bench.sagemaker("StartPipelineExecution", other).await.expect_err("other").code,
            "ConflictException"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_retried_execution_asks_for_its_failed_step_again_with_the_same_token_or_a_fresh_one()
    {
        use crate::local::undocumented::RetriedToken;
        for (retried_token, same) in [(RetriedToken::Fresh, false), (RetriedToken::Same, true)] {
            let undocumented = Undocumented { retried_token, ..Undocumented::default() };
            let bench = Bench::new(Options { undocumented, ..Options::default() }).await;
            let arn = bench.start().await;
            let first = bench.step_messages().await[0]["token"].clone();
            let retry = json!({"PipelineExecutionArn": arn, "ClientRequestToken": REQUEST_TOKEN});
            let too_soon = bench
                .sagemaker("RetryPipelineExecution", retry.clone())
                .await
                .expect_err("it runs");
            assert_eq!(too_soon.code, "ConflictException");
            let fail = |token: &Value| json!({"CallbackToken": token, "FailureReason": "broken", "ClientRequestToken": REQUEST_TOKEN});
            bench
                .sagemaker("SendPipelineExecutionStepFailure", fail(&first))
                .await
                .expect("accepted");
            assert_eq!(bench.status(&arn).await, "Failed");
            for _ in 0..2 {
                let retried = bench
                    .sagemaker("RetryPipelineExecution", retry.clone())
                    .await
                    .expect("retried");
                assert_eq!(retried["PipelineExecutionArn"], json!(arn));
            }
            assert_eq!(bench.status(&arn).await, "Executing");
            let messages = bench.step_messages().await;
            assert_eq!((messages.len(), messages[0]["token"] == first), (1, same));
            assert_eq!(messages[0]["arguments"], json!({"n": 1}));
            let again = bench.sagemaker("SendPipelineExecutionStepFailure", fail(&first)).await;
            assert!(again.is_ok(), "an equal answer is taken, or was seen before: {again:?}");
            assert_eq!(bench.status(&arn).await, if same { "Failed" } else { "Executing" });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_stopping_message_comes_as_often_and_as_late_as_it_is_told_to() {
        use crate::local::undocumented::StoppingMessage;
        for (stopping_message, messages) in
            [(StoppingMessage::Never, 0), (StoppingMessage::Once, 1), (StoppingMessage::Twice, 2)]
        {
            let stopping_delay = Duration::from_mins(1);
            let undocumented =
                Undocumented { stopping_message, stopping_delay, ..Undocumented::default() };
            let bench = Bench::new(Options { undocumented, ..Options::default() }).await;
            let arn = bench.start().await;
            let receipt_handle = bench.receive(0).await[0]["ReceiptHandle"].clone();
            bench
                .sqs(
                    "DeleteMessage",
                    json!({"QueueUrl": bench.url, "ReceiptHandle": receipt_handle}),
                )
                .await
                .expect("deleted");
            bench.stop(&arn).await;
            assert_eq!(bench.receive(0).await.len(), 0);
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert_eq!(bench.receive(0).await.len(), messages);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_steps_message_can_be_lost_doubled_or_late() {
        for (fault, at_once, later) in [
            (Fault::Lose, 0, 0),
            (Fault::Duplicate, 2, 2),
            (Fault::Latency { millis: 5_000, acted: false }, 0, 1),
        ] {
            let rule = Rule::new(crate::local::faults::EXECUTING_MESSAGE, fault);
            let bench = Bench::new(Options { faults: vec![rule], ..Options::default() }).await;
            bench.start().await;
            assert_eq!(bench.receive(0).await.len(), at_once);
            tokio::time::sleep(Duration::from_secs(35)).await;
            assert_eq!(bench.receive(0).await.len(), later);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_whose_queue_does_not_exist_fails_the_execution() {
        let bench = Bench::new(Options::default()).await;
        bench.sqs("DeleteQueue", json!({"QueueUrl": bench.url})).await.expect("deleted");
        let arn = bench.start().await;
        assert_eq!(bench.status(&arn).await, "Failed");
        let steps = bench
            .sagemaker("ListPipelineExecutionSteps", json!({"PipelineExecutionArn": arn}))
            .await;
        let reason = steps.expect("listed")["PipelineExecutionSteps"][0]["FailureReason"].clone();
        assert!(
            reason.as_str().is_some_and(|reason| reason.contains("does not exist")),
            "{reason}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_told_with_its_client_request_token() {
        let bench = Bench::new(Options::default()).await;
        bench.start().await;
        let token = bench.step_messages().await[0]["token"].clone();
        let mut events = bench.service.events().subscribe();
        let answer = json!({"CallbackToken": token, "ClientRequestToken": REQUEST_TOKEN,
            "OutputParameters": [{"Name": "x", "Value": "1"}]});
        for _ in 0..2 {
            bench
                .sagemaker("SendPipelineExecutionStepSuccess", answer.clone())
                .await
                .expect("accepted");
        }
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            told.push(serde_json::to_value(event.kind).expect("serialisable"));
        }
        let names: Vec<_> =
            told.iter().map(|it| it["event"].as_str().unwrap_or_default()).collect();
        assert_eq!(names, ["answer_accepted", "step_ended", "execution_ended", "answer_accepted"]);
        assert_eq!(
            (&told[0]["request_token"], &told[0]["repeated"]),
            (&json!(REQUEST_TOKEN), &json!(false))
        );
        assert_eq!(told[3]["repeated"], json!(true));
        assert_eq!(told[1]["outputs"], json!({"x": "1"}));
    }
}
