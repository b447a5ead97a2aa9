//! A retry that an operator asks for: a step that waits for a time does not wait for it any more.
//!
//! Nothing else is skipped: SageMaker is asked where it is asked otherwise, attempts count as
//! before, and slots and limits are waited for.

use super::machine::{Decision, Transition};
use super::{Activity, Phase, Record, State, Status, View, WorkerId};
use crate::step::Quoted;

/// Why a step is not tried again now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRetried {
    #[error("the worker is shutting down")]
    ShuttingDown,
    #[error("it is not in the ledger yet, and begins by itself")]
    New,
    #[error("the worker {0} has it: what that one runs is not begun again")]
    Elsewhere(WorkerId),
    #[error("its worker has ended while it ran it, and another one takes it over by itself")]
    LeftBehind,
    #[error("it is under way already: {}", .0.as_str())]
    UnderWay(Activity),
    #[error("it is being stopped, and is cleaned up after")]
    Stopping,
    #[error("its time limit is over, and it is being ended")]
    Overdue,
    #[error("its handler `{0}` is not configured any more: configure it, and start the worker")]
    HandlerGone(Quoted),
    #[error("this machine keeps its handler from working, and tries by itself: {0}")]
    Hindered(Quoted),
    #[error("it is deferred: someone else answers it, as by `callbackd complete`")]
    Deferred,
    #[error("its outcome is frozen, and is being reported")]
    Concluded,
    #[error("it is settled: nothing of it is to be done")]
    Settled,
}

/// Decides whether [`Event::RetryAsked`](super::Event::RetryAsked) changes anything.
///
/// # Errors
/// [`NotRetried`] if the step does not wait for a time.
pub fn may_retry(state: &State, view: &View<'_>) -> Result<(), NotRetried> {
    let step = Decision { record: &state.record, local: state.local, view };
    step.not_retried().map_or(Ok(()), Err)
}

/// As much of an error as a refusal quotes.
const SAID: usize = 200;

impl Decision<'_> {
    /// The next attempt is due now; a step for which SageMaker is being asked goes on after the
    /// answer.
    pub(super) fn retry_asked(&self) -> Transition {
        if self.not_retried().is_some() {
            return self.nothing();
        }
        let record = Record { not_before: None, ..self.record.clone() };
        let due = Decision { record: &record, ..*self };
        let asks = self.local.activity == Activity::Resuming;
        let mut there = if asks { due.nothing() } else { due.proceed() };
        if there.write.is_none() && self.record.not_before.is_some() {
            there.write = due.write(record.clone()).write;
        }
        there
    }

    fn not_retried(&self) -> Option<NotRetried> {
        let record = self.record;
        if self.view.phase != Phase::Running {
            return Some(NotRetried::ShuttingDown);
        }
        let at_rest =
            matches!(self.local.activity, Activity::Idle | Activity::Sleeping | Activity::Resuming);
        match record.status {
            Status::New => Some(NotRetried::New),
            Status::Deferred => Some(NotRetried::Deferred),
            Status::Concluded => Some(NotRetried::Concluded),
            Status::Settled => Some(NotRetried::Settled),
            Status::Owed => Some(NotRetried::Stopping),
            _ if record.stop_requested.is_some() => Some(NotRetried::Stopping),
            Status::Claimed => Some(match &record.owner {
                Some(owner) if self.foreign_until().is_some() => {
                    NotRetried::Elsewhere(owner.clone())
                }
                _ if at_rest => NotRetried::LeftBehind,
                _ => NotRetried::UnderWay(self.local.activity),
            }),
            Status::Waiting if !at_rest => Some(NotRetried::UnderWay(self.local.activity)),
            Status::Waiting if self.overdue() => Some(NotRetried::Overdue),
            Status::Waiting if self.view.policy.handler_is_gone => {
                let handler = record.handler.as_deref().unwrap_or("none");
                Some(NotRetried::HandlerGone(Quoted::within(SAID, handler)))
            }
            Status::Waiting if record.hindered => {
                let why = record.last_error.as_deref().unwrap_or("nothing is known about it");
                Some(NotRetried::Hindered(Quoted::within(SAID, why)))
            }
            Status::Waiting => None,
        }
    }
}
