//! What the workers of a shared ledger tell each other of their stop watches, so that one of them
//! asks about an execution, and all of them together ask no more often than one alone may.
//!
//! Each says which executions it asks about and last found executing. One whose step is of such an
//! execution relies on the worker of the highest rank among those that ask, and says that, too. As
//! soon as that one finds the execution stopping, or cannot look at it, or leaves it, it no longer
//! says so, and who relied on it asks again. What a worker says is as old as its last renewal, and
//! as the last list of the workers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// How many executions a worker says that it asks about: with them its record in DynamoDB stays
/// below 1 KB, which a renewal costs one unit for.
const NAMED: usize = 24;
/// For how many of its steps it relies on others.
pub(super) const RELYING: usize = 12;

/// An execution, as short as it can be told from others: the beginning of its ARN's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn of(execution: &str) -> Self {
        Self(beginning(&[execution.as_bytes()]))
    }
}

fn beginning(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}

/// What a worker says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Notice {
    /// How many executions it asks about.
    pub(super) asks: usize,
    /// Some of those that it last found executing: with a step that runs or waits, and with
    /// deferred ones only.
    active: BTreeSet<Mark>,
    deferred: BTreeSet<Mark>,
    /// The steps about whose executions another worker asks.
    pub(super) relies: BTreeMap<CallbackToken, Mark>,
}

impl Notice {
    pub(super) fn new(
        asks: usize,
        found: impl Iterator<Item = (Mark, Urgency)>,
        relies: BTreeMap<CallbackToken, Mark>,
    ) -> Self {
        // The least ones, so that all workers say the same of what they share.
        let mut found: Vec<_> = found.map(|(mark, urgency)| (urgency, mark)).collect();
        found.sort_unstable();
        found.truncate(NAMED);
        let of = |wanted| {
            found.iter().filter(|(urgency, _)| *urgency == wanted).map(|(_, mark)| *mark).collect()
        };
        Self { asks, active: of(Urgency::Active), deferred: of(Urgency::Deferred), relies }
    }

    pub(super) fn text(&self) -> String {
        // It has no maps but of texts.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Of a worker that says nothing that can be read, nothing is known.
    fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// How soon a stop of an execution is to be noticed: the most urgent one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    Active,
    Deferred,
}

/// Who of several workers asks: the most urgent of them, and one by lot among equals.
type Rank = (std::cmp::Reverse<Urgency>, u64);

fn rank(worker: &WorkerId, mark: Mark, urgency: Urgency) -> Rank {
    (std::cmp::Reverse(urgency), beginning(&[&mark.0.to_be_bytes(), worker.0.as_bytes()]))
}

/// What the other workers say, as this one knows it.
pub(crate) struct Others {
    me: WorkerId,
    /// This worker's part of all calls.
    pub(super) part: f64,
    asked: BTreeMap<Mark, Rank>,
    relying: BTreeMap<Mark, Vec<CallbackToken>>,
}

impl Others {
    /// Of a worker that knows of no other one.
    pub(super) fn none() -> Self {
        let me = WorkerId("".into());
        Self { me, part: 1.0, asked: BTreeMap::new(), relying: BTreeMap::new() }
    }

    /// What the live workers say, `me` among them.
    pub(crate) fn of(me: &WorkerId, lives: &BTreeMap<WorkerId, String>) -> Self {
        let mut others = Self { me: me.clone(), ..Self::none() };
        let (mut own, mut all) = (0, 0);
        for (worker, text) in lives {
            let notice = Notice::read(text);
            all += notice.asks;
            if worker == me {
                own = notice.asks;
                continue;
            }
            for (token, mark) in notice.relies {
                others.relying.entry(mark).or_default().push(token);
            }
            let active = notice.active.into_iter().map(|mark| (mark, Urgency::Active));
            let deferred = notice.deferred.into_iter().map(|mark| (mark, Urgency::Deferred));
            for (mark, urgency) in active.chain(deferred) {
                let rank = rank(worker, mark, urgency);
                let highest = others.asked.entry(mark).or_insert(rank);
                *highest = rank.max(*highest);
            }
        }
        // As many calls as it has executions among all. Those of the same moment are compared: in
        // a fleet that has just started, all have none, and the same part.
        others.part = share(own, all, lives.len());
        others
    }

    /// Whether another worker asks about an execution in place of this one.
    pub(super) fn ask(&self, mark: Mark, urgency: Urgency) -> bool {
        self.asked.get(&mark).is_some_and(|highest| *highest > rank(&self.me, mark, urgency))
    }

    /// The steps of other workers that rely on what this one finds.
    pub(super) fn relying_on(&self, mark: Mark) -> &[CallbackToken] {
        self.relying.get(&mark).map_or(&[], Vec::as_slice)
    }

    /// The same, as far as it stays true however old it is.
    pub(super) fn outdated(&self) -> Self {
        Self { me: self.me.clone(), part: self.part, ..Self::none() }
    }
}

/// The part of one worker of `workers`, which has `own` of `all` executions.
#[expect(clippy::cast_precision_loss, reason = "a part need not be exact")]
fn share(own: usize, all: usize, workers: usize) -> f64 {
    (own + 1) as f64 / (all + workers.max(1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId(name.into())
    }

    fn says(asks: usize, found: &[(&str, Urgency)], relies: &[(&str, &str)]) -> String {
        let found = found.iter().map(|(name, urgency)| (Mark::of(name), *urgency));
        let relies = relies.iter().map(|(token, name)| {
            (format!("{token:0>10}").parse().expect("a token"), Mark::of(name))
        });
        Notice::new(asks, found, relies.collect()).text()
    }

    fn fleet<const N: usize>(says: [(&str, String); N]) -> BTreeMap<WorkerId, String> {
        says.into_iter().map(|(name, text)| (worker(name), text)).collect()
    }

    #[test]
    fn of_those_that_ask_about_an_execution_one_goes_on_and_each_has_its_share() {
        let workers = ["a", "b", "c"];
        let mut shares = [0; 3];
        for number in 0..300 {
            let name = format!("execution{number}");
            let said = says(1, &[(&name, Urgency::Active)], &[]);
            let lives = fleet(workers.map(|worker| (worker, said.clone())));
            let goes_on = |at: &usize| {
                let others = Others::of(&worker(workers[*at]), &lives);
                !others.ask(Mark::of(&name), Urgency::Active)
            };
            let on: Vec<usize> = (0..3).filter(goes_on).collect();
            assert_eq!(on.len(), 1, "{name}");
            shares[on[0]] += 1;
        }
        assert!(shares.iter().all(|share| (70..130).contains(share)), "{shares:?}");
    }

    #[test]
    fn who_runs_a_step_does_not_rely_on_one_who_only_has_deferred_ones() {
        for name in ["a", "b", "c", "d", "e", "f"] {
            let said = says(1, &[("execution", Urgency::Deferred)], &[]);
            let others = Others::of(&worker(name), &fleet([("other", said)]));
            assert!(!others.ask(Mark::of("execution"), Urgency::Active));
            let said = says(1, &[("execution", Urgency::Active)], &[]);
            let others = Others::of(&worker(name), &fleet([("other", said)]));
            assert!(others.ask(Mark::of("execution"), Urgency::Deferred));
            assert!(!others.ask(Mark::of("another"), Urgency::Deferred));
        }
    }

    #[test]
    fn the_parts_of_all_workers_are_all_calls_and_follow_what_they_have() {
        let lives = fleet([
            ("idle", says(0, &[], &[])),
            ("a", says(10, &[], &[])),
            ("b", says(986, &[], &[])),
            ("silent", String::new()),
        ]);
        let part = |name: &str| Others::of(&worker(name), &lives).part;
        let are = |parts: &[f64], wanted: &[f64]| {
            let same = |(part, wanted): (&f64, &f64)| (part - wanted).abs() < 1e-9;
            assert!(parts.iter().zip(wanted).all(same), "{parts:?}");
        };
        are(&["idle", "a", "b", "silent"].map(part), &[0.001, 0.011, 0.987, 0.001]);
        are(&[Others::none().part, Others::of(&worker("new"), &fleet([])).part], &[1.0, 1.0]);
    }

    #[test]
    fn what_others_rely_on_is_known_and_what_is_their_own_affair_is_not() {
        let lives = fleet([
            ("me", says(1, &[("one", Urgency::Active)], &[("mine", "two")])),
            ("a", says(0, &[], &[("x", "one"), ("y", "two")])),
            ("b", says(0, &[], &[("z", "one")])),
            ("newer", r#"{"asks": 7, "active": "in another form"}"#.to_owned()),
        ]);
        let others = Others::of(&worker("me"), &lives);
        let tokens = |name| {
            let on = others.relying_on(Mark::of(name)).iter();
            on.map(|token| token.as_str().trim_start_matches('0')).collect::<Vec<_>>()
        };
        assert_eq!((tokens("one"), tokens("two")), (vec!["x", "z"], vec!["y"]));
        assert!(others.outdated().relying_on(Mark::of("one")).is_empty());
    }

    #[test]
    fn a_worker_that_watches_much_says_what_fits_and_the_same_as_others() {
        let names: Vec<String> = (0..1000).map(|number| format!("execution{number}")).collect();
        let found = |names: &[String]| {
            let found = names.iter().map(|name| (Mark::of(name), Urgency::Active));
            let relies = (0..RELYING)
                .map(|at| (format!("{at:0>10}").parse().expect("a token"), Mark::of(&names[at])));
            Notice::new(names.len(), found.collect::<Vec<_>>().into_iter(), relies.collect())
        };
        let (all, most) = (found(&names), found(&names[100..]));
        assert!(all.text().len() < 900, "{} bytes", all.text().len());
        assert_eq!(Notice::read(&all.text()), all);
        let common = all.active.intersection(&most.active).count();
        assert!(common * 10 >= NAMED * 7, "{common}");
    }
}
