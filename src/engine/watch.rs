//! The stop watch: notices that an execution is stopping, or has ended, if no Stopping message says
//! so.
//!
//! The engine enters the steps that it has; each execution is asked about once per its queue's
//! `stop_watch`, however many of its steps are here. All calls together stay below two a second, so
//! with many executions the interval stretches. Executions with a step that runs or waits come
//! first: an unnoticed stop of a deferred step costs nothing, that of a running one does.
//!
//! Someone else may answer a deferred step at SageMaker while its execution goes on. So every tenth
//! look at an execution that has one lists the steps, too.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::lifecycle::Event;
use crate::step::{CallbackToken, ExecutionArn};

/// All calls of the watch together stay below two a second; no rate limit is published.
const GAP: Duration = Duration::from_millis(500);
/// A look that takes longer is abandoned. Looks do not wait for each other, so at most forty are
/// pending.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many calls for executions with active steps may precede one that has only deferred steps and
/// is due.
const PASSED: u32 = 3;
/// Every so many looks at an execution with deferred steps, its steps are listed.
const LISTED: u8 = 10;

/// What a step is told that has ended while its execution goes on: it asks for itself.
const STEP_ENDED: Event = Event::SeenEnded { stopped: false };

/// What the watch needs from its owner.
pub(crate) trait Looks: Send + Sync {
    /// Asks where the execution stands, through the lane's account. A failed call shows nothing.
    fn look<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight>;

    /// Also asks which of its steps have ended, if the execution goes on.
    fn list<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight>;

    /// Tells a step. If it does not accept it now, it is told again by the next look, as long as it
    /// is watched.
    fn tell(&self, token: &CallbackToken, event: Event);

    /// The interval at which executions with active steps are asked has changed.
    fn observe_interval(&self, interval: Duration);
}

/// What a look at an execution shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sight {
    /// Nothing that a step should know.
    Nothing,
    /// Its steps are to be told this.
    Execution(Event),
    /// The execution goes on, and these of its steps have ended.
    Ended(BTreeSet<CallbackToken>),
}

/// How a step is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It runs, waits or is about to resume here.
    Active,
    /// It was deferred to someone else.
    Deferred,
}

/// The executions that are watched.
pub(crate) struct Watch {
    /// Each lane's `stop_watch`; zero if it is off.
    every: Vec<Duration>,
    table: Mutex<Table>,
    /// An execution has become the next of its kind.
    sooner: Notify,
}

#[derive(Default)]
struct Table {
    /// By ARN, as text: a parsed ARN takes half as much memory again.
    executions: BTreeMap<Arc<str>, Watched>,
    due: Due,
}

struct Watched {
    lane: usize,
    due: Instant,
    /// It is being asked about, and therefore not due.
    looking: bool,
    /// Looks until its steps are listed, if it has deferred ones.
    unlisted: u8,
    steps: Steps,
    /// How many of them are active.
    active: usize,
}

/// An execution whose turn it is.
struct Next {
    name: Arc<str>,
    lane: usize,
    /// Its steps are listed, too.
    lists: bool,
}

/// The steps of an execution; nearly all have one.
enum Steps {
    None,
    One(CallbackToken, Kind),
    Many(BTreeMap<CallbackToken, Kind>),
}

/// Which execution is asked about when.
#[derive(Default)]
struct Due {
    active: BTreeSet<(Instant, Arc<str>)>,
    deferred: BTreeSet<(Instant, Arc<str>)>,
    /// How many active ones preceded deferred ones that were due.
    passed: u32,
}

impl Watch {
    /// A watch over the steps of lanes with these `stop_watch` intervals; zero means off.
    pub(crate) fn new(every: Vec<Duration>) -> Self {
        Self { every, table: Mutex::default(), sooner: Notify::new() }
    }

    /// Watches a step of a lane from now on; a step that is already watched is changed to this
    /// kind. Does nothing if the lane's watch is off.
    pub(crate) fn enter(
        &self,
        execution: &ExecutionArn,
        lane: usize,
        token: &CallbackToken,
        kind: Kind,
    ) {
        let every = self.every(lane);
        if every.is_zero() {
            return;
        }
        let due = Instant::now() + jittered(every);
        let mut table = self.lock();
        let Table { executions, due: queues } = &mut *table;
        let name = executions
            .get_key_value(execution.as_str())
            .map_or(execution.text(), |(name, _)| name)
            .clone();
        let watched = executions.entry(name.clone()).or_insert_with(|| Watched::new(lane, due));
        queues.remove(&name, watched);
        watched.insert(token, kind);
        if every < self.every(watched.lane) {
            watched.lane = lane;
            watched.due = watched.due.min(due);
        }
        let sooner = queues.add(&name, watched);
        drop(table);
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// Stops watching a step.
    pub(crate) fn leave(&self, execution: &ExecutionArn, token: &CallbackToken) {
        let mut table = self.lock();
        let Table { executions, due: queues } = &mut *table;
        let Some((name, _)) = executions.get_key_value(execution.as_str()) else { return };
        let name = name.clone();
        let Some(watched) = executions.get_mut(&name) else { return };
        queues.remove(&name, watched);
        watched.remove(token);
        if watched.is_over() {
            executions.remove(&name);
        } else {
            queues.add(&name, watched);
        }
    }

    /// Looks, until dropped; call it once. Sleeps while nothing is watched.
    pub(crate) async fn work(&self, looks: &dyn Looks) {
        let mut under_way = FuturesUnordered::new();
        let mut free = Instant::now();
        let mut said = None;
        let mut late = false;
        loop {
            let (next, interval) = self.outlook();
            if let Some(interval) = interval.filter(|interval| said != Some(*interval)) {
                said = Some(interval);
                looks.observe_interval(interval);
            }
            tokio::select! {
                biased;
                Some((name, sight)) = under_way.next(), if !under_way.is_empty() => {
                    match &sight {
                        Some(_) => late = false,
                        None if !late => {
                            late = true;
                            tracing::warn!(
                                event = "stop_watch_unanswered",
                                execution = %name,
                                "SageMaker did not say in time whether the execution is being \
                                 stopped"
                            );
                        }
                        None => {}
                    }
                    self.looked(&name, &sight.unwrap_or(Sight::Nothing), looks);
                }
                () = self.sooner.notified() => {}
                () = sleep_until(next.map_or(free, |due| due.max(free))), if next.is_some() => {
                    if let Some(next) = self.begin() {
                        free = Instant::now() + if next.lists { GAP * 2 } else { GAP };
                        under_way.push(ask(looks, next));
                    }
                }
            }
        }
    }

    /// When the next execution is due, and how far apart those with active steps are asked now;
    /// `None` if all watches are off.
    fn outlook(&self) -> (Option<Instant>, Option<Duration>) {
        let table = self.lock();
        let deferred = table.due.deferred.len();
        let active = table.executions.len() - deferred;
        // Deferred ones take what they need, and at most every fourth call.
        let calls = active + deferred.min(active.div_ceil(PASSED as usize));
        let stretched = GAP.saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX));
        let shortest = self.every.iter().filter(|every| !every.is_zero()).min();
        (table.due.next(), shortest.map(|shortest| stretched.max(*shortest)))
    }

    /// Takes out the execution whose turn it is, if one is due.
    fn begin(&self) -> Option<Next> {
        let now = Instant::now();
        let mut table = self.lock();
        let name = table.due.pop(now)?;
        let watched = table.executions.get_mut(&name)?;
        watched.looking = true;
        watched.due = now + jittered(self.every(watched.lane));
        Some(Next { name, lane: watched.lane, lists: watched.lists() })
    }

    /// Puts an execution back, and tells its steps.
    fn looked(&self, name: &Arc<str>, sight: &Sight, looks: &dyn Looks) {
        let mut table = self.lock();
        let Table { executions, due } = &mut *table;
        let Some(watched) = executions.get_mut(name) else { return };
        watched.looking = false;
        let told = match sight {
            Sight::Nothing => Vec::new(),
            Sight::Execution(event) => watched.steps.told(event, |_, _| true),
            Sight::Ended(ended) => watched
                .steps
                .told(&STEP_ENDED, |token, kind| kind == Kind::Deferred && ended.contains(token)),
        };
        if watched.is_over() {
            executions.remove(name);
        } else {
            due.add(name, watched);
        }
        drop(table);
        for (token, event) in told {
            looks.tell(&token, event);
        }
    }

    fn every(&self, lane: usize) -> Duration {
        self.every.get(lane).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks about an execution. `None` in place of a sight: it took too long.
async fn ask(looks: &dyn Looks, next: Next) -> (Arc<str>, Option<Sight>) {
    let Next { name, lane, lists } = next;
    let sight = match name.parse::<ExecutionArn>() {
        Ok(execution) if lists => timeout(PATIENCE, looks.list(&execution, lane)).await.ok(),
        Ok(execution) => timeout(PATIENCE, looks.look(&execution, lane)).await.ok(),
        // The text was that of a parsed ARN.
        Err(_) => Some(Sight::Nothing),
    };
    (name, sight)
}

/// Up to a quarter less, so that workers that started together do not ask together.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(0.75 + fastrand::f64() / 4.0)
}

impl Watched {
    fn new(lane: usize, due: Instant) -> Self {
        // Not all at the same look after a start.
        let unlisted = fastrand::u8(..LISTED);
        Self { lane, due, looking: false, unlisted, steps: Steps::None, active: 0 }
    }

    /// Whether this look is for its steps as well; counts the looks until then.
    fn lists(&mut self) -> bool {
        if self.active == self.steps.len() {
            return false;
        }
        let lists = self.unlisted == 0;
        self.unlisted = self.unlisted.checked_sub(1).unwrap_or(LISTED - 1);
        lists
    }

    fn insert(&mut self, token: &CallbackToken, kind: Kind) {
        let was = self.steps.insert(token, kind);
        self.active += usize::from(kind == Kind::Active);
        self.active -= usize::from(was == Some(Kind::Active));
    }

    fn remove(&mut self, token: &CallbackToken) {
        let was = self.steps.remove(token);
        self.active -= usize::from(was == Some(Kind::Active));
    }

    /// No step watches it, and no look is about to put it back.
    fn is_over(&self) -> bool {
        self.steps.len() == 0 && !self.looking
    }
}

impl Steps {
    /// Returns the kind that the step had.
    fn insert(&mut self, token: &CallbackToken, kind: Kind) -> Option<Kind> {
        match self {
            Self::None => {
                *self = Self::One(token.clone(), kind);
                None
            }
            Self::One(one, was) if one == token => Some(std::mem::replace(was, kind)),
            Self::One(one, was) => {
                *self = Self::Many(BTreeMap::from([(one.clone(), *was), (token.clone(), kind)]));
                None
            }
            Self::Many(steps) => steps.insert(token.clone(), kind),
        }
    }

    /// Returns the kind that the step had.
    fn remove(&mut self, token: &CallbackToken) -> Option<Kind> {
        match self {
            Self::One(one, was) if one == token => {
                let was = *was;
                *self = Self::None;
                Some(was)
            }
            Self::Many(steps) => steps.remove(token),
            Self::None | Self::One(..) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(steps) => steps.len(),
        }
    }

    /// What those steps that it concerns are told.
    fn told(
        &self,
        event: &Event,
        concerns: impl Fn(&CallbackToken, Kind) -> bool,
    ) -> Vec<(CallbackToken, Event)> {
        let telling = |token: &CallbackToken, kind| {
            concerns(token, kind).then(|| (token.clone(), event.clone()))
        };
        match self {
            Self::None => Vec::new(),
            Self::One(token, kind) => telling(token, *kind).into_iter().collect(),
            Self::Many(steps) => {
                steps.iter().filter_map(|(token, kind)| telling(token, *kind)).collect()
            }
        }
    }
}

impl Due {
    fn of(&mut self, watched: &Watched) -> &mut BTreeSet<(Instant, Arc<str>)> {
        if watched.active > 0 { &mut self.active } else { &mut self.deferred }
    }

    /// Returns whether it is now the next of its kind.
    fn add(&mut self, name: &Arc<str>, watched: &Watched) -> bool {
        if watched.looking {
            return false;
        }
        let due = self.of(watched);
        due.insert((watched.due, name.clone()));
        due.first().is_some_and(|(at, _)| *at == watched.due)
    }

    fn remove(&mut self, name: &Arc<str>, watched: &Watched) {
        self.of(watched).remove(&(watched.due, name.clone()));
    }

    fn next(&self) -> Option<Instant> {
        self.active.first().into_iter().chain(self.deferred.first()).map(|(at, _)| *at).min()
    }

    /// The next of those that are due: active ones first, in due order, but every fourth call is
    /// for a deferred one.
    fn pop(&mut self, now: Instant) -> Option<Arc<str>> {
        let is_due =
            |due: &BTreeSet<(Instant, Arc<str>)>| due.first().is_some_and(|(at, _)| *at <= now);
        let (active, deferred) = (is_due(&self.active), is_due(&self.deferred));
        let from = match (active, deferred) {
            (false, false) => return None,
            (true, true) if self.passed < PASSED => {
                self.passed += 1;
                &mut self.active
            }
            (_, true) => {
                self.passed = 0;
                &mut self.deferred
            }
            (true, false) => &mut self.active,
        };
        from.pop_first().map(|(_, name)| name)
    }
}
