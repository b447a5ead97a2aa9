//! Which steps `callbackd steps` shows.

use clap::Args;
use jiff::Timestamp;

use super::Failure;
use crate::daemon::{moment, newest};
use crate::ledger::Damaged;
use crate::lifecycle::{Record, Status};
use crate::step::StepKey;

#[derive(Args)]
pub(super) struct Selection {
    /// Show only the steps that wait for `callbackd complete`, or for another answer from outside.
    #[arg(long, conflicts_with = "status")]
    deferred: bool,
    /// Only those in one of these states: owed, claimed, waiting, deferred, concluded, settled.
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<Status>,
    /// Only those of this pipeline; the name is compared without regard to case.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only those of this handler.
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Only those of this queue: its name, or its URL.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only those with this key.
    #[arg(long)]
    key: Option<StepKey>,
    /// Only those first seen, concluded or settled since: a time, or how long ago (90s, 1h, 2d).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show at most this many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
}

/// A selection at a time.
pub(super) struct Selected<'a> {
    by: &'a Selection,
    since: Option<Timestamp>,
}

impl Selection {
    /// `now` is by the clock that names the records' times.
    pub(super) fn at(&self, now: Timestamp) -> Result<Selected<'_>, Failure> {
        let since = self.since.as_deref().map(|text| moment(text, now)).transpose();
        let since =
            since.map_err(|error| Failure::Usage(error.replacen("`since`", "`--since`", 1)))?;
        Ok(Selected { by: self, since })
    }

    /// All if empty.
    pub(super) fn statuses(&self) -> &[Status] {
        if self.deferred { &[Status::Deferred] } else { &self.status }
    }

    /// Not all that the ledger holds are shown.
    pub(super) fn narrows(&self) -> bool {
        let narrower = [&self.pipeline, &self.handler, &self.queue, &self.since];
        !self.statuses().is_empty()
            || self.key.is_some()
            || narrower.iter().any(|condition| condition.is_some())
    }
}

impl Selected<'_> {
    /// A damaged record may be anything, so it is always shown.
    pub(super) fn takes(&self, record: &Result<Record, Damaged>) -> bool {
        let Ok(record) = record else { return true };
        let by = self.by;
        let is = |wanted: &Option<String>, fits: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(fits)
        };
        let statuses = by.statuses();
        (statuses.is_empty() || statuses.contains(&record.status))
            && is(&by.pipeline, &|name| record.execution.pipeline().eq_ignore_ascii_case(name))
            && is(&by.handler, &|name| record.handler.as_deref() == Some(name))
            && is(&by.queue, &|name| record.queue.is_meant_by(name))
            && by.key.as_ref().is_none_or(|key| record.key.as_ref() == Some(key))
            && self.since.is_none_or(|since| newest(record) >= since)
    }
}
