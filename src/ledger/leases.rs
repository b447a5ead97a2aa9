//! This worker's lease in a shared ledger, and what it has seen of other workers'.
//!
//! Claims belong to workers: a claim holds while the record of the worker that made it does. A
//! worker renews its record, whatever it holds, and other workers judge it by their own clocks: a
//! record that has not changed for a whole lease, or is gone, holds nothing. A worker that takes
//! over removes the record first (it *fences* the owner), on condition that it has not changed:
//! from then on the owner cannot renew it, however late it is. A worker that ends in good order
//! while steps are still claimed by it, because they could not be written any more, says so in its
//! record: its steps were given back, and it needs no fence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::store::Worker;
use super::term::Term;
use crate::clock::after;
use crate::lifecycle::{Lease, WorkerId};
use crate::step::CallbackToken;

/// Of workers that have not been looked at for this many leases nothing is remembered.
const REMEMBERED: u32 = 10;
/// For how many leases the record of a worker that has left is kept, for those who take over.
pub(super) const KEPT_LEFT: u32 = 10;

pub(super) struct Leases {
    lease: Duration,
    process: WorkerId,
    own: Mutex<Own>,
    others: Mutex<BTreeMap<WorkerId, Seen>>,
}

/// This worker's own record.
struct Own {
    id: WorkerId,
    /// Under how many ids this process has held claims.
    lives: u32,
    /// As far as it is known; `None` before the first renewal.
    version: Option<u64>,
    /// `None` before the first renewal.
    term: Option<Term>,
    /// Since when renewals have been sent whose result is not known.
    unsure: Option<Timestamp>,
    /// Stops that the worker was told of, and that are not removed from its record yet.
    told: BTreeSet<CallbackToken>,
}

/// A renewal to send.
pub(super) struct Renewal {
    pub(super) id: WorkerId,
    pub(super) expected: Option<u64>,
    pub(super) told: BTreeSet<CallbackToken>,
    asked: Timestamp,
}

/// Another worker.
#[derive(Clone, Copy)]
struct Seen {
    /// `None` if its record is gone.
    version: Option<u64>,
    /// Since when the record has been seen like this.
    since: Timestamp,
    looked: Timestamp,
    /// It has changed since.
    stale: bool,
    /// The worker has ended in good order.
    left: bool,
}

impl Leases {
    pub(super) fn new(process: WorkerId, lease: Duration) -> Self {
        let own = Own::of(process.clone(), 1);
        Self { lease, process, own: Mutex::new(own), others: Mutex::default() }
    }

    /// The process, whatever it claims steps as.
    pub(super) fn process(&self) -> &Arc<str> {
        &self.process.0
    }

    /// How long a worker's claims are valid without renewal.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// The id under which this process claims steps now.
    pub(super) fn me(&self) -> WorkerId {
        self.own().id.clone()
    }

    pub(super) fn is_of_this_process(&self, worker: &WorkerId) -> bool {
        Self::is_life_of(worker, &self.process.0)
    }

    pub(super) fn is_life_of(worker: &WorkerId, process: &str) -> bool {
        let life = worker.0.strip_prefix(process);
        life.is_some_and(|life| life.is_empty() || life.starts_with(LIFE))
    }

    pub(super) fn renewal(&self, now: Timestamp) -> Renewal {
        let mut own = self.own();
        own.unsure.get_or_insert(now);
        Renewal { id: own.id.clone(), expected: own.version, told: own.told.clone(), asked: now }
    }

    /// The renewal took effect. Returns the stops that the worker has not been told of.
    pub(super) fn renewed(
        &self,
        renewal: &Renewal,
        stops: &BTreeSet<CallbackToken>,
    ) -> Vec<CallbackToken> {
        self.own().held(renewal, renewal.asked, stops, self.lease)
    }

    /// The record is not at the expected version, and was read again. Returns the stops that the
    /// worker has not been told of; `None` if another worker has removed the record.
    pub(super) fn read_back(
        &self,
        renewal: &Renewal,
        found: Option<Worker>,
    ) -> Option<Vec<CallbackToken>> {
        let next = renewal.expected.unwrap_or(0) + 1;
        let found = found.filter(|found| found.version == next)?;
        let mut own = self.own();
        // One of the earlier renewals took effect; it is not known which.
        let asked = own.unsure.unwrap_or(renewal.asked);
        Some(own.held(renewal, asked, &found.stops, self.lease))
    }

    /// The renewal failed, and may have taken effect or not.
    pub(super) fn failed(&self, now: Timestamp) {
        let mut own = self.own();
        own.term = own.term.map(|term| term.tried(now, self.lease));
    }

    /// Begins to claim steps under another id. What was claimed under the last one is lost.
    pub(super) fn lose(&self) {
        let mut own = self.own();
        let lives = own.lives + 1;
        let id = WorkerId(format!("{}{LIFE}{lives}", self.process.0).into());
        // The last term bounds what is left of the runs.
        *own = Own { term: own.term, ..Own::of(id, lives) };
    }

    /// Whether this worker's claims hold, and it may claim more.
    pub(super) fn hold(&self, now: Timestamp) -> bool {
        let own = self.own();
        own.version.is_some() && own.term.is_some_and(|term| term.lost > now)
    }

    /// The version of this worker's record, if it has one.
    pub(super) fn version(&self) -> Option<u64> {
        self.own().version
    }

    /// When to renew next, and when all claims are lost unless it is renewed. `None` if nothing can
    /// be lost.
    pub(super) fn due(&self) -> Option<(Timestamp, Timestamp)> {
        let own = self.own();
        own.version?;
        own.term.map(|term| (term.renew, term.lost))
    }

    /// The latest moment for the ledger to answer a request made now: claims must be given up in
    /// time, however slow the ledger is.
    pub(super) fn patience(&self, now: Timestamp) -> Timestamp {
        self.due()
            .map(|(_, lost)| lost)
            .filter(|lost| *lost > now)
            .unwrap_or_else(|| after(now, self.lease * 2 / 3))
    }

    /// How long a run whose claim is lost may take to end.
    pub(super) fn grace(&self, now: Timestamp) -> Duration {
        self.own().term.map_or(Duration::ZERO, |term| term.grace(now))
    }

    /// Whether another worker's record is to be read again before its claims are judged.
    pub(super) fn looks_at(&self, worker: &WorkerId, now: Timestamp) -> bool {
        let others = self.others();
        others
            .get(worker)
            .is_none_or(|seen| seen.stale || after(seen.looked, self.lease / 6) <= now)
    }

    /// Another worker's record was read: its version and what it says, if it is there.
    pub(super) fn looked(&self, worker: &WorkerId, found: Option<(u64, &str)>, now: Timestamp) {
        let version = found.map(|(version, _)| version);
        let left = found.is_some_and(|(_, notice)| notice == LEFT);
        let mut others = self.others();
        // A list may be older than the last look; what has left does not come back.
        let left = left || others.get(worker).is_some_and(|seen| seen.left);
        others.retain(|_, seen| after(seen.looked, self.lease * REMEMBERED) > now);
        let since = others
            .get(worker)
            .filter(|seen| seen.version == version)
            .map_or(now, |seen| seen.since);
        others.insert(worker.clone(), Seen { version, since, looked: now, stale: false, left });
    }

    /// Another worker's record was found to have changed.
    pub(super) fn changed(&self, worker: &WorkerId) {
        if let Some(seen) = self.others().get_mut(worker) {
            seen.stale = true;
        }
    }

    /// Another worker's record was removed.
    pub(super) fn fenced(&self, worker: &WorkerId) {
        if let Some(seen) = self.others().get_mut(worker) {
            seen.version = None;
        }
    }

    /// The state of the claims of a worker, as far as they were looked at.
    pub(super) fn of(&self, worker: &WorkerId, now: Timestamp) -> Lease {
        if self.is_of_this_process(worker) {
            return Lease::Over;
        }
        match self.others().get(worker) {
            // It is read with the step's record.
            None => Lease::Until(now),
            Some(Seen { version: None, .. } | Seen { left: true, .. }) => Lease::Over,
            Some(seen) => {
                let over = after(seen.since, self.lease);
                if over > now { Lease::Until(over) } else { Lease::Over }
            }
        }
    }

    /// The version of another worker's record when it was last looked at, for its fence; `None` if
    /// it needs none, because it is gone, or will not be renewed.
    pub(super) fn to_fence(&self, worker: &WorkerId) -> Option<u64> {
        self.others().get(worker).filter(|seen| !seen.left).and_then(|seen| seen.version)
    }

    /// The workers that were seen long ago to have ended in good order, and the versions of their
    /// records.
    pub(super) fn left_long_ago(&self, now: Timestamp) -> Vec<(WorkerId, u64)> {
        let long_ago = |seen: &Seen| seen.left && after(seen.since, self.lease * KEPT_LEFT) <= now;
        let others = self.others();
        let left = others.iter().filter(|(_, seen)| long_ago(seen));
        left.filter_map(|(worker, seen)| Some((worker.clone(), seen.version?))).collect()
    }

    /// Whether another worker was seen to have ended in good order.
    pub(super) fn has_left(&self, worker: &WorkerId) -> bool {
        self.others().get(worker).is_some_and(|seen| seen.left)
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Seen>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between the id of a process and the number of its life, from the second on.
const LIFE: &str = "~";
/// The notice of a worker that has ended in good order.
pub(super) const LEFT: &str = "left";

impl Own {
    fn of(id: WorkerId, lives: u32) -> Self {
        Self { id, lives, version: None, term: None, unsure: None, told: BTreeSet::new() }
    }

    fn held(
        &mut self,
        renewal: &Renewal,
        asked: Timestamp,
        stops: &BTreeSet<CallbackToken>,
        lease: Duration,
    ) -> Vec<CallbackToken> {
        self.version = Some(renewal.expected.unwrap_or(0) + 1);
        self.term = Some(Term::from(asked, lease));
        self.unsure = None;
        let news = stops.difference(&self.told).cloned().collect();
        self.told.clone_from(stops);
        news
    }
}

#[cfg(test)]
mod tests;
