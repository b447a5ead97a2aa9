//! The held messages of one queue, each with one fate, and what to do about them next.
//!
//! A message is in a schedule only while no call for it is pending, and `change` is the only way to
//! alter an entry. So no call can contain a message twice, no two calls can contain the same
//! message, and the totals are right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{About, Fate, Id, MessageEntry, Terms};
use crate::seam::Received;

pub(super) struct Table {
    pub(super) terms: Terms,
    // Boxed, because a tree's nodes are not full and move what they hold.
    entries: BTreeMap<Id, Box<MessageEntry>>,
    /// When the visibility of each is to be set next.
    pub(super) beats: Schedule,
    pub(super) deletes: Schedule,
    pub(super) copies: Schedule,
    pub(super) sums: Sums,
    pub(super) under_way: UnderWay,
    /// Until when the loop that makes the calls sleeps, unless it is notified.
    pub(super) sleeps_until: Option<Instant>,
}

/// What to do next, in order of time.
pub(super) type Schedule = BTreeSet<(Instant, Id)>;

/// An entry's places in the schedules: none while a call for its message is pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    beat: Option<Instant>,
    delete: Option<Instant>,
    copy: Option<Instant>,
}

/// Totals of all entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) held: usize,
    /// Bytes of bodies in memory.
    pub(super) bytes: usize,
    /// Messages to be deleted or released.
    pub(super) leaving: usize,
}

/// How many calls are pending.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    pub(super) settings: usize,
    pub(super) deletions: usize,
    pub(super) copyings: usize,
}

impl Table {
    pub(super) fn new(visibility: Duration, repost_after: Duration) -> Self {
        Self {
            terms: Terms { visibility, repost_after, releases_wait: false, closing: false },
            entries: BTreeMap::new(),
            beats: Schedule::new(),
            deletes: Schedule::new(),
            copies: Schedule::new(),
            sums: Sums::default(),
            under_way: UnderWay::default(),
            sleeps_until: None,
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&MessageEntry> {
        self.entries.get(id).map(Box::as_ref)
    }

    /// Takes in a message that was just received.
    pub(super) fn hold(
        &mut self,
        received: &Received,
        keep_body: bool,
        about: Option<About>,
        now: Instant,
    ) {
        let body = keep_body.then(|| received.body.as_str().into());
        if self.entries.contains_key(received.id.as_str()) {
            return self.change(&received.id, |entry, terms| {
                entry.received_again(received, body, about, terms, now);
            });
        }
        let (id, entry) = (
            Id::from(received.id.as_str()),
            MessageEntry::new(received, body, about, &self.terms, now),
        );
        self.sums.add(&entry);
        self.place(&id, Place::default(), Place::of(&entry));
        self.entries.insert(id, Box::new(entry));
    }

    /// Alters an entry, if it exists, and updates the schedules and totals.
    pub(super) fn change(&mut self, id: &str, change: impl FnOnce(&mut MessageEntry, &Terms)) {
        let Some(id) = self.entries.get_key_value(id).map(|(id, _)| id.clone()) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = Place::of(entry);
        self.sums.subtract(entry);
        change(entry, &self.terms);
        let after = Place::of(entry);
        if entry.fate == Fate::Forget && entry.call.is_none() {
            self.entries.remove(&id);
        } else {
            self.sums.add(entry);
        }
        self.place(&id, before, after);
    }

    /// Messages may be made visible from now on.
    pub(super) fn open(&mut self, now: Instant) {
        self.terms.releases_wait = false;
        let is_released = |entry: &MessageEntry| matches!(entry.fate, Fate::Release(_));
        let waiting: Vec<Id> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_released(entry))
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            self.change(&id, |entry, terms| entry.beat(terms, now));
        }
    }

    /// Closed, and nothing is left to delete or release.
    pub(super) fn is_over(&self) -> bool {
        self.terms.closing && self.sums.leaving == 0
    }

    fn place(&mut self, id: &Id, before: Place, after: Place) {
        for (schedule, before, after) in [
            (&mut self.beats, before.beat, after.beat),
            (&mut self.deletes, before.delete, after.delete),
            (&mut self.copies, before.copy, after.copy),
        ] {
            if before == after {
                continue;
            }
            if let Some(at) = before {
                schedule.remove(&(at, id.clone()));
            }
            if let Some(at) = after {
                schedule.insert((at, id.clone()));
            }
        }
    }
}

impl Place {
    fn of(entry: &MessageEntry) -> Self {
        let is_free = entry.call.is_none() && entry.fate != Fate::Forget;
        let at = |at: Instant, is_there: bool| (is_free && is_there).then_some(at);
        Self {
            beat: at(entry.beat_at, true),
            delete: at(entry.act_at, entry.fate == Fate::Delete),
            copy: at(entry.act_at, entry.fate == Fate::Copy),
        }
    }
}

impl Sums {
    fn of(entry: &MessageEntry) -> Self {
        Self {
            held: usize::from(entry.fate != Fate::Forget),
            bytes: entry.body.as_ref().map_or(0, |body| body.len()),
            leaving: usize::from(matches!(entry.fate, Fate::Delete | Fate::Release(_))),
        }
    }

    fn add(&mut self, entry: &MessageEntry) {
        let Self { held, bytes, leaving } = Self::of(entry);
        self.held += held;
        self.bytes += bytes;
        self.leaving += leaving;
    }

    fn subtract(&mut self, entry: &MessageEntry) {
        let Self { held, bytes, leaving } = Self::of(entry);
        self.held -= held;
        self.bytes -= bytes;
        self.leaving -= leaving;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::answers::{Done, Sent};
    use super::super::calls::Call;
    use super::super::entry::{Job, LINGER};
    use super::*;
    use crate::seam::{Entries, Fault, FaultKind};

    const VISIBILITY: Duration = Duration::from_secs(30);
    const IDS: usize = 25;

    #[derive(Clone, Debug)]
    enum Act {
        Hold(usize, bool),
        Recorded(usize),
        Delete(usize),
        Release(usize),
        Forget(usize),
        Replace(usize),
        Delay,
        Open,
        Pass(u64),
        Take,
        /// A call returns: which, and how its parts end.
        Return(usize, Vec<u8>),
    }

    fn act() -> impl Strategy<Value = Act> {
        let id = 0..IDS;
        prop_oneof![
            4 => (id.clone(), any::<bool>()).prop_map(|(id, keep)| Act::Hold(id, keep)),
            1 => id.clone().prop_map(Act::Recorded),
            3 => id.clone().prop_map(Act::Delete),
            2 => id.clone().prop_map(Act::Release),
            1 => id.clone().prop_map(Act::Forget),
            2 => id.prop_map(Act::Replace),
            1 => Just(Act::Delay),
            1 => Just(Act::Open),
            4 => (1..20_000_u64).prop_map(Act::Pass),
            5 => Just(Act::Take),
            5 => (0..8_usize, proptest::collection::vec(0..12_u8, 11)).prop_map(|(n, ends)| Act::Return(n, ends)),
        ]
    }

    fn end(how: u8) -> Result<(), Fault> {
        let kind = match how {
            0 => FaultKind::Transient,
            1 => FaultKind::Denied,
            2 => FaultKind::Stale,
            3 => FaultKind::Refused,
            _ => return Ok(()),
        };
        Err(Fault::new(kind, "made to fail"))
    }

    fn ids_of(call: &Call) -> Vec<Id> {
        match call {
            Call::Set(setting) => setting.ids.clone(),
            Call::Delete(deletion) => deletion.ids.clone(),
            Call::Copy(copying) => vec![copying.id.clone()],
        }
    }

    fn handles_of(call: &Call) -> Vec<String> {
        match call {
            Call::Set(setting) => {
                setting.entries.iter().map(|(receipt_handle, _)| receipt_handle.clone()).collect()
            }
            Call::Delete(deletion) => deletion.receipt_handles.clone(),
            Call::Copy(_) => Vec::new(),
        }
    }

    /// The first of `ends` is the end of the call as a whole.
    fn done(call: Call, ends: &[u8]) -> Done {
        let whole = end(ends[0]);
        let each = |count: usize| -> Entries {
            ends[1..].iter().take(count).map(|how| end(*how)).collect()
        };
        match call {
            Call::Set(setting) => {
                let each = each(setting.ids.len());
                Done::Set(setting, whole.map(|()| each))
            }
            Call::Delete(deletion) => {
                let each = each(deletion.ids.len());
                Done::Delete(deletion, whole.map(|()| each))
            }
            Call::Copy(copying) => Done::Copy(copying, whole.map(|()| Sent::Yes)),
        }
    }

    /// The table, the pending calls, and the newest receipt handle of each message.
    struct Bench {
        table: Table,
        now: Instant,
        calls: Vec<Call>,
        receives: [u32; IDS],
    }

    impl Bench {
        fn new() -> Self {
            let table = Table::new(VISIBILITY, Duration::from_mins(2));
            Self { table, now: Instant::now(), calls: Vec::new(), receives: [0; IDS] }
        }

        fn act(&mut self, act: Act) {
            let now = self.now;
            let id = |n: usize| format!("m{n}");
            match act {
                Act::Hold(n, keep) => {
                    self.receives[n] += 1;
                    let (id, count) = (id(n), self.receives[n]);
                    let (receipt_handle, body) = (format!("{id}#{count}"), "12345".to_owned());
                    let received = Received {
                        id,
                        receipt_handle,
                        body,
                        receives: count,
                        sent: None,
                        trace: None,
                    };
                    let about =
                        (n % 5 != 0).then(|| ("abcdefghij".parse().expect("a token"), false));
                    self.table.hold(&received, keep, about, now);
                }
                Act::Recorded(n) => self.table.change(&id(n), |entry, _| entry.drop_body()),
                Act::Delete(n) => self.table.change(&id(n), |entry, _| entry.delete(now + LINGER)),
                Act::Release(n) => self
                    .table
                    .change(&id(n), |entry, terms| entry.release(Duration::ZERO, terms, now)),
                Act::Forget(n) => self.table.change(&id(n), |entry, _| entry.forget()),
                Act::Replace(n) => self.table.change(&id(n), |entry, _| entry.copy(now)),
                Act::Delay => self.table.terms.releases_wait = true,
                Act::Open => self.table.open(now),
                Act::Pass(millis) => self.now += Duration::from_millis(millis),
                Act::Take => self.take(),
                Act::Return(n, ends) => {
                    if n < self.calls.len() {
                        let call = self.calls.remove(n);
                        self.table.done(done(call, &ends), now, 0.5);
                    }
                }
            }
        }

        fn take(&mut self) {
            while let Some(call) = self.table.take(self.now) {
                for (id, receipt_handle) in ids_of(&call).iter().zip(handles_of(&call)) {
                    let entry = self.table.get(id).expect("an entry");
                    assert_eq!(
                        *entry.receipt_handle, *receipt_handle,
                        "a call goes by the newest handle"
                    );
                }
                if let Call::Copy(copying) = &call {
                    let entry = self.table.get(&copying.id).expect("an entry");
                    assert_eq!((entry.fate, entry.call), (Fate::Copy, Some(Job::Copy)));
                }
                self.calls.push(call);
            }
            let next = self.table.next(self.now);
            assert!(next.is_none_or(|next| next > self.now), "it would spin: {next:?}");
        }

        /// What holds at all times.
        fn check(&self) {
            let ids: Vec<Id> = self.calls.iter().flat_map(ids_of).collect();
            let distinct: BTreeSet<&Id> = ids.iter().collect();
            assert_eq!(distinct.len(), ids.len(), "one call for one message: {ids:?}");
            assert!(self.calls.iter().all(|call| (1..=10).contains(&ids_of(call).len())));
            let count = |is: fn(&Call) -> bool| self.calls.iter().filter(|call| is(call)).count();
            assert!(count(|call| matches!(call, Call::Set(_))) <= 8);
            assert!(count(|call| matches!(call, Call::Delete(_))) <= 4);
            assert!(count(|call| matches!(call, Call::Copy(_))) <= 4);
            let mut sums = Sums::default();
            let (mut beats, mut deletes, mut copies) = (Vec::new(), Vec::new(), Vec::new());
            for (id, entry) in &self.table.entries {
                sums.add(entry);
                assert_eq!(entry.call.is_some(), distinct.contains(id));
                if entry.call.is_some() {
                    continue;
                }
                beats.push(id);
                match entry.fate {
                    Fate::Delete => deletes.push(id),
                    Fate::Copy => copies.push(id),
                    Fate::Keep | Fate::Release(_) => {}
                    Fate::Forget => panic!("nothing holds it: {entry:?}"),
                }
            }
            assert_eq!(sums, self.table.sums);
            let ids = |schedule: &Schedule| {
                schedule.iter().map(|(_, id)| id.clone()).collect::<BTreeSet<_>>()
            };
            for (expected, schedule) in [
                (beats, &self.table.beats),
                (deletes, &self.table.deletes),
                (copies, &self.table.copies),
            ] {
                assert_eq!(expected.len(), schedule.len());
                assert_eq!(expected.into_iter().cloned().collect::<BTreeSet<_>>(), ids(schedule));
            }
        }

        /// All calls succeed from now on, and time passes: nothing is left to delete or release.
        fn end(&mut self) {
            self.act(Act::Open);
            self.table.terms.closing = true;
            for _ in 0..200 {
                self.take();
                while !self.calls.is_empty() {
                    self.act(Act::Return(0, vec![9; 11]));
                }
                if self.table.is_over() {
                    return;
                }
                self.act(Act::Pass(1000));
            }
            panic!("not over: {:?}", self.table.entries);
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_no_message_is_in_two_calls_and_the_end_comes(
            acts in proptest::collection::vec(act(), 1..150),
        ) {
            let mut bench = Bench::new();
            for act in acts {
                bench.act(act);
                bench.check();
            }
            bench.end();
            bench.check();
        }

        #[test]
        fn what_is_to_be_deleted_is_never_copied_extended_twice_at_once_or_forgotten(
            acts in proptest::collection::vec(act(), 1..100),
        ) {
            let mut bench = Bench::new();
            bench.act(Act::Hold(0, true));
            bench.act(Act::Delete(0));
            for act in acts {
                let returns = matches!(act, Act::Return(..));
                bench.act(act);
                let entry = bench.table.get("m0");
                prop_assert!(entry.is_none_or(|entry| entry.fate == Fate::Delete));
                if entry.is_none() {
                    prop_assert!(returns, "only the answer to a call ends it");
                    break;
                }
            }
        }
    }
}
