//! The end of a step: its outcome is sent for as long as it takes, and then its messages are deleted. Nothing else deletes one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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
        let denied = fault.kind == FaultKind::Denied;
        let backoff = if denied { DENIED } else { REPORT };
        let wait = backoff.after(failures, fastrand::f64());
        if denied {
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

    /// Deletes until `ended` is done and nothing is left.
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::future::BoxFuture;
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;
    use crate::lifecycle::Status;
    use crate::outcome::{ClientRequestToken, Outcome, Reason};
    use crate::seam::{Entries, ExecutionStanding, Fault, Received, Standing};
    use crate::step::{CallbackToken, ExecutionArn, Message};

    /// SageMaker and SQS, which answer each call with the next fault that is left.
    #[derive(Default)]
    struct Service {
        faults: Mutex<VecDeque<FaultKind>>,
        /// Of these messages the deletion fails, whatever becomes of the call's others.
        entries: Mutex<VecDeque<(&'static str, FaultKind)>>,
        /// The receipt handles of each call.
        calls: Mutex<Vec<Vec<String>>>,
    }

    impl Service {
        fn failing(kind: FaultKind, times: usize) -> Self {
            Self { faults: Mutex::new(VecDeque::from(vec![kind; times])), ..Self::default() }
        }

        fn next(&self) -> Result<(), Fault> {
            match self.faults.lock().unwrap().pop_front() {
                Some(kind) => Err(Fault::new(kind, "made to fail")),
                None => Ok(()),
            }
        }

        fn calls(&self) -> Vec<usize> {
            self.calls.lock().unwrap().iter().map(Vec::len).collect()
        }
    }

    impl Pipelines for Service {
        fn report<'a>(
            &'a self,
            _: &'a CallbackToken,
            _: &'a Outcome,
            _: &'a ClientRequestToken,
        ) -> BoxFuture<'a, Result<(), Fault>> {
            Box::pin(async { self.next() })
        }

        fn step<'a>(&'a self, _: &'a ExecutionArn, _: &'a CallbackToken) -> BoxFuture<'a, Result<Standing, Fault>> {
            unreachable!("a report asks nothing")
        }

        fn execution<'a>(&'a self, _: &'a ExecutionArn) -> BoxFuture<'a, Result<ExecutionStanding, Fault>> {
            unreachable!("a report asks nothing")
        }
    }

    impl Queue for Service {
        fn receive(&self, _: usize, _: Duration, _: Duration) -> BoxFuture<'_, Result<Vec<Received>, Fault>> {
            unreachable!("messages are only deleted here")
        }

        fn set_visibility<'a>(&'a self, _: &'a [(String, Duration)]) -> BoxFuture<'a, Result<Entries, Fault>> {
            unreachable!("messages are only deleted here")
        }

        fn delete<'a>(&'a self, handles: &'a [String]) -> BoxFuture<'a, Result<Entries, Fault>> {
            Box::pin(async {
                self.calls.lock().unwrap().push(handles.to_vec());
                self.next()?;
                let mut entries = self.entries.lock().unwrap();
                let entry = |handle: &String| match entries.front() {
                    Some((id, kind)) if handle == id => {
                        let fault = Fault::new(*kind, "made to fail");
                        entries.pop_front();
                        Err(fault)
                    }
                    _ => Ok(()),
                };
                Ok(handles.iter().map(entry).collect())
            })
        }

        fn send<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<(), Fault>> {
            unreachable!("messages are only deleted here")
        }
    }

    fn concluded() -> Record {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json")).expect("message").step().clone();
        let outcome = Outcome::Failure(Reason::new("x"));
        let request = ClientRequestToken::of(&step.execution, &step.token, &outcome);
        let record = Record::of_message(step, "https://q".into(), None, jiff::Timestamp::UNIX_EPOCH);
        Record { status: Status::Concluded, outcome: Some(outcome), client_request_token: Some(request), ..record }
    }

    async fn time_to_report(service: &Service) -> (Event, Duration) {
        let began = Instant::now();
        let event = report(service, &concluded()).await;
        (event, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_sent_ever_more_slowly_and_most_slowly_where_permission_is_missing() {
        for (kind, least, most) in [(FaultKind::Transient, 61, 123), (FaultKind::Denied, 457, 915)] {
            let (event, took) = time_to_report(&Service::failing(kind, 8)).await;
            assert_eq!(event, Event::ReportAccepted);
            assert!((least..=most).contains(&took.as_secs()), "{kind:?}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_is_refused_is_not_sent_again_until_somebody_has_asked() {
        for kind in [FaultKind::Refused, FaultKind::Stale] {
            let service = Service::failing(kind, 1);
            assert!(matches!(time_to_report(&service).await.0, Event::ReportRefused(_)));
        }
    }

    fn holding(count: usize) -> (Held, Vec<String>) {
        let held = Held::new(Duration::from_mins(2), Duration::from_hours(11));
        let ids: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
        for id in &ids {
            let (id, handle, body) = (id.clone(), id.clone(), String::new());
            held.hold(&Received { id, handle, body, receives: 1, sent: None, trace: None });
        }
        (held, ids)
    }

    /// Deletes what is pushed while `life` lasts, and what is left then.
    async fn deleting(service: &Service, held: &Held, life: impl AsyncFnOnce(&Deletes)) -> Duration {
        let deletes = Deletes::new();
        let (end, ended) = oneshot::channel();
        let began = Instant::now();
        let life = async {
            life(&deletes).await;
            end.send(()).expect("the deletes are worked on");
        };
        tokio::join!(life, deletes.work(service, held, async { drop(ended.await) }));
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_settled_soon_after_one_another_share_a_call_of_at_most_ten() {
        let (held, ids) = holding(25);
        let service = Service::default();
        deleting(&service, &held, async |deletes| {
            for id in ids {
                deletes.push([id]);
                advance(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(service.calls(), [10, 10, 5]);
        assert_eq!(held.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_no_longer_for_others_than_it_must() {
        let (held, ids) = holding(2);
        let service = Service::default();
        deleting(&service, &held, async |deletes| {
            for id in ids {
                deletes.push([id]);
                sleep(LINGER * 2).await;
            }
        })
        .await;
        assert_eq!(service.calls(), [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_could_not_be_deleted_is_tried_again_ever_more_slowly_and_alone() {
        let (held, ids) = holding(3);
        let service = Service::failing(FaultKind::Transient, 6);
        let denied = ("m1", FaultKind::Denied);
        service.entries.lock().unwrap().extend([denied, ("m1", FaultKind::Transient)]);
        let took = deleting(&service, &held, async |deletes| deletes.push(ids)).await;
        assert_eq!(service.calls(), [3, 3, 3, 3, 3, 3, 3, 1, 1]);
        assert_eq!(held.len(), 0);
        assert!(took > Duration::from_secs(20), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_whose_receipt_handle_is_stale_is_let_go() {
        let (held, ids) = holding(2);
        let service = Service::default();
        service.entries.lock().unwrap().push_back(("m0", FaultKind::Stale));
        deleting(&service, &held, async |deletes| deletes.push(ids)).await;
        assert_eq!((service.calls(), held.len()), (vec![2], 0));
    }
}
