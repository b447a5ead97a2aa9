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
//!
//! Workers that share a ledger share the calls, too: each has its part of the two a second, and of
//! those with steps of one execution one asks, and has the others ask if there is something to
//! know. Only the lists of its deferred steps each makes itself. [`notice`] says how they agree.

mod due;
mod notice;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::lifecycle::{Event, WorkerId};
use crate::step::{CallbackToken, ExecutionArn};
use due::Due;
pub(crate) use notice::Others;
use notice::{Haste, Notice, RELYING};
use watched::Watched;

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
    /// Asks where the execution stands, through the lane's account.
    fn look<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight>;

    /// Also asks which of its steps have ended, if the execution goes on.
    fn list<'a>(&'a self, execution: &'a ExecutionArn, lane: usize) -> BoxFuture<'a, Sight>;

    /// Tells a step. If it does not accept it now, it is told again by the next look, as long as it
    /// is watched.
    fn tell(&self, token: &CallbackToken, event: Event);

    /// Has another worker ask about the execution of its step, sooner or later: see
    /// [`Watch::ask_again`].
    fn hint(&self, worker: &WorkerId, token: &CallbackToken);

    /// The interval at which executions with active steps are asked has changed.
    fn observe_interval(&self, interval: Duration);
}

/// What a look at an execution shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sight {
    /// The call failed, or took too long.
    Unseen,
    /// The execution goes on.
    Executing,
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
    /// An execution has become the next of its kind, or more calls may be made.
    sooner: Notify,
}

struct Table {
    /// By ARN, as text: a parsed ARN takes half as much memory again.
    executions: BTreeMap<Arc<str>, Watched>,
    due: Due,
    others: Others,
}

/// An execution whose turn it is.
struct Next {
    name: Arc<str>,
    lane: usize,
    /// Its steps are listed, too.
    lists: bool,
}

/// What is to come.
struct Outlook {
    /// When an execution is due next.
    next: Option<Instant>,
    /// How far apart those with active steps are asked now; `None` if all watches are off.
    interval: Option<Duration>,
    /// How far apart this worker's calls are.
    gap: Duration,
    /// When the other workers are no longer to be relied on.
    until: Option<Instant>,
}

impl Watch {
    /// A watch over the steps of lanes with these `stop_watch` intervals; zero means off.
    /// `is_alone`: no other worker has the ledger open.
    pub(crate) fn new(every: Vec<Duration>, is_alone: bool) -> Self {
        let others = if is_alone { Others::none() } else { Others::unheard() };
        let (executions, due) = (BTreeMap::new(), Due::default());
        let table = Mutex::new(Table { executions, due, others });
        Self { every, table, sooner: Notify::new() }
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
        let (now, pause) = (Instant::now(), jittered(every));
        let due = now + pause;
        let mut table = self.lock();
        let Table { executions, due: queues, .. } = &mut *table;
        let name = executions
            .get_key_value(execution.as_str())
            .map_or(execution.text(), |(name, _)| name)
            .clone();
        let watched =
            executions.entry(name.clone()).or_insert_with(|| Watched::new(&name, lane, due));
        queues.remove(&name, watched);
        let before = self.haste(watched);
        watched.insert(token, kind);
        if every < self.every(watched.lane) {
            watched.lane = lane;
            watched.due = watched.due.min(due);
        }
        if watched.relies.is_some() && self.haste(watched) != before {
            watched.rely_no_more(due);
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
        let Table { executions, due: queues, .. } = &mut *table;
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

    /// What this worker says of its watch to the others of a shared ledger.
    pub(crate) fn notice(&self) -> String {
        let table = self.lock();
        let all = || table.executions.values();
        let asks = || all().filter(|it| it.relies.is_none());
        let found = asks().filter(|it| it.executes).map(|it| (it.mark, self.haste(it)));
        let relies = all().filter_map(|it| Some((it.mark, it.relies.clone()?)));
        Notice::new(asks().count(), found, relies.collect()).text()
    }

    /// What the others say.
    pub(crate) fn heed(&self, others: Others) {
        let now = Instant::now();
        let mut table = self.lock();
        table.others = others;
        let Table { executions, due, others } = &mut *table;
        let mut room = RELYING;
        for (name, watched) in executions {
            let relies = room > 0 && others.ask(watched.mark, self.haste(watched));
            room -= usize::from(relies);
            if relies == watched.relies.is_some() {
                continue;
            }
            due.remove(name, watched);
            if relies {
                watched.rely();
            } else {
                watched.rely_no_more(now + jittered(self.every(watched.lane)));
            }
            due.add(name, watched);
        }
        drop(table);
        self.sooner.notify_one();
    }

    /// It is not known any more what the others do: this worker asks about all that it has.
    pub(crate) fn rely_on_none(&self) {
        let table = self.lock();
        let others = table.others.outdated(table.executions.len());
        drop(table);
        self.heed(others);
    }

    /// Whether another worker asks in place of this one.
    pub(crate) fn relies(&self) -> bool {
        self.lock().executions.values().any(|watched| watched.relies.is_some())
    }

    /// The worker that asks about the execution of a step has found that this one should ask. Does
    /// nothing if it does so anyway.
    pub(crate) fn ask_again(&self, token: &CallbackToken) {
        let now = Instant::now();
        let mut table = self.lock();
        let Table { executions, due, .. } = &mut *table;
        let relies = |it: &(&Arc<str>, &mut Watched)| it.1.relies.as_ref() == Some(token);
        let Some((name, watched)) = executions.iter_mut().find(relies) else { return };
        due.remove(name, watched);
        watched.rely_no_more(now);
        due.add(name, watched);
        drop(table);
        self.sooner.notify_one();
    }

    /// Looks, until dropped; call it once. Sleeps while nothing is watched.
    pub(crate) async fn work(&self, looks: &dyn Looks) {
        let mut under_way = FuturesUnordered::new();
        // The last look, and how many calls it took.
        let mut last = None;
        let mut said = None;
        let mut late = false;
        loop {
            let Outlook { next, interval, gap, until } = self.outlook(under_way.len());
            let free = last.map_or_else(Instant::now, |(at, calls): (Instant, u32)| {
                at + gap.saturating_mul(calls)
            });
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
                    self.looked(&name, &sight.unwrap_or(Sight::Unseen), looks);
                }
                () = self.sooner.notified() => {}
                () = sleep_until(until.unwrap_or(free)), if until.is_some() => self.rely_on_none(),
                () = sleep_until(next.map_or(free, |due| due.max(free))), if next.is_some() => {
                    if let Some(next) = self.begin() {
                        last = Some((Instant::now(), if next.lists { 2 } else { 1 }));
                        under_way.push(ask(looks, next));
                    }
                }
            }
        }
    }

    /// What is to come, with so many looks under way.
    fn outlook(&self, looking: usize) -> Outlook {
        let table = self.lock();
        let gap = GAP.div_f64(table.others.part);
        let deferred = table.due.deferred.len();
        let active = table.due.active.len() + looking;
        // Deferred ones take what they need, and at most every fourth call.
        let calls = active + deferred.min(active.div_ceil(PASSED as usize));
        let stretched = gap.saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX));
        let shortest = self.every.iter().filter(|every| !every.is_zero()).min();
        let interval = shortest.map(|shortest| stretched.max(*shortest));
        let until = table.others.until;
        Outlook { next: table.due.next(), interval, gap, until }
    }

    /// Takes out the execution whose turn it is, if one is due.
    fn begin(&self) -> Option<Next> {
        let now = Instant::now();
        let mut table = self.lock();
        let name = table.due.pop(now)?;
        let watched = table.executions.get_mut(&name)?;
        watched.looking = true;
        watched.due = now + watched.pause(jittered(self.every(watched.lane)));
        Some(Next { name, lane: watched.lane, lists: watched.lists() })
    }

    /// Puts an execution back, and tells its steps.
    fn looked(&self, name: &Arc<str>, sight: &Sight, looks: &dyn Looks) {
        let mut table = self.lock();
        let Table { executions, due, others } = &mut *table;
        let Some(watched) = executions.get_mut(name) else { return };
        watched.looking = false;
        watched.executes = matches!(sight, Sight::Executing | Sight::Ended(_));
        let mut hinted = Vec::new();
        let (event, told) = match sight {
            Sight::Unseen | Sight::Executing => (&STEP_ENDED, Vec::new()),
            Sight::Execution(event) => {
                hinted.extend_from_slice(others.relying_on(watched.mark));
                (event, watched.steps.told(|_, _| true))
            }
            Sight::Ended(ended) => {
                let has_ended =
                    |token: &CallbackToken, kind| kind == Kind::Deferred && ended.contains(token);
                (&STEP_ENDED, watched.steps.told(has_ended))
            }
        };
        if watched.is_over() {
            executions.remove(name);
        } else {
            due.add(name, watched);
        }
        drop(table);
        for token in told {
            looks.tell(&token, event.clone());
        }
        for (worker, token) in hinted {
            looks.hint(&worker, &token);
        }
    }

    fn haste(&self, watched: &Watched) -> Haste {
        Haste { active: watched.active > 0, every: self.every(watched.lane) }
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
        Err(_) => Some(Sight::Unseen),
    };
    (name, sight)
}

/// Up to a quarter less, so that workers that started together do not ask together.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(0.75 + fastrand::f64() / 4.0)
}
