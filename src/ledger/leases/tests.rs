//! An owner and an observer of its lease, tick by tick, with requests and replies that are late or
//! lost: who fences an owner finds that it has given up, and that its runs have ended; and so does
//! who takes over from one that has left in good order.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::*;
use crate::clock::after;

const TICK: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_mins(1);
const SEEDS: u64 = 6_000;
/// Five leases.
const TICKS: u64 = 60;

/// A renewal under way, by ticks.
struct Sent {
    renewal: Renewal,
    arrives: u64,
    /// When its reply does; `None` if that is lost.
    replies: Option<u64>,
    /// What the store answered: whether it took effect, and what is there.
    answer: Option<(bool, Option<Worker>)>,
}

struct World {
    random: fastrand::Rng,
    tick: u64,
    owner: Leases,
    observer: Leases,
    /// By the id of the owner's life, as the store has it.
    records: BTreeMap<WorkerId, Worker>,
    sent: Vec<Sent>,
    /// When the last run of the owner's first life has ended, once that is over.
    ends: Option<Timestamp>,
    /// The tick at which the owner leaves, with steps that it could not write.
    leaves: u64,
    fences: u32,
    late: u32,
    succeeded: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let of = |name: &str| Leases::new(WorkerId(name.into()), LEASE);
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            leaves: if random.bool() { random.u64(..TICKS / 3) } else { TICKS },
            random,
            tick: 0,
            owner: of("owner"),
            observer: of("observer"),
            records: BTreeMap::new(),
            sent: Vec::new(),
            ends: None,
            fences: 0,
            late: 0,
            succeeded: 0,
        }
    }

    fn now(&self) -> Timestamp {
        let ticks = u32::try_from(self.tick).expect("few");
        after(Timestamp::UNIX_EPOCH, TICK * ticks)
    }

    /// What the store does with the requests that reach it now.
    fn arrive(&mut self) {
        for sent in self.sent.iter_mut().filter(|sent| sent.arrives == self.tick) {
            let id = &sent.renewal.id;
            let there = self.records.get(id);
            let holds = there.map(|worker| worker.version) == sent.renewal.expected;
            if holds {
                let version = sent.renewal.expected.unwrap_or(0) + 1;
                self.records.insert(id.clone(), Worker { version, ..Worker::default() });
            }
            sent.answer = Some((holds, self.records.get(id).cloned()));
        }
    }

    /// The owner hears, gives up and renews as `engine::lease` does, with one request at a time.
    fn owner_goes_on(&mut self) {
        let now = self.now();
        let (heard, rest): (Vec<_>, Vec<_>) =
            self.sent.drain(..).partition(|sent| sent.replies == Some(self.tick));
        self.sent = rest;
        for Sent { renewal, answer, .. } in heard {
            let (done, found) = answer.expect("it arrived before");
            let of_this_life = renewal.id == self.owner.me();
            let known = if done {
                Some(self.owner.renewed(&renewal, &BTreeSet::new()))
            } else {
                self.owner.read_back(&renewal, found)
            };
            if of_this_life && known.is_none() {
                self.lose();
            }
        }
        if self.owner.due().is_some_and(|(_, lost)| lost <= now) {
            self.lose();
            // Nothing waits for what the last life asked.
            self.sent.iter_mut().for_each(|sent| sent.replies = None);
        }
        let waits = self.sent.iter().any(|sent| sent.replies.is_some());
        if waits || self.owner.due().is_some_and(|(renew, _)| renew > now) {
            return;
        }
        // Some requests arrive when their owner has long given up.
        let slowest = if self.random.u8(..8) == 0 { 16 } else { 4 };
        let arrives = self.tick + self.random.u64(1..slowest);
        let replies = (self.random.u8(..4) > 0).then(|| arrives + self.random.u64(1..12));
        if replies.is_none() {
            self.owner.failed(now);
        }
        self.sent.push(Sent { renewal: self.owner.renewal(now), arrives, replies, answer: None });
    }

    /// Its runs have ended, and what it asked before may still arrive. As `Ledger::resign` does.
    fn owner_leaves(&mut self) {
        let (id, now) = (self.owner.me(), self.now());
        let Some(version) = self.owner.version() else { return };
        self.ends.get_or_insert(now);
        for version in [version, version + 1] {
            if let Some(there) = self.records.get_mut(&id).filter(|it| it.version == version) {
                (there.version, there.notice) = (version + 1, LEFT.to_owned());
                return;
            }
        }
    }

    fn lose(&mut self) {
        let now = self.now();
        self.ends.get_or_insert(after(now, self.owner.grace(now)));
        self.owner.lose();
    }

    /// The observer looks now and then, and takes over as soon as it may.
    fn observer_goes_on(&mut self) {
        let (now, owner) = (self.now(), WorkerId("owner".into()));
        if self.random.bool() {
            let found = self.records.get(&owner).map(|it| (it.version, it.notice.as_str()));
            self.observer.looked(&owner, found, now);
        }
        if self.observer.has_left(&owner) {
            assert_eq!(self.observer.of(&owner, now), Lease::Over);
            assert!(self.ends.is_some_and(|ends| ends <= now), "its runs may not have ended");
            assert_eq!(self.records.get(&owner).map(|it| it.notice.as_str()), Some(LEFT));
            self.succeeded += 1;
            return;
        }
        let seen = self.observer.to_fence(&owner);
        let Some(version) = seen.filter(|_| self.observer.of(&owner, now) == Lease::Over) else {
            return;
        };
        if self.records.get(&owner).map(|worker| worker.version) != Some(version) {
            self.late += 1;
            return self.observer.changed(&owner);
        }
        self.records.remove(&owner);
        self.observer.fenced(&owner);
        self.fences += 1;
        let holds = self.owner.me() == owner && self.owner.hold(now);
        assert!(!holds, "it is fenced although its claims hold");
        assert!(self.ends.is_none_or(|ends| ends <= now), "its runs may not have ended");
    }
}

#[test]
fn an_owner_that_is_fenced_has_given_up_and_has_nothing_that_runs() {
    let (mut fences, mut late, mut succeeded) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for tick in 0..TICKS {
            world.tick = tick;
            world.arrive();
            match tick.cmp(&world.leaves) {
                Ordering::Less => world.owner_goes_on(),
                Ordering::Equal => world.owner_leaves(),
                Ordering::Greater => {}
            }
            world.observer_goes_on();
        }
        (fences, late) = (fences + world.fences, late + world.late);
        succeeded += u32::from(world.succeeded > 0);
    }
    assert!(fences > 100 && late > 10, "{fences} fences, {late} too late: little was tried");
    assert!(succeeded > 50, "{succeeded} left and had someone take over: little was tried");
}
