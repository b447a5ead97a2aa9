//! The executions of an endpoint, found by ARN or callback token; their messages are sent from
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::execution::{Beginning, Execution, Status, StepAnswer};
use super::shape::not_found;
use crate::local::call::Call;
use crate::local::events::EventKind;
use crate::local::faults::{EXECUTING_MESSAGE, STOPPING_MESSAGE};
use crate::local::protocol::ApiError;
use crate::local::sqs::{Content, Queues};
use crate::local::undocumented::{RetriedToken, StoppingMessage};

/// Executions that have not ended; enough for a load test with one step in each.
pub(super) const MAX_RUNNING: usize = 250_000;

/// The executions.
#[derive(Debug)]
pub(super) struct Executions {
    /// In the order in which they were started.
    by_number: BTreeMap<u64, Execution>,
    by_arn: BTreeMap<Arc<str>, u64>,
    by_token: BTreeMap<String, (u64, usize)>,
    ended: BTreeSet<u64>,
    /// How many of those are kept.
    kept: usize,
    next: u64,
}

/// The message to a callback step's queue, with its members in AWS's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepMessage<'a> {
    token: &'a str,
    pipeline_execution_arn: &'a str,
    arguments: &'a Value,
    status: &'a str,
}

impl Executions {
    /// None yet; of those that end, the last `kept` can be inspected.
    pub(super) fn new(kept: usize) -> Self {
        Self {
            by_number: BTreeMap::new(),
            by_arn: BTreeMap::new(),
            by_token: BTreeMap::new(),
            ended: BTreeSet::new(),
            kept,
            next: 0,
        }
    }

    pub(super) fn running(&self) -> usize {
        self.by_number.len() - self.ended.len()
    }

    /// Newest last.
    pub(super) fn of_pipeline<'a>(
        &'a self,
        arn: &'a str,
    ) -> impl DoubleEndedIterator<Item = &'a Execution> {
        self.by_number.values().filter(move |execution| execution.pipeline_arn == arn)
    }

    /// # Errors
    /// `ResourceNotFound`.
    pub(super) fn get(&self, arn: &str) -> Result<&Execution, ApiError> {
        let number = self.by_arn.get(arn);
        let execution = number.and_then(|number| self.by_number.get(number));
        execution.ok_or_else(|| not_found(format!("Pipeline execution '{arn}' does not exist.")))
    }

    /// The execution of a callback token, and the index of its step.
    pub(super) fn of_token(&self, token: &str) -> Option<(&Execution, usize)> {
        let (number, index) = self.by_token.get(token)?;
        Some((self.by_number.get(number)?, *index))
    }

    /// Starts an execution and its first steps.
    pub(super) fn start(&mut self, beginning: Beginning, queues: &mut Queues, call: &mut Call<'_>) {
        let execution = Execution::begin(beginning, call.now);
        let number = self.next;
        self.next += 1;
        self.by_arn.insert(execution.arn.clone(), number);
        self.by_number.insert(number, execution);
        self.drive(number, queues, call);
    }

    /// Stops an execution and sends its open steps a message.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) fn stop(
        &mut self,
        arn: &str,
        queues: &mut Queues,
        call: &mut Call<'_>,
    ) -> Result<(), ApiError> {
        let unknown = || not_found(format!("Pipeline execution '{arn}' does not exist."));
        let number = *self.by_arn.get(arn).ok_or_else(unknown)?;
        let execution = self.by_number.get_mut(&number).ok_or_else(unknown)?;
        let open = execution.stop(call.now, call.undocumented);
        tell(execution, call);
        let times = match call.undocumented.stopping_message {
            StoppingMessage::Never => 0,
            StoppingMessage::Once => 1,
            StoppingMessage::Twice => 2,
        };
        for index in open.into_iter().flat_map(|index| std::iter::repeat_n(index, times)) {
            let (Some(step), Some(run)) = (execution.step(index), execution.steps.get(index))
            else {
                continue;
            };
            let Some(token) = &run.token else { continue };
            let body = body(token, &execution.arn, &run.arguments, Status::Stopping);
            let delay = call.undocumented.stopping_delay;
            // A queue that was deleted meanwhile is no error: the step stays as it is until it is
            // answered.
            let _ = send(STOPPING_MESSAGE, &step.queue_url, body, delay, queues, call);
        }
        self.drive(number, queues, call);
        Ok(())
    }

    /// Starts the failed and stopped steps of an execution again.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) fn retry(
        &mut self,
        arn: &str,
        parallelism: Option<usize>,
        queues: &mut Queues,
        call: &mut Call<'_>,
    ) -> Result<(), ApiError> {
        let unknown = || not_found(format!("Pipeline execution '{arn}' does not exist."));
        let number = *self.by_arn.get(arn).ok_or_else(unknown)?;
        let tokens =
            self.by_number.get_mut(&number).ok_or_else(unknown)?.retry(parallelism, call.now);
        if call.undocumented.retried_token == RetriedToken::Fresh {
            for token in tokens {
                self.by_token.remove(&token);
            }
        }
        self.ended.remove(&number);
        self.drive(number, queues, call);
        Ok(())
    }

    /// Answers an open step.
    pub(super) fn answer(
        &mut self,
        token: &str,
        answer: StepAnswer,
        queues: &mut Queues,
        call: &mut Call<'_>,
    ) {
        let Some(&(number, index)) = self.by_token.get(token) else { return };
        if let Some(execution) = self.by_number.get_mut(&number) {
            execution.answer(index, answer, call.now, call.undocumented);
        }
        self.drive(number, queues, call);
    }

    /// Starts what can start, sends the events, and forgets the oldest ended executions.
    fn drive(&mut self, number: u64, queues: &mut Queues, call: &mut Call<'_>) {
        let Some(execution) = self.by_number.get_mut(&number) else { return };
        tell(execution, call);
        while let Some((index, arguments)) = execution.ready(call.now, call.undocumented) {
            let url = execution.step(index).map_or("", |step| &step.queue_url).to_owned();
            let before = execution.steps.get(index).and_then(|run| run.token.clone());
            let token =
                match before.filter(|_| call.undocumented.retried_token == RetriedToken::Same) {
                    Some(token) => token,
                    None => call.ids.callback_token(),
                };
            let body = body(&token, &execution.arn, &arguments, Status::Executing);
            match send(EXECUTING_MESSAGE, &url, body, Duration::ZERO, queues, call) {
                Ok(()) => {
                    self.by_token.insert(token.clone(), (number, index));
                    execution.sent(index, token, arguments, call.now);
                    tell(execution, call);
                }
                Err(error) => {
                    let reason = format!("{url}: {}", error.message);
                    execution.fail(index, reason, call.now, call.undocumented);
                }
            }
        }
        tell(execution, call);
        if execution.status.is_terminal() {
            self.ended.insert(number);
        }
        while self.ended.len() > self.kept {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(execution) =
            self.ended.pop_first().and_then(|number| self.by_number.remove(&number))
        else {
            return;
        };
        self.by_arn.remove(&execution.arn);
        for token in execution.steps.into_iter().filter_map(|run| run.token) {
            self.by_token.remove(&token);
        }
    }
}

fn tell(execution: &mut Execution, call: &Call<'_>) {
    for event in std::mem::take(&mut execution.happened) {
        call.tell(|| event);
    }
}

fn body(token: &str, arn: &str, arguments: &Value, status: Status) -> String {
    let message =
        StepMessage { token, pipeline_execution_arn: arn, arguments, status: status.name() };
    serde_json::to_string(&message).unwrap_or_default()
}

/// Sends a step's message, unless a fault rule changes that.
fn send(
    kind: &str,
    url: &str,
    body: String,
    delay: Duration,
    queues: &mut Queues,
    call: &mut Call<'_>,
) -> Result<(), ApiError> {
    let suffered = call.plan.strike(kind);
    for fault in &suffered.struck {
        call.tell(|| EventKind::FaultApplied { operation: kind.to_owned(), fault });
    }
    if suffered.lose {
        // Lost on the way, but only if the queue exists.
        return queues.get(url, call).map(|_| ());
    }
    let delay = delay + suffered.before + suffered.after;
    let content = Content::of_body(body);
    if suffered.duplicate {
        queues.send(url, content.clone(), Some(delay), call)?;
    }
    queues.send(url, content, Some(delay), call).map(|_| ())
}
