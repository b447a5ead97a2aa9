//! A scripted SageMaker that checks and records every request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http_server::{self, Response, serve};
use crate::service_model;

pub const SUCCESS: &str = "SendPipelineExecutionStepSuccess";
pub const FAILURE: &str = "SendPipelineExecutionStepFailure";
pub const LIST: &str = "ListPipelineExecutionSteps";
pub const DESCRIBE: &str = "DescribePipelineExecution";
pub const LIST_EXECUTIONS: &str = "ListPipelineExecutions";
pub const LIST_PIPELINES: &str = "ListPipelines";
/// What workers and `callbackd reconcile` call.
const CALLED: [&str; 6] = [SUCCESS, FAILURE, LIST, DESCRIBE, LIST_EXECUTIONS, LIST_PIPELINES];

/// What is done to one request instead of answering it.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// An error answer with this HTTP status and code; nothing is processed.
    Answer(u16, &'static str),
    /// The connection is closed before the request is processed.
    CloseBefore,
    /// The request is processed, and the connection closed instead of answered.
    CloseAfter,
    /// No answer ever, nothing processed.
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub operation: String,
    pub body: String,
    pub at: Timestamp,
}

pub struct SageMaker {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// By execution ARN.
    executions: BTreeMap<String, Execution>,
    requests: Vec<Request>,
    /// One for each coming request, by operation.
    script: BTreeMap<String, VecDeque<Fault>>,
    /// For every request, after the script, until healed.
    lasting: BTreeMap<String, Fault>,
    /// Executions whose step is neither listed nor found.
    hidden: BTreeSet<String>,
    /// Executions that end with a status once their steps were listed this often.
    closing: BTreeMap<String, (usize, &'static str)>,
    /// How many executions a page has, if fewer than asked for.
    page: Option<usize>,
    /// Requests that are not answered yet, by operation, and the most of them that there ever were.
    open: BTreeMap<String, (usize, usize)>,
    /// Everything that was invalid in a request.
    invalid: Vec<String>,
}

struct Execution {
    status: &'static str,
    steps: Vec<Step>,
    /// Since when it is being stopped.
    stopped: Option<Timestamp>,
}

struct Step {
    token: String,
    queue_url: String,
    status: &'static str,
    started: Timestamp,
    accepted: Option<Request>,
}

impl SageMaker {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let serving = serve(listener, move |request| answer(request, shared.clone()));
        Self { address, state, serving }
    }

    /// An execution whose callback step waits with this token; one more step of an execution that
    /// is there.
    pub fn begin(&self, arn: &str, token: &str, queue_url: &str) {
        let step = Step {
            token: token.to_owned(),
            queue_url: queue_url.to_owned(),
            status: "Executing",
            started: Timestamp::now(),
            accepted: None,
        };
        let executions = &mut self.state.lock().unwrap().executions;
        let new = || Execution { status: "Executing", steps: Vec::new(), stopped: None };
        executions.entry(arn.to_owned()).or_insert_with(new).steps.push(step);
    }

    /// `StopPipelineExecution`, but for the message; again, it changes nothing.
    pub fn stop(&self, arn: &str) {
        let mut state = self.state.lock().unwrap();
        let execution = state.executions.get_mut(arn).expect("an execution");
        execution.status = "Stopping";
        execution.stopped.get_or_insert_with(Timestamp::now);
        for step in execution.steps.iter_mut().filter(|step| step.status == "Executing") {
            step.status = "Stopping";
        }
    }

    /// Since when the execution is being stopped.
    pub fn stopped(&self, arn: &str) -> Option<Timestamp> {
        self.state.lock().unwrap().executions.get(arn)?.stopped
    }

    /// The step and its execution end without our answer.
    pub fn close(&self, arn: &str, status: &'static str) {
        let mut state = self.state.lock().unwrap();
        let execution = state.executions.get_mut(arn).expect("an execution");
        execution.status = status;
        for step in &mut execution.steps {
            step.status = status;
        }
    }

    /// Someone else answers one step of an execution, which goes on.
    pub fn close_step(&self, arn: &str, token: &str, status: &'static str) {
        let mut state = self.state.lock().unwrap();
        let steps = &mut state.executions.get_mut(arn).expect("an execution").steps;
        steps.iter_mut().find(|step| step.token == token).expect("a step").status = status;
    }

    /// The step of an execution has waited for so many hours.
    pub fn has_waited(&self, arn: &str, hours: i64) {
        let mut state = self.state.lock().unwrap();
        let execution = state.executions.get_mut(arn).expect("an execution");
        for step in &mut execution.steps {
            step.started = Timestamp::now() - SignedDuration::from_hours(hours);
        }
    }

    /// [`close`](Self::close), once the steps were listed `lists` times from now on.
    pub fn close_after(&self, arn: &str, lists: usize, status: &'static str) {
        self.state.lock().unwrap().closing.insert(arn.to_owned(), (lists, status));
    }

    /// The step waits again, with the same token, as if it had not been answered.
    pub fn reopen(&self, arn: &str) {
        self.close(arn, "Executing");
    }

    /// From now on a page of executions has so many.
    pub fn page_size(&self, count: usize) {
        self.state.lock().unwrap().page = Some(count);
    }

    /// The step of an execution is not found from now on, though it waits.
    pub fn hide(&self, arn: &str) {
        self.state.lock().unwrap().hidden.insert(arn.to_owned());
    }

    pub fn show(&self, arn: &str) {
        self.state.lock().unwrap().hidden.remove(arn);
    }

    /// The most requests for an operation that were open at once.
    pub fn most_at_once(&self, operation: &str) -> usize {
        self.state.lock().unwrap().open.get(operation).map_or(0, |(_, most)| *most)
    }

    /// Faults for the next requests for an operation, one each.
    pub fn script(&self, operation: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().script.entry(operation.to_owned()).or_default().extend(faults);
    }

    /// A fault for every request for an operation, until healed.
    pub fn always(&self, operation: &str, fault: Fault) {
        self.state.lock().unwrap().lasting.insert(operation.to_owned(), fault);
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().lasting.clear();
    }

    /// The requests for an operation, in order.
    pub fn requests(&self, operation: &str) -> Vec<Request> {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|request| request.operation == operation).cloned().collect()
    }

    /// Every report that was sent for a token, accepted or not, in order.
    pub fn reports(&self, token: &str) -> Vec<Request> {
        let state = self.state.lock().unwrap();
        let of_token = |request: &&Request| {
            request.operation.starts_with("Send")
                && request.json()["CallbackToken"].as_str() == Some(token)
        };
        state.requests.iter().filter(of_token).cloned().collect()
    }

    pub fn number_of_requests(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }

    /// The answer that a step accepted.
    pub fn accepted(&self, token: &str) -> Option<Request> {
        let state = self.state.lock().unwrap();
        state
            .executions
            .values()
            .flat_map(|execution| &execution.steps)
            .find(|step| step.token == token)?
            .accepted
            .clone()
    }

    /// What was invalid in any request so far.
    pub fn complaints(&self) -> Vec<String> {
        self.state.lock().unwrap().invalid.clone()
    }
}

impl Drop for SageMaker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    pub fn reason(&self) -> String {
        assert_eq!(self.operation, FAILURE, "{self:?}");
        self.json()["FailureReason"].as_str().unwrap_or_default().to_owned()
    }

    /// The outputs as an object.
    pub fn outputs(&self) -> Value {
        assert_eq!(self.operation, SUCCESS, "{self:?}");
        let outputs = self.json()["OutputParameters"].as_array().cloned().unwrap_or_default();
        outputs
            .iter()
            .map(|one| (one["Name"].as_str().unwrap_or_default().to_owned(), one["Value"].clone()))
            .collect()
    }
}

async fn answer(request: http_server::Request, state: Arc<Mutex<State>>) -> io::Result<Response> {
    let target = request
        .headers()
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok())
        .unwrap_or_default();
    let operation = target.strip_prefix("SageMaker.").unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request {
        operation,
        body: String::from_utf8_lossy(&body).into_owned(),
        at: Timestamp::now(),
    };
    let _open = Open::new(&state, &request.operation);
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        for why in wrong_with(&request) {
            state.invalid.push(format!("{}: {why}: {}", request.operation, request.body));
        }
        let scripted = state.script.get_mut(&request.operation).and_then(VecDeque::pop_front);
        scripted.or_else(|| state.lasting.get(&request.operation).copied())
    };
    let processed = matches!(fault, None | Some(Fault::CloseAfter));
    let answer = processed.then(|| state.lock().unwrap().process(&request));
    match (fault, answer) {
        (Some(Fault::Answer(status, code)), _) => Ok(error(status, code, "as scripted")),
        (Some(Fault::Hang), _) => pending().await,
        (None, Some(Ok(value))) => {
            let wrong = service_model::sagemaker().wrong_with_answer(&request.operation, &value);
            state
                .lock()
                .unwrap()
                .invalid
                .extend(wrong.into_iter().map(|why| format!("our own answer: {why}")));
            Ok(respond(200, &value))
        }
        (None, Some(Err((code, message)))) => Ok(error(400, code, &message)),
        _ => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// A request that is not answered yet.
struct Open<'a>(&'a Mutex<State>, &'a str);

impl<'a> Open<'a> {
    fn new(state: &'a Mutex<State>, operation: &'a str) -> Self {
        let mut held = state.lock().unwrap();
        let (now, most) = held.open.entry(operation.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        drop(held);
        Self(state, operation)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some((now, _)) = self.0.lock().unwrap().open.get_mut(self.1) {
            *now -= 1;
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    respond(status, &json!({ "__type": code, "message": message }))
}

fn respond(status: u16, value: &Value) -> Response {
    let mut response = hyper::Response::new(Full::from(value.to_string()));
    *response.status_mut() = status.try_into().expect("a status");
    response
        .headers_mut()
        .insert("content-type", "application/x-amz-json-1.1".parse().expect("a header"));
    response
}

/// What no request of a worker may be: one that the service's model does not allow, or one that is
/// not idempotent.
fn wrong_with(request: &Request) -> Vec<String> {
    let body = request.json();
    let mut wrong = service_model::sagemaker().wrong_with_request(&request.operation, &body);
    if request.operation.starts_with("Send") && body["ClientRequestToken"].is_null() {
        wrong.push("no ClientRequestToken".to_owned());
    }
    if !CALLED.contains(&request.operation.as_str()) {
        wrong.push("neither a worker nor `reconcile` calls this".to_owned());
    }
    wrong
}

impl State {
    fn process(&mut self, request: &Request) -> Result<Value, (&'static str, String)> {
        let body = request.json();
        let arn = body["PipelineExecutionArn"].as_str().unwrap_or_default();
        match request.operation.as_str() {
            DESCRIBE => {
                let execution = self.executions.get(arn).ok_or_else(|| not_found(arn))?;
                Ok(
                    json!({ "PipelineExecutionArn": arn, "PipelineExecutionStatus": execution.status }),
                )
            }
            LIST => {
                let execution = self.executions.get(arn).ok_or_else(|| not_found(arn))?;
                let listed = execution.steps.iter().filter(|_| !self.hidden.contains(arn));
                let steps: Vec<Value> = listed.map(Step::listed).collect();
                self.close_if_due(arn);
                Ok(json!({ "PipelineExecutionSteps": steps }))
            }
            LIST_EXECUTIONS => self.list_executions(&body),
            LIST_PIPELINES => {
                let names: BTreeSet<&str> =
                    self.executions.keys().map(|arn| pipeline_of(arn)).collect();
                let summaries: Vec<Value> =
                    names.into_iter().map(|name| json!({ "PipelineName": name })).collect();
                Ok(json!({ "PipelineSummaries": summaries }))
            }
            _ => self.take(request, body["CallbackToken"].as_str().unwrap_or_default()),
        }
    }

    fn close_if_due(&mut self, arn: &str) {
        let Some((lists, status)) = self.closing.get_mut(arn) else { return };
        *lists -= 1;
        if *lists > 0 {
            return;
        }
        let status = *status;
        self.closing.remove(arn);
        let execution = self.executions.get_mut(arn).expect("an execution");
        execution.status = status;
        for step in &mut execution.steps {
            step.status = status;
        }
    }

    /// A pipeline without executions does not exist.
    fn list_executions(&self, body: &Value) -> Result<Value, (&'static str, String)> {
        let name = body["PipelineName"].as_str().unwrap_or_default();
        let of_it: Vec<(&String, &Execution)> = self
            .executions
            .iter()
            .filter(|(arn, _)| pipeline_of(arn) == name || arn.starts_with(&format!("{name}/")))
            .collect();
        if of_it.is_empty() {
            return Err(not_found(name));
        }
        let begin: usize =
            body["NextToken"].as_str().map_or(0, |token| token.parse().expect("our own token"));
        let most = self.page.unwrap_or(100);
        let page = of_it.iter().skip(begin).take(most).map(|(arn, execution)| {
            json!({ "PipelineExecutionArn": arn, "PipelineExecutionStatus": execution.status })
        });
        let mut answer = json!({ "PipelineExecutionSummaries": page.collect::<Vec<_>>() });
        if begin + most < of_it.len() {
            answer["NextToken"] = (begin + most).to_string().into();
        }
        Ok(answer)
    }

    /// Accepts an answer: one for each token, and the same one any number of times.
    fn take(&mut self, request: &Request, token: &str) -> Result<Value, (&'static str, String)> {
        let hidden = &self.hidden;
        let has = |arn: &String, execution: &Execution| {
            !hidden.contains(arn) && execution.steps.iter().any(|step| step.token == token)
        };
        let (arn, execution) = self
            .executions
            .iter_mut()
            .find(|(arn, execution)| has(arn, execution))
            .ok_or_else(|| not_found(token))?;
        let stopping = execution.status == "Stopping";
        for step in execution.steps.iter_mut().filter(|step| step.token == token) {
            match &step.accepted {
                Some(accepted)
                    if accepted.operation == request.operation && accepted.body == request.body => {
                }
                None if matches!(step.status, "Executing" | "Stopping") => {
                    step.status = match request.operation.as_str() {
                        _ if stopping => "Stopped",
                        SUCCESS => "Succeeded",
                        _ => "Failed",
                    };
                    step.accepted = Some(request.clone());
                    execution.status = step.status;
                }
                _ => {
                    return Err((
                        "ValidationException",
                        "Step s is already in a terminal status".to_owned(),
                    ));
                }
            }
        }
        Ok(json!({ "PipelineExecutionArn": arn }))
    }
}

fn pipeline_of(arn: &str) -> &str {
    let name = arn.split(":pipeline/").nth(1).and_then(|rest| rest.split('/').next());
    name.expect("the ARN of an execution")
}

fn not_found(what: &str) -> (&'static str, String) {
    ("ResourceNotFound", format!("{what} does not exist"))
}

impl Step {
    fn listed(&self) -> Value {
        json!({
            "StepName": "s", "StepStatus": self.status, "AttemptCount": 1,
            "StartTime": self.started.as_second(),
            "Metadata": { "Callback": { "CallbackToken": self.token, "SqsQueueUrl": self.queue_url, "OutputParameters": [] } },
        })
    }
}
