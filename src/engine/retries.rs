//! Steps that an operator wants tried again now.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::driver::{self, Origin};
use super::inbox::{Absent, Input};
use super::shared::Shared;
use crate::ledger::LedgerError;
use crate::lifecycle::{NotRetried, Status};
use crate::step::CallbackToken;

/// Has steps of a running engine tried again; cheap to clone. It does not keep the engine alive.
///
/// Guarantees: the lifecycle decides, so a step that runs is never begun twice, and one that is not
/// in hand is begun only once SageMaker has said that it waits. Attempts count as usual.
///
/// Caveats: the step still waits for a slot, and for the limits of its handler.
#[derive(Clone)]
pub struct Retries(Arc<Shared>);

/// Why a step is not tried again.
#[derive(Debug, thiserror::Error)]
pub enum Unretried {
    /// Check the token.
    #[error("the ledger has no step {0}: check the token, and that this is its worker's ledger")]
    Unknown(CallbackToken),
    #[error("{0}")]
    Refused(NotRetried),
    /// By an order, or because its steps failed.
    #[error("its handler `{0}` is paused: `callbackd resume` ends that, and the step then goes on")]
    Paused(String),
    /// Other workers, with ledgers of their own, may run it.
    #[error(
        "its message is not here, and another worker of the queue may have it (exclusive = false)"
    )]
    NotInHand,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The worker ended, or the ledger failed.
    #[error("whether it is tried again is not known, because the ledger failed: ask again")]
    Unanswered,
}

impl Retries {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Tries the step again that waits for its next attempt, or to look at its job again. When it
    /// returns, that survives a crash.
    ///
    /// # Errors
    /// [`Unretried`] says what the step is instead.
    pub async fn retry(&self, token: &CallbackToken) -> Result<(), Unretried> {
        let shared = &self.0;
        let found = shared.ledger.load(token).await?;
        let record = found.ok_or_else(|| Unretried::Unknown(token.clone()))?;
        let waits = record.status == Status::Waiting;
        let handler = record.handler.as_deref().filter(|_| waits);
        if let Some(handler) = handler.filter(|handler| shared.limits.is_held(handler)) {
            return Err(Unretried::Paused(handler.to_owned()));
        }
        let lane = shared.lane(&record.queue);
        let absent = match lane {
            Some(lane) if shared.resumes(lane) => Absent::Start,
            _ => Absent::Skip,
        };
        if absent == Absent::Skip && !shared.steps.contains(token) {
            return Err(Unretried::NotInHand);
        }
        let (reply, answered) = oneshot::channel();
        if let Some(start) = shared.steps.send(token, Input::Retry(reply), absent) {
            driver::spawn(shared, token.clone(), start, Origin::Ledger, None);
        }
        answered.await.map_err(|_| Unretried::Unanswered)?.map_err(Unretried::Refused)
    }
}
