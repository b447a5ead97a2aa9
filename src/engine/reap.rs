//! Kills what handlers left running on this machine when the last process of this worker died, and
//! records the consequences of its death for the steps.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use super::shared::Shared;
use crate::backoff::{Backoff, Failures};
use crate::handler::{CheckpointError, CheckpointSink, Context, Progress, Task};
use crate::ledger::{Commit, Filter, LedgerError, Written};
use crate::lifecycle::{Beside, Phase, Record, Status, WorkerId};
use crate::step::{CallbackToken, StepKey, StopReason};

/// Records that are judged at a time; they are in memory as a whole, and written together.
const JUDGED: usize = 100;
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Examines each step that is claimed by a dead process. None of them continues before all have
/// been examined: what ran beside a step is known only while the claims are unchanged.
pub(crate) async fn reap(shared: &Shared) {
    // What another worker of a shared ledger runs is not ours; what we left behind is killed when
    // its step is resumed here.
    let mut failures = Failures::default();
    while !shared.ledger.is_shared() && shared.phase() != Phase::Leaving {
        let Err(error) = look(shared).await else { break };
        let wait = failures.another(AGAIN, fastrand::f64());
        if let Some(more) = shared.said.again("unreaped") {
            tracing::error!(
                event = "leftovers_not_examined",
                %error,
                failures = failures.count(),
                more,
                "what the last process left running could not be examined; its steps wait until it \
                 is"
            );
        }
        tokio::select! {
            biased;
            () = shared.phases.reached(Phase::Leaving) => {}
            () = sleep(wait) => {}
        }
    }
    shared.reaped.cancel();
}

/// May be restarted at any point: a record that has been examined says so, and still counts as its
/// owner's.
async fn look(shared: &Shared) -> Result<(), LedgerError> {
    for (owner, tokens) in claims(shared).await? {
        let beside = if tokens.len() == 1 { Beside::Nothing } else { Beside::Others };
        for some in tokens.chunks(JUDGED) {
            let mut left = Vec::new();
            for token in some {
                let record = match shared.ledger.load(token).await {
                    Ok(Some(record)) if record.owner.as_ref() == Some(&owner) => record,
                    Ok(_) | Err(LedgerError::Damaged(_)) => continue,
                    Err(error) => return Err(error),
                };
                end(shared, &record).await;
                left.extend(
                    Some(record).filter(|record| record.is_left_behind(&shared.ledger.me())),
                );
            }
            try_join_all(left.into_iter().map(|record| judge(shared, record, beside))).await?;
        }
    }
    Ok(())
}

/// What each dead process had claimed.
async fn claims(shared: &Shared) -> Result<BTreeMap<WorkerId, Vec<CallbackToken>>, LedgerError> {
    let mut claims: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut filter = Some(Filter::of(&[Status::Claimed]));
    while let Some(which) = filter.take() {
        let page = shared.ledger.outlines(which.clone()).await?;
        for outline in page.found.into_iter().flatten() {
            if let Some(owner) = outline.owner.filter(|owner| *owner != shared.ledger.me()) {
                claims.entry(owner).or_default().push(outline.token);
            }
        }
        filter = page.next.map(|next| Filter { after: Some(next), ..which });
    }
    Ok(claims)
}

async fn judge(shared: &Shared, record: Record, beside: Beside) -> Result<(), LedgerError> {
    let before = record.clone();
    let mut record = record.after_crash(beside);
    record.remember(&before, shared.clock.now());
    tracing::warn!(
        event = "run_interrupted",
        token = %record.token,
        handler = record.handler.as_deref().unwrap_or("none"),
        attempt = record.attempt,
        alone = beside == Beside::Nothing,
        charged = !record.resume,
        suspected = record.is_suspected(),
        crashes = record.crashes,
        "a step was running when this worker last died; what it left behind is killed"
    );
    match shared.ledger.write(record, Commit::Now).await? {
        // Nothing else resumes it before it has been examined; if it was changed all the same, the
        // new record decides.
        Written::Done(_) | Written::Changed => Ok(()),
    }
}

async fn end(shared: &Shared, record: &Record) {
    let Some(parts) = record.handler.as_ref().and_then(|name| shared.handlers.get(name)) else {
        return;
    };
    let (_tell, stop) = watch::channel(Some(StopReason::LeaseLost));
    let task = Task {
        step: record.step(),
        queue_url: record.queue.as_str().to_owned(),
        attempt: record.attempt.max(1),
        fence: record.version,
        stop_grace: parts.config.stop_grace,
        checkpoint: record.checkpoint.as_deref().cloned(),
        work_dir: shared.work_dir.clone(),
        trace: record.trace.clone(),
    };
    parts.handler.reap(Context::new(task, stop, Arc::new(Nowhere))).await;
}

/// A handler that reaps has nothing to save.
struct Nowhere;

impl CheckpointSink for Nowhere {
    fn save(&self, _: Value) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(ready(Err(CheckpointError::Failed("nothing is saved while reaping".to_owned()))))
    }

    fn set_key(&self, _: StepKey) -> BoxFuture<'_, Result<(), CheckpointError>> {
        self.save(Value::Null)
    }

    fn progress(&self, _: Progress) {}
}
