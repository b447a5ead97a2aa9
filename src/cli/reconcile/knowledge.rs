//! What the ledger has of the steps that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::Failure;
use super::fleet::Fleet;
use super::survey::Waiting;
use super::verdict::Known;
use crate::ledger::{self, Damaged, OpenError, Store, StoreError};
use crate::lifecycle::{Record, Status};
use crate::step::{CallbackToken, ExecutionArn};

/// Where the ledger is.
pub(super) enum Source {
    /// In the worker's memory, where nothing can be read from here.
    Memory,
    /// In a SQLite file, which is read whole.
    File(PathBuf),
    /// In a store that workers share. Single records are read as they are at that moment.
    #[cfg_attr(not(feature = "dynamodb"), expect(dead_code, reason = "only a table is shared"))]
    Shared(Arc<dyn Store>),
}

/// The steps of a shared store that may have a message in flight, each with its queue. By step,
/// because a step that changes may be listed twice.
pub(super) type Holding = BTreeMap<CallbackToken, Option<usize>>;

/// The ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    File(#[from] OpenError),
    #[error(transparent)]
    Shared(#[from] StoreError),
}

impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::File(error) => error.into(),
            Unreadable::Shared(error) => error.into(),
        }
    }
}

/// What the ledger has.
#[derive(Default)]
pub(super) struct Knowledge {
    steps: BTreeMap<CallbackToken, Known>,
    /// For each queue, how many steps may have a message in flight.
    pub with_messages: Vec<u64>,
    /// Records that do not even tell their token.
    pub nameless: usize,
}

/// The statuses in which a worker may keep a message of a step invisible. The message of a deferred
/// step is deleted.
const WITH_MESSAGE: [Status; 4] =
    [Status::Owed, Status::Claimed, Status::Waiting, Status::Concluded];

impl Source {
    /// Fails if the ledger cannot be read.
    pub(super) async fn check(&self, fleet: &Fleet) -> Result<(), Unreadable> {
        match self {
            Self::Memory => {}
            Self::File(path) => drop(Knowledge::of_file(path, fleet, &[])?),
            Self::Shared(store) => {
                // A list and a single record, as they are needed later.
                if let Some(workers) = store.workers() {
                    workers.all().await?;
                }
                if let Ok(token) = NOBODYS.parse() {
                    store.get(&token).await?;
                }
            }
        }
        Ok(())
    }

    /// The time by AWS's clock, if the ledger's answers name it; else by the wall clock.
    pub(super) fn now(&self) -> Timestamp {
        let clock = match self {
            Self::Shared(store) => store.clock(),
            Self::Memory | Self::File(_) => None,
        };
        clock.map_or_else(Timestamp::now, |clock| clock.now())
    }

    /// What the ledger has of these steps, beside workers that may be writing it.
    pub(super) async fn read(
        &self,
        fleet: &Fleet,
        waiting: &[&Waiting],
        holding: &Holding,
    ) -> Result<Knowledge, Unreadable> {
        Ok(match self {
            Self::Memory => Knowledge::nothing(fleet),
            Self::File(path) => Knowledge::of_file(path, fleet, waiting)?,
            Self::Shared(store) => Knowledge::of_store(&**store, fleet, waiting, holding).await?,
        })
    }

    /// Lists the steps that may have a message in flight, as [`read`](Self::read) takes them. It
    /// costs as much as there are unsettled steps. A file is read whole anyway.
    pub(super) async fn list(&self, fleet: &Fleet) -> Result<Holding, Unreadable> {
        let mut holding = Holding::new();
        if let Self::Shared(store) = self {
            // A record that cannot be read accounts for no message; if its step is among those that
            // wait, it is found when they are read.
            let each = |record: Result<Record, Damaged>| {
                let record = record.ok();
                holding.extend(record.map(|record| (record.token, fleet.queue_of(&record.queue))));
            };
            ledger::list(&**store, &WITH_MESSAGE, each).await?;
        }
        Ok(holding)
    }
}

/// A token to ask for when any will do.
const NOBODYS: &str = "0000000000";

impl Knowledge {
    fn of_file(path: &Path, fleet: &Fleet, waiting: &[&Waiting]) -> Result<Self, OpenError> {
        let wanted: BTreeMap<&CallbackToken, &ExecutionArn> =
            waiting.iter().map(|one| (&one.token, &one.execution)).collect();
        let mut knowledge = Self::nothing(fleet);
        ledger::read(path, |record| match record {
            Ok(record) => {
                let queue = fleet.queue_of(&record.queue).filter(|_| may_have_message(&record));
                if let Some(count) = queue.and_then(|index| knowledge.with_messages.get_mut(index))
                {
                    *count += 1;
                }
                if let Some(execution) = wanted.get(&record.token) {
                    knowledge.steps.insert(record.token.clone(), known(&record, execution));
                }
            }
            Err(Damaged { token, detail }) => {
                match token.as_deref().map(str::parse::<CallbackToken>) {
                    Some(Ok(token)) => drop(knowledge.steps.insert(token, Known::Unusable(detail))),
                    _ => knowledge.nameless += 1,
                }
            }
        })?;
        Ok(knowledge)
    }

    /// The list may be some seconds behind, as SQS's numbers are. So the records of the steps are
    /// read after it, one by one: a claim that was written by then is found.
    async fn of_store(
        store: &dyn Store,
        fleet: &Fleet,
        waiting: &[&Waiting],
        holding: &Holding,
    ) -> Result<Self, StoreError> {
        let mut knowledge = Self::nothing(fleet);
        let read: BTreeSet<&CallbackToken> = waiting.iter().map(|step| &step.token).collect();
        let listed = holding.iter().filter(|(token, _)| !read.contains(token));
        for queue in listed.filter_map(|(_, queue)| *queue) {
            knowledge.with_messages[queue] += 1;
        }
        for step in waiting {
            match ledger::find(store, &step.token).await? {
                None => {}
                Some(Ok(record)) => {
                    let queue = fleet.queue_of(&record.queue);
                    if let Some(queue) = queue.filter(|_| may_have_message(&record)) {
                        knowledge.with_messages[queue] += 1;
                    }
                    knowledge.steps.insert(step.token.clone(), known(&record, &step.execution));
                }
                Some(Err(Damaged { detail, .. })) => {
                    knowledge.steps.insert(step.token.clone(), Known::Unusable(detail));
                }
            }
        }
        Ok(knowledge)
    }

    /// Of a ledger that cannot be read from here.
    fn nothing(fleet: &Fleet) -> Self {
        Self { with_messages: vec![0; fleet.queues.len()], ..Self::default() }
    }

    pub(super) fn of(&self, step: &Waiting) -> Option<&Known> {
        self.steps.get(&step.token)
    }
}

/// Whether a worker may keep a message of the step invisible.
fn may_have_message(record: &Record) -> bool {
    WITH_MESSAGE.contains(&record.status)
        || (record.status == Status::Settled && record.returned.is_some())
}

fn known(record: &Record, execution: &ExecutionArn) -> Known {
    if !is_same(&record.execution, execution) {
        return Known::Unusable(format!("it is of the execution {}", record.execution));
    }
    match record.status {
        Status::Settled if record.returned.is_none() => Known::Settled(record.ending),
        open => Known::Open(open),
    }
}

/// ARNs differ in the letter case of the pipeline's name.
pub(super) fn is_same(one: &ExecutionArn, other: &ExecutionArn) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}
