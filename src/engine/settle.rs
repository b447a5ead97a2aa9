//! The end of a step: its outcome is sent for as long as it takes, and then its messages are deleted. Nothing else deletes one.

use std::sync::Mutex;
use std::time::Duration;

use std::sync::PoisonError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::heartbeat::Held;
use crate::backoff::Backoff;
use crate::lifecycle::{Event, Record};
use crate::seam::{FaultKind, Pipelines, Queue};

/// Soon, then patiently: throttling and outages end by themselves.
const REPORT: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(1));
/// Somebody has to mend a policy first.
const DENIED: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));
const DELETE: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// How long the first message of a batch of deletes waits for others. A step costs a tenth of a call then.
const LINGER: Duration = Duration::from_millis(50);
const BATCH: usize = 10;

/// Sends a concluded record's outcome until SageMaker has taken it or refused it. Every send is the identical request.
pub(crate) async fn report(pipelines: &dyn Pipelines, record: &Record) -> Event {
    let (Some(outcome), Some(request)) = (&record.outcome, &record.client_request_token) else {
        return Event::ReportRefused("the record has no outcome".to_owned());
    };
    let mut failures = 0;
    loop {
        let fault = match pipelines.report(&record.token, outcome, request).await {
            Ok(()) => return Event::ReportAccepted,
            Err(fault) if matches!(fault.kind, FaultKind::Refused | FaultKind::Stale) => {
                tracing::warn!(error = %fault, "SageMaker refused the report; asking where the step stands");
                return Event::ReportRefused(fault.detail);
            }
            Err(fault) => fault,
        };
        failures += 1;
        let backoff = if fault.kind == FaultKind::Denied { DENIED } else { REPORT };
        let wait = backoff.after(failures, fastrand::f64());
        if fault.kind == FaultKind::Denied {
            tracing::error!(error = %fault, failures, "no permission to report the outcome, so the pipeline waits: allow sagemaker:SendPipelineExecutionStep*");
        } else {
            tracing::warn!(error = %fault, failures, again_in = ?wait, "the outcome could not be reported yet");
        }
        sleep(wait).await;
    }
}

/// The messages of one queue that are to be deleted.
pub(crate) struct Deletes {
    push: mpsc::UnboundedSender<String>,
    // Locked once, by `work`; the queue's length is bounded by the number of messages held.
    take: Mutex<Option<mpsc::UnboundedReceiver<String>>>,
}

impl Deletes {
    pub(crate) fn new() -> Self {
        let (push, take) = mpsc::unbounded_channel();
        Self { push, take: Mutex::new(Some(take)) }
    }

    /// Has messages deleted, by id. They stay held until they are.
    pub(crate) fn push(&self, ids: impl IntoIterator<Item = String>) {
        for id in ids {
            // Fails only once `work` is over: the message comes back then, and is found settled.
            let _ = self.push.send(id);
        }
    }

    /// Deletes until `ended` is done and nothing is left, or `give_up` is done.
    pub(crate) async fn work(&self, queue: &dyn Queue, held: &Held, ended: impl Future<Output = ()>) {
        let Some(mut take) = self.take.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let mut batch: Vec<String> = Vec::with_capacity(BATCH);
        let mut failures = 0;
        tokio::pin!(ended);
        let mut last = false;
        loop {
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    Some(id) = take.recv() => batch.push(id),
                    () = &mut ended, if !last => {
                        last = true;
                        take.close();
                    }
                    else => return,
                }
                continue;
            }
            let until = Instant::now() + if last { Duration::ZERO } else { LINGER };
            while batch.len() < BATCH {
                match timeout_at(until, take.recv()).await {
                    Ok(Some(id)) => batch.push(id),
                    Ok(None) | Err(_) => break,
                }
            }
            batch = delete(queue, held, batch).await;
            if batch.is_empty() {
                failures = 0;
            } else {
                failures += 1;
                sleep(DELETE.after(failures, fastrand::f64())).await;
            }
        }
    }
}

/// Deletes what is still held, and returns what has to be tried again.
async fn delete(queue: &dyn Queue, held: &Held, ids: Vec<String>) -> Vec<String> {
    let (ids, handles): (Vec<String>, Vec<String>) =
        ids.into_iter().filter_map(|id| held.handle(&id).map(|handle| (id, handle))).unzip();
    if ids.is_empty() {
        return ids;
    }
    match queue.delete(&handles).await {
        Err(fault) => {
            tracing::warn!(error = %fault, messages = ids.len(), "settled messages could not be deleted; tried again");
            ids
        }
        Ok(entries) => {
            let mut again = Vec::new();
            for (id, result) in ids.into_iter().zip(entries) {
                match result {
                    Err(fault) if matches!(fault.kind, FaultKind::Transient | FaultKind::Denied) => {
                        tracing::warn!(message_id = id, error = %fault, "a settled message could not be deleted; tried again");
                        again.push(id);
                    }
                    Ok(()) | Err(_) => held.forget([&id]),
                }
            }
            again
        }
    }
}
