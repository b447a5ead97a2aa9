//! Kills or stops the process at a named boundary between it and the outside, so that tests can
//! prove that what is durable at that moment is enough.
//!
//! Every call through a seam or of a handler is a boundary: the compiler ensures it for each
//! required method of the traits, and clippy for those with a default body. It exists only in debug
//! builds.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::signal::{Signal, raise};
use serde_json::Value;

use crate::clock::Clock;
use crate::handler::{Context, DynHandler, Handler, HandlerError, HandlerResult, Leftover, Remark};
use crate::ledger::store::{
    Age, Commit, Damaged, Head, Page, Put, Query, Row, Store, StoreError, Workers,
};
use crate::lifecycle::Status;
use crate::outcome::{ClientRequestToken, Outcome};
use crate::seam::{Entries, ExecutionStanding, Fault, Pipelines, Queue, Received, Standing};
use crate::step::{CallbackToken, ExecutionArn};

/// The variable that requests a crash: `before` or `after`, the boundary's name, and at which
/// passage (1 if omitted).
pub const VARIABLE: &str = "CRASH_AT";

/// The same for a process that stands still there until it is continued, with SIGCONT.
pub const FREEZE: &str = "FREEZE_AT";

/// A place where the process interacts with the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    Receive,
    SetVisibility,
    DeleteMessages,
    SendMessage,
    Report,
    AskStep,
    AskExecution,
    LoadRecord,
    ListRecords,
    PurgeRecords,
    ProbeLedger,
    /// A record of this status is written.
    Write(Status),
    Run,
    CleanUp,
    Reap,
}

/// One table for the list and the names, so that the compiler notices any missing boundary.
macro_rules! boundaries {
    ($($boundary:ident $(($status:ident))? = $name:literal,)+) => {
        /// Every boundary.
        pub const BOUNDARIES: &[Boundary] = &[$(Boundary::$boundary $((Status::$status))?),+];

        impl Boundary {
            /// Its name in [`VARIABLE`].
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$boundary $((Status::$status))? => $name,)+
                    // Known only from its message; never written.
                    Self::Write(Status::New) => "write.new",
                }
            }
        }
    };
}

boundaries! {
    Receive = "receive",
    SetVisibility = "set_visibility",
    DeleteMessages = "delete",
    SendMessage = "send",
    Report = "report",
    AskStep = "ask_step",
    AskExecution = "ask_execution",
    LoadRecord = "load",
    ListRecords = "list",
    PurgeRecords = "purge",
    ProbeLedger = "probe",
    Write(Owed) = "write.owed",
    Write(Claimed) = "write.claimed",
    Write(Waiting) = "write.waiting",
    Write(Deferred) = "write.deferred",
    Write(Concluded) = "write.concluded",
    Write(Settled) = "write.settled",
    Run = "run",
    CleanUp = "clean_up",
    Reap = "reap",
}

impl Boundary {
    fn write_of(row: &Row) -> Self {
        let written = |boundary: &Self| matches!(boundary, Self::Write(status) if status.as_str() == row.head.status);
        BOUNDARIES.iter().copied().find(written).unwrap_or(Self::Write(Status::New))
    }
}

/// A crash, or a stop, that has been requested.
#[derive(Debug)]
pub(crate) struct Crash {
    signal: Signal,
    after: bool,
    boundary: &'static str,
    passings: AtomicUsize,
}

impl Crash {
    /// What the environment requests, by the names of its variables; `None` if that is nothing, or
    /// does not exist.
    pub(crate) fn planned(asked: impl Fn(&str) -> Option<OsString>) -> Option<Arc<Self>> {
        [(VARIABLE, Signal::SIGKILL), (FREEZE, Signal::SIGSTOP)]
            .into_iter()
            .find_map(|(variable, signal)| Self::at(asked(variable)?, signal))
    }

    fn at(asked: OsString, signal: Signal) -> Option<Arc<Self>> {
        let asked = asked.into_string().ok()?;
        let mut words = asked.split_whitespace();
        let after = words.next()? == "after";
        let name = words.next()?;
        let boundary =
            BOUNDARIES.iter().map(|boundary| boundary.name()).find(|known| *known == name)?;
        let passings = words.next().map_or(Some(1), |count| count.parse().ok())?;
        Some(Arc::new(Self { signal, after, boundary, passings: AtomicUsize::new(passings) }))
    }

    pub(crate) fn queue(self: &Arc<Self>, inner: Arc<dyn Queue>) -> Arc<dyn Queue> {
        Arc::new(Crashing { inner, crash: self.clone() })
    }

    pub(crate) fn pipelines(self: &Arc<Self>, inner: Arc<dyn Pipelines>) -> Arc<dyn Pipelines> {
        Arc::new(Crashing { inner, crash: self.clone() })
    }

    pub(crate) fn store(self: &Arc<Self>, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Crashing { inner, crash: self.clone() })
    }

    pub(crate) fn handler(self: &Arc<Self>, inner: DynHandler) -> DynHandler {
        DynHandler::new(Crashing { inner, crash: self.clone() })
    }

    async fn around<T>(&self, boundary: Boundary, effect: impl Future<Output = T>) -> T {
        self.pass(boundary, false);
        let result = effect.await;
        self.pass(boundary, true);
        result
    }

    fn pass(&self, boundary: Boundary, after: bool) {
        if (boundary.name(), after) == (self.boundary, self.after)
            && self.passings.fetch_sub(1, Ordering::SeqCst) == 1
        {
            // Nothing is unwound, flushed or closed, as in a power failure.
            let _ = raise(self.signal);
        }
    }
}

/// Passes a boundary at each call.
struct Crashing<T> {
    inner: T,
    crash: Arc<Crash>,
}

#[deny(clippy::missing_trait_methods)]
impl Queue for Crashing<Arc<dyn Queue>> {
    fn receive(
        &self,
        most: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Received>, Fault>> {
        Box::pin(self.crash.around(Boundary::Receive, self.inner.receive(most, wait, visibility)))
    }

    fn set_visibility<'a>(
        &'a self,
        entries: &'a [(String, Duration)],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        Box::pin(self.crash.around(Boundary::SetVisibility, self.inner.set_visibility(entries)))
    }

    fn delete<'a>(
        &'a self,
        receipt_handles: &'a [String],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        Box::pin(self.crash.around(Boundary::DeleteMessages, self.inner.delete(receipt_handles)))
    }

    fn send<'a>(
        &'a self,
        body: &'a str,
        trace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.crash.around(Boundary::SendMessage, self.inner.send(body, trace)))
    }
}

#[deny(clippy::missing_trait_methods)]
impl Pipelines for Crashing<Arc<dyn Pipelines>> {
    fn report<'a>(
        &'a self,
        token: &'a CallbackToken,
        outcome: &'a Outcome,
        request: &'a ClientRequestToken,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.crash.around(Boundary::Report, self.inner.report(token, outcome, request)))
    }

    fn step<'a>(
        &'a self,
        execution: &'a ExecutionArn,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Standing, Fault>> {
        Box::pin(self.crash.around(Boundary::AskStep, self.inner.step(execution, token)))
    }

    fn ended_steps<'a>(
        &'a self,
        execution: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<BTreeSet<CallbackToken>, Fault>> {
        Box::pin(self.crash.around(Boundary::AskStep, self.inner.ended_steps(execution)))
    }

    fn execution<'a>(
        &'a self,
        execution: &'a ExecutionArn,
    ) -> BoxFuture<'a, Result<ExecutionStanding, Fault>> {
        Box::pin(self.crash.around(Boundary::AskExecution, self.inner.execution(execution)))
    }
}

#[deny(clippy::missing_trait_methods)]
impl Store for Crashing<Arc<dyn Store>> {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        Box::pin(self.crash.around(Boundary::LoadRecord, self.inner.get(token)))
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let crash = self.crash.clone();
        let (boundary, put) = (Boundary::write_of(&row), self.inner.put(row, expected, commit));
        Box::pin(async move { crash.around(boundary, put).await })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        Box::pin(self.crash.around(Boundary::ListRecords, self.inner.outlines(query)))
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        Box::pin(self.crash.around(Boundary::ListRecords, self.inner.page(query)))
    }

    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(self.crash.around(Boundary::PurgeRecords, self.inner.purge(age)))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.crash.around(Boundary::ProbeLedger, self.inner.probe()))
    }

    fn room(&self) -> usize {
        self.inner.room()
    }

    fn fits(&self, row: &Row) -> bool {
        self.inner.fits(row)
    }

    fn holds(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // This calls nothing outside.
        self.inner.holds()
    }

    fn changes_from_outside(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        // It only says that there is something to list.
        self.inner.changes_from_outside()
    }

    fn workers(&self) -> Option<&dyn Workers> {
        // The boundaries of the records' writes are what a crash can fall between.
        self.inner.workers()
    }

    fn clock(&self) -> Option<Clock> {
        self.inner.clock()
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        // This calls nothing outside.
        self.inner.ended()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Handler for Crashing<DynHandler> {
    type Args = Value;

    fn run(&self, cx: Context, _: Value) -> impl Future<Output = HandlerResult> + Send {
        self.crash.around(Boundary::Run, self.inner.run(cx))
    }

    fn cleanup(
        &self,
        cx: Context,
        _: Value,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        self.crash.around(Boundary::CleanUp, self.inner.cleanup(cx))
    }

    fn remarks(&self, work_dir: &Path) -> Vec<Remark> {
        self.inner.remarks(work_dir)
    }

    fn leftovers(&self, work_dir: &Path) -> Vec<Leftover> {
        self.inner.leftovers(work_dir)
    }

    fn reap(&self, cx: Context) -> impl Future<Output = ()> + Send {
        self.crash.around(Boundary::Reap, self.inner.reap(cx))
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::{BOUNDARIES, Crash, FREEZE, VARIABLE};

    #[test]
    fn every_boundary_has_a_name_of_its_own_that_can_be_asked_for() {
        let planned = |variable: &'static str, text: String| {
            Crash::planned(move |name| (name == variable).then(|| text.clone().into()))
        };
        let mut names: Vec<_> = BOUNDARIES.iter().map(|boundary| boundary.name()).collect();
        for name in &names {
            for (variable, signal) in [(VARIABLE, Signal::SIGKILL), (FREEZE, Signal::SIGSTOP)] {
                let crash = planned(variable, format!("after {name} 3")).expect("it exists");
                assert_eq!(crash.signal, signal);
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BOUNDARIES.len());
        assert!(planned(VARIABLE, "after nothing".into()).is_none());
    }
}
