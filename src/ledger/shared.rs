//! A ledger that several workers have open: the lease of this one, and the claims of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::leases::{LEFT, Leases};
use super::store::{Commit, Put, Row, Store, StoreError, Workers};
use super::trouble::Part;
use super::{Ledger, LedgerError};
use crate::lifecycle::{Lease, Record, Status, WorkerId};
use crate::step::CallbackToken;

/// The result of a renewal of this worker's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease holds. Since the last renewal, other workers have recorded stops for these steps
    /// of this worker, or a command has changed them.
    Holds(Vec<CallbackToken>),
    /// Another worker has taken over: all claims are lost.
    Lost,
}

impl Ledger {
    /// Renews this worker's lease, which begins with the first renewal, and tells the other workers
    /// `notice`: see [`fleet`](Self::fleet).
    ///
    /// # Errors
    /// [`LedgerError::Store`]; whether it was renewed is then unknown, and the same call may be
    /// tried again.
    pub async fn renew(&self, notice: String) -> Result<Renewed, LedgerError> {
        let Some(workers) = self.store.workers() else { return Ok(Renewed::Holds(Vec::new())) };
        let renewal = self.leases.renewal(self.clock.now());
        let renewed = async {
            let told = renewal.told.clone();
            if let Some(stops) = workers.renew(&renewal.id, renewal.expected, told, notice).await? {
                return Ok(Some(self.leases.renewed(&renewal, &stops)));
            }
            let found = workers.worker(&renewal.id).await?;
            Ok(self.leases.read_back(&renewal, found))
        };
        let renewed: Result<_, StoreError> = renewed.await;
        self.note(Part::Lease, renewed.as_ref().err());
        match renewed {
            Ok(Some(stops)) => Ok(Renewed::Holds(stops)),
            Ok(None) => Ok(Renewed::Lost),
            Err(error) => {
                self.leases.failed(self.clock.now());
                Err(error.into())
            }
        }
    }

    /// Records that a renewal has not been answered in time.
    pub(crate) fn renewal_late(&self) -> LedgerError {
        let error = StoreError("the ledger did not answer in time".to_owned());
        self.note(Part::Lease, Some(&error));
        self.leases.failed(self.clock.now());
        error.into()
    }

    /// When to renew the lease next, and when it is lost unless it is renewed; `None` before its
    /// first renewal.
    #[must_use]
    pub fn renewal_due(&self) -> Option<(Timestamp, Timestamp)> {
        self.leases.due()
    }

    /// Gives up all claims: [`me`](Self::me) is another one from now on, and claims nothing before
    /// the next renewal.
    pub fn lose_lease(&self) {
        self.leases.lose();
    }

    /// Ends the lease, so that others need not wait for what this worker still holds. Call it when
    /// nothing runs any more. If records may still name this worker as their owner (`owns`), others
    /// then know that those steps were given back, and that no crash interrupted them.
    ///
    /// # Errors
    /// [`LedgerError::Store`]: the same call may be tried again, and else the lease ends by itself.
    pub async fn resign(&self, owns: bool) -> Result<(), LedgerError> {
        let (Some(workers), Some(version)) = (self.store.workers(), self.leases.version()) else {
            return Ok(());
        };
        let me = self.me();
        // The answer to the last renewal, or to this one, may have been lost.
        for version in [version, version + 1] {
            let told = BTreeSet::new();
            let done = if owns {
                workers.renew(&me, Some(version), told, LEFT.to_owned()).await?.is_some()
            } else {
                workers.fence(&me, version).await? == Put::Done
            };
            if done {
                break;
            }
        }
        Ok(())
    }

    /// The state of the claims of another worker, which is looked at again if they seem to be over.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub(crate) async fn lease_of(&self, owner: &WorkerId) -> Result<Lease, LedgerError> {
        let now = self.clock.now();
        let known = self.leases.of(owner, now);
        let holds = matches!(known, Lease::Until(until) if until > now);
        if holds || !self.leases.looks_at(owner, now) {
            return Ok(known);
        }
        // One list tells it of all workers. It may lag behind what is not in it.
        let lives = self.fleet().await;
        if !lives.is_ok_and(|lives| lives.contains_key(owner)) {
            self.look_at(owner).await?;
        }
        Ok(self.leases.of(owner, self.clock.now()))
    }

    /// The workers whose leases may hold, this one included, and what each said with its last
    /// renewal; none if only this one can have the ledger open.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub async fn fleet(&self) -> Result<BTreeMap<WorkerId, String>, LedgerError> {
        let Some(workers) = self.store.workers() else { return Ok(BTreeMap::new()) };
        let all = self.listed(workers.all().await)?;
        let (me, now) = (self.me(), self.clock.now());
        let mut lives: BTreeMap<WorkerId, String> = all
            .into_iter()
            .filter(|member| {
                if self.leases.is_of_this_process(&member.id) {
                    return member.id == me;
                }
                self.leases.looked(&member.id, Some((member.version, &member.notice)), now);
                self.leases.of(&member.id, now) != Lease::Over
            })
            .map(|member| (member.id, member.notice))
            .collect();
        lives.entry(me.clone()).or_default();
        if lives.keys().next() == Some(&me) {
            self.remove_those_that_left(workers).await;
        }
        Ok(lives)
    }

    /// Removes records that have said for long enough that their workers have left: what those
    /// could not write is taken over.
    async fn remove_those_that_left(&self, workers: &dyn Workers) {
        for (worker, version) in self.leases.left_long_ago(self.clock.now()) {
            match workers.fence(&worker, version).await {
                Ok(_) => self.leases.fenced(&worker),
                Err(error) => {
                    tracing::debug!(%worker, %error, "the record of a worker that left is kept");
                }
            }
        }
    }

    /// Whether `worker` is a process that writes as `process`.
    #[must_use]
    pub fn is_life_of(worker: &WorkerId, process: &str) -> bool {
        Leases::is_life_of(worker, process)
    }

    /// Whether a record is claimed by this worker beside others, who may take it over.
    pub(crate) fn claims(&self, record: &Record) -> bool {
        self.is_shared() && record.owner.as_ref() == Some(&self.me())
    }

    /// Whether this worker's own claims hold. They always do if only it can have the ledger open.
    #[must_use]
    pub fn claims_hold(&self) -> bool {
        !self.is_shared() || self.leases.hold(self.clock.now())
    }

    /// Whether a record is claimed under an id that this process has lost since.
    #[must_use]
    pub fn has_lost(&self, record: &Record) -> bool {
        record.status == Status::Claimed
            && self.is_shared()
            && record.owner.as_ref().is_some_and(|owner| self.leases.is_of_this_process(owner))
            && (record.owner.as_ref() != Some(&self.me()) || !self.claims_hold())
    }

    /// The latest moment for a shared ledger to answer a request made at `now`: claims must be
    /// given up in time, however slow it is.
    pub(crate) fn patience(&self, now: Timestamp) -> Option<Timestamp> {
        self.is_shared().then(|| self.leases.patience(now))
    }

    /// How long a run whose claim is lost may take to end, so that it is over before another worker
    /// may start the step.
    pub(crate) fn grace_of_loss(&self, now: Timestamp) -> Duration {
        self.leases.grace(now)
    }

    /// A request about a step, after others if many are under way.
    pub(super) fn in_turn<'a, T: 'a>(
        &self,
        turns: &Arc<Semaphore>,
        request: BoxFuture<'a, T>,
    ) -> BoxFuture<'a, T> {
        if !self.is_shared() {
            return request;
        }
        let turns = turns.clone();
        Box::pin(async move {
            // It is never closed.
            let _turn = turns.acquire_owned().await;
            request.await
        })
    }

    /// Reads the record of another worker, unless that was done lately.
    pub(super) async fn look_at(&self, owner: &WorkerId) -> Result<(), StoreError> {
        let Some(workers) = self.store.workers() else { return Ok(()) };
        let mine = self.leases.is_of_this_process(owner);
        if mine || !self.leases.looks_at(owner, self.clock.now()) {
            return Ok(());
        }
        let found = workers.worker(owner).await?;
        // The time after the read: the record may have been renewed until then.
        let found = found.as_ref().map(|found| (found.version, found.notice.as_str()));
        self.leases.looked(owner, found, self.clock.now());
        Ok(())
    }

    /// Marks the record of a step as given back whose owner has ended in good order, and could not
    /// write that.
    pub(super) fn give_back(&self, record: &mut Record) {
        let left = |owner| self.leases.has_left(owner);
        if record.status == Status::Claimed && record.owner.as_ref().is_some_and(left) {
            record.resume = true;
        }
    }

    /// Puts a stop of another worker's step into that worker's set again: it may not have been put
    /// there when the stop was recorded.
    pub(super) async fn remind(&self, record: &Record) {
        let Some(workers) = self.store.workers() else { return };
        let owner = record.owner.as_ref().filter(|owner| {
            record.status == Status::Claimed
                && record.stop_requested.is_some()
                && !self.leases.is_of_this_process(owner)
                && self.leases.of(owner, self.clock.now()) != Lease::Over
        });
        if let Some(owner) = owner
            && let Err(error) = workers.flag(owner, &record.token).await
        {
            tracing::debug!(%owner, %error, "the owner of the step is told of its stop later");
        }
    }

    /// Has another worker look at a step of its own again, with its next renewal. It is only a
    /// hint: one that fails is lost.
    pub(crate) async fn hint(&self, worker: &WorkerId, token: &CallbackToken) {
        let Some(workers) = self.store.workers() else { return };
        if let Err(error) = workers.flag(worker, token).await {
            tracing::debug!(%worker, %token, %error, "the worker was not given a hint");
        }
    }

    /// Writes a row after what other workers must not do any more, and before what they must learn.
    pub(super) fn put_beside_others(
        &self,
        before: &Record,
        record: &Record,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let moves = before.owner != record.owner;
        // No record names an owner that others may find without a lease.
        if (moves || record.status == Status::Claimed)
            && record.owner.as_ref() == Some(&self.me())
            && !self.claims_hold()
        {
            let text = "this worker claims nothing before its lease in the ledger is renewed";
            return Box::pin(ready(Err(StoreError(text.to_owned()))));
        }
        let last = before.owner.clone().filter(|last| !self.leases.is_of_this_process(last));
        let now = self.clock.now();
        let lives = last.as_ref().is_some_and(|last| self.leases.of(last, now) != Lease::Over);
        // It has renewed its lease since this was decided. That a step is settled is true all the
        // same.
        if moves && lives && record.status != Status::Settled {
            return Box::pin(ready(Ok(Put::Changed)));
        }
        let fence = last.as_ref().filter(|_| moves && !lives).and_then(|last| {
            let version = self.leases.to_fence(last)?;
            Some((last.clone(), version))
        });
        let flag = last.filter(|_| {
            !moves && before.stop_requested.is_none() && record.stop_requested.is_some()
        });
        let put = self.in_turn(&self.writings, self.store.put(row, expected, commit));
        if fence.is_none() && flag.is_none() {
            return put;
        }
        let (store, leases, token) =
            (self.store.clone(), self.leases.clone(), record.token.clone());
        Box::pin(async move {
            if let Some((last, version)) = &fence
                && fenced(&*store, &leases, last, *version).await? == Put::Changed
            {
                return Ok(Put::Changed);
            }
            let put = put.await?;
            if let (Put::Done, Some(owner), Some(workers)) = (put, flag, store.workers())
                && let Err(error) = workers.flag(&owner, &token).await
            {
                tracing::warn!(
                    event = "owner_not_told",
                    %token,
                    owner = %owner,
                    %error,
                    "the owner of the step was not told of its stop; it finds out by its own stop \
                     watch, or with its next write"
                );
            }
            Ok(put)
        })
    }
}

/// Removes the record of a worker whose claims are over, so that it cannot renew it.
async fn fenced(
    store: &dyn Store,
    leases: &Leases,
    worker: &WorkerId,
    version: u64,
) -> Result<Put, StoreError> {
    let Some(workers) = store.workers() else { return Ok(Put::Done) };
    let put = workers.fence(worker, version).await?;
    match put {
        Put::Done => {
            leases.fenced(worker);
            tracing::warn!(
                event = "worker_fenced",
                %worker,
                "a worker of this ledger has not renewed its lease; its steps are taken over"
            );
        }
        Put::Changed => leases.changed(worker),
    }
    Ok(put)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;
    use crate::clock::{Clock, after};
    use crate::ledger::leases::KEPT_LEFT;
    use crate::ledger::{Memory, WRITTEN_AT_ONCE, Written};
    use crate::lifecycle::Stop;
    use crate::step::Message;

    const LEASE: Duration = Duration::from_mins(1);

    fn worker(store: &Memory, name: &str) -> Ledger {
        let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
        let store = Arc::new(store.clone());
        Ledger::new(store, WorkerId(name.into()), LEASE, clock, Arc::new(()))
    }

    fn new_step() -> Record {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        Record::of_message(step, queue, Some("train".into()), Timestamp::UNIX_EPOCH)
    }

    async fn claimed(ledger: &Ledger, record: &Record) -> Result<Put, LedgerError> {
        let (status, owner) = (Status::Claimed, Some(ledger.me()));
        let mut claim = Record { status, owner, resume: false, ..record.clone() };
        let put = ledger.begin(record, &mut claim, Commit::Now).await;
        ledger.end(put)
    }

    /// Two workers; the first has claimed a step, which the second has read.
    async fn two() -> (Ledger, Ledger, Record) {
        let store = Memory::shared();
        let (first, second) = (worker(&store, "first"), worker(&store, "second"));
        for ledger in [&first, &second] {
            assert_eq!(ledger.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
        }
        assert_eq!(claimed(&first, &new_step()).await, Ok(Put::Done));
        let record = read(&second).await;
        (first, second, record)
    }

    fn token(text: &str) -> CallbackToken {
        text.parse().expect("a token")
    }

    async fn read(ledger: &Ledger) -> Record {
        ledger.load(&new_step().token).await.expect("it works").expect("it is there")
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_holds_as_long_as_its_worker_renews_its_lease_whatever_it_writes() {
        let (first, second, record) = two().await;
        assert!(matches!(second.foreign_lease(&record), Lease::Until(_)));
        for _ in 0..6 {
            advance(LEASE / 3).await;
            for ledger in [&first, &second] {
                assert_eq!(ledger.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
            }
            assert!(matches!(second.foreign_lease(&read(&second).await), Lease::Until(_)));
        }
        assert_eq!(claimed(&second, &record).await, Ok(Put::Changed), "it is alive");
        advance(LEASE).await;
        assert_eq!(second.foreign_lease(&record), Lease::Over);
        assert_eq!(first.foreign_lease(&record), Lease::Over, "it never waits for itself");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_over_ends_the_lease_of_the_last_owner_first() {
        let (first, second, record) = two().await;
        advance(LEASE).await;
        second.renew(String::new()).await.expect("renewed");
        assert_eq!(claimed(&second, &record).await, Ok(Put::Done));
        assert_eq!(first.renew(String::new()).await, Ok(Renewed::Lost));
        first.lose_lease();
        assert!(first.has_lost(&record) && !first.claims_hold());
        let lost = claimed(&first, &new_step()).await.expect_err("it has no lease");
        assert!(lost.to_string().contains("lease"), "{lost}");
        assert_eq!(first.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
        assert_eq!(first.me(), WorkerId("first~2".into()));
        assert!(first.has_lost(&record), "what was lost stays lost");
        let taken = read(&first).await;
        assert!(matches!(first.foreign_lease(&taken), Lease::Until(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_renews_at_the_last_moment_is_not_taken_over() {
        let (first, second, record) = two().await;
        advance(LEASE).await;
        second.renew(String::new()).await.expect("renewed");
        assert_eq!(second.foreign_lease(&record), Lease::Over);
        first.renew(String::new()).await.expect("renewed");
        assert_eq!(claimed(&second, &record).await, Ok(Put::Changed));
        assert!(matches!(second.foreign_lease(&read(&second).await), Lease::Until(_)));
        assert_eq!(first.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_end_with_two_thirds_of_the_lease_and_runs_within_the_rest() {
        let (first, ..) = two().await;
        let (renew, lost) = first.renewal_due().expect("it has a lease");
        assert_eq!(lost.duration_since(renew).as_secs(), 20);
        advance(LEASE * 2 / 3).await;
        assert!(!first.claims_hold());
        let now = first.clock.now();
        assert_eq!(first.grace_of_loss(now), Duration::from_secs(10));
        advance(LEASE).await;
        assert_eq!(first.grace_of_loss(first.clock.now()), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_another_worker_records_is_told_to_the_owner_once() {
        let (first, second, record) = two().await;
        let stop = Some(Stop::open(Timestamp::UNIX_EPOCH));
        let mut flagged = Record { stop_requested: stop, ..record.clone() };
        let put = second.begin(&record, &mut flagged, Commit::Now).await;
        assert_eq!(second.end(put), Ok(Put::Done));
        assert_eq!(
            first.renew(String::new()).await,
            Ok(Renewed::Holds(vec![record.token.clone()]))
        );
        assert_eq!(first.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
        assert!(read(&first).await.stop_requested.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_told_to_the_owner_although_the_renewal_that_read_it_was_not_answered() {
        let (first, second, record) = two().await;
        let mut flagged =
            Record { stop_requested: Some(Stop::open(Timestamp::UNIX_EPOCH)), ..record.clone() };
        let put = second.begin(&record, &mut flagged, Commit::Now).await;
        assert_eq!(second.end(put), Ok(Put::Done));
        let renewal = first.leases.renewal(first.clock.now());
        let workers = first.store.workers().expect("it is shared");
        let unheard =
            workers.renew(&renewal.id, renewal.expected, renewal.told, String::new()).await;
        assert!(unheard.is_ok_and(|stops| stops.is_some()));
        assert_eq!(
            first.renew(String::new()).await,
            Ok(Renewed::Holds(vec![record.token.clone()]))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_resigns_leaves_its_steps_to_others_at_once() {
        let (first, second, record) = two().await;
        first.resign(false).await.expect("it works");
        advance(LEASE / 6).await;
        assert_eq!(second.foreign_lease(&read(&second).await), Lease::Over);
        assert_eq!(claimed(&second, &record).await, Ok(Put::Done));
    }

    #[tokio::test(start_paused = true)]
    async fn steps_of_a_worker_that_left_in_good_order_were_given_back_and_others_left_behind() {
        let (first, second, record) = two().await;
        let (me, other) = (second.me(), Record { token: token("bbbbbbbbbb"), ..new_step() });
        assert!(record.is_left_behind(&me));
        assert_eq!(claimed(&first, &other).await, Ok(Put::Done));
        // Its last renewal took effect, and was not answered.
        let (id, version) = (first.me(), first.leases.version());
        let workers = first.store.workers().expect("it is shared");
        workers.renew(&id, version, BTreeSet::new(), String::new()).await.expect("renewed");
        first.resign(true).await.expect("it works");
        advance(LEASE / 6).await;
        let fleet: Vec<WorkerId> = second.fleet().await.expect("a list").into_keys().collect();
        assert_eq!(fleet, std::slice::from_ref(&me));
        for token in [&record.token, &other.token] {
            let record = second.load(token).await.expect("it works").expect("it is there");
            assert_eq!(second.foreign_lease(&record), Lease::Over);
            assert!(!record.is_left_behind(&me) && record.goes_on(&me));
            assert_eq!(claimed(&second, &record).await, Ok(Put::Done));
        }
        for lease in 0..KEPT_LEFT {
            let found = workers.worker(&id).await.expect("it works");
            assert!(found.is_some(), "for those not read yet, after {lease} leases");
            advance(LEASE).await;
            second.renew(String::new()).await.expect("renewed");
            second.fleet().await.expect("a list");
        }
        assert_eq!(workers.worker(&id).await, Ok(None));

        advance(LEASE).await;
        let third = Ledger::new(
            second.store.clone(),
            WorkerId("third".into()),
            LEASE,
            second.clock.clone(),
            Arc::new(()),
        );
        assert!(read(&third).await.is_left_behind(&third.me()), "the second one has just died");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_known_to_hold_or_to_be_over_without_reading_its_step() {
        let (first, second, _) = two().await;
        let owner = first.me();
        for _ in 0..6 {
            advance(LEASE / 3).await;
            first.renew(String::new()).await.expect("renewed");
        }
        let now = second.clock.now();
        let lease = second.lease_of(&owner).await;
        assert_eq!(lease, Ok(Lease::Until(after(now, LEASE))));
        advance(LEASE).await;
        assert_eq!(second.lease_of(&owner).await, Ok(Lease::Over));
        first.renew(String::new()).await.expect("renewed");
        advance(LEASE / 6).await;
        assert!(matches!(second.lease_of(&owner).await, Ok(Lease::Until(_))));
        first.resign(false).await.expect("it works");
        advance(LEASE).await;
        assert_eq!(second.lease_of(&owner).await, Ok(Lease::Over));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_store_is_asked_for_some_steps_at_a_time_and_one_of_its_own_for_all() {
        const ALL: usize = 4 * WRITTEN_AT_ONCE;
        for (store, most) in [(Memory::shared(), WRITTEN_AT_ONCE), (Memory::new(), ALL)] {
            let ledger = worker(&store, "first");
            let (now, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let requests = (0..ALL).map(|_| {
                let writings = &ledger.writings;
                ledger.in_turn(
                    writings,
                    Box::pin(async {
                        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::time::sleep(LEASE / 60).await;
                        now.fetch_sub(1, Ordering::SeqCst);
                    }),
                )
            });
            join_all(requests).await;
            assert_eq!(peak.load(Ordering::SeqCst), most);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_settled_step_needs_no_one_to_be_fenced() {
        let (first, second, record) = two().await;
        let settled = Record { status: Status::Settled, owner: None, ..record };
        assert!(matches!(second.write(settled, Commit::Now).await, Ok(Written::Done(_))));
        assert_eq!(first.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
    }

    #[tokio::test(start_paused = true)]
    async fn what_each_worker_says_is_known_to_all_and_to_itself() {
        let store = Memory::shared();
        let (first, second) = (worker(&store, "first"), worker(&store, "second"));
        let says = |names: [(&str, &str); 2]| {
            Ok(names.map(|(name, text)| (WorkerId(name.into()), text.to_owned())).into())
        };
        first.renew("one".to_owned()).await.expect("renewed");
        assert_eq!(second.fleet().await, says([("first", "one"), ("second", "")]));
        second.renew("two".to_owned()).await.expect("renewed");
        for ledger in [&first, &second] {
            assert_eq!(ledger.fleet().await, says([("first", "one"), ("second", "two")]));
        }
        first.lose_lease();
        first.renew("again".to_owned()).await.expect("renewed");
        let known = first.fleet().await;
        assert_eq!(known, says([("first~2", "again"), ("second", "two")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_reaches_its_worker_with_the_next_renewal() {
        let (first, second, record) = two().await;
        second.hint(&first.me(), &record.token).await;
        assert_eq!(first.renew(String::new()).await, Ok(Renewed::Holds(vec![record.token])));
    }
}
