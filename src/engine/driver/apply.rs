//! Decides events and writes the results: the order of events, and what a slow or failing ledger
//! does to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::shared::Shared;
use super::Driver;
use super::pending::{Outcome, Pending, With, Writing, within};
use crate::backoff::{Backoff, Failures};
use crate::clock::after;
use crate::handler::CheckpointError;
use crate::ledger::{Commit, LedgerError, Put, StoreError};
use crate::lifecycle::{
    Activity, Event, Illegal, Local, Phase, Record, RunEnd, Status, Transition, Urgency, Via, View,
    Write, decide, may_retry,
};
use crate::outcome::Reason;
use crate::seam::Observation;

const LEDGER: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// How many characters of a handler's error are logged.
const SAID: usize = 4000;

impl Driver {
    /// Accepts an event: decides it at once if it is next in order, or if a run must be told of it
    /// whatever the ledger does.
    pub(super) fn take_on(&mut self, event: Event, with: With) {
        if event == Event::LeaseLost && self.is_unknown_to_others() {
            return self.give_up();
        }
        let in_turn = matches!(self.pending, Pending::Nothing) && self.backlog.is_empty();
        if in_turn {
            return self.decide_on(event, with);
        }
        let urgent = self.call.is_some() || self.starts || event == Event::LeaseLost;
        if !(urgent && matches!(with, With::Nothing) && self.decided_without_the_ledger(&event)) {
            self.backlog.push_back((event, with));
        }
    }

    /// The ledger has not accepted the first record of the step, so no other worker can find it.
    fn is_unknown_to_others(&self) -> bool {
        self.state.record.version == 0 && matches!(self.pending, Pending::Retrying { .. })
    }

    /// Leaves the step to the next receiver of its messages.
    fn give_up(&mut self) {
        self.pending = Pending::Nothing;
        self.backlog.clear();
        self.state.local = Local::NOTHING;
        self.slot = None;
        self.berth = None;
        self.let_go();
    }

    /// Decides the backlog until the ledger has to answer first.
    pub(super) fn advance(&mut self) {
        while matches!(self.pending, Pending::Nothing) {
            if let Some((event, with)) = self.backlog.pop_front() {
                self.decide_on(event, with);
            } else if self.unwritten.is_some() {
                let then = Transition { write: None, local: self.state.local, effects: Vec::new() };
                self.write(None, With::Nothing, then, self.state.record.clone(), Commit::Now);
            } else if std::mem::take(&mut self.flagged) {
                self.read(None, With::Nothing);
            } else {
                return;
            }
        }
    }

    fn decided(&self, event: &Event) -> Result<Transition, Illegal> {
        let mut then = self.viewed(|view| decide(&self.state, event, view))?;
        if let Some(write) = &mut then.write {
            write.record.remember(&self.state.record, self.shared.clock.now());
        }
        Ok(then)
    }

    /// Decides something under the present circumstances.
    fn viewed<T>(&self, decide: impl FnOnce(&View<'_>) -> T) -> T {
        decide(&View {
            now: self.shared.clock.now(),
            me: &self.shared.ledger.me(),
            policy: &self.policy,
            handlers: &self.lane.routes().listed(),
            foreign: self.shared.ledger.foreign_lease(&self.state.record),
            random: fastrand::f64(),
            phase: self.shared.phase(),
            holds: self.holds_a_message(),
            own_account: self.lane.is_of_account(self.state.record.execution.account()),
        })
    }

    fn decide_on(&mut self, event: Event, with: With) {
        let with = match with {
            With::Retry(reply) => match self.viewed(|view| may_retry(&self.state, view)) {
                Ok(()) => With::Retry(reply),
                // The command may be gone.
                Err(refused) => return drop(reply.send(Err(refused))),
            },
            with => with,
        };
        let starts = event == Event::SlotFree
            && self.state.local.activity == Activity::Queued
            && self.hindrance.is_none();
        if starts && !self.may_start() {
            // The event comes again with the leave to start.
            return;
        }
        let mut then = match self.decided(&event) {
            Ok(then) => then,
            Err(illegal) => {
                if let With::Reply(reply) = with {
                    // The run has ended and no longer waits for its last checkpoint.
                    let _ = reply.send(Err(CheckpointError::Failed(
                        "this worker no longer runs the step".to_owned(),
                    )));
                    return;
                }
                tracing::error!(
                    event = "illegal_event",
                    error = %illegal,
                    "internal error: this is a bug in callbackd, please report it"
                );
                return;
            }
        };
        match then.write.take() {
            None => {
                self.enact(then, &with);
                with.kept();
            }
            Some(Write { record, urgency: Urgency::Along }) => {
                self.state.record = record;
                self.unwritten = Some(event);
                self.enact(then, &with);
            }
            Some(Write { record, urgency }) => {
                let commit = if urgency == Urgency::Lazy { Commit::Soon } else { Commit::Now };
                self.write(Some(event), with, then, record, commit);
            }
        }
    }

    /// Decides an event while the ledger is busy, if nothing has to be durable first.
    fn decided_without_the_ledger(&mut self, event: &Event) -> bool {
        let Ok(mut then) = self.decided(event) else { return false };
        match then.write.take() {
            None => {}
            Some(Write { record, urgency: Urgency::Along }) => {
                self.state.record = record;
                self.unwritten = Some(event.clone());
            }
            Some(_) => return false,
        }
        self.enact(then, &With::Nothing);
        true
    }

    fn write(
        &mut self,
        event: Option<Event>,
        with: With,
        then: Transition,
        mut record: Record,
        commit: Commit,
    ) {
        let (from, until) = (self.state.local, self.patience());
        let put = self.shared.ledger.begin(&self.state.record, &mut record, commit);
        self.pending =
            Pending::Writing(Box::new(Writing { event, with, then, record, from, until, put }));
    }

    /// Reads the record again before `event` is decided.
    pub(super) fn read(&mut self, event: Option<Event>, with: With) {
        let (shared, until) = (self.shared.clone(), self.patience());
        let token = self.state.record.token.clone();
        let read = Box::pin(async move { within(until, shared.ledger.load(&token)).await });
        self.pending = Pending::Reading { event, with, read };
    }

    pub(super) fn ledger_answered(&mut self, outcome: Outcome) {
        match (std::mem::replace(&mut self.pending, Pending::Nothing), outcome) {
            (Pending::Writing(writing), Outcome::Written(written)) => {
                self.written(*writing, written);
            }
            (Pending::Reading { event, with, .. }, Outcome::Read(read)) => {
                self.was_read(event, with, *read);
            }
            (Pending::Retrying { event: Some(event), with, .. }, _) => self.decide_on(event, with),
            // An unwritten record is written in its turn.
            (pending, _) => drop(pending),
        }
    }

    fn written(&mut self, writing: Writing, put: Result<Put, StoreError>) {
        let Writing { event, with, then, record, from, .. } = writing;
        match self.shared.ledger.end(put) {
            // Nothing may begin by it any more.
            Ok(Put::Done) if self.shared.ledger.has_lost(&record) => self.read(event, with),
            Ok(Put::Done) => {
                self.failures.end();
                self.durable(record, event.is_none());
                if let Some(event) = &event {
                    self.tell_of_failure(event);
                }
                // A run may have been told to end meanwhile; a checkpoint or a renewal does not
                // undo that.
                let local = if then.local == from { self.state.local } else { then.local };
                self.enact(Transition { local, ..then }, &with);
                with.kept();
            }
            Ok(Put::Changed) => {
                let event = event.or_else(|| self.unwritten.take());
                self.read(event, with);
            }
            Err(error) => self.write_failed(event, with, &error),
        }
    }

    /// Logs why an attempt or a cleanup failed, unless the answer to SageMaker, which is logged,
    /// says the same; and that outputs are lost.
    fn tell_of_failure(&self, event: &Event) {
        let record = &self.state.record;
        match event {
            Event::Ended(RunEnd::Retry { .. } | RunEnd::Aborted)
                if record.status == Status::Waiting && !record.resume =>
            {
                let now = self.shared.clock.now();
                let wait = record
                    .not_before
                    .and_then(|at| Duration::try_from(at.duration_since(now)).ok());
                tracing::warn!(
                    event = "attempt_failed",
                    attempt = record.attempt,
                    of = self.policy.max_attempts,
                    error = record.last_error.as_deref().map(cut),
                    again_in = wait.map(tracing::field::debug),
                    "the attempt failed; the step is tried again"
                );
            }
            Event::Ended(RunEnd::Failure(text) | RunEnd::Retry { error: text, .. })
                if record.status == Status::Concluded && text.chars().count() > Reason::MAX =>
            {
                tracing::warn!(
                    event = "reason_shortened",
                    error = cut(text),
                    "the step fails; its reason is a part of this"
                );
            }
            Event::Ended(RunEnd::Success(outputs))
                if record.status == Status::Deferred && outputs.iter().next().is_some() =>
            {
                tracing::warn!(
                    event = "outputs_not_sent",
                    "the outputs of the run are not sent: its handler answers itself"
                );
            }
            Event::Cleaned(Err(error)) => {
                tracing::warn!(event = "cleanup_failed", error = cut(error), "the cleanup failed");
            }
            _ => {}
        }
    }

    /// Adopts a record that is now durable, with what has been flagged since.
    fn durable(&mut self, record: Record, all: bool) {
        let flagged = self.state.record.stop_requested;
        let first = self.state.record.version == 0;
        let begun = record.attempt > self.state.record.attempt;
        self.state.record = record;
        if begun {
            self.shared.observer.observe(Observation::Attempt {
                queue: &self.lane.name,
                handler: self.handler_name(),
                first: self.state.record.attempt == 1,
            });
        }
        if all || self.unwritten.is_some() && self.state.record.stop_requested == flagged {
            self.unwritten = None;
        } else if self.unwritten.is_some() && self.state.record.status == Status::Claimed {
            let before = self.state.record.clone();
            self.state.record.stop_requested = flagged;
            self.state.record.remember(&before, self.shared.clock.now());
        } else {
            // The step has moved on: the flag for its run is obsolete.
            self.unwritten = None;
        }
        if first {
            for held in &self.messages {
                self.shared.lane_at(held).messages.recorded([&held.id]);
            }
        }
    }

    fn was_read(
        &mut self,
        event: Option<Event>,
        with: With,
        read: Result<Option<Record>, LedgerError>,
    ) {
        let record = match read {
            Ok(Some(record)) => record,
            Ok(None) => Record { version: 0, status: Status::New, ..self.state.record.clone() },
            Err(error) => {
                // Nothing else has the record read again.
                self.flagged |= event.is_none();
                say_unread(&self.shared, &error, self.failures.count() + 1);
                return self.try_later(event, with, &error);
            }
        };
        self.failures.end();
        self.read = self.shared.clock.now();
        let flagged = self.state.record.stop_requested.is_some();
        self.state.record = record;
        self.policy = self.shared.policy(&self.lane, self.state.record.handler.as_deref());
        if !flagged
            && self.state.record.stop_requested.is_some()
            && self.state.local.activity == Activity::Running
        {
            // Another worker of this ledger has the Stopping message.
            self.backlog.push_front((Event::StopSeen(Via::Ledger), With::Nothing));
        }
        if let Some(cause) = self.unwritten.take() {
            self.backlog.push_front((cause, With::Nothing));
        }
        match event {
            Some(event) if self.backlog.is_empty() => self.decide_on(event, with),
            Some(event) => self.backlog.push_back((event, with)),
            None => {}
        }
    }

    fn write_failed(&mut self, event: Option<Event>, with: With, error: &LedgerError) {
        if let Some(more) = self.shared.said.again("unwritten") {
            tracing::warn!(
                event = "ledger_write_failed",
                %error,
                failures = self.failures.count() + 1,
                more,
                "the ledger did not accept a step's record; its messages are kept and the write is \
                 tried again"
            );
        }
        self.try_later(event, with, error);
    }

    fn try_later(&mut self, event: Option<Event>, with: With, error: &LedgerError) {
        let wait = self.failures.another(LEDGER, fastrand::f64());
        if let With::Reply(reply) = with {
            let _ = reply.send(Err(CheckpointError::Failed(error.to_string())));
            return;
        }
        if let With::Retry(_) = with {
            // The command tells that it is not known whether it was recorded.
            return;
        }
        self.pending = Pending::Retrying { event, with, at: Instant::now() + wait };
    }

    fn enact(&mut self, then: Transition, with: &With) {
        let was = std::mem::replace(&mut self.state.local, then.local).activity;
        let activity = then.local.activity;
        self.leave_lines(was);
        self.give_back_for(activity);
        if !matches!(activity, Activity::Cleaning(_)) {
            self.cleanup = None;
            self.wants.cleanup = None;
        }
        self.wants.report &= activity == Activity::Reporting;
        for effect in then.effects {
            self.perform(effect, with);
        }
        self.drop_what_is_over(activity);
        self.show();
    }

    /// The latest moment for the ledger to answer a request, if the ledger is shared.
    fn patience(&self) -> Option<Instant> {
        let until = self.shared.ledger.patience(self.shared.clock.now())?;
        Some(self.shared.clock.instant(until))
    }
}

/// Reads a record before anything is decided, for as long as it takes; `None` if the worker leaves
/// first, or if the ledger is shared and has not answered for a lease: other workers, which may
/// reach it, are not kept from the step.
pub(super) async fn load(
    shared: &Arc<Shared>,
    token: &crate::step::CallbackToken,
) -> Option<Result<Option<Record>, LedgerError>> {
    let mut failures = Failures::default();
    let until = after(shared.clock.now(), shared.ledger.lease());
    loop {
        let error = match shared.ledger.load(token).await {
            Ok(record) => return Some(Ok(record)),
            Err(error @ LedgerError::Damaged(_)) => return Some(Err(error)),
            Err(error) => error,
        };
        let wait = failures.another(LEDGER, fastrand::f64());
        say_unread(shared, &error, failures.count());
        let given_up = shared.ledger.is_shared() && shared.clock.now() >= until;
        if given_up || shared.phase() == Phase::Leaving {
            return None;
        }
        tokio::select! {
            biased;
            () = shared.phases.reached(Phase::Leaving) => {}
            () = sleep(wait) => {}
        }
    }
}

fn say_unread(shared: &Shared, error: &LedgerError, failures: u32) {
    if let Some(more) = shared.said.again("unread") {
        tracing::warn!(
            event = "ledger_read_failed",
            %error,
            failures,
            more,
            "a step's record could not be read; its messages are kept and the read is tried again"
        );
    }
}

/// As much of a handler's text as fits a log line.
fn cut(text: &str) -> &str {
    text.char_indices().nth(SAID).map_or(text, |(end, _)| &text[..end])
}
