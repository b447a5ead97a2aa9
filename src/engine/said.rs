//! The same problem of many steps is logged once, and then counted: the log grows with causes, not
//! with messages.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the same kind of problem is logged at most.
const EVERY: Duration = Duration::from_secs(30);

/// When each kind of problem was last logged, and how often it occurred since.
#[derive(Default)]
pub(crate) struct Said(Mutex<BTreeMap<Kind, (Instant, u64)>>);

/// The line of code that logs it, and what it calls the problem: no two lines share a kind.
type Kind = (&'static Location<'static>, &'static str);

impl Said {
    /// How many more occurred since it was last logged, if it is to be logged now.
    #[track_caller]
    pub(crate) fn again(&self, kind: &'static str) -> Option<u64> {
        let (now, kind) = (Instant::now(), (Location::caller(), kind));
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get_mut(&kind) {
            Some((at, more)) if now.duration_since(*at) < EVERY => {
                *more += 1;
                None
            }
            Some((at, more)) => {
                *at = now;
                Some(std::mem::take(more))
            }
            None => {
                said.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_of_one_kind_is_said_at_once_and_then_counted() {
        let said = Said::default();
        let again = |kind| said.again(kind);
        assert_eq!((again("late"), again("late"), again("denied")), (Some(0), None, Some(0)));
        advance(EVERY).await;
        assert_eq!((again("late"), again("late")), (Some(1), None));
    }

    #[tokio::test(start_paused = true)]
    async fn two_places_do_not_silence_each_other() {
        let said = Said::default();
        let poll = || said.again("denied");
        let report = || said.again("denied");
        assert_eq!((poll(), report(), poll()), (Some(0), Some(0), None));
    }
}
