//! Which steps of a shared ledger this worker minds beside those in its hands.
//!
//! The worker that wrote a step's record last has the step in hand, or watches it. Of the steps of
//! dead workers each live one minds those in its parts of the ledger, so that nothing is read,
//! asked or taken over by all at once. As long as workers do not agree on who lives, a step may be
//! minded twice, which the ledger settles, or by none.

use std::collections::BTreeSet;

use crate::ledger::Ledger;
use crate::ledger::store::{PARTS, part};
use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// The live workers of a ledger.
#[derive(Default)]
pub(crate) struct Fleet {
    lives: BTreeSet<WorkerId>,
}

impl Fleet {
    /// Takes note of who lives now; returns whether that has changed.
    pub(crate) fn is(&mut self, lives: BTreeSet<WorkerId>) -> bool {
        let changed = self.lives != lives;
        self.lives = lives;
        changed
    }

    pub(crate) fn is_known(&self) -> bool {
        !self.lives.is_empty()
    }

    /// Whether `me` minds a step that the process `writer` wrote last.
    pub(crate) fn minds(&self, me: &WorkerId, token: &CallbackToken, writer: Option<&str>) -> bool {
        let is_of =
            |worker: &WorkerId| writer.is_some_and(|writer| Ledger::is_life_of(worker, writer));
        if self.lives.is_empty() || is_of(me) {
            return true;
        }
        if self.lives.iter().any(is_of) {
            return false;
        }
        self.has_part(me, part(token))
    }

    /// The parts of the ledger in which `me` minds the steps of dead workers.
    pub(crate) fn parts(&self, me: &WorkerId) -> Vec<u32> {
        (0..PARTS).filter(|part| self.has_part(me, *part)).collect()
    }

    fn has_part(&self, me: &WorkerId, part: u32) -> bool {
        let at = self.lives.iter().position(|worker| worker == me);
        at.is_some_and(|at| part as usize % self.lives.len() == at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> WorkerId {
        WorkerId(name.into())
    }

    fn tokens() -> impl Iterator<Item = CallbackToken> {
        (0..3000).map(|number| format!("tokn{number:06}").parse().expect("a token"))
    }

    #[test]
    fn each_step_of_a_dead_worker_is_minded_by_one_of_the_live_ones_in_equal_shares() {
        let workers = ["a", "b", "c"].map(id);
        let mut fleet = Fleet::default();
        assert!(fleet.is(workers.iter().cloned().collect()));
        assert!(!fleet.is(workers.iter().cloned().collect()));
        let mut shares = [0; 3];
        for token in tokens() {
            let minds: Vec<usize> =
                (0..3).filter(|at| fleet.minds(&workers[*at], &token, Some("dead"))).collect();
            assert_eq!(minds.len(), 1, "{token}");
            shares[minds[0]] += 1;
        }
        assert!(shares.iter().all(|share| (900..1100).contains(share)), "{shares:?}");
        let mut parts = workers.each_ref().map(|worker| fleet.parts(worker)).concat();
        parts.sort_unstable();
        assert_eq!(parts, (0..PARTS).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_live_worker_wrote_is_its_own_under_whichever_id_it_claims_now() {
        let mut fleet = Fleet::default();
        fleet.is(["a", "b~2"].map(id).into());
        for token in tokens() {
            assert!(fleet.minds(&id("a"), &token, Some("a")));
            assert!(!fleet.minds(&id("a"), &token, Some("b")));
            assert!(fleet.minds(&id("b~2"), &token, Some("b")));
        }
    }

    #[test]
    fn a_worker_without_a_fleet_minds_everything() {
        let fleet = Fleet::default();
        assert!(tokens().all(|token| fleet.minds(&id("a"), &token, Some("b"))));
    }
}
