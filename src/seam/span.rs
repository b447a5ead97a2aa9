//! The finished parts of a step's work, for those who trace it.

use jiff::Timestamp;

use crate::step::{SpanId, TraceIds};

/// A part of the work on a step that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span<'a> {
    pub ids: &'a TraceIds,
    pub id: SpanId,
    /// The span that it is a part of; `None` for the whole step, which is a part of what the sender
    /// of its message did.
    pub parent: Option<SpanId>,
    /// `step`, `run`, `cleanup` or `report`.
    pub name: &'static str,
    pub begun: Timestamp,
    pub ended: Timestamp,
    pub fields: Vec<(&'static str, Field<'a>)>,
    /// Why it failed, if it did.
    pub error: Option<&'a str>,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Text(&'a str),
    Number(u64),
}

/// Receives the spans. Called on the hot path: it must not block.
pub trait Tracer: Send + Sync {
    /// Whether steps are traced, so that handlers are told the span of their run.
    fn is_on(&self) -> bool;

    /// Whether this trace is recorded, if steps are traced.
    fn records(&self, ids: &TraceIds) -> bool;

    fn ended(&self, span: Span<'_>);
}

/// Records nothing.
impl Tracer for () {
    fn is_on(&self) -> bool {
        false
    }

    fn records(&self, _: &TraceIds) -> bool {
        false
    }

    fn ended(&self, _: Span<'_>) {}
}
