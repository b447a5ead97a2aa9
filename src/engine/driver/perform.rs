//! Performs what the lifecycle decided.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::handlers::HandlerParts;
use super::super::impaired::Hindrance;
use super::super::inbox::{Face, Turn};
use super::super::running::{Call, ToDriver};
use super::super::{ask, report};
use super::pending::With;
use super::{Driver, spans};
use crate::clock::after;
use crate::handler::Task;
use crate::lifecycle::{Effect, Ending, Event, RunEnd, Status};
use crate::outcome::Outcome;
use crate::seam::Observation;
use crate::step::StopReason;

/// A handler enforces the grace itself; it has this much longer before its future is dropped.
const GRACE_MARGIN: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect, with: &With) {
        match effect {
            Effect::Ask { confirm_stop } => {
                self.take_turn(Turn::Ask, |driver| driver.wants.ask = Some(confirm_stop));
            }
            Effect::Report => self.take_turn(Turn::Report, |driver| driver.wants.report = true),
            Effect::CleanUp(reason) if self.slot.is_some() => self.clean_up(reason),
            Effect::CleanUp(reason) => {
                self.take_turn(Turn::CleanUp, |driver| driver.wants.cleanup = Some(reason));
            }
            Effect::AwaitSlot => self.await_slot(),
            Effect::Run => self.run(),
            Effect::Tell(reason) => self.tell(reason),
            Effect::Abort => self.abort(),
            Effect::Wake(at) => self.wake = Some(at),
            Effect::Delete => self.delete(),
            Effect::Return => self.release(Duration::ZERO),
            Effect::LetGo => self.let_go(),
            Effect::Refuse(why) => self.refuse(&why),
            Effect::RefuseDelivery(why) => self.refuse_delivery(&why, with),
            Effect::RefuseStop(why) => self.refuse_stops(&why),
            Effect::Replace => self.replace(),
            Effect::PassOn => self.pass_on(),
            Effect::Missing => {
                if let Some(more) = self.lane.said.again("missing") {
                    tracing::error!(
                        event = "step_not_found",
                        more,
                        "SageMaker refuses the report and does not find the step; the outcome is \
                         kept and SageMaker is asked again: check the account, the region and the \
                         role of this queue"
                    );
                }
                self.shared
                    .observer
                    .observe(Observation::ReportNotFound { queue: &self.lane.name });
            }
            Effect::AnsweredElsewhere(how) => {
                self.shared.orphans.answered(&self.state.record.token, how);
            }
            Effect::CountStop(via) => {
                tracing::info!(
                    event = "stop_requested",
                    via = via.as_str(),
                    "a stop of the step is requested"
                );
                self.shared
                    .observer
                    .observe(Observation::Stop { queue: &self.lane.name, via: via.as_str() });
            }
            Effect::Finish(ending) => self.finish(ending),
        }
    }

    /// Performs an action that is bounded per queue: now, or when its turn has come.
    fn take_turn(&mut self, turn: Turn, want: impl FnOnce(&mut Self)) {
        want(self);
        if let Some(permit) = self.lane.gate(turn).enter(&self.state.record.token) {
            self.turn_has_come(turn, permit);
        }
    }

    pub(super) fn turn_has_come(&mut self, turn: Turn, permit: super::super::gates::Permit) {
        match turn {
            Turn::Ask => {
                let Some(confirm_stop) = self.wants.ask.take() else { return };
                let (lane, record) = (self.lane.clone(), &self.state.record);
                let (execution, token) = (record.execution.clone(), record.token.clone());
                self.asked.push(Box::pin(async move {
                    let _permit = permit;
                    Event::Answered(ask::step(&lane, &execution, &token, confirm_stop).await)
                }));
            }
            Turn::Report => {
                if std::mem::take(&mut self.wants.report) {
                    let (lane, record) = (self.lane.clone(), self.state.record.clone());
                    let shared = self.shared.clone();
                    self.asked.push(Box::pin(async move {
                        let _permit = permit;
                        let begun = shared.clock.now();
                        let event = report::once(&lane, &record).await;
                        spans::trace_report(&shared, &record, begun, &event);
                        event
                    }));
                }
            }
            Turn::CleanUp => {
                if let Some(reason) = self.wants.cleanup.take() {
                    self.cleanup = Some(permit);
                    self.clean_up(reason);
                }
            }
        }
    }

    /// What is known of the machine, or of a stop, is considered before the start.
    fn run(&mut self) {
        match self.hindrance.take() {
            Some(Hindrance { what, error, wait }) => {
                let end = RunEnd::Hindered { what, after: wait, error };
                self.backlog.push_front((Event::Ended(end), With::Nothing));
            }
            None => self.starts = true,
        }
    }

    /// Starts the pending run, unless there are events left to decide.
    pub(super) fn start(&mut self) {
        if !self.starts || !self.backlog.is_empty() {
            return;
        }
        self.starts = false;
        let record = &self.state.record;
        tracing::Span::current().record("attempt", record.attempt);
        let Some(parts) = self.handler() else {
            let error = "the handler is not configured any more".to_owned();
            self.backlog.push_front((Event::Ended(RunEnd::Failure(error)), With::Nothing));
            return self.advance();
        };
        let pickup = self
            .sent
            .take()
            .filter(|_| record.attempt == 1)
            .map(|sent| self.shared.clock.since(self.shared.clock.moment(sent)));
        if record.is_suspected() {
            tracing::warn!(
                event = "step_on_trial",
                attempt = record.attempt,
                crashes = record.crashes,
                alone_for = ?record.trusted_after(),
                "the step is on trial, and others start after it: workers have died while running \
                 it"
            );
        }
        tracing::info!(event = "step_started", attempt = record.attempt, "the step is started");
        self.observe_start(pickup);
        let now = self.shared.clock.now();
        self.trusted = Some(after(now, record.trusted_after()));
        let attempt = record.attempt;
        self.seat.show(|face| {
            face.started_at = Some(now);
            // A job that is polled makes progress from one look to the next.
            face.progress = face.progress.take().filter(|before| before.attempt == attempt);
        });
        if let Some(trial) = &self.trial {
            trial.begins();
        }
        if let Some(berth) = &mut self.berth {
            berth.begins();
        }
        self.call = Some(Call::run(
            &self.shared.tasks,
            &parts.handler,
            self.task(&parts, spans::RUN),
            self.sink(false),
        ));
        self.note_progress();
    }

    fn clean_up(&mut self, reason: StopReason) {
        let Some(parts) = self.handler() else {
            // If no handler was ever chosen, there is nothing to clean up.
            let gone = |name: &Arc<str>| format!("its handler `{name}` is not configured any more");
            let cleaned = self.state.record.handler.as_ref().map_or(Ok(()), |name| Err(gone(name)));
            return self.backlog.push_front((Event::Cleaned(cleaned), With::Nothing));
        };
        tracing::info!(
            event = "cleanup_started",
            reason = reason.as_str(),
            "cleaning up after the step"
        );
        self.enter_at_once();
        self.observe_start(None);
        let (task, limit) = (self.task(&parts, spans::CLEANUP), parts.config.cleanup_limit);
        self.call = Some(Call::cleanup(
            &self.shared.tasks,
            &parts.handler,
            task,
            self.sink(true),
            reason,
            limit,
        ));
    }

    /// A run or cleanup has ended.
    pub(super) fn call_ended(&mut self, event: Event) {
        let call = self.call.take();
        self.grace = None;
        self.shared.observer.observe(Observation::StepIdle {
            queue: &self.lane.name,
            handler: self.handler_name(),
        });
        if let Some(call) = &call {
            self.trace_call(call, &event);
        }
        let event = self.weighed(event, call.map_or_else(Instant::now, |call| call.begun));
        self.trial = None;
        self.take_on(event, With::Nothing);
    }

    fn observe_start(&self, pickup: Option<Duration>) {
        self.shared.observer.observe(Observation::StepStarted {
            queue: &self.lane.name,
            handler: self.handler_name(),
            pickup,
        });
    }

    fn abort(&mut self) {
        match &self.call {
            Some(call) => call.abort(),
            // It has no permit for the cleanup yet.
            None if self.cleans_without_a_call() => {
                self.backlog.push_front((Event::CleanupAborted, With::Nothing));
            }
            None => {}
        }
    }

    fn tell(&mut self, reason: StopReason) {
        if std::mem::take(&mut self.starts) {
            // A run is not started only to be stopped.
            return self.backlog.push_front((Event::Ended(RunEnd::Aborted), With::Nothing));
        }
        let Some(call) = &self.call else { return };
        tracing::info!(
            event = "run_told_to_end",
            reason = reason.as_str(),
            "the run is told to end"
        );
        call.tell(reason);
        let now = self.shared.clock.now();
        let grace = call.grace + GRACE_MARGIN;
        let grace = match reason {
            StopReason::LeaseLost => grace.min(self.shared.ledger.grace_of_loss(now)),
            _ => grace,
        };
        let until = after(now, grace);
        self.grace = Some(self.grace.map_or(until, |before| before.min(until)));
    }

    fn finish(&self, ending: Ending) {
        let record = &self.state.record;
        let took = (ending != Ending::SettledElsewhere)
            .then(|| self.shared.clock.since(record.first_seen));
        let reason = match &record.outcome {
            Some(Outcome::Failure(reason)) => Some(reason.as_str()),
            Some(Outcome::Success(_)) | None => None,
        };
        if self.policy.handler_is_gone && ending != Ending::Deferred {
            tracing::warn!(
                event = "cleanup_not_run",
                "the step's handler is not configured any more, so no cleanup was run"
            );
        }
        tracing::info!(
            event = "step_ended",
            outcome = ending.as_str(),
            reason,
            took = took.map(tracing::field::debug),
            "the step has ended"
        );
        if ending != Ending::Deferred {
            spans::trace_step(&self.shared, record, &self.lane.name, ending);
            self.shared.endings.add(record, ending, self.shared.clock.now());
        }
        self.shared.observer.observe(Observation::StepEnded {
            queue: &self.lane.name,
            handler: self.handler_name(),
            outcome: ending.as_str(),
            took,
        });
    }

    fn handler(&self) -> Option<Arc<HandlerParts>> {
        self.shared.handlers.get(self.state.record.handler.as_deref()?)
    }

    pub(super) fn handler_name(&self) -> &str {
        self.state.record.handler.as_deref().unwrap_or("none")
    }

    /// What a call that is the `part` of the step's trace is about.
    fn task(&self, parts: &HandlerParts, part: &str) -> Task {
        let record = &self.state.record;
        Task {
            step: record.step(),
            queue_url: record.queue.as_str().to_owned(),
            attempt: record.attempt.max(1),
            // Each claim is a write of its own, and versions only grow.
            fence: record.version,
            stop_grace: parts.config.stop_grace,
            checkpoint: record.checkpoint.as_deref().cloned(),
            work_dir: self.shared.work_dir.clone(),
            trace: spans::header(&self.shared, record, part),
        }
    }

    fn sink(&self, cleanup: bool) -> Arc<ToDriver> {
        Arc::new(ToDriver {
            seat: self.seat.clone(),
            shared: self.shared.clone(),
            lane: self.lane.clone(),
            step: (self.state.record.token.clone(), self.state.record.attempt),
            handler: self.handler_name().to_owned(),
            cleanup,
        })
    }

    /// Records when a step that runs, or that waits to be looked at again, last made progress.
    fn note_progress(&self) {
        let record = &self.state.record;
        let Some(moments) = self.lane.progress.get(self.handler_name()) else { return };
        let Face { started_at, progress, .. } = self.seat.face();
        let progressed = progress.map(|progressed| progressed.at);
        let runs = self.state.local.activity.is_running() && self.call.is_some();
        let is_polled = record.status == Status::Waiting && record.resume && !record.hindered;
        let at = match (runs, is_polled) {
            (true, _) => progressed.or(started_at),
            (false, true) => progressed,
            (false, false) => None,
        };
        match at {
            Some(at) => moments.set(&record.token, at),
            None => moments.remove(&record.token),
        }
    }

    /// Publishes what is in progress.
    pub(super) fn show(&mut self) {
        let activity = self.state.local.activity;
        self.seat.show(|face| face.activity = Some(activity));
        self.lane.note(&self.state.record);
        self.note_progress();
        self.shared.watch_for(&self.state, &mut self.watched, false);
    }
}
