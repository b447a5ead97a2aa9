//! How long to wait before the next try: exponential, jittered, capped, and pure.

use std::time::Duration;

/// Waits that double from `first` up to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// The wait after `failures` consecutive failures (at least 1), with `random` in `0.0..1.0`.
    ///
    /// Half of the wait is fixed and half is random, so it is never zero, and callers that failed
    /// together do not return together.
    #[must_use]
    pub fn after(self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.most.max(self.first));
        full / 2 + (full / 2).mul_f64(random.clamp(0.0, 1.0))
    }
}

/// Consecutive failures of something that is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures(u32);

impl Failures {
    /// Counts another failure, and returns the wait before the next try; `random` in `0.0..1.0`.
    pub fn another(&mut self, backoff: Backoff, random: f64) -> Duration {
        self.0 = self.0.saturating_add(1);
        backoff.after(self.0, random)
    }

    #[must_use]
    pub const fn count(self) -> u32 {
        self.0
    }

    /// A success ends the series.
    pub const fn end(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

    #[test]
    fn waits_double_and_then_stay_at_the_cap() {
        let full: Vec<u64> = (1..=8).map(|n| BACKOFF.after(n, 1.0).as_secs()).collect();
        assert_eq!(full, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_nothing_and_never_above_the_cap(failures: u32, random in 0.0..1.0f64) {
            let wait = BACKOFF.after(failures, random);
            prop_assert!(wait >= Duration::from_millis(500) && wait <= Duration::from_mins(1));
        }
    }
}
