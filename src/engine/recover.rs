//! What the ledger holds that no message need bring: outcomes not yet reported, stops not yet answered, deferred steps past their limit,
//! and records too old to keep.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::lane::Shared;
use super::stop::wake;
use crate::handler::{CheckpointError, Context, Keeper, Progress, Task};
use crate::ledger::LedgerError;
use crate::lifecycle::{Event, Record, Status};
use crate::step::StopReason;

/// What the ledger holds without a message, however busy the worker is.
const OWED: [Status; 3] = [Status::Concluded, Status::Deferred, Status::Owed];
/// With what a worker that died, or gave it back, has left of a stop: a deferred step's message is gone.
const LEFT: [Status; 5] = [Status::Concluded, Status::Deferred, Status::Owed, Status::Claimed, Status::Waiting];

/// How often the ledger is looked through; a deferral's limit is kept this exactly.
const EVERY: Duration = Duration::from_secs(15);
/// A purge is one look at an index; more often gains nothing where the retention is days.
const PURGE_EVERY: Duration = Duration::from_hours(1);

/// Ends what handlers left running on this machine when the last process of this worker died. Before anything else runs.
///
/// # Errors
/// Where the ledger cannot be read.
pub(crate) async fn reap(shared: &Shared) -> Result<(), LedgerError> {
    if shared.ledger.is_shared() {
        // What another worker runs is none of ours; what we left behind is ended when its step is taken up here.
        return Ok(());
    }
    for record in super::records(&shared.ledger, &[Status::Claimed]).await? {
        let Some(parts) = record.handler.as_ref().and_then(|name| shared.handlers.get(name)) else { continue };
        let (_tell, stop) = watch::channel(Some(StopReason::LeaseLost));
        let task = Task {
            step: record.step(),
            queue_url: record.queue.clone(),
            attempt: record.attempt.max(1),
            stop_grace: parts.config.stop_grace,
            checkpoint: record.checkpoint.clone(),
        };
        tracing::info!(token = %record.token, "a step was running when this worker last died; it goes on when its message comes back");
        parts.handler.reap(Context::new(task, stop, Arc::new(Nowhere))).await;
    }
    Ok(())
}

/// Looks through the ledger, now and then, until dropped.
pub(crate) async fn sweep(shared: Arc<Shared>, retention: Duration) {
    let every = purge_every(retention);
    let mut purged: Option<Instant> = None;
    let mut first = true;
    loop {
        // In a ledger of its own, a worker leaves no stop behind but when it ends.
        let statuses: &[Status] = if first || shared.ledger.is_shared() { &LEFT } else { &OWED };
        match super::records(&shared.ledger, statuses).await {
            Ok(records) => {
                first = false;
                let deferred = records.iter().filter(|record| record.status == Status::Deferred).count();
                shared.deferred.store(deferred, Ordering::Relaxed);
                for record in records {
                    look_at(&shared, record);
                }
            }
            Err(error) => tracing::warn!(%error, "the ledger could not be looked through"),
        }
        if purged.is_none_or(|at| at.elapsed() >= every) {
            purged = Some(Instant::now());
            purge(&shared, retention).await;
        }
        sleep(EVERY).await;
    }
}

fn look_at(shared: &Arc<Shared>, record: Record) {
    let now = shared.clock.now();
    let lane = shared.lane(&record.queue);
    let due = match record.status {
        Status::Deferred => record.deadline.is_some_and(|deadline| deadline <= now),
        // Its message may have gone with its retention; the debt has not.
        Status::Owed => record
            .stop_requested
            .zip(lane)
            .is_some_and(|(stop, lane)| shared.clock.since(stop.at) >= lane.config.stop_takeover_after),
        // All else of these comes back with its message.
        Status::Claimed | Status::Waiting => record.stop_requested.is_some(),
        _ => true,
    };
    if !due {
        return;
    }
    match lane.cloned() {
        Some(lane) => wake(shared, &lane, record, &Event::Found),
        None => tracing::warn!(
            token = %record.token,
            queue = record.queue,
            "the ledger holds an unreported step of a queue that is not configured any more: configure it again until it is reported"
        ),
    }
}

/// So that a short retention is kept to: nothing stays for more than a tenth beyond it, give or take [`EVERY`].
fn purge_every(retention: Duration) -> Duration {
    PURGE_EVERY.min(retention / 10)
}

async fn purge(shared: &Shared, retention: Duration) {
    let kept = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
    let Ok(before) = shared.clock.now().checked_sub(kept) else { return };
    match shared.ledger.purge(before).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed settled steps older than the retention"),
        Err(error) => tracing::warn!(%error, "old records could not be removed"),
    }
}

/// A handler that reaps has nothing to save.
struct Nowhere;

impl Keeper for Nowhere {
    fn save(&self, _: Value) -> futures_util::future::BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async { Err(CheckpointError("nothing is saved while reaping".to_owned())) })
    }

    fn progress(&self, _: Progress) {}
}
