//! The arithmetic of claims in a shared ledger: when to renew a claim, and when to give it up.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;

/// The term of a claim, counted from the start of its last write: that write may have taken effect
/// at once, and other workers count from then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// When to renew it.
    pub(crate) renew: Timestamp,
    /// When it must be given up: other workers may take the step after the rest of the lease.
    pub(crate) lost: Timestamp,
}

impl Term {
    pub(crate) fn from(asked: Timestamp, lease: Duration) -> Self {
        Self { renew: after(asked, lease / 3), lost: after(asked, lease * 2 / 3) }
    }

    /// The same claim, retried soon after a failed renewal.
    pub(crate) fn tried(self, now: Timestamp, lease: Duration) -> Self {
        Self { renew: after(now, lease / 12), ..self }
    }
}

/// The latest moment for the ledger to answer a request made now: a claim must be given up in time,
/// however slow the ledger is.
pub(crate) fn patience(term: Option<Term>, now: Timestamp, lease: Duration) -> Timestamp {
    term.map(|term| term.lost)
        .filter(|lost| *lost > now)
        .unwrap_or_else(|| after(now, lease * 2 / 3))
}

/// How long a run may take to end after its claim is lost, so that it is over before another worker
/// may start the step.
pub(crate) fn grace_of_loss(term: Option<Term>, now: Timestamp, lease: Duration) -> Duration {
    match term {
        Some(term) => {
            Duration::try_from(term.lost.duration_since(now)).unwrap_or(Duration::ZERO) / 2
        }
        None => lease / 6,
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
    fn a_claim_is_renewed_at_a_third_and_given_up_at_two_thirds_of_its_lease() {
        let term = Term::from(at(100), LEASE);
        assert_eq!(term, Term { renew: at(120), lost: at(140) });
        assert_eq!(term.tried(at(121), LEASE), Term { renew: at(126), lost: at(140) });
    }

    #[test]
    fn a_slow_ledger_is_waited_for_only_while_the_claim_lasts() {
        let term = Some(Term::from(at(100), LEASE));
        assert_eq!(patience(term, at(130), LEASE), at(140));
        assert_eq!(patience(term, at(150), LEASE), at(190), "nothing is left to lose");
        assert_eq!(patience(None, at(100), LEASE), at(140));
    }

    #[test]
    fn a_lost_run_ends_before_the_lease_can_pass_to_another() {
        let term = Some(Term::from(at(100), LEASE));
        assert_eq!(grace_of_loss(term, at(130), LEASE), Duration::from_secs(5));
        assert_eq!(grace_of_loss(None, at(130), LEASE), Duration::from_secs(10));
    }
}
