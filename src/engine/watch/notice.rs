//! What the workers of a shared ledger tell each other of their stop watches, so that one of them
//! asks about an execution, and all of them together ask no more often than one alone may.
//!
//! Each names executions that it asks about and last found executing. Another one with a step of
//! such an execution relies on a worker that asks as often, and says so. When the one that asks
//! finds that the execution is stopping or over, it has those who rely on it ask for themselves:
//! they alone have what is needed to end their steps. If that does not reach them, or as soon as
//! the execution is not named any more, they ask too. What a worker says is as old as its last
//! renewal, and as the last list of the workers; so two may both rely, or both ask, until the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// How many executions a worker names. With 40 its record in DynamoDB is below 1 KB, which a
/// renewal costs one unit for.
const NAMED: usize = 100;
/// For how many executions it relies on others.
pub(super) const RELYING: usize = 100;
/// The part of all calls that a worker makes before it has heard of the others.
const UNHEARD: f64 = 0.1;

/// An execution, as short as it can be told from others: the beginning of its ARN's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark([u8; 6]);

impl Mark {
    pub(super) fn of(execution: &str) -> Self {
        Self(beginning(&[execution.as_bytes()]))
    }
}

fn beginning<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let hash = hash.finalize();
    std::array::from_fn(|at| hash[at])
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| de::Error::custom("not six bytes"))
    }
}

/// How soon a stop of an execution is to be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Haste {
    /// It has a step that runs or waits, and not only deferred ones.
    pub(super) active: bool,
    /// The interval at which it is asked about.
    #[serde(with = "milliseconds")]
    pub(super) every: Duration,
}

impl Haste {
    /// Whether one that asks like this asks often enough for `other`.
    fn serves(self, other: Self) -> bool {
        self.active >= other.active && self.every <= other.every
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(it: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// What a worker says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Notice {
    /// How many executions it asks about.
    asks: usize,
    /// Some of those that it last found executing.
    named: Vec<Named>,
    /// The executions about which it relies on another worker, each with one of its steps here.
    relies: BTreeMap<Mark, CallbackToken>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Named {
    #[serde(flatten)]
    haste: Haste,
    marks: BTreeSet<Mark>,
}

impl Notice {
    pub(super) fn new(
        asks: usize,
        found: impl Iterator<Item = (Mark, Haste)>,
        relies: BTreeMap<Mark, CallbackToken>,
    ) -> Self {
        // The least ones, so that all workers name the same of what they share.
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by_key(|(mark, haste)| (!haste.active, *mark));
        found.truncate(NAMED);
        let mut named: BTreeMap<Haste, BTreeSet<Mark>> = BTreeMap::new();
        for (mark, haste) in found {
            named.entry(haste).or_default().insert(mark);
        }
        let named = named.into_iter().map(|(haste, marks)| Named { haste, marks }).collect();
        Self { asks, named, relies }
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

/// One of those that ask about an execution. Among those that ask alike a lot decides who goes on.
#[derive(Clone, Copy)]
struct Asker {
    haste: Haste,
    lot: [u8; 8],
}

impl Asker {
    fn new(worker: &WorkerId, mark: Mark, haste: Haste) -> Self {
        Self { haste, lot: beginning(&[&mark.0, worker.0.as_bytes()]) }
    }

    fn precedes(self, other: Self) -> bool {
        self.haste.serves(other.haste) && (self.haste != other.haste || self.lot > other.lot)
    }
}

/// What the other workers say, as this one knows it.
pub(crate) struct Others {
    me: WorkerId,
    /// This worker's part of all calls.
    pub(super) part: f64,
    /// How many workers there are, and about how many executions the others ask.
    workers: usize,
    asks: usize,
    asked: BTreeMap<Mark, Vec<Asker>>,
    relying: BTreeMap<Mark, Vec<(WorkerId, CallbackToken)>>,
    /// Until when others may be relied on.
    pub(super) until: Option<Instant>,
}

impl Others {
    /// Of a worker that has its ledger to itself.
    pub(super) fn none() -> Self {
        let (me, asked, relying) = (WorkerId("".into()), BTreeMap::new(), BTreeMap::new());
        Self { me, part: 1.0, workers: 1, asks: 0, asked, relying, until: None }
    }

    /// Of a worker that has not heard of the others yet.
    pub(super) fn unheard() -> Self {
        Self { part: UNHEARD, ..Self::none() }
    }

    /// What the live workers say, `me` among them. It may be relied on for so long.
    pub(crate) fn of(me: &WorkerId, lives: &BTreeMap<WorkerId, String>, lasts: Duration) -> Self {
        let until = Some(Instant::now() + lasts);
        let workers = lives.len().max(1);
        let mut others = Self { me: me.clone(), workers, until, ..Self::none() };
        let mut own = 0;
        for (worker, text) in lives {
            let notice = Notice::read(text);
            if worker == me {
                own = notice.asks;
                continue;
            }
            others.asks += notice.asks;
            for (mark, token) in notice.relies {
                others.relying.entry(mark).or_default().push((worker.clone(), token));
            }
            for Named { haste, marks } in notice.named {
                for mark in marks {
                    let asker = Asker::new(worker, mark, haste);
                    others.asked.entry(mark).or_default().push(asker);
                }
            }
        }
        // All parts are of what the same list says: in a fleet that has just started all have
        // nothing, and the same part.
        others.part = part(own, others.asks, workers);
        others
    }

    /// Whether another worker asks about an execution in place of this one.
    pub(super) fn ask(&self, mark: Mark, haste: Haste) -> bool {
        let Some(askers) = self.asked.get(&mark) else { return false };
        let mine = Asker::new(&self.me, mark, haste);
        askers.iter().any(|asker| asker.precedes(mine))
    }

    /// The workers that rely on what this one finds, each with one of its steps.
    pub(super) fn relying_on(&self, mark: Mark) -> &[(WorkerId, CallbackToken)] {
        self.relying.get(&mark).map_or(&[], Vec::as_slice)
    }

    /// What is still known of the others when that is too old, by a worker that asks about `own`
    /// executions from now on.
    pub(super) fn outdated(&self, own: usize) -> Self {
        let part = part(own, self.asks, self.workers);
        let (me, workers, asks) = (self.me.clone(), self.workers, self.asks);
        Self { me, part, workers, asks, ..Self::none() }
    }
}

/// The part of one worker of `workers`, which asks about `own` executions, and the others about
/// `asks`.
#[expect(clippy::cast_precision_loss, reason = "a part need not be exact")]
fn part(own: usize, asks: usize, workers: usize) -> f64 {
    (own + 1) as f64 / (own + asks + workers) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: Haste = Haste { active: true, every: Duration::from_secs(30) };
    const DEFERRED: Haste = Haste { active: false, ..ACTIVE };

    fn worker(name: &str) -> WorkerId {
        WorkerId(name.into())
    }

    fn says(asks: usize, found: &[(&str, Haste)], relies: &[(&str, &str)]) -> String {
        let found = found.iter().map(|(name, haste)| (Mark::of(name), *haste));
        let relies = relies.iter().map(|(name, token)| {
            (Mark::of(name), format!("{token:0>10}").parse().expect("a token"))
        });
        Notice::new(asks, found, relies.collect()).text()
    }

    fn fleet<const N: usize>(says: [(&str, String); N]) -> BTreeMap<WorkerId, String> {
        says.into_iter().map(|(name, text)| (worker(name), text)).collect()
    }

    fn others(me: &str, lives: &BTreeMap<WorkerId, String>) -> Others {
        Others::of(&worker(me), lives, Duration::from_mins(2))
    }

    #[test]
    fn of_those_that_ask_about_an_execution_one_goes_on_and_each_has_its_share() {
        let workers = ["a", "b", "c"];
        let mut shares = [0; 3];
        for number in 0..300 {
            let name = format!("execution{number}");
            let said = says(1, &[(&name, ACTIVE)], &[]);
            let lives = fleet(workers.map(|worker| (worker, said.clone())));
            let goes_on = |at: &usize| !others(workers[*at], &lives).ask(Mark::of(&name), ACTIVE);
            let on: Vec<usize> = (0..3).filter(goes_on).collect();
            assert_eq!(on.len(), 1, "{name}");
            shares[on[0]] += 1;
        }
        assert!(shares.iter().all(|share| (70..130).contains(share)), "{shares:?}");
    }

    #[test]
    fn nobody_relies_on_one_who_asks_less_often() {
        let seldom = Haste { every: Duration::from_hours(12), ..ACTIVE };
        for name in ["a", "b", "c", "d", "e", "f"] {
            let relies = |mine: Haste, its: Haste| {
                let said = says(1, &[("execution", its)], &[]);
                others(name, &fleet([("other", said)])).ask(Mark::of("execution"), mine)
            };
            for (mine, its) in [(ACTIVE, DEFERRED), (ACTIVE, seldom), (DEFERRED, seldom)] {
                assert!(!relies(mine, its), "{mine:?} on {its:?}");
            }
            for (mine, its) in [(DEFERRED, ACTIVE), (seldom, ACTIVE)] {
                assert!(relies(mine, its), "{mine:?} on {its:?}");
            }
            assert!(!others(name, &fleet([])).ask(Mark::of("execution"), DEFERRED));
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
        let are = |parts: &[f64], wanted: &[f64]| {
            let same = |(part, wanted): (&f64, &f64)| (part - wanted).abs() < 1e-9;
            assert!(parts.iter().zip(wanted).all(same), "{parts:?}");
        };
        let part = |name: &str| others(name, &lives).part;
        are(&["idle", "a", "b", "silent"].map(part), &[0.001, 0.011, 0.987, 0.001]);
        are(&[Others::none().part, others("new", &fleet([])).part], &[1.0, 1.0]);
        // It asks about 260 from now on.
        are(&[others("a", &lives).outdated(260).part], &[0.2088]);
    }

    #[test]
    fn who_relies_on_this_worker_is_known_and_what_it_relies_on_itself_is_its_own_affair() {
        let lives = fleet([
            ("me", says(1, &[("one", ACTIVE)], &[("two", "mine")])),
            ("a", says(0, &[], &[("one", "x"), ("two", "y")])),
            ("b", says(0, &[], &[("one", "z")])),
            ("newer", r#"{"asks": 7, "named": "in another form"}"#.to_owned()),
        ]);
        let others = others("me", &lives);
        let relying = |name| {
            let all = others.relying_on(Mark::of(name)).iter();
            all.map(|(id, token)| format!("{} {}", id.0, token.as_str().trim_start_matches('0')))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (relying("one"), relying("two")),
            (vec!["a x".to_owned(), "b z".to_owned()], vec!["a y".to_owned()])
        );
        assert!(others.outdated(1).relying_on(Mark::of("one")).is_empty());
    }

    #[test]
    fn a_worker_that_watches_much_says_what_fits_and_the_same_as_others() {
        let names: Vec<String> = (0..1000).map(|number| format!("execution{number}")).collect();
        let notice = |names: &[String], relies: usize| {
            let found: Vec<_> = names.iter().map(|name| (Mark::of(name), ACTIVE)).collect();
            let relies = (0..relies)
                .map(|at| (Mark::of(&names[at]), format!("{at:0>10}").parse().expect("a token")));
            Notice::new(names.len(), found.into_iter(), relies.collect())
        };
        let (all, most) = (notice(&names, RELYING), notice(&names[100..], 0));
        assert!(all.text().len() < 3_800, "{} bytes", all.text().len());
        assert!(notice(&names[..40], 15).text().len() < 900, "one unit");
        assert_eq!(Notice::read(&all.text()), all);
        let common = all.named[0].marks.intersection(&most.named[0].marks).count();
        assert!(common * 10 >= NAMED * 7, "{common}");
    }
}
