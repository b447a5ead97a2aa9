//! Ends what handlers left running on this machine when the last process of this worker died.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::shared::Shared;
use crate::handler::{CheckpointError, CheckpointSink, Context, Progress, Task};
use crate::ledger::Filter;
use crate::lifecycle::{Record, Status};
use crate::step::StopReason;

/// Ends it step by step. No step that was running goes on before.
pub(crate) async fn reap(shared: &Shared) {
    // What another worker of a shared ledger runs is none of ours; what we left behind is ended when its step is taken up here.
    let mut filter = (!shared.ledger.is_shared()).then(|| Filter::of(&[Status::Claimed]));
    while let Some(which) = filter.take() {
        match shared.ledger.outlines(which.clone()).await {
            Ok(page) => {
                for outline in page.found.into_iter().flatten() {
                    if let Ok(Some(record)) = shared.ledger.load(&outline.token).await {
                        end(shared, &record).await;
                    }
                }
                filter = page.next.map(|next| Filter { after: Some(next), ..which });
            }
            Err(error) => tracing::error!(%error, "what the last process left running could not be looked for"),
        }
    }
    shared.reaped.cancel();
}

async fn end(shared: &Shared, record: &Record) {
    if record.owner.as_ref() == Some(shared.ledger.me()) {
        return;
    }
    let Some(parts) = record.handler.as_ref().and_then(|name| shared.handlers.get(&**name)) else { return };
    let (_tell, stop) = watch::channel(Some(StopReason::LeaseLost));
    let task = Task {
        step: record.step(),
        queue_url: record.queue.as_str().to_owned(),
        attempt: record.attempt.max(1),
        stop_grace: parts.config.stop_grace,
        checkpoint: record.checkpoint.as_deref().cloned(),
        work_dir: shared.work_dir.clone(),
    };
    tracing::info!(token = %record.token, "a step was running when this worker last died; what it left behind is ended");
    parts.handler.reap(Context::new(task, stop, Arc::new(Nowhere))).await;
}

/// A handler that reaps has nothing to save.
struct Nowhere;

impl CheckpointSink for Nowhere {
    fn save(&self, _: Value) -> futures_util::future::BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async { Err(CheckpointError("nothing is saved while reaping".to_owned())) })
    }

    fn progress(&self, _: Progress) {}
}
