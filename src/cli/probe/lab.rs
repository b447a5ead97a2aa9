//! What the experiments share: one queue, pipelines made when they are first needed, and messages
//! sorted by execution.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::caller::{Caller, Setback};
use super::letter::StepMessage;
use super::plan::{Plan, Shape};
use super::redaction::Redaction;
use crate::aws::probe::{Letter, MadePipeline, Refusal, Services, StepState, Tried};
use crate::duration;

/// How long the experiments wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// For a message, and for the end of a step or an execution.
    pub patience: Duration,
    /// For what is not expected: a second message, a step that ends although it should not.
    pub surplus: Duration,
}

pub(super) struct Lab {
    pub caller: Caller,
    pub plan: Plan,
    pub waits: Waits,
    pub redaction: Redaction,
    /// The URL, once it is created.
    queue: Option<String>,
    pipelines: BTreeMap<Shape, Result<MadePipeline, Refusal>>,
    /// Those whose creation was begun.
    begun: BTreeSet<Shape>,
    /// Messages of steps that no experiment has taken yet.
    mail: Vec<StepMessage>,
    /// The ids of all messages that were received: SQS may deliver one twice.
    received: BTreeSet<String>,
    /// The executions that were started and have not ended, as far as is known.
    running: Vec<String>,
}

/// A step that waits for an answer.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub execution: String,
    pub message: StepMessage,
}

/// What a message of the probe's own begins with.
const MARK: &str = "callbackd probe";
/// SQS's longest is 20 s; an interrupted probe waits for the end of its poll.
const POLL: Duration = Duration::from_secs(5);

impl Lab {
    pub(super) fn new(caller: Caller, plan: Plan, waits: Waits, redaction: Redaction) -> Self {
        Self {
            caller,
            plan,
            waits,
            redaction,
            queue: None,
            pipelines: BTreeMap::new(),
            begun: BTreeSet::new(),
            mail: Vec::new(),
            received: BTreeSet::new(),
            running: Vec::new(),
        }
    }

    /// Creates the queue.
    pub(super) async fn open(&mut self) -> Result<(), Setback> {
        let plan = self.plan.clone();
        let create =
            async |services: &Services| services.create_queue(plan.queue(), &plan.run).await;
        self.queue = Some(self.caller.ask(create).await?);
        Ok(())
    }

    /// The queue's URL; `None` before it is created.
    pub(super) fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    /// The names of the pipelines that may exist.
    pub(super) fn pipelines_begun(&self) -> Vec<String> {
        self.begun.iter().map(|shape| self.plan.pipeline(*shape)).collect()
    }

    /// The pipeline of this shape, or SageMaker's refusal of its definition.
    pub(super) async fn pipeline(
        &mut self,
        shape: Shape,
    ) -> Result<Result<MadePipeline, Refusal>, Setback> {
        if let Some(made) = self.pipelines.get(&shape) {
            return Ok(made.clone());
        }
        let definition = shape.definition(self.queue().unwrap_or_default());
        let (plan, name, request) = (self.plan.clone(), self.plan.pipeline(shape), request());
        let create = async |services: &Services| {
            services.create_pipeline(&name, &definition, &plan.role, &plan.run, &request).await
        };
        self.begun.insert(shape);
        let made = match self.caller.ask(create).await {
            Ok(made) => Ok(made),
            Err(Setback::Refused(refusal)) if !refusal.is_denial => Err(refusal),
            Err(setback) => return Err(setback),
        };
        self.pipelines.insert(shape, made.clone());
        Ok(made)
    }

    /// Starts an execution.
    pub(super) async fn start(&mut self, shape: Shape) -> Result<String, Setback> {
        let made = self.pipeline(shape).await?.map_err(Setback::Refused)?;
        let request = request();
        let start = async |services: &Services| services.start(&made.name, &request).await;
        let execution = self.caller.ask(start).await?;
        self.started(&execution);
        Ok(execution)
    }

    /// Notes an execution that an experiment has started itself.
    pub(super) fn started(&mut self, execution: &str) {
        self.redaction.learn_execution(execution);
        self.running.push(execution.to_owned());
    }

    /// The executions that the last experiment left.
    pub(super) fn take_running(&mut self) -> Vec<String> {
        std::mem::take(&mut self.running)
    }

    /// Starts an execution of one step, and waits for its message.
    pub(super) async fn waiting(&mut self) -> Result<Waiting, Setback> {
        let execution = self.start(Shape::One).await?;
        let message = self.asked(&execution).await?;
        Ok(Waiting { execution, message })
    }

    /// The next Executing message of an execution.
    pub(super) async fn asked(&mut self, execution: &str) -> Result<StepMessage, Setback> {
        let within = self.waits.patience;
        let message = self.message(execution, "Executing", within).await?;
        message.ok_or_else(|| late("no Executing message came", within))
    }

    /// The next message of an execution with this status; `None` if none comes in time.
    pub(super) async fn message(
        &mut self,
        execution: &str,
        status: &str,
        within: Duration,
    ) -> Result<Option<StepMessage>, Setback> {
        let end = Instant::now() + within;
        loop {
            let fits = |it: &StepMessage| {
                it.execution.eq_ignore_ascii_case(execution)
                    && it.status.eq_ignore_ascii_case(status)
            };
            if let Some(index) = self.mail.iter().position(fits) {
                return Ok(Some(self.mail.remove(index)));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.letters(left, Duration::from_secs(30)).await?;
        }
    }

    /// Receives once. The messages of steps are deleted and kept for whom they concern; those of
    /// the probe itself are returned, and stay invisible for `visibility`.
    pub(super) async fn letters(
        &mut self,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Letter>, Setback> {
        let url = self.queue().unwrap_or_default().to_owned();
        let wait = wait.clamp(Duration::from_secs(1), POLL);
        let receive = async |services: &Services| services.receive(&url, wait, visibility).await;
        let received = self.caller.ask(receive).await?;
        let (own, others): (Vec<Letter>, Vec<Letter>) =
            received.into_iter().partition(|letter| letter.body.starts_with(MARK));
        if others.is_empty() {
            return Ok(own);
        }
        for letter in &others {
            if let Some(message) = StepMessage::read(letter)
                && self.received.insert(letter.id.clone())
            {
                self.redaction.learn(&message.token, "TOKEN");
                self.mail.push(message);
            }
        }
        let handles: Vec<&str> =
            others.iter().map(|letter| letter.receipt_handle.as_str()).collect();
        let discard = async |services: &Services| services.discard(&url, &handles).await;
        // One that stays is known by its id when it comes again.
        match self.caller.ask(discard).await {
            Err(Setback::Interrupted) => Err(Setback::Interrupted),
            _ => Ok(own),
        }
    }

    /// Puts a message of the probe's own on the queue, and returns the queue's URL and the id.
    pub(super) async fn post(&mut self, what: &str) -> Result<(String, String), Setback> {
        let url = self.queue().unwrap_or_default().to_owned();
        let body = format!("{MARK}: {what}");
        let id = self.caller.ask(async |services: &Services| services.post(&url, &body).await);
        let id = id.await?;
        Ok((url, id))
    }

    /// Waits until an execution has ended, and returns its status.
    pub(super) async fn ended(&mut self, execution: &str) -> Result<String, Setback> {
        let status = self.until(execution, is_over).await?;
        self.running.retain(|other| other != execution);
        Ok(status)
    }

    /// Waits until `fits` holds of the status of an execution, and returns it.
    pub(super) async fn until(
        &mut self,
        execution: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String, Setback> {
        let end = Instant::now() + self.waits.patience;
        loop {
            let ask = async |services: &Services| services.execution_status(execution).await;
            let status = self.caller.ask(ask).await?;
            if fits(&status) {
                return Ok(status);
            }
            if Instant::now() >= end {
                let within = duration::text(self.waits.patience);
                let what = format!("the execution was still {status} after {within}");
                return Err(Setback::Late(what));
            }
        }
    }

    /// Watches a step until `fits` holds of its status or the time is over, and returns how it is
    /// then; `None` if it has not begun.
    pub(super) async fn watch(
        &mut self,
        execution: &str,
        step: &str,
        within: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<StepState>, Setback> {
        let end = Instant::now() + within;
        loop {
            let ask = async |services: &Services| services.step_states(execution).await;
            let states = self.caller.ask(ask).await?;
            let state = states.into_iter().find(|state| state.name == step);
            if state.as_ref().is_some_and(|state| fits(&state.status)) || Instant::now() >= end {
                return Ok(state);
            }
        }
    }

    /// The status of an execution's only step, once it has ended.
    pub(super) async fn step_ended(&mut self, execution: &str) -> Result<String, Setback> {
        let within = self.waits.patience;
        let state = self.watch(execution, "Only", within, is_over).await?;
        match state {
            Some(state) if is_over(&state.status) => Ok(state.status),
            Some(state) => {
                let within = duration::text(within);
                let what = format!("the step was still {} after {within}", state.status);
                Err(Setback::Late(what))
            }
            None => Err(late("the step was not listed", within)),
        }
    }

    /// Answers a step with success.
    pub(super) async fn succeed(
        &mut self,
        token: &str,
        outputs: &[(&str, &str)],
    ) -> Result<(), Setback> {
        let request = request();
        let answer = async |services: &Services| services.succeed(token, outputs, &request).await;
        self.caller.once(answer).await
    }

    /// Stops an execution.
    pub(super) async fn stop(&mut self, execution: &str) -> Result<(), Setback> {
        let request = request();
        let stop = async |services: &Services| services.stop(execution, &request).await;
        self.caller.once(stop).await
    }

    /// Makes the call that an experiment is about.
    pub(super) async fn observe<T>(
        &mut self,
        call: impl AsyncFn(&Services) -> Tried<T>,
    ) -> Result<Result<T, Refusal>, Setback> {
        self.caller.observe(call).await
    }
}

/// A client request token that was never used before.
pub(super) fn request() -> String {
    format!("callbackd-{:032x}", fastrand::u128(..))
}

/// Whether a step or an execution with this status has ended.
pub(super) fn is_over(status: &str) -> bool {
    ["Succeeded", "Failed", "Stopped"].contains(&status)
}

pub(super) fn late(what: &str, within: Duration) -> Setback {
    Setback::Late(format!("{what} within {}", duration::text(within)))
}

/// How a call was answered.
pub(super) fn told<T>(answer: &Result<T, Refusal>) -> String {
    match answer {
        Ok(_) => "accepted".to_owned(),
        Err(refusal) => format!("`{}`: {}", refusal.code, refusal.message),
    }
}
