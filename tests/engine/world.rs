//! A queue, SageMaker and a ledger's storage in memory, under tokio's paused time, with faults on
//! demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::ledger::Memory;
use callbackd::ledger::store::{
    Age, Commit, Damaged, Head, Member, Page, Put, Query, Row, Store, StoreError, Worker, Workers,
};
use callbackd::lifecycle::WorkerId;
use callbackd::outcome::{ClientRequestToken, Outcome};
use callbackd::seam::{
    Entries, ExecutionStanding, Fault, FaultKind, Pipelines, Queue, Received, Standing, StepResult,
};
use callbackd::step::{CallbackToken, ExecutionArn};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

pub const QUEUE_URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";

/// What an in-memory call does instead of working normally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails without an effect.
    Before(FaultKind),
    /// It takes effect, and its answer is lost.
    After,
}

#[derive(Default)]
pub struct FakeQueue {
    messages: Mutex<BTreeMap<String, FakeMessage>>,
    changed: Notify,
    pub trouble: Mutex<BTreeMap<&'static str, VecDeque<Trouble>>>,
    pub calls: Mutex<Vec<(&'static str, usize)>>,
    /// From now on no call is answered.
    pub silent: Mutex<bool>,
    sent: Mutex<u32>,
}

#[derive(Clone)]
struct FakeMessage {
    body: String,
    trace: Option<String>,
    visible_at: Instant,
    receives: u32,
    receipt_handle: String,
}

impl FakeQueue {
    pub fn put(&self, body: &str) -> String {
        self.put_in(None, body)
    }

    /// Puts a message with this `AWSTraceHeader`.
    pub fn put_in(&self, trace: Option<&str>, body: &str) -> String {
        let mut sent = self.sent.lock().unwrap();
        *sent += 1;
        let id = format!("m{sent}");
        let message = FakeMessage {
            body: body.to_owned(),
            trace: trace.map(str::to_owned),
            visible_at: Instant::now(),
            receives: 0,
            receipt_handle: String::new(),
        };
        self.messages.lock().unwrap().insert(id.clone(), message);
        self.changed.notify_waiters();
        id
    }

    /// Another copy of the message becomes visible although the first is held: SQS's rare
    /// duplicate.
    pub fn duplicate(&self, id: &str) {
        self.messages.lock().unwrap().get_mut(id).expect("message").visible_at = Instant::now();
        self.changed.notify_waiters();
    }

    /// The message is gone: purged, expired, or moved to a dead-letter queue.
    pub fn lose(&self, id: &str) {
        self.messages.lock().unwrap().remove(id);
    }

    pub fn len(&self) -> usize {
        self.messages.lock().unwrap().len()
    }

    pub fn visible(&self) -> usize {
        let now = Instant::now();
        self.messages.lock().unwrap().values().filter(|message| message.visible_at <= now).count()
    }

    pub fn receives(&self, id: &str) -> Option<u32> {
        self.messages.lock().unwrap().get(id).map(|message| message.receives)
    }

    pub fn count(&self, operation: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(name, _)| *name == operation).count()
    }

    pub fn fail(&self, operation: &'static str, times: usize, trouble: Trouble) {
        self.trouble
            .lock()
            .unwrap()
            .entry(operation)
            .or_default()
            .extend(std::iter::repeat_n(trouble, times));
    }

    async fn speaks(&self) {
        if *self.silent.lock().unwrap() {
            std::future::pending::<()>().await;
        }
    }

    fn trouble(&self, operation: &'static str, entries: usize) -> Option<Trouble> {
        self.calls.lock().unwrap().push((operation, entries));
        self.trouble.lock().unwrap().get_mut(operation)?.pop_front()
    }

    fn answer<T>(
        &self,
        operation: &'static str,
        entries: usize,
        act: impl FnOnce() -> T,
    ) -> Result<T, Fault> {
        match self.trouble(operation, entries) {
            None => Ok(act()),
            Some(Trouble::Before(kind)) => Err(Fault::new(kind, "made to fail")),
            Some(Trouble::After) => {
                act();
                Err(Fault::new(FaultKind::Transient, "connection reset after the effect"))
            }
        }
    }

    fn take(&self, most: usize, visibility: Duration) -> Vec<Received> {
        let now = Instant::now();
        let mut messages = self.messages.lock().unwrap();
        let visible =
            messages.iter_mut().filter(|(_, message)| message.visible_at <= now).take(most);
        visible
            .map(|(id, message)| {
                message.receives += 1;
                message.visible_at = now + visibility;
                message.receipt_handle = format!("{id}#{}", message.receives);
                Received {
                    id: id.clone(),
                    receipt_handle: message.receipt_handle.clone(),
                    body: message.body.clone(),
                    receives: message.receives,
                    sent: None,
                    trace: message.trace.clone(),
                }
            })
            .collect()
    }

    fn by_handle<T>(
        &self,
        receipt_handle: &str,
        act: impl FnOnce(&mut BTreeMap<String, FakeMessage>, &str) -> T,
    ) -> Result<T, Fault> {
        let mut messages = self.messages.lock().unwrap();
        let id = receipt_handle.split('#').next().unwrap_or_default().to_owned();
        match messages.get(&id) {
            Some(message)
                if message.receipt_handle == receipt_handle
                    && message.visible_at > Instant::now() =>
            {
                Ok(act(&mut messages, &id))
            }
            _ => Err(Fault::new(FaultKind::Stale, "the handle is stale")),
        }
    }
}

impl Queue for FakeQueue {
    fn receive(
        &self,
        most: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Received>, Fault>> {
        Box::pin(async move {
            self.speaks().await;
            if let Some(Trouble::Before(kind)) = self.trouble("receive", most) {
                return Err(Fault::new(kind, "made to fail"));
            }
            let until = Instant::now() + wait;
            loop {
                let changed = self.changed.notified();
                let taken = self.take(most, visibility);
                if !taken.is_empty() || Instant::now() >= until {
                    return Ok(taken);
                }
                let next =
                    self.messages.lock().unwrap().values().map(|message| message.visible_at).min();
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(next.map_or(until, |next| next.min(until))) => {}
                }
            }
        })
    }

    fn set_visibility<'a>(
        &'a self,
        entries: &'a [(String, Duration)],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        Box::pin(async move {
            self.speaks().await;
            self.answer("set_visibility", entries.len(), || {
                let set = |(receipt_handle, visible_in): &(String, Duration)| {
                    self.by_handle(receipt_handle, |messages, id| {
                        messages.get_mut(id).expect("found").visible_at =
                            Instant::now() + *visible_in;
                        self.changed.notify_waiters();
                    })
                };
                entries.iter().map(set).collect()
            })
        })
    }

    fn delete<'a>(
        &'a self,
        receipt_handles: &'a [String],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        Box::pin(async move {
            self.speaks().await;
            self.answer("delete", receipt_handles.len(), || {
                receipt_handles
                    .iter()
                    .map(|receipt_handle| {
                        self.by_handle(receipt_handle, |messages, id| drop(messages.remove(id)))
                    })
                    .collect()
            })
        })
    }

    fn send<'a>(
        &'a self,
        body: &'a str,
        trace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.answer("send", 1, || {
                self.put_in(trace, body);
            })
        })
    }
}

/// One report as SageMaker received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub token: CallbackToken,
    pub outcome: Outcome,
    pub request: ClientRequestToken,
    pub accepted: bool,
}

pub struct FakePipelines {
    pub steps: Mutex<BTreeMap<CallbackToken, Standing>>,
    pub execution: Mutex<ExecutionStanding>,
    /// The executions, by the last part of their ARNs, that stand otherwise.
    pub executions: Mutex<BTreeMap<String, ExecutionStanding>>,
    pub reports: Mutex<Vec<Report>>,
    pub trouble: Mutex<BTreeMap<&'static str, VecDeque<Trouble>>>,
    pub asked: Mutex<usize>,
    /// How often the steps of an execution were listed.
    pub listed: Mutex<usize>,
    /// How often it was asked where an execution stands.
    pub looked: Mutex<usize>,
}

impl Default for FakePipelines {
    fn default() -> Self {
        Self {
            steps: Mutex::default(),
            execution: Mutex::new(ExecutionStanding::Executing),
            executions: Mutex::default(),
            reports: Mutex::default(),
            trouble: Mutex::default(),
            asked: Mutex::default(),
            listed: Mutex::default(),
            looked: Mutex::default(),
        }
    }
}

impl FakePipelines {
    pub fn open(&self, token: &str) {
        self.stand(token, Standing::Open { stopping: false, queue_url: QUEUE_URL.parse().ok() });
    }

    pub fn stand(&self, token: &str, standing: Standing) {
        self.steps.lock().unwrap().insert(token.parse().expect("token"), standing);
    }

    pub fn accepted(&self) -> Vec<Report> {
        self.reports.lock().unwrap().iter().filter(|report| report.accepted).cloned().collect()
    }

    pub fn fail(&self, operation: &'static str, times: usize, trouble: Trouble) {
        self.trouble
            .lock()
            .unwrap()
            .entry(operation)
            .or_default()
            .extend(std::iter::repeat_n(trouble, times));
    }

    fn trouble(&self, operation: &'static str) -> Option<Trouble> {
        self.trouble.lock().unwrap().get_mut(operation)?.pop_front()
    }
}

impl Pipelines for FakePipelines {
    fn report<'a>(
        &'a self,
        token: &'a CallbackToken,
        outcome: &'a Outcome,
        request: &'a ClientRequestToken,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let trouble = self.trouble("report");
            if let Some(Trouble::Before(kind)) = trouble {
                return Err(Fault::new(kind, "made to fail"));
            }
            let mut steps = self.steps.lock().unwrap();
            let mut reports = self.reports.lock().unwrap();
            let again = reports.iter().any(|report| {
                report.accepted && report.token == *token && report.request == *request
            });
            let open = matches!(steps.get(token), Some(Standing::Open { .. }));
            let report = Report {
                token: token.clone(),
                outcome: outcome.clone(),
                request: request.clone(),
                accepted: open,
            };
            reports.push(report);
            if open {
                let ending = if matches!(outcome, Outcome::Success(_)) {
                    StepResult::Succeeded
                } else {
                    StepResult::Failed
                };
                steps.insert(token.clone(), Standing::Closed(ending));
            } else if !again {
                return Err(Fault::new(FaultKind::Refused, "already in a terminal status"));
            }
            match trouble {
                Some(Trouble::After) => {
                    Err(Fault::new(FaultKind::Transient, "connection reset after the effect"))
                }
                _ => Ok(()),
            }
        })
    }

    fn step<'a>(
        &'a self,
        _: &'a ExecutionArn,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Standing, Fault>> {
        Box::pin(async move {
            *self.asked.lock().unwrap() += 1;
            if let Some(Trouble::Before(kind)) = self.trouble("step") {
                return Err(Fault::new(kind, "made to fail"));
            }
            Ok(self.steps.lock().unwrap().get(token).cloned().unwrap_or(Standing::NotFound))
        })
    }

    fn ended_steps<'a>(
        &'a self,
        _: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<BTreeSet<CallbackToken>, Fault>> {
        Box::pin(async move {
            *self.listed.lock().unwrap() += 1;
            if let Some(Trouble::Before(kind)) = self.trouble("list") {
                return Err(Fault::new(kind, "made to fail"));
            }
            let ended = |standing: &Standing| matches!(standing, Standing::Closed(_));
            let steps = self.steps.lock().unwrap();
            Ok(steps.iter().filter(|(_, it)| ended(it)).map(|(token, _)| token.clone()).collect())
        })
    }

    fn execution<'a>(
        &'a self,
        arn: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<ExecutionStanding, Fault>> {
        *self.looked.lock().unwrap() += 1;
        let name = arn.as_str().rsplit('/').next().unwrap_or_default();
        let standing = self.executions.lock().unwrap().get(name).copied();
        Box::pin(async move { Ok(standing.unwrap_or(*self.execution.lock().unwrap())) })
    }
}

/// A ledger's storage that survives the worker and can be made to fail.
#[derive(Clone)]
pub struct Disk {
    held: Memory,
    pub failing: Arc<Mutex<bool>>,
    /// Writes do not return, whatever becomes of them.
    pub hanging: Arc<Mutex<bool>>,
    /// How long each write takes.
    pub slow: Arc<Mutex<Duration>>,
    /// Writes of records are done, and their answers are lost.
    pub mute: Arc<Mutex<bool>>,
}

impl Disk {
    pub fn exclusive() -> Self {
        Self {
            held: Memory::new(),
            failing: Arc::default(),
            hanging: Arc::default(),
            slow: Arc::default(),
            mute: Arc::default(),
        }
    }

    pub fn shared() -> Self {
        Self { held: Memory::shared(), ..Self::exclusive() }
    }

    /// The same as another worker reaches it, which fails on its own.
    pub fn beside(&self) -> Self {
        Self { held: self.held.clone(), ..Self::exclusive() }
    }

    /// One for small checkpoints: see [`Store::room`].
    pub fn small(room: usize) -> Self {
        Self { held: Memory::new().with_room(room), ..Self::exclusive() }
    }

    pub fn status(&self, token: &str) -> Option<String> {
        self.row(token).map(|row| row.head.status.into_owned())
    }

    pub fn body(&self, token: &str) -> serde_json::Value {
        let row = self.row(token).expect("record");
        let mut body: serde_json::Value = serde_json::from_str(&row.body).expect("json");
        for (name, part) in [("arguments", &row.arguments), ("checkpoint", &row.checkpoint)] {
            body[name] = part
                .as_deref()
                .map(|part| serde_json::from_str(part).expect("json"))
                .unwrap_or_default();
        }
        body
    }

    fn row(&self, token: &str) -> Option<Row> {
        let token = token.parse().expect("token");
        let found = self
            .held
            .get(&token)
            .now_or_never()
            .expect("memory does not wait")
            .expect("memory does not fail");
        found.map(|found| found.expect("memory is not damaged"))
    }

    fn members(&self) -> &dyn Workers {
        self.held.workers().expect("it is shared")
    }

    fn check(&self) -> Result<(), StoreError> {
        if *self.failing.lock().unwrap() { Err(StoreError("disk full".to_owned())) } else { Ok(()) }
    }
}

impl Store for Disk {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        self.held.get(token)
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let disk = self.clone();
        Box::pin(async move {
            disk.check()?;
            let hangs = *disk.hanging.lock().unwrap();
            if hangs {
                std::future::pending::<()>().await;
            }
            let slow = *disk.slow.lock().unwrap();
            if !slow.is_zero() {
                sleep(slow).await;
            }
            let put = disk.held.put(row, expected, commit).await;
            let mute = *disk.mute.lock().unwrap();
            if mute { Err(StoreError("connection reset".to_owned())) } else { put }
        })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        self.held.outlines(query)
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        self.held.page(query)
    }

    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.held.purge(age)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.check() })
    }

    fn room(&self) -> usize {
        self.held.room()
    }

    fn changes_from_outside(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.held.changes_from_outside()
    }

    fn workers(&self) -> Option<&dyn Workers> {
        self.held.workers().map(|_| self as &dyn Workers)
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        self.held.ended()
    }
}

impl Workers for Disk {
    fn worker<'a>(
        &'a self,
        worker: &'a WorkerId,
    ) -> BoxFuture<'a, Result<Option<Worker>, StoreError>> {
        Box::pin(async move { self.members().worker(worker).await })
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<Member>, StoreError>> {
        self.members().all()
    }

    fn renew<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: Option<u64>,
        told: BTreeSet<CallbackToken>,
        notice: String,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<CallbackToken>>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let hangs = *self.hanging.lock().unwrap();
            if hangs {
                std::future::pending::<()>().await;
            }
            self.members().renew(worker, expected, told, notice).await
        })
    }

    fn fence<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: u64,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move { self.members().fence(worker, expected).await })
    }

    fn flag<'a>(
        &'a self,
        worker: &'a WorkerId,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.members().flag(worker, token).await })
    }
}
