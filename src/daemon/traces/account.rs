//! What becomes of the spans: how many wait, how many are lost, and what is said about it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The account of one process.
#[derive(Debug)]
pub(super) struct Account {
    /// As many spans may wait.
    most: usize,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    waiting: usize,
    /// Since the start.
    lost: usize,
    /// It is said that spans are lost.
    fails: bool,
    /// Spans had to be dropped since the last export.
    overflowed: bool,
}

impl Account {
    pub(super) fn new(most: usize) -> Self {
        Self { most, standing: Mutex::default() }
    }

    /// Whether there is room for one more span; it waits from now on.
    pub(super) fn admits(&self) -> bool {
        let mut it = self.standing();
        if it.waiting < self.most {
            it.waiting += 1;
            return true;
        }
        it.lost += 1;
        it.overflowed = true;
        let is_first = !std::mem::replace(&mut it.fails, true);
        drop(it);
        if is_first {
            say(&format!(
                "{} spans wait for the collector, as many as OTEL_BSP_MAX_QUEUE_SIZE allows",
                self.most
            ));
        }
        false
    }

    /// So many waiting spans were sent, or are lost because of `failure`.
    pub(super) fn sent(&self, spans: usize, failure: Option<&str>) {
        let mut it = self.standing();
        it.waiting = it.waiting.saturating_sub(spans);
        let Some(why) = failure else {
            // While spans are dropped between two exports, too many end.
            if !std::mem::take(&mut it.overflowed) && std::mem::take(&mut it.fails) {
                let lost = it.lost;
                drop(it);
                tracing::info!(
                    event = "traces_exported_again",
                    lost,
                    "traces are exported again; so many spans were lost since the start"
                );
            }
            return;
        };
        it.lost += spans;
        let is_first = !std::mem::replace(&mut it.fails, true);
        drop(it);
        if is_first {
            say(why);
        }
    }

    /// What still waits is lost because of `why`. Says how many spans are, of all.
    pub(super) fn close(&self, why: &str) {
        let waiting = self.standing().waiting;
        if waiting > 0 {
            self.sent(waiting, Some(why));
        }
        let lost = self.standing().lost;
        if lost > 0 {
            tracing::info!(event = "spans_lost", lost, "spans of this worker were not exported");
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(error: &str) {
    tracing::warn!(
        event = "traces_not_exported",
        error,
        "traces cannot be exported to the collector, and are lost; steps are not delayed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are lost, and whether that is said.
    fn lost(account: &Account) -> (usize, bool) {
        let it = account.standing();
        (it.lost, it.fails)
    }

    #[test]
    fn what_finds_no_room_is_lost_until_something_was_sent() {
        let account = Account::new(2);
        assert_eq!([(); 4].map(|()| account.admits()), [true, true, false, false]);
        assert_eq!(lost(&account), (2, true));
        account.sent(1, None);
        assert_eq!(lost(&account), (2, true), "spans were dropped since the last export");
        assert!(account.admits());
        account.sent(2, None);
        assert_eq!(lost(&account), (2, false), "there was room for all");
    }

    #[test]
    fn what_the_collector_does_not_take_is_lost() {
        let account = Account::new(2);
        assert!(account.admits() && account.admits());
        account.sent(2, Some("connection refused"));
        assert_eq!(lost(&account), (2, true));
        assert!(account.admits(), "what is lost waits no longer");
        account.sent(1, None);
        assert_eq!(lost(&account), (2, false));
    }

    #[test]
    fn what_waits_at_the_end_is_lost() {
        let account = Account::new(2);
        account.close("no answer");
        assert_eq!(lost(&account), (0, false), "nothing waited");
        assert!(account.admits());
        account.close("no answer");
        assert_eq!(lost(&account), (1, true));
    }
}
