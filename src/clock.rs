//! The time that limits run on, and its names by the wall clock.
//!
//! Everything that the worker measures runs on one timeline: it starts at what the wall clock shows
//! when the process starts, and continues with the clock that also counts while the machine is
//! suspended. It never jumps. Stored and displayed times use the wall clock instead. When the wall
//! clock is set, the displayed times change and the timeline does not, so the rest of each limit
//! stays the same.
//!
//! Workers that share a ledger have the time of its service in place of their wall clocks: see
//! [`ServiceClock`].

mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

pub use service::ServiceClock;

/// The clocks of a machine.
pub trait Source: Send + Sync {
    /// Time since some moment in the past, including suspension; it never goes back.
    fn elapsed(&self) -> Duration;

    /// What the wall clock shows.
    fn wall(&self) -> Timestamp;

    /// What people call the wall clock.
    fn name(&self) -> &'static str {
        "the wall clock"
    }
}

/// The clocks of this machine: `CLOCK_BOOTTIME` and `CLOCK_REALTIME`.
struct Machine(Instant);

impl Source for Machine {
    fn elapsed(&self) -> Duration {
        // A kernel without that clock has no suspension to count.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or_else(|_| self.0.elapsed(), Duration::from)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Clocks that agree and follow tokio's, so that they can be paused.
struct Steady {
    wall: Timestamp,
    began: Instant,
}

impl Source for Steady {
    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall(&self) -> Timestamp {
        after(self.wall, self.began.elapsed())
    }
}

/// The worker's timeline; cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Line>);

struct Line {
    source: Box<dyn Source>,
    /// What the wall clock showed at `elapsed`.
    wall: Timestamp,
    elapsed: Duration,
    /// How far the wall clock has been set forward since then, in milliseconds.
    correction: AtomicI64,
}

/// The wall clock was set: how far, forward or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(pub SignedDuration);

/// Clocks drift by less than this between two corrections by NTP.
const TOLERANCE: Duration = Duration::from_secs(5);

impl Clock {
    /// This machine's clock.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of(Box::new(Machine(Instant::now())))
    }

    /// A clock that shows `wall` now and follows tokio's time.
    #[must_use]
    pub fn starting_at(wall: Timestamp) -> Self {
        Self::of(Box::new(Steady { wall, began: Instant::now() }))
    }

    #[must_use]
    pub fn of(source: Box<dyn Source>) -> Self {
        let (wall, elapsed) = (source.wall(), source.elapsed());
        Self(Arc::new(Line { source, wall, elapsed, correction: AtomicI64::new(0) }))
    }

    /// The present moment on the timeline.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        after(self.0.wall, self.0.source.elapsed().saturating_sub(self.0.elapsed))
    }

    /// The tokio instant of `at`; now if `at` is past. Never more than a year ahead, because timers
    /// are limited.
    ///
    /// Tokio's timers do not count suspension: a task that sleeps until then looks again after the
    /// machine has woken.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        const FAR: Duration = Duration::from_hours(365 * 24);
        let ahead = Duration::try_from(at.duration_since(self.now())).unwrap_or(Duration::ZERO);
        Instant::now() + ahead.min(FAR)
    }

    /// How long ago `at` was; zero if it is in the future.
    #[must_use]
    pub fn since(&self, at: Timestamp) -> Duration {
        Duration::try_from(self.now().duration_since(at)).unwrap_or(Duration::ZERO)
    }

    /// What people call the clock that names times.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.0.source.name()
    }

    /// How far the wall clock is ahead of the timeline; negative if it is behind.
    #[must_use]
    pub fn correction(&self) -> SignedDuration {
        SignedDuration::from_millis(self.0.correction.load(Ordering::SeqCst))
    }

    /// What the wall clock calls a moment of the timeline.
    #[must_use]
    pub fn name(&self, at: Timestamp) -> Timestamp {
        shifted(at, self.correction())
    }

    /// The moment of the timeline that the wall clock calls `name`.
    #[must_use]
    pub fn moment(&self, name: Timestamp) -> Timestamp {
        shifted(name, -self.correction())
    }

    /// Checks whether the wall clock was set since the last look, by more than five seconds, and
    /// adopts the change. If several callers look at once, one of them sees it.
    pub fn look(&self) -> Option<Set> {
        let correction = &self.0.correction;
        let before = correction.load(Ordering::SeqCst);
        let name = shifted(self.now(), SignedDuration::from_millis(before));
        let apart = self.0.source.wall().duration_since(name);
        if apart.unsigned_abs() <= TOLERANCE {
            return None;
        }
        let milliseconds = i64::try_from(apart.as_millis()).unwrap_or_default();
        let after = before.saturating_add(milliseconds);
        correction
            .compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst)
            .ok()
            .map(|_| Set(apart))
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock")
            .field("now", &self.now())
            .field("correction", &self.correction())
            .finish()
    }
}

/// `at` plus `passed`, or the end of time if that is beyond it.
#[must_use]
pub fn after(at: Timestamp, passed: Duration) -> Timestamp {
    shifted(at, SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX))
}

/// `at` moved forward or back by this much, within the range of timestamps.
#[must_use]
pub fn shifted(at: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    at.checked_add(by).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Clocks that are set by hand.
    #[derive(Clone, Default)]
    pub(super) struct Hands(Arc<Mutex<(Duration, SignedDuration)>>);

    impl Hands {
        pub(super) fn pass(&self, time: Duration) {
            self.0.lock().unwrap().0 += time;
        }

        pub(super) fn set(&self, by: SignedDuration) {
            self.0.lock().unwrap().1 += by;
        }
    }

    impl Source for Hands {
        fn elapsed(&self) -> Duration {
            self.0.lock().unwrap().0
        }

        fn wall(&self) -> Timestamp {
            let (elapsed, set) = *self.0.lock().unwrap();
            shifted(after(Timestamp::UNIX_EPOCH, elapsed), set)
        }
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn what_is_left_of_a_limit_stays_left_when_the_clock_is_set() {
        let hands = Hands::default();
        let clock = Clock::of(Box::new(hands.clone()));
        let limit = after(clock.now(), HOUR);
        hands.set(SignedDuration::from_hours(48));
        assert_eq!(clock.look(), Some(Set(SignedDuration::from_hours(48))));
        assert_eq!(limit.duration_since(clock.now()), SignedDuration::from_hours(1));
        assert_eq!(clock.name(clock.now()), hands.wall());
        assert_eq!(clock.moment(clock.name(limit)), limit);
        assert_eq!(clock.look(), None, "it is said once");
    }

    #[test]
    fn a_clock_may_be_set_back() {
        let hands = Hands::default();
        let clock = Clock::of(Box::new(hands.clone()));
        hands.pass(HOUR);
        hands.set(SignedDuration::from_hours(-3));
        assert!(clock.look().is_some());
        assert_eq!(clock.now(), after(Timestamp::UNIX_EPOCH, HOUR));
        assert_eq!(clock.name(clock.now()), hands.wall());
    }

    #[test]
    fn small_corrections_are_passed_over() {
        let hands = Hands::default();
        let clock = Clock::of(Box::new(hands.clone()));
        hands.set(SignedDuration::from_secs(5));
        assert_eq!(clock.look(), None);
        hands.set(SignedDuration::from_secs(1));
        assert_eq!(clock.look(), Some(Set(SignedDuration::from_secs(6))));
    }

    #[tokio::test]
    async fn suspension_counts() {
        let hands = Hands::default();
        let clock = Clock::of(Box::new(hands.clone()));
        let limit = after(clock.now(), HOUR);
        hands.pass(2 * HOUR);
        assert!(clock.instant(limit) <= Instant::now());
        assert_eq!(clock.since(limit), HOUR);
        assert_eq!(clock.look(), None);
    }
}
