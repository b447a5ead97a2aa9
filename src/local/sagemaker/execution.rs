//! One execution of a pipeline: which steps start, and how they and the execution end.
//!
//! Nothing here sends a message or reads a clock: it returns what to send, and is told the result.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::definition::{Definition, Step};
use crate::local::clock::Time;
use crate::local::events::EventKind;
use crate::local::undocumented::{
    FailedStep, FailureWhileStopping, SuccessWhileStopping, Undocumented,
};

/// One execution of a pipeline.
#[derive(Debug)]
pub(super) struct Execution {
    pub arn: Arc<str>,
    pub id: String,
    pub pipeline: String,
    pub pipeline_arn: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    /// The maximum number of concurrent steps.
    pub parallelism: Option<usize>,
    pub status: Status,
    pub started: Time,
    pub modified: Time,
    pub failure: Option<String>,
    pub parameters: BTreeMap<String, Value>,
    definition: Arc<Definition>,
    /// As in the definition.
    pub steps: Vec<StepRun>,
    /// Events that have not been sent yet.
    pub happened: Vec<EventKind>,
}

/// Of an execution or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Executing,
    Stopping,
    Stopped,
    Failed,
    Succeeded,
}

/// The state of a step.
#[derive(Clone, Debug, Default)]
pub(super) struct StepRun {
    /// `None` until it is started.
    pub status: Option<Status>,
    pub token: Option<String>,
    /// The arguments that were sent.
    pub arguments: Value,
    pub outputs: BTreeMap<String, String>,
    pub reason: Option<String>,
    pub started: Option<Time>,
    pub ended: Option<Time>,
}

/// A worker's answer to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StepAnswer {
    Success(BTreeMap<String, String>),
    Failure(String),
}

/// What a new execution is created from.
#[derive(Debug)]
pub(super) struct Beginning {
    pub arn: Arc<str>,
    pub id: String,
    pub pipeline: String,
    pub pipeline_arn: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub parallelism: Option<usize>,
    pub parameters: BTreeMap<String, Value>,
    pub definition: Arc<Definition>,
}

impl Status {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Executing => "Executing",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
            Self::Failed => "Failed",
            Self::Succeeded => "Succeeded",
        }
    }

    /// Nothing follows any more.
    pub(super) const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::Succeeded)
    }
}

impl StepRun {
    /// Started and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.status.is_some_and(|status| !status.is_terminal())
    }
}

impl Execution {
    /// An execution without started steps; [`ready`](Self::ready) returns which can start.
    pub(super) fn begin(beginning: Beginning, now: Time) -> Self {
        let Beginning {
            arn,
            id,
            pipeline,
            pipeline_arn,
            display_name,
            description,
            parallelism,
            parameters,
            definition,
        } = beginning;
        Self {
            arn,
            id,
            pipeline,
            pipeline_arn,
            display_name,
            description,
            parallelism,
            status: Status::Executing,
            started: now,
            modified: now,
            failure: None,
            parameters,
            steps: vec![StepRun::default(); definition.steps.len()],
            definition,
            happened: Vec::new(),
        }
    }

    /// The definition of a step.
    pub(super) fn step(&self, index: usize) -> Option<&Step> {
        self.definition.steps.get(index)
    }

    pub(super) fn steps_defined(&self) -> impl Iterator<Item = (&Step, &StepRun)> {
        self.definition.steps.iter().zip(&self.steps)
    }

    /// The next step that can start, with the arguments for its message. A step whose arguments
    /// cannot be resolved fails here. The caller then calls [`sent`](Self::sent) or
    /// [`fail`](Self::fail), and asks again.
    pub(super) fn ready(
        &mut self,
        now: Time,
        undocumented: &Undocumented,
    ) -> Option<(usize, Value)> {
        loop {
            let index = (0..self.steps.len()).find(|&index| self.can_start(index, undocumented))?;
            match self.arguments(index, now, undocumented) {
                Ok(arguments) => return Some((index, arguments)),
                Err(reason) => self.fail(index, reason, now, undocumented),
            }
        }
    }

    /// A step's message is on its queue.
    pub(super) fn sent(&mut self, index: usize, token: String, arguments: Value, now: Time) {
        let (Some(step), Some(run)) = (self.definition.steps.get(index), self.steps.get_mut(index))
        else {
            return;
        };
        *run = StepRun {
            status: Some(Status::Executing),
            token: Some(token.clone()),
            arguments,
            started: Some(now),
            ..StepRun::default()
        };
        self.modified = now;
        let (execution, step) = (self.arn.clone(), step.name.clone());
        self.happened.push(EventKind::StepStarted { execution, step, token });
    }

    /// A step could not be started.
    pub(super) fn fail(
        &mut self,
        index: usize,
        reason: String,
        now: Time,
        undocumented: &Undocumented,
    ) {
        if let Some(run) = self.steps.get_mut(index) {
            run.started.get_or_insert(now);
        }
        self.end_step(index, Status::Failed, Some(reason), now);
        self.settle(now, undocumented);
    }

    /// Stops the execution; returns the steps that must be told. Steps that have not started never
    /// will.
    pub(super) fn stop(&mut self, now: Time, undocumented: &Undocumented) -> Vec<usize> {
        if self.status != Status::Executing {
            return Vec::new();
        }
        self.status = Status::Stopping;
        self.modified = now;
        let open: Vec<usize> =
            (0..self.steps.len()).filter(|&index| self.steps[index].is_open()).collect();
        for &index in &open {
            let run = &mut self.steps[index];
            run.status = Some(Status::Stopping);
            if let (Some(token), Some(step)) = (run.token.clone(), self.definition.steps.get(index))
            {
                let (execution, step) = (self.arn.clone(), step.name.clone());
                self.happened.push(EventKind::StepStopping { execution, step, token });
            }
        }
        self.settle(now, undocumented);
        open
    }

    /// Restarts the failed and stopped steps; succeeded ones stay so. Returns their tokens, which
    /// [`ready`](Self::ready) may assign again.
    pub(super) fn retry(&mut self, parallelism: Option<usize>, now: Time) -> Vec<String> {
        self.status = Status::Executing;
        self.failure = None;
        self.modified = now;
        self.parallelism = parallelism.or(self.parallelism);
        let ended =
            |run: &&mut StepRun| matches!(run.status, Some(Status::Failed | Status::Stopped));
        let again = self.steps.iter_mut().filter(ended);
        let tokens = again.filter_map(|run| {
            *run = StepRun { token: run.token.take(), ..StepRun::default() };
            run.token.clone()
        });
        tokens.collect()
    }

    /// An open step is answered.
    pub(super) fn answer(
        &mut self,
        index: usize,
        answer: StepAnswer,
        now: Time,
        undocumented: &Undocumented,
    ) {
        let stopping =
            self.steps.get(index).is_some_and(|run| run.status == Some(Status::Stopping));
        let (status, reason) = match answer {
            StepAnswer::Success(outputs) => {
                if let Some(run) = self.steps.get_mut(index) {
                    run.outputs = outputs;
                }
                let stopped = stopping
                    && undocumented.success_while_stopping == SuccessWhileStopping::Stopped;
                (if stopped { Status::Stopped } else { Status::Succeeded }, None)
            }
            StepAnswer::Failure(reason) => {
                let stopped = stopping
                    && undocumented.failure_while_stopping == FailureWhileStopping::Stopped;
                (if stopped { Status::Stopped } else { Status::Failed }, Some(reason))
            }
        };
        self.end_step(index, status, reason, now);
        self.settle(now, undocumented);
    }

    fn can_start(&self, index: usize, undocumented: &Undocumented) -> bool {
        let after = |name: &String| {
            self.steps_defined()
                .any(|(step, run)| step.name == *name && run.status == Some(Status::Succeeded))
        };
        self.status == Status::Executing
            && self.steps[index].status.is_none()
            && (!self.has_failed() || undocumented.failed_step == FailedStep::Continue)
            && self
                .parallelism
                .is_none_or(|most| self.steps.iter().filter(|run| run.is_open()).count() < most)
            && self.definition.steps[index].after.iter().all(after)
    }

    /// Ends the execution if nothing is left to wait for.
    fn settle(&mut self, now: Time, undocumented: &Undocumented) {
        let failed = self.has_failed();
        if self.status == Status::Executing && failed && undocumented.failed_step == FailedStep::Cut
        {
            for index in 0..self.steps.len() {
                if self.steps[index].is_open() {
                    self.end_step(index, Status::Stopped, None, now);
                }
            }
        }
        let idle = !self.steps.iter().any(StepRun::is_open)
            && !(0..self.steps.len()).any(|index| self.can_start(index, undocumented));
        if self.status.is_terminal() || !idle {
            return;
        }
        self.modified = now;
        self.status = match (self.status, failed) {
            (_, true) => Status::Failed,
            (Status::Stopping, false) => Status::Stopped,
            (_, false) => Status::Succeeded,
        };
        if failed {
            self.failure = Some("Step failure: One or multiple steps failed.".to_owned());
        }
        let (execution, status, reason) =
            (self.arn.clone(), self.status.name(), self.failure.clone());
        self.happened.push(EventKind::ExecutionEnded { execution, status, reason });
    }

    fn end_step(&mut self, index: usize, status: Status, reason: Option<String>, now: Time) {
        let (Some(step), Some(run)) = (self.definition.steps.get(index), self.steps.get_mut(index))
        else {
            return;
        };
        run.status = Some(status);
        run.reason = reason;
        run.ended = Some(now);
        self.modified = now;
        self.happened.push(EventKind::StepEnded {
            execution: self.arn.clone(),
            step: step.name.clone(),
            token: run.token.clone(),
            status: status.name(),
            outputs: run.outputs.clone(),
            reason: run.reason.clone(),
        });
    }

    fn has_failed(&self) -> bool {
        self.steps.iter().any(|run| run.status == Some(Status::Failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::undocumented::OutputsInArguments;
    use serde_json::json;

    const NOW: Time = Time::from_millis(1_700_000_000_000);

    /// Steps by name, each with its dependencies and arguments.
    fn execution(steps: &[(&str, &[&str], Value)]) -> Execution {
        let steps: Vec<Value> = steps
            .iter()
            .map(|(name, after, arguments)| {
                json!({"Name": name, "Type": "Callback", "SqsQueueUrl": "http://localhost/1/q", "DependsOn": after,
                    "Arguments": arguments, "OutputParameters": [{"OutputName": "x", "OutputType": "Float"}]})
            })
            .collect();
        let definition =
            Definition::parse(&json!({"Version": "2020-12-01", "Steps": steps}).to_string());
        let beginning = Beginning {
            arn: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/e".into(),
            id: "e".to_owned(),
            pipeline: "p".to_owned(),
            pipeline_arn: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p".to_owned(),
            display_name: None,
            description: None,
            parallelism: None,
            parameters: BTreeMap::new(),
            definition: Arc::new(definition.expect("sound")),
        };
        Execution::begin(beginning, NOW)
    }

    /// Starts everything that can start; returns the names.
    fn start(execution: &mut Execution, undocumented: &Undocumented) -> Vec<String> {
        let mut started = Vec::new();
        while let Some((index, arguments)) = execution.ready(NOW, undocumented) {
            let name = execution.step(index).expect("defined").name.clone();
            execution.sent(index, format!("token{index:05}"), arguments, NOW);
            started.push(name);
        }
        started
    }

    fn succeed(execution: &mut Execution, index: usize, x: &str, undocumented: &Undocumented) {
        let outputs = BTreeMap::from([("x".to_owned(), x.to_owned())]);
        execution.answer(index, StepAnswer::Success(outputs), NOW, undocumented);
    }

    fn fail(execution: &mut Execution, index: usize, undocumented: &Undocumented) {
        execution.answer(index, StepAnswer::Failure("broken".to_owned()), NOW, undocumented);
    }

    fn statuses(execution: &Execution) -> Vec<Option<Status>> {
        execution.steps.iter().map(|run| run.status).collect()
    }

    #[test]
    fn steps_start_in_the_order_of_their_dependencies() {
        let set = Undocumented::default();
        let mut execution = execution(&[
            ("c", &["a", "b"], json!({})),
            ("a", &[], json!({})),
            ("b", &[], json!({})),
        ]);
        assert_eq!(start(&mut execution, &set), ["a", "b"]);
        succeed(&mut execution, 1, "1", &set);
        assert_eq!(start(&mut execution, &set), Vec::<String>::new());
        succeed(&mut execution, 2, "1", &set);
        assert_eq!(start(&mut execution, &set), ["c"]);
        assert_eq!(execution.status, Status::Executing);
        succeed(&mut execution, 0, "1", &set);
        assert_eq!(execution.status, Status::Succeeded);
    }

    #[test]
    fn an_output_reaches_a_later_step_as_the_type_it_was_declared_with_or_as_text() {
        for (outputs_in_arguments, expected) in [
            (OutputsInArguments::Typed, json!({"n": 0.5})),
            (OutputsInArguments::Strings, json!({"n": "0.5"})),
        ] {
            let set = Undocumented { outputs_in_arguments, ..Undocumented::default() };
            let uses = json!({"n": {"Get": "Steps.a.OutputParameters['x']"}});
            let mut execution = execution(&[("a", &[], json!({})), ("b", &[], uses)]);
            start(&mut execution, &set);
            succeed(&mut execution, 0, "0.5", &set);
            let (index, arguments) = execution.ready(NOW, &set).expect("the second");
            assert_eq!((index, arguments), (1, expected));
        }
    }

    #[test]
    fn a_step_that_uses_an_output_which_was_not_given_fails_the_execution() {
        let set = Undocumented::default();
        let uses = json!({"n": {"Get": "Steps.a.OutputParameters['x']"}});
        let mut execution = execution(&[("a", &[], json!({})), ("b", &[], uses)]);
        start(&mut execution, &set);
        execution.answer(0, StepAnswer::Success(BTreeMap::new()), NOW, &set);
        assert_eq!(execution.ready(NOW, &set), None);
        assert_eq!(execution.status, Status::Failed);
        assert_eq!(execution.steps[1].reason.as_deref(), Some("step a gave no output parameter x"));
    }

    #[test]
    fn a_failed_step_fails_the_execution_as_it_is_told_to() {
        let steps: [(&str, &[&str], Value); 4] = [
            ("a", &[], json!({})),
            ("b", &[], json!({})),
            ("after-a", &["a"], json!({})),
            ("after-b", &["b"], json!({})),
        ];
        let run = |failed_step| {
            let set = Undocumented { failed_step, ..Undocumented::default() };
            let mut execution = execution(&steps);
            start(&mut execution, &set);
            fail(&mut execution, 0, &set);
            let at_once = execution.status;
            if !at_once.is_terminal() {
                succeed(&mut execution, 1, "1", &set);
            }
            let later = start(&mut execution, &set);
            (at_once, later, execution)
        };

        let (at_once, later, execution) = run(FailedStep::Drain);
        assert_eq!((at_once, later, execution.status), (Status::Executing, vec![], Status::Failed));

        let (at_once, later, mut execution) = run(FailedStep::Continue);
        assert_eq!(
            (at_once, later, execution.status),
            (Status::Executing, vec!["after-b".to_owned()], Status::Executing)
        );
        succeed(
            &mut execution,
            3,
            "1",
            &Undocumented { failed_step: FailedStep::Continue, ..Undocumented::default() },
        );
        assert_eq!(execution.status, Status::Failed);

        let (at_once, later, execution) = run(FailedStep::Cut);
        assert_eq!((at_once, later), (Status::Failed, vec![]));
        assert_eq!(statuses(&execution), [Some(Status::Failed), Some(Status::Stopped), None, None]);
    }

    #[test]
    fn a_stop_tells_the_open_steps_and_ends_when_they_are_answered() {
        for (failure_while_stopping, ended) in [
            (FailureWhileStopping::Stopped, Status::Stopped),
            (FailureWhileStopping::Failed, Status::Failed),
        ] {
            let set = Undocumented { failure_while_stopping, ..Undocumented::default() };
            let mut execution = execution(&[
                ("a", &[], json!({})),
                ("b", &[], json!({})),
                ("c", &["a"], json!({})),
            ]);
            start(&mut execution, &set);
            succeed(&mut execution, 0, "1", &set);
            assert_eq!(execution.stop(NOW, &set), [1]);
            assert_eq!(execution.status, Status::Stopping);
            assert_eq!(start(&mut execution, &set), Vec::<String>::new());
            fail(&mut execution, 1, &set);
            assert_eq!(execution.status, ended);
            assert_eq!(statuses(&execution), [Some(Status::Succeeded), Some(ended), None]);
        }
    }

    #[test]
    fn a_success_while_stopping_ends_the_execution_as_stopped() {
        for (success_while_stopping, step) in [
            (SuccessWhileStopping::Stopped, Status::Stopped),
            (SuccessWhileStopping::Succeeded, Status::Succeeded),
        ] {
            let set = Undocumented { success_while_stopping, ..Undocumented::default() };
            let mut execution = execution(&[("a", &[], json!({}))]);
            start(&mut execution, &set);
            execution.stop(NOW, &set);
            succeed(&mut execution, 0, "1", &set);
            assert_eq!(
                (execution.status, execution.steps[0].status),
                (Status::Stopped, Some(step))
            );
        }
    }

    #[test]
    fn a_retry_starts_what_failed_and_what_came_after_it_again() {
        let set = Undocumented::default();
        let mut execution =
            execution(&[("a", &[], json!({})), ("b", &["a"], json!({})), ("c", &["b"], json!({}))]);
        start(&mut execution, &set);
        succeed(&mut execution, 0, "1", &set);
        assert_eq!(start(&mut execution, &set), ["b"]);
        fail(&mut execution, 1, &set);
        assert_eq!(execution.status, Status::Failed);
        assert_eq!(execution.retry(None, NOW), ["token00001"]);
        assert_eq!((execution.status, execution.failure.as_deref()), (Status::Executing, None));
        assert_eq!(statuses(&execution), [Some(Status::Succeeded), None, None]);
        assert_eq!(start(&mut execution, &set), ["b"]);
        succeed(&mut execution, 1, "1", &set);
        assert_eq!(start(&mut execution, &set), ["c"]);
        succeed(&mut execution, 2, "1", &set);
        assert_eq!(execution.status, Status::Succeeded);
    }

    #[test]
    fn an_execution_with_no_open_step_is_stopped_at_once_and_only_once() {
        let set = Undocumented::default();
        let mut execution = execution(&[("a", &[], json!({}))]);
        assert_eq!(execution.stop(NOW, &set), Vec::<usize>::new());
        assert_eq!(execution.status, Status::Stopped);
        let told = execution.happened.len();
        execution.stop(NOW, &set);
        assert_eq!(execution.happened.len(), told);
    }

    #[test]
    fn no_more_steps_run_at_once_than_are_allowed() {
        let set = Undocumented::default();
        let mut execution =
            execution(&[("a", &[], json!({})), ("b", &[], json!({})), ("c", &[], json!({}))]);
        execution.parallelism = Some(2);
        assert_eq!(start(&mut execution, &set), ["a", "b"]);
        succeed(&mut execution, 0, "1", &set);
        assert_eq!(start(&mut execution, &set), ["c"]);
    }
}
