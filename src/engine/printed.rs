//! What the programs of steps printed last, for those who look at a step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::step::CallbackToken;

/// A line that a program printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrintedLine {
    /// On the worker's timeline.
    pub at: Timestamp,
    pub attempt: u32,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// At most [`PrintedLine::MAX`] bytes, as they were printed: untrusted.
    pub text: Box<str>,
}

impl PrintedLine {
    /// What a person reads of a line.
    pub const MAX: usize = 512;

    fn size(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

/// The last lines of each step, of the steps that printed last.
#[derive(Default)]
pub(crate) struct Printed(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    steps: BTreeMap<CallbackToken, Step>,
    /// The steps in the order in which they printed last.
    order: BTreeMap<u64, CallbackToken>,
    /// Counts the lines.
    moment: u64,
    bytes: usize,
}

#[derive(Default)]
struct Step {
    lines: VecDeque<PrintedLine>,
    moment: u64,
}

impl Printed {
    /// A screen of each step.
    const LINES: usize = 64;
    /// Of all steps together: a hundred busy ones, without weight beside what programs take.
    const BYTES: usize = 4 << 20;
    /// About what the maps take for a step.
    const STEP: usize = 128;

    pub(crate) fn add(&self, token: &CallbackToken, line: PrintedLine) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.add(token, line);
        inner.forget_beyond(Self::BYTES);
    }

    /// The oldest first.
    pub(crate) fn of(&self, token: &CallbackToken) -> Vec<PrintedLine> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.steps.get(token).map(|step| step.lines.iter().cloned().collect()).unwrap_or_default()
    }
}

impl Inner {
    fn add(&mut self, token: &CallbackToken, mut line: PrintedLine) {
        let end = line.text.floor_char_boundary(PrintedLine::MAX);
        if end < line.text.len() {
            line.text = line.text[..end].into();
        }
        self.moment += 1;
        let step = self.steps.entry(token.clone()).or_default();
        if step.lines.is_empty() {
            self.bytes += Printed::STEP;
        } else {
            self.order.remove(&step.moment);
        }
        if step.lines.len() == Printed::LINES {
            self.bytes -= step.lines.pop_front().map_or(0, |line| line.size());
        }
        self.bytes += line.size();
        step.lines.push_back(line);
        step.moment = self.moment;
        self.order.insert(self.moment, token.clone());
    }

    /// Forgets the steps that have printed nothing for longest.
    fn forget_beyond(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let Some((_, token)) = self.order.pop_first() else { return };
            let lines = self.steps.remove(&token).unwrap_or_default().lines;
            self.bytes -= Printed::STEP + lines.iter().map(PrintedLine::size).sum::<usize>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize) -> CallbackToken {
        format!("step{number:06}").parse().expect("a token")
    }

    fn line(text: &str) -> PrintedLine {
        let at = Timestamp::UNIX_EPOCH;
        PrintedLine { at, attempt: 1, stream: "stdout", text: text.into() }
    }

    #[test]
    fn the_last_lines_of_a_step_are_kept_each_as_far_as_a_person_reads() {
        let printed = Printed::default();
        for number in 0..100 {
            printed.add(&token(1), line(&number.to_string()));
        }
        printed.add(&token(1), line(&"ä".repeat(1000)));
        let lines = printed.of(&token(1));
        assert_eq!((lines.len(), &*lines[0].text, lines[63].text.len()), (64, "37", 512));
        assert!(printed.of(&token(2)).is_empty());
    }

    #[test]
    fn all_of_them_take_no_more_than_their_bound_and_who_printed_last_is_kept() {
        let printed = Printed::default();
        let long = "x".repeat(PrintedLine::MAX);
        for number in 0..20_000 {
            printed.add(&token(number), line(&long));
            printed.add(&token(0), line("goes on"));
        }
        let inner = printed.0.lock().expect("not poisoned");
        let sizes = |step: &Step| step.lines.iter().map(PrintedLine::size).sum::<usize>();
        let bytes: usize = inner.steps.values().map(|step| Printed::STEP + sizes(step)).sum();
        assert_eq!((inner.bytes, inner.order.len()), (bytes, inner.steps.len()));
        assert!((Printed::BYTES - 1000..=Printed::BYTES).contains(&bytes), "{bytes}");
        drop(inner);
        assert_eq!(printed.of(&token(0)).len(), 64);
        assert_eq!(printed.of(&token(19_999)).len(), 1);
        assert!(printed.of(&token(1)).is_empty());
    }
}
