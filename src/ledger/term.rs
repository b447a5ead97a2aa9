//! The arithmetic of a worker's lease in a shared ledger: when to renew it, and when its claims
//! must be given up.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;

/// How soon a failed renewal is tried again at the latest: often enough that a table which
/// throttles half of all calls does not end a lease of usual length.
const AGAIN: Duration = Duration::from_secs(1);

/// The term of a lease, counted from the start of its last renewal: that may have taken effect at
/// once, and other workers count from then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// When to renew it.
    pub(super) renew: Timestamp,
    /// When all claims must be given up: other workers may take the steps after the rest of the
    /// lease.
    pub(super) lost: Timestamp,
    /// When other workers may take the steps.
    over: Timestamp,
}

impl Term {
    pub(super) fn from(asked: Timestamp, lease: Duration) -> Self {
        Self {
            renew: after(asked, lease / 3),
            lost: after(asked, lease * 2 / 3),
            over: after(asked, lease),
        }
    }

    /// The same lease, renewed soon after a failed renewal.
    pub(super) fn tried(self, now: Timestamp, lease: Duration) -> Self {
        Self { renew: after(now, AGAIN.min(lease / 12)), ..self }
    }

    /// How long a run may take to end after the lease is lost, so that it is over before another
    /// worker may start the step.
    pub(super) fn grace(self, now: Timestamp) -> Duration {
        Duration::try_from(self.over.duration_since(now)).unwrap_or(Duration::ZERO) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    #[test]
    fn a_lease_is_renewed_at_a_third_and_given_up_at_two_thirds_of_it() {
        let term = Term::from(at(100), LEASE);
        assert_eq!(term, Term { renew: at(120), lost: at(140), over: at(160) });
    }

    #[test]
    fn within_a_long_lease_a_renewal_is_tried_often_and_within_a_short_one_in_time() {
        let term = Term::from(at(100), LEASE);
        assert_eq!(term.tried(at(121), LEASE), Term { renew: at(122), ..term });
        let short = Duration::from_secs(3);
        let soon = Term::from(at(100), short).tried(at(101), short).renew;
        assert_eq!(soon.duration_since(at(101)).as_millis(), 250);
    }

    #[test]
    fn a_lost_run_ends_before_the_lease_can_pass_to_another() {
        let term = Term::from(at(100), LEASE);
        assert_eq!(term.grace(at(140)), Duration::from_secs(10));
        assert_eq!(term.grace(at(170)), Duration::ZERO, "it has passed");
    }
}
