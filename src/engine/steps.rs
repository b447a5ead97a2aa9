//! The steps that this worker is busy with, each with the way to its driver.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use super::driver::Input;
use crate::handler::Progress;
use crate::lifecycle::{Here, Record, Status};
use crate::step::{CallbackToken, ExecutionArn};

/// What can be seen of a step from outside its driver.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepView {
    pub token: CallbackToken,
    pub execution: ExecutionArn,
    pub queue: String,
    pub handler: Option<String>,
    pub status: Status,
    /// What is under way here, for people.
    #[serde(serialize_with = "activity")]
    pub activity: Here,
    pub attempt: u32,
    pub first_seen: Timestamp,
    /// When the handler was last started here.
    pub started_at: Option<Timestamp>,
    /// When its outcome was frozen.
    pub concluded_at: Option<Timestamp>,
    pub stop_requested: bool,
    pub progress: Option<Progress>,
}

impl StepView {
    /// Of a step for which nothing is under way yet.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            token: record.token.clone(),
            execution: record.execution.clone(),
            queue: record.queue.clone(),
            handler: record.handler.clone(),
            status: record.status,
            activity: Here::Nothing,
            attempt: record.attempt,
            first_seen: record.first_seen,
            started_at: None,
            concluded_at: record.concluded_at,
            stop_requested: record.stop_requested.is_some(),
            progress: None,
        }
    }
}

/// The drivers by token.
#[derive(Default)]
pub(crate) struct Steps {
    drivers: Mutex<BTreeMap<CallbackToken, Entry>>,
    gone: Notify,
}

struct Entry {
    inbox: mpsc::Sender<Input>,
    view: StepView,
}

/// Why an input was not handed over.
pub(crate) enum Undelivered {
    /// Nobody drives the step.
    Absent(Input),
    /// Its driver is behind; try again later.
    Full(Input, mpsc::Sender<Input>),
}

/// Copies of one message and control events that a driver may fall behind by before whoever sends them waits.
const INBOX: usize = 32;

impl Steps {
    /// Hands an input to the step's driver.
    pub(crate) fn send(&self, token: &CallbackToken, input: Input) -> Result<(), Undelivered> {
        let drivers = self.lock();
        match drivers.get(token) {
            None => Err(Undelivered::Absent(input)),
            Some(entry) => {
                entry.inbox.try_send(input).map_err(|error| Undelivered::Full(error.into_inner(), entry.inbox.clone()))
            }
        }
    }

    /// Enters a driver for a step that has none; none where it has one.
    pub(crate) fn enter(&self, view: StepView) -> Option<(mpsc::Sender<Input>, mpsc::Receiver<Input>)> {
        let mut drivers = self.lock();
        if drivers.contains_key(&view.token) {
            return None;
        }
        let (inbox, inputs) = mpsc::channel(INBOX);
        drivers.insert(view.token.clone(), Entry { inbox: inbox.clone(), view });
        Some((inbox, inputs))
    }

    /// Strikes a driver off, unless something has just come for it.
    pub(crate) fn leave(&self, token: &CallbackToken, inputs: &mut mpsc::Receiver<Input>) -> Option<Input> {
        let mut drivers = self.lock();
        if let Ok(input) = inputs.try_recv() {
            return Some(input);
        }
        drivers.remove(token);
        drop(drivers);
        self.gone.notify_waiters();
        None
    }

    pub(crate) fn update(&self, token: &CallbackToken, change: impl FnOnce(&mut StepView)) {
        if let Some(entry) = self.lock().get_mut(token) {
            change(&mut entry.view);
        }
    }

    pub(crate) fn views(&self) -> Vec<StepView> {
        self.lock().values().map(|entry| entry.view.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Resolves once no step is left.
    pub(crate) async fn none_left(&self) {
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            gone.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Entry>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn activity<S: serde::Serializer>(here: &Here, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(here.as_str())
}
