//! The endpoint's time: the wall clock's at its start, continued by `tokio::time`, so that tests
//! can pause and move it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// A point in time, in whole milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

/// Returns the [`Time`]; its clones return the same.
#[derive(Clone, Debug)]
pub struct Clock {
    epoch: Time,
    started: Instant,
    /// Milliseconds that have passed while `tokio::time` stood still.
    skipped: Arc<AtomicU64>,
}

impl Time {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// In the form of SQS's timestamps.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// In the form of SageMaker's timestamps: seconds since the epoch with a fraction.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay far below 2^53")]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl fmt::Display for Time {
    /// RFC 3339, in UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Clock {
    /// A clock that begins at the wall clock's present time.
    pub fn start() -> Self {
        Self::start_at(Time(
            u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default(),
        ))
    }

    /// A clock that begins at a given time.
    pub fn start_at(epoch: Time) -> Self {
        Self { epoch, started: Instant::now(), skipped: Arc::default() }
    }

    pub fn now(&self) -> Time {
        self.epoch.plus(self.started.elapsed() + self.skipped())
    }

    /// Lets time pass while `tokio::time` stands still, as when a client's machine is suspended. A
    /// task that waits for a skipped moment keeps waiting until `tokio::time` reaches it.
    pub fn skip(&self, duration: Duration) {
        self.skipped
            .fetch_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn skipped(&self) -> Duration {
        Duration::from_millis(self.skipped.load(Ordering::SeqCst))
    }

    /// The instant to sleep until; when it has come, [`now`](Self::now) is at least `time`.
    pub fn instant(&self, time: Time) -> Instant {
        self.started + time.since(self.epoch).saturating_sub(self.skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_until_a_time_ends_at_that_time() {
        let clock = Clock::start_at(Time::from_millis(1_700_000_000_000));
        let later = clock.now().plus(Duration::from_millis(1_500));
        tokio::time::sleep_until(clock.instant(later)).await;
        assert!(clock.now() >= later);
        assert!(
            clock.now().since(later) <= Duration::from_millis(2),
            "the clock ran on to {}",
            clock.now()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_is_skipped_has_passed() {
        let clock = Clock::start_at(Time::from_millis(1_700_000_000_000));
        clock.clone().skip(Duration::from_secs(3_600));
        assert_eq!(clock.now(), Time::from_millis(1_700_003_600_000));
        assert!(clock.instant(clock.now()) <= Instant::now());
    }

    #[test]
    fn a_time_reads_as_rfc_3339_and_as_fractional_seconds() {
        let time = Time::from_millis(1_700_000_000_250);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.250Z");
        assert!((time.seconds() - 1_700_000_000.25).abs() < f64::EPSILON);
    }

    #[test]
    fn time_never_runs_below_zero_or_over() {
        let (early, late) = (Time::from_millis(5), Time::from_millis(u64::MAX));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.plus(Duration::MAX), late);
    }
}
