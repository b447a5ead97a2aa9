//! What the worker does when EC2 takes its instance back.

use std::future::pending;
use std::time::Duration;

use crate::aws::{Clients, SpotNotices};

/// The last calls, once everything has ended.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// The notices, if they are configured.
pub(super) struct Spot(Option<SpotNotices>);

impl Spot {
    pub(super) fn new(is_wanted: bool, clients: &Clients) -> Self {
        Self(is_wanted.then(|| clients.spot_notices()))
    }

    /// Whether the notice was given before the worker began.
    pub(super) async fn is_noticed(&self) -> bool {
        let Some(notices) = &self.0 else { return false };
        // One that cannot be asked is asked again later.
        let Ok(Some(left)) = notices.left().await else { return false };
        tracing::info!(
            event = "spot_start_refused",
            left = ?left,
            "EC2 takes this instance back; nothing is received or started"
        );
        true
    }

    /// Resolves with the time that is left once there is a notice.
    pub(super) async fn notice(&self) -> Duration {
        let Some(notices) = &self.0 else { return pending().await };
        let left = notices.notice().await;
        tracing::info!(
            event = "spot_notice",
            left = ?left,
            "EC2 takes this instance back; the worker drains"
        );
        left
    }
}

/// How long running steps are waited for if the machine has this much time left: so long that those
/// that are told to end then can use up their grace.
pub(super) fn wait(left: Duration, grace: Duration) -> Duration {
    left.saturating_sub(grace + LAST_CALLS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_leaves_time_for_the_grace_and_the_last_calls() {
        let wait = |left, grace| wait(Duration::from_secs(left), Duration::from_secs(grace));
        assert_eq!(wait(120, 30), Duration::from_secs(85));
        assert_eq!(wait(9, 30), Duration::ZERO);
    }
}
