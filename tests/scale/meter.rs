//! Counts what a fleet asks of each service: by operation, by simulated second and in all.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::units::Units;

/// The services, as their operations' names begin.
pub const SERVICES: [&str; 3] = ["SQS", "SageMaker", "DynamoDB"];

#[derive(Default)]
pub struct Meter {
    /// By operation and second.
    calls: BTreeMap<String, Vec<u64>>,
    read: Vec<u64>,
    written: Vec<u64>,
    /// Writes of steps' records, by kind of step.
    kinds: BTreeMap<&'static str, (u64, Units)>,
    counts: BTreeMap<&'static str, u64>,
}

/// Seconds since the beginning.
pub type Window = Range<usize>;

impl Meter {
    pub fn call(&mut self, operation: &str, second: usize) {
        match self.calls.get_mut(operation) {
            Some(series) => add(series, second, 1),
            None => add(self.calls.entry(operation.to_owned()).or_default(), second, 1),
        }
    }

    pub fn units(&mut self, units: Units, second: usize) {
        add(&mut self.read, second, units.halves_read);
        add(&mut self.written, second, units.written);
    }

    /// A step's record is written.
    pub fn written(&mut self, kind: &'static str, units: Units) {
        let (count, sum) = self.kinds.entry(kind).or_default();
        *count += 1;
        *sum += units;
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(what, count)| (*what, *count))
    }

    /// The writes of the records of steps of a kind, and their units.
    pub fn of_kind(&self, kind: &str) -> (u64, u64) {
        self.kinds.get(kind).map_or((0, 0), |(count, units)| (*count, units.written))
    }

    pub fn operations(&self) -> impl Iterator<Item = &str> {
        self.calls.keys().map(String::as_str)
    }

    /// The calls of all operations whose names begin so.
    pub fn total(&self, operations: &str, window: &Window) -> u64 {
        self.series(operations).flat_map(|series| within(series, window)).sum()
    }

    /// The most calls of a second, and which second that is.
    pub fn peak(&self, operations: &str, window: &Window) -> (u64, usize) {
        let of =
            |second| self.series(operations).filter_map(|series| series.get(second)).sum::<u64>();
        window
            .clone()
            .map(|second| (of(second), second))
            .max_by_key(|(calls, _)| *calls)
            .unwrap_or_default()
    }

    pub fn units_read(&self, window: &Window) -> u64 {
        within(&self.read, window).sum::<u64>() / 2
    }

    pub fn units_written(&self, window: &Window) -> u64 {
        within(&self.written, window).sum()
    }

    fn series(&self, operations: &str) -> impl Iterator<Item = &Vec<u64>> {
        self.calls
            .iter()
            .filter(move |(name, _)| name.starts_with(operations))
            .map(|(_, series)| series)
    }
}

fn add(series: &mut Vec<u64>, second: usize, count: u64) {
    if series.len() <= second {
        series.resize(second + 1, 0);
    }
    series[second] += count;
}

fn within(series: &[u64], window: &Window) -> impl Iterator<Item = u64> {
    let end = window.end.min(series.len());
    series[window.start.min(end)..end].iter().copied()
}
