//! What runs report of their progress, and how much of it is logged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::handler::Progress;

/// How often the progress of one step is logged at most: a job of a day leaves a line a minute.
const EVERY: Duration = Duration::from_secs(60);
/// How many lines of progress a worker logs in that time, whatever the number of its steps.
const MOST: u32 = 60;

/// The last progress of a step, of all runs of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Progressed {
    pub progress: Progress,
    /// When the step first reported it.
    pub at: Timestamp,
    pub(crate) attempt: u32,
    /// When the step's progress was last logged.
    logged: Timestamp,
}

impl Progressed {
    /// What follows `before`, and whether it is to be logged; `None` if it is no progress: the same
    /// again.
    pub(crate) fn after(
        before: Option<&Self>,
        progress: Progress,
        attempt: u32,
        now: Timestamp,
    ) -> Option<(Self, bool)> {
        let before = before.filter(|before| before.attempt == attempt);
        if before.is_some_and(|before| before.progress == progress) {
            return None;
        }
        let rests = |before: &&Self| {
            Duration::try_from(now.duration_since(before.logged)).unwrap_or_default() < EVERY
        };
        let resting = before.filter(rests);
        let logged = resting.map_or(now, |before| before.logged);
        Some((Self { progress, at: now, attempt, logged }, resting.is_none()))
    }
}

/// Bounds the lines of progress of all steps together.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Option<Minute>>);

struct Minute {
    begun: Instant,
    lines: u32,
    skipped: u64,
}

impl Lines {
    /// How many lines were left out before this one, if this one may be logged.
    pub(crate) fn take(&self) -> Option<u64> {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = || Minute { begun: now, lines: 0, skipped: 0 };
        let minute = minute.get_or_insert_with(fresh);
        if now.duration_since(minute.begun) >= EVERY {
            *minute = Minute { skipped: minute.skipped, ..fresh() };
        }
        if minute.lines == MOST {
            minute.skipped += 1;
            return None;
        }
        minute.lines += 1;
        Some(std::mem::take(&mut minute.skipped))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn progress(fraction: f64) -> Progress {
        Progress { fraction: Some(fraction), text: String::new() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn progress_is_logged_at_first_and_then_once_a_minute_and_the_same_again_is_none() {
        let after = |before: &Progressed, fraction, second| {
            Progressed::after(Some(before), progress(fraction), 1, at(second))
        };
        let (first, logs) = Progressed::after(None, progress(0.1), 1, at(0)).expect("the first");
        assert!(logs);
        assert_eq!(after(&first, 0.1, 100), None);
        let (second, logs) = after(&first, 0.2, 59).expect("another");
        assert_eq!((second.at, logs), (at(59), false));
        let (third, logs) = after(&second, 0.3, 60).expect("another");
        assert_eq!((third.at, logs), (at(60), true));
    }

    #[test]
    fn another_attempt_begins_anew() {
        let (first, _) = Progressed::after(None, progress(0.1), 1, at(0)).expect("the first");
        let again = Progressed::after(Some(&first), progress(0.1), 2, at(1));
        assert!(again.is_some_and(|(progressed, logs)| progressed.at == at(1) && logs));
    }

    #[tokio::test(start_paused = true)]
    async fn many_steps_leave_no_more_than_a_line_a_second_and_the_rest_is_counted() {
        let lines = Lines::default();
        let logged = (0..1000).filter_map(|_| lines.take()).count();
        assert_eq!(logged, 60);
        advance(EVERY).await;
        assert_eq!((lines.take(), lines.take()), (Some(940), Some(0)));
    }
}
