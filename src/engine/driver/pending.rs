//! What a driver waits for from the ledger.

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::inbox::Held;
use super::Reply;
use crate::ledger::{LedgerError, Put, StoreError};
use crate::lifecycle::{Event, Local, NotRetried, Record, Transition};

/// What comes with an event but is not part of the decision.
pub(super) enum With {
    Nothing,
    /// The sender of a checkpoint or a key, which waits until it is durable.
    Reply(Reply),
    /// Who wants the step to be tried again, and waits until that is durable or refused.
    Retry(oneshot::Sender<Result<(), NotRetried>>),
    /// The message that was delivered.
    Message(Held),
}

/// A pending request to the ledger, or one that will be repeated.
pub(super) enum Pending {
    Nothing,
    Writing(Box<Writing>),
    Reading {
        event: Option<Event>,
        with: With,
        read: BoxFuture<'static, Result<Option<Record>, LedgerError>>,
    },
    Retrying {
        event: Option<Event>,
        with: With,
        at: Instant,
    },
}

/// A pending write, and what follows from it.
pub(super) struct Writing {
    /// `None` if the record is written unchanged.
    pub(super) event: Option<Event>,
    pub(super) with: With,
    pub(super) then: Transition,
    /// The record as it is being written.
    pub(super) record: Record,
    /// The local state when this was decided.
    pub(super) from: Local,
    /// How long to wait for it.
    pub(super) until: Option<Instant>,
    pub(super) put: BoxFuture<'static, Result<Put, StoreError>>,
}

/// What the ledger answered.
pub(super) enum Outcome {
    Written(Result<Put, StoreError>),
    Read(Box<Result<Option<Record>, LedgerError>>),
    /// It is time to try again.
    Again,
}

impl With {
    /// What was to be saved is durable.
    pub(super) fn kept(self) {
        // The handler, or the command, may be gone.
        match self {
            Self::Reply(reply) => drop(reply.send(Ok(()))),
            Self::Retry(reply) => drop(reply.send(Ok(()))),
            Self::Nothing | Self::Message(_) => {}
        }
    }
}

impl Pending {
    /// Cancel safe: pending requests are kept.
    pub(super) async fn outcome(&mut self) -> Outcome {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Writing(writing) => {
                Outcome::Written(within(writing.until, &mut writing.put).await)
            }
            Self::Reading { read, .. } => Outcome::Read(Box::new(read.await)),
            Self::Retrying { at, .. } => {
                sleep_until(*at).await;
                Outcome::Again
            }
        }
    }
}

/// The ledger's answer, if it comes by then.
pub(super) async fn within<T, E: From<StoreError>>(
    until: Option<Instant>,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(until) = until else { return call.await };
    let late = |_| {
        Err(StoreError("it did not answer before the claim on the step expired".to_owned()).into())
    };
    timeout_at(until, call).await.unwrap_or_else(late)
}
