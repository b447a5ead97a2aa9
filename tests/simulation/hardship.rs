//! Lasting faults, and those caused by people and machines: a seed has some of them in addition to
//! the weather, or instead of it.
//!
//! Each hardship has its own random numbers, so a seed's workers, steps and weather are the same
//! with and without it.

use std::time::Duration;

use fastrand::Rng;

use crate::plan::{Dice, Ends, Fate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardship {
    /// The queue gives a message up after five receives, and the workers are restarted often.
    Redrive,
    /// Messages expire after minutes.
    Retention,
    Purge,
    /// SageMaker throttles questions, while others complete steps.
    Throttled,
    /// Reports are denied, while others complete steps; perhaps they are never allowed again.
    Denied,
    /// SageMaker finds neither steps nor executions.
    NotFound,
    Forged,
    /// The wall clock is set by hours.
    ClockSet,
    Suspended,
    /// The ledger's writes wait, or are refused.
    LedgerHeld,
    /// Workers drain while steps wait to be tried or called again.
    Drained,
    /// Messages are received by several polls at once.
    ReceivedTwice,
    DeletesHang,
    /// Copies of messages lie on a second queue.
    SecondQueue,
    /// Executions that have failed are retried, and the steps' tokens come back.
    Retried,
    /// One step's handler kills its worker whenever it runs, beside others.
    Crashing,
}

use Hardship::{
    ClockSet, Crashing, DeletesHang, Denied, Drained, Forged, LedgerHeld, NotFound, Purge,
    ReceivedTwice, Redrive, Retention, Retried, SecondQueue, Suspended, Throttled,
};

/// What all calls of some kind meet for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Throttled,
    Denied,
    NotFound,
    /// As `NotFound`, but a listing is empty rather than refused.
    Unlisted,
    DeletesHang,
    LedgerWaits,
    LedgerRefuses,
}

#[derive(Clone, Copy, Debug)]
pub struct Spell {
    pub trouble: Trouble,
    pub from: Duration,
    pub until: Duration,
}

/// A message from someone who may not send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// A stop of an execution and a token that there are not.
    UnknownStop,
    UnknownWork,
    /// With a step's token, but of another execution.
    OthersStop,
    OthersWork,
}

/// What a seed has of it.
#[expect(clippy::struct_excessive_bools, reason = "each comes by itself")]
#[derive(Clone, Debug, Default)]
pub struct Hardships {
    pub of: Vec<Hardship>,
    /// There is no weather beside it, and no other end of a worker than it brings.
    pub alone: bool,
    pub max_receives: Option<u32>,
    pub retention: Option<Duration>,
    pub purges: Vec<Duration>,
    pub spells: Vec<Spell>,
    /// When someone else completes whatever is open.
    pub others: Vec<Duration>,
    /// No report is ever allowed again, but someone else completes everything.
    pub denied_for_good: bool,
    pub forgeries: Vec<(Duration, Forgery)>,
    /// When the wall clock is set, and how many seconds it is off.
    pub sets: Vec<(Duration, i64)>,
    pub suspensions: Vec<(Duration, Duration)>,
    pub received_twice: bool,
    pub second_queue: bool,
    /// When a copy of each open step's message is put on the second queue.
    pub copies: Vec<Duration>,
    /// When each execution that has failed or was stopped is retried.
    pub retries: Vec<Duration>,
    /// When the execution with the step begins that kills its workers, how long that one takes to,
    /// and how long the others work.
    pub crashing: Option<(Duration, Duration, [Duration; 4])>,
}

impl Hardship {
    /// Hardships that come alone or with others; [`Crashing`] is added to whatever a seed has.
    const DRAWN: [Self; 15] = [
        Redrive,
        Retention,
        Purge,
        Throttled,
        Denied,
        NotFound,
        Forged,
        ClockSet,
        Suspended,
        LedgerHeld,
        Drained,
        ReceivedTwice,
        DeletesHang,
        SecondQueue,
        Retried,
    ];

    pub fn all() -> impl Iterator<Item = Self> {
        Self::DRAWN.into_iter().chain([Crashing])
    }

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

impl Hardships {
    /// Of a seed; `only` this one, where there is one.
    pub fn of(seed: u64, window: u64, only: Option<Hardship>) -> Self {
        let mut dice = Dice(Rng::with_seed(seed ^ 0xfee1_dead));
        let few = dice.one_in(2);
        let first = dice.pick(&Hardship::DRAWN);
        let all = Hardship::DRAWN.into_iter();
        let mut of = match only {
            Some(only) => vec![only],
            None if few => vec![first],
            None => all.filter(|_| dice.one_in(6)).collect(),
        };
        let alone = !of.is_empty() && (only.is_some() || dice.one_in(2));
        let crashing = only.is_none() && Dice(Rng::with_seed(seed ^ 0x0dea_d1fe)).one_in(9);
        of.extend(crashing.then_some(Crashing));
        let mut hardships = Self { of: of.clone(), alone, ..Self::default() };
        for hardship in of {
            hardships.add(hardship, window, &mut dice);
        }
        hardships
    }

    pub fn has(&self, hardship: Hardship) -> bool {
        self.of.contains(&hardship)
    }

    /// The setting that makes the hardship felt.
    pub fn verify(&self) -> Option<&'static str> {
        (self.has(Forged) || self.has(Throttled)).then_some("always")
    }

    fn add(&mut self, hardship: Hardship, window: u64, dice: &mut Dice) {
        match hardship {
            Redrive => self.max_receives = Some(5),
            Retention => self.retention = Some(dice.seconds(60..=window.max(90))),
            Purge => {
                self.purges = (0..dice.number(1..=3)).map(|_| dice.seconds(0..=window)).collect();
            }
            Throttled => {
                self.spell(Trouble::Throttled, window, dice);
                if dice.one_in(2) {
                    self.max_receives = Some(5);
                }
                self.others = (0..dice.number(0..=2)).map(|_| dice.seconds(0..=window)).collect();
            }
            Denied => {
                self.spell(Trouble::Denied, window, dice);
                self.others = (0..dice.number(0..=2)).map(|_| dice.seconds(0..=window)).collect();
                self.denied_for_good = dice.one_in(3);
            }
            NotFound => {
                let trouble = dice.pick(&[Trouble::NotFound, Trouble::Unlisted]);
                self.spell(trouble, window, dice);
            }
            Forged => {
                let kinds = [
                    Forgery::UnknownStop,
                    Forgery::UnknownWork,
                    Forgery::OthersStop,
                    Forgery::OthersWork,
                ];
                self.forgeries = kinds.map(|kind| (dice.seconds(0..=window), kind)).to_vec();
                let again = kinds.map(|kind| (dice.seconds(0..=window), kind));
                self.forgeries.extend(again);
            }
            ClockSet => {
                let mut set = |hours: i64| {
                    (dice.seconds(0..=window), 3_600 * hours + dice.0.i64(-1_800..=1_800))
                };
                self.sets = [-48, 5, 48, -5, 0].map(&mut set).to_vec();
                let kept = dice.number(1..=4);
                self.sets.truncate(usize::try_from(kept).expect("small"));
            }
            Suspended => {
                let long = dice.one_in(2);
                self.suspensions = (0..dice.number(1..=2))
                    .map(|_| {
                        (
                            dice.seconds(0..=window),
                            dice.seconds(if long { 3_600..=172_800 } else { 30..=600 }),
                        )
                    })
                    .collect();
            }
            LedgerHeld => {
                let trouble = dice.pick(&[Trouble::LedgerWaits, Trouble::LedgerRefuses]);
                self.spell(trouble, window, dice);
            }
            DeletesHang => self.spell(Trouble::DeletesHang, window, dice),
            Drained => {}
            Crashing => {
                let soon = dice.one_in(2);
                let takes = dice.seconds(if soon { 0..=1 } else { 0..=40 });
                let others = [1, 10, 60, 200].map(|most| dice.seconds(0..=most));
                self.crashing = Some((dice.seconds(0..=window / 2), takes, others));
            }
            ReceivedTwice => self.received_twice = true,
            Retried => {
                self.retries = (0..dice.number(1..=4)).map(|_| dice.seconds(0..=window)).collect();
            }
            SecondQueue => {
                self.second_queue = true;
                self.copies = (0..dice.number(1..=3)).map(|_| dice.seconds(0..=window)).collect();
            }
        }
    }

    /// A minute or more, somewhere.
    fn spell(&mut self, trouble: Trouble, window: u64, dice: &mut Dice) {
        let from = dice.seconds(0..=window / 2);
        let until = from + dice.seconds(60..=300);
        self.spells.push(Spell { trouble, from, until });
    }

    /// How the workers' lives end on account of it.
    pub fn lives(&self, seed: u64, window: u64) -> Option<Vec<Fate>> {
        let mut dice = Dice(Rng::with_seed(seed ^ 0x11fe));
        let often = |dice: &mut Dice| {
            let drained =
                Ends::Drained { after: dice.seconds(5..=60), hurry: Some(dice.seconds(0..=5)) };
            let end = if dice.one_in(6) { Ends::After(dice.seconds(5..=60)) } else { drained };
            Fate { end, pause: dice.seconds(0..=5) }
        };
        let once = |dice: &mut Dice| Fate {
            end: Ends::Drained { after: dice.seconds(1..=window), hurry: None },
            pause: dice.seconds(0..=20),
        };
        if self.has(Redrive) {
            Some((0..dice.number(4..=9)).map(|_| often(&mut dice)).collect())
        } else if self.has(Drained)
            || self.alone
                && [ClockSet, Suspended, Purge, Retention]
                    .into_iter()
                    .any(|hardship| self.has(hardship))
        {
            Some((0..dice.number(1..=3)).map(|_| once(&mut dice)).collect())
        } else {
            self.alone.then(Vec::new)
        }
    }
}

impl Spell {
    pub fn covers(&self, at: Duration) -> bool {
        self.from <= at && at < self.until
    }
}
