//! What happened in a run, counted by name, so that nothing is believed tested that never happened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counts of one run, or of many together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
    pub simulated: Duration,
}

impl Tally {
    pub fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
        self.simulated += other.simulated;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>10.2} simulated days", self.simulated.as_secs() as f64 / 86_400.0)?;
        for (what, count) in &self.counts {
            writeln!(f, "{count:>10} {what}")?;
        }
        Ok(())
    }
}
