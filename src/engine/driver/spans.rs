//! The spans of a step's trace: the step, its runs and cleanups, and its reports.

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::running::Call;
use super::super::shared::Shared;
use super::Driver;
use crate::lifecycle::{Ending, Event, Record, RunEnd};
use crate::outcome::Outcome;
use crate::seam::{Field, Span, Tracer};
use crate::step::{TraceHeader, TraceIds};

/// The names of the spans.
const STEP: &str = "step";
pub(super) const RUN: &str = "run";
pub(super) const CLEANUP: &str = "cleanup";
const REPORT: &str = "report";

/// Who traces the step, if steps are traced.
fn traced<'a>(shared: &'a Shared, record: &Record) -> Option<(&'a dyn Tracer, TraceIds)> {
    let tracer = shared.observer.tracer();
    let ids =
        || TraceIds::of(&record.token, &record.execution, record.returns, record.trace.as_ref());
    tracer.is_on().then(|| (tracer, ids()))
}

/// Who records the step's trace, if anyone does.
fn recorded<'a>(shared: &'a Shared, record: &Record) -> Option<(&'a dyn Tracer, TraceIds)> {
    traced(shared, record).filter(|(tracer, ids)| tracer.records(ids))
}

/// The header for the handler: that of its message, or if steps are traced, one that names the span
/// of this call.
pub(super) fn header(shared: &Shared, record: &Record, part: &str) -> Option<TraceHeader> {
    let of_message = record.trace.as_ref();
    match traced(shared, record) {
        Some((tracer, ids)) => {
            ids.header(ids.part(part, record.version), tracer.records(&ids), of_message)
        }
        None => of_message.cloned(),
    }
}

/// By the wall clock.
fn now(shared: &Shared) -> Timestamp {
    shared.clock.name(shared.clock.now())
}

/// A step has ended.
pub(super) fn trace_step(shared: &Shared, record: &Record, queue: &str, ending: Ending) {
    let Some((tracer, ids)) = recorded(shared, record) else { return };
    let error = match &record.outcome {
        Some(Outcome::Failure(reason)) => Some(reason.as_str()),
        Some(Outcome::Success(_)) | None => None,
    };
    tracer.ended(Span {
        id: ids.step(),
        parent: None,
        ids: &ids,
        name: STEP,
        begun: shared.clock.name(record.first_seen),
        ended: now(shared),
        fields: vec![
            ("token", Field::Text(record.token.as_str())),
            ("pipeline", Field::Text(record.execution.pipeline())),
            ("execution", Field::Text(record.execution.as_str())),
            ("queue", Field::Text(queue)),
            ("handler", Field::Text(record.handler.as_deref().unwrap_or("none"))),
            ("attempts", Field::Number(record.attempt.into())),
            ("outcome", Field::Text(ending.as_str())),
        ],
        error,
    });
}

/// A report was answered, or not.
pub(super) fn trace_report(shared: &Shared, record: &Record, begun: Timestamp, event: &Event) {
    let Some((tracer, ids)) = recorded(shared, record) else { return };
    let (result, error) = match event {
        Event::ReportRefused(error) => ("refused", Some(error.as_str())),
        Event::ReportFailed { detail, .. } => ("failed", Some(detail.as_str())),
        _ => ("accepted", None),
    };
    tracer.ended(Span {
        // No two reports of a step begin at once.
        id: ids.part(REPORT, begun.as_millisecond().unsigned_abs()),
        parent: Some(ids.step()),
        ids: &ids,
        name: REPORT,
        begun: shared.clock.name(begun),
        ended: now(shared),
        fields: vec![
            ("token", Field::Text(record.token.as_str())),
            ("result", Field::Text(result)),
        ],
        error,
    });
}

impl Driver {
    /// A run or cleanup has ended.
    pub(super) fn trace_call(&self, call: &Call, event: &Event) {
        let record = &self.state.record;
        let Some((tracer, ids)) = recorded(&self.shared, record) else { return };
        let (result, error) = result_of(event);
        let name = if call.cleanup { CLEANUP } else { RUN };
        let now = now(&self.shared);
        let took = Instant::now().saturating_duration_since(call.begun);
        tracer.ended(Span {
            id: ids.part(name, call.fence),
            parent: Some(ids.step()),
            ids: &ids,
            name,
            begun: now.checked_sub(took).unwrap_or(now),
            ended: now,
            fields: vec![
                ("token", Field::Text(record.token.as_str())),
                ("handler", Field::Text(self.handler_name())),
                ("attempt", Field::Number(record.attempt.into())),
                ("result", Field::Text(result)),
            ],
            error,
        });
    }
}

fn result_of(event: &Event) -> (&'static str, Option<&str>) {
    match event {
        Event::Ended(RunEnd::Success(_)) | Event::Cleaned(Ok(())) => ("success", None),
        Event::Ended(RunEnd::Failure(error)) | Event::Cleaned(Err(error)) => {
            ("failure", Some(error))
        }
        Event::Ended(RunEnd::Retry { error, .. }) => ("retry", Some(error)),
        Event::Ended(RunEnd::Hindered { error, .. }) => ("hindered", Some(error)),
        Event::Ended(RunEnd::Again(_)) => ("again", None),
        Event::Ended(RunEnd::Deferred) => ("deferred", None),
        _ => ("aborted", None),
    }
}
