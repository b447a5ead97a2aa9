//! What the ledger has of the steps that wait.

use std::collections::BTreeMap;
use std::path::Path;

use super::fleet::Fleet;
use super::survey::Waiting;
use super::verdict::Known;
use crate::ledger::{self, Damaged, OpenError};
use crate::lifecycle::{Record, Status};
use crate::step::{CallbackToken, ExecutionArn};

/// What the ledger has.
#[derive(Default)]
pub(super) struct Knowledge {
    steps: BTreeMap<CallbackToken, Known>,
    /// For each queue, how many steps may have a message in flight.
    pub with_messages: Vec<u64>,
    /// Records that do not even tell their token.
    pub nameless: usize,
}

impl Knowledge {
    /// Reads the whole ledger, beside a daemon that may be writing it.
    pub(super) fn read(
        path: &Path,
        fleet: &Fleet,
        waiting: &[&Waiting],
    ) -> Result<Self, OpenError> {
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

    /// Of a ledger that cannot be read from here.
    pub(super) fn nothing(fleet: &Fleet) -> Self {
        Self { with_messages: vec![0; fleet.queues.len()], ..Self::default() }
    }

    pub(super) fn of(&self, step: &Waiting) -> Option<&Known> {
        self.steps.get(&step.token)
    }
}

/// Whether a worker may keep a message of the step invisible. The message of a deferred step is
/// deleted.
fn may_have_message(record: &Record) -> bool {
    match record.status {
        Status::Owed | Status::Claimed | Status::Waiting | Status::Concluded => true,
        Status::Settled => record.returned.is_some(),
        Status::New | Status::Deferred => false,
    }
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
