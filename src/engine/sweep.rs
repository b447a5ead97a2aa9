//! What the ledger holds that needs no message: unreported outcomes, unanswered stops, deferred
//! steps past their limit, steps whose message is gone, and records too old to keep. Also what
//! killed workers left on this machine of settled steps.
//!
//! A shared ledger is looked through when a worker has come or gone; all else that is due is known
//! from what this worker minds, so that nothing is read as long as nothing happens, however much is
//! held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use super::dispatch::wake;
use super::evidence;
use super::fleet::Fleet;
use super::inbox::{Absent, Input};
use super::orphans::{Fate, Orphan};
use super::shared::Shared;
use super::watch::Kind;
use crate::clock::after;
use crate::ledger::{Filter, Outline};
use crate::lifecycle::{Event, Status};
use crate::step::CallbackToken;

/// Everything that is not settled.
const UNSETTLED: [Status; 5] =
    [Status::Concluded, Status::Owed, Status::Claimed, Status::Waiting, Status::Deferred];
/// How often the ledger is looked through; a deferral's limit is this precise.
const EVERY: Duration = Duration::from_secs(15);
/// A purge is one look at an index; more often gains nothing with a retention of days.
const PURGE_EVERY: Duration = Duration::from_hours(1);
/// How often a shared ledger is looked through although no worker has come or gone.
const LOOKED_THROUGH: Duration = Duration::from_mins(15);
/// How much longer than a visibility timeout a message may take to come back.
const MARGIN: Duration = Duration::from_secs(30);

struct Sweep {
    shared: Arc<Shared>,
    fleet: Fleet,
    /// When the workers of a shared ledger are to be looked at again.
    fleet_due: Instant,
    /// When a shared ledger was last looked through for another reason than this worker's own.
    looked: Option<Instant>,
    /// Unconfigured queues that were logged.
    unknown: BTreeSet<String>,
    /// Unconfigured handlers that were logged.
    missing: BTreeSet<Arc<str>>,
    /// Steps without a message that were logged.
    said: BTreeSet<CallbackToken>,
}

/// Looks through the ledger regularly, until dropped.
pub(crate) async fn sweep(shared: Arc<Shared>, retention: Duration) {
    let mut sweep = Sweep {
        shared,
        fleet: Fleet::default(),
        fleet_due: Instant::now(),
        looked: None,
        unknown: BTreeSet::new(),
        missing: BTreeSet::new(),
        said: BTreeSet::new(),
    };
    let every = PURGE_EVERY.min(retention / 10);
    // Not at once: a clock that is wrong after a boot is corrected within minutes.
    let mut purged = Instant::now();
    // In a shared ledger each start would read all that any worker has settled; there the message
    // of a token that has come back is left to tell of it.
    if !sweep.shared.ledger.is_shared() {
        sweep.look_through(&[Status::Settled]).await;
    }
    sweep.tidy().await;
    loop {
        sweep.shared.ledger.look().await;
        let changed = sweep.fleet_changed().await;
        // Before it is known who lives, everything would seem to be this worker's to mind.
        let knows = !sweep.shared.ledger.is_shared() || sweep.fleet.is_known();
        if knows && (sweep.shared.unseen.swap(false, Ordering::SeqCst) || changed) {
            sweep.look_through(&UNSETTLED).await;
            sweep.tell_of_missing_handlers();
        }
        let now = sweep.shared.clock.now();
        for token in sweep.shared.lanes.iter().flat_map(|lane| lane.deferred.until(now)) {
            wake(&sweep.shared, &token, Input::Event(Event::Found), Absent::Start).await;
        }
        sweep.shared.orphans.keep_resumed(|token| sweep.shared.steps.contains(token));
        // First, because it decides whether steps are resumed.
        evidence::examine(&sweep.shared).await;
        sweep.resume_orphans().await;
        if purged.elapsed() >= every {
            purged = Instant::now();
            // First, while it is known what was settled.
            sweep.tidy().await;
            sweep.purge(retention).await;
        }
        sleep(EVERY.min(every)).await;
    }
}

impl Sweep {
    /// Whether a worker of a shared ledger has come or gone since the last time.
    async fn fleet_changed(&mut self) -> bool {
        if !self.shared.ledger.is_shared() || self.fleet_due > Instant::now() {
            return false;
        }
        match self.shared.ledger.fleet().await {
            Ok(lives) => {
                self.fleet_due = Instant::now() + self.shared.ledger.lease() * 3 / 2;
                let changed = self.fleet.is(lives);
                // One may have come and gone in between.
                let again = self.looked.is_none_or(|at| at.elapsed() > LOOKED_THROUGH);
                if changed || again {
                    self.looked = Some(Instant::now());
                }
                changed || again
            }
            Err(error) => {
                tracing::warn!(%error, "the workers of the ledger could not be listed");
                false
            }
        }
    }

    /// Looks at all records with one of these statuses.
    async fn look_through(&mut self, statuses: &[Status]) {
        let mut filter = Filter::of(statuses);
        loop {
            let page = match self.shared.ledger.outlines(filter.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "the ledger could not be looked through");
                    return self.shared.unseen.store(true, Ordering::SeqCst);
                }
            };
            for outline in page.found.into_iter().flatten() {
                self.look_at(outline).await;
            }
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return,
            }
        }
    }

    /// Removes what is left on this machine of settled steps.
    async fn tidy(&self) {
        for parts in self.shared.handlers.values() {
            for leftover in parts.handler.leftovers(&self.shared.work_dir) {
                let Ok(token) = leftover.token().parse::<CallbackToken>() else { continue };
                // Even if its message has come again: what is in use is no leftover.
                if let Ok(Some(record)) = self.shared.ledger.load(&token).await
                    && record.status == Status::Settled
                {
                    leftover.remove();
                }
            }
        }
    }

    async fn look_at(&mut self, step: Outline) {
        if step.status == Status::Settled && !step.flagged {
            return;
        }
        let Some(lane) = self.shared.lane(&step.queue).cloned() else {
            if self.unknown.insert(step.queue.as_str().to_owned()) {
                tracing::warn!(
                    token = %step.token,
                    queue = step.queue.as_str(),
                    "the ledger holds steps of a queue that is not configured; configure it again \
                     until they are settled: `callbackd steps` shows them"
                );
            }
            return;
        };
        let minds = self.fleet.minds(&self.shared.ledger.me(), &step.token, step.writer.as_deref());
        if !minds || self.shared.steps.contains(&step.token) {
            return;
        }
        if let (Status::Claimed | Status::Waiting | Status::Deferred, Some(name)) =
            (step.status, &step.handler)
            && !self.shared.handlers.contains_key(&**name)
        {
            self.shared.missing.add(&step.token, name);
        }
        let now = self.shared.clock.now();
        let found = match step.status {
            Status::Concluded | Status::Owed => true,
            Status::Deferred => {
                lane.deferred.set(&step.token, step.due.unwrap_or(Timestamp::MAX));
                self.shared.watch.enter(&step.execution, lane.index, &step.token, Kind::Deferred);
                step.flagged
            }
            // Of the settled ones, those whose token may have come back.
            Status::Claimed | Status::Waiting | Status::Settled => step.flagged,
            Status::New => false,
        };
        if found {
            wake(&self.shared, &step.token, Input::Event(Event::Found), Absent::Start).await;
        } else if matches!(step.status, Status::Claimed | Status::Waiting) {
            if self.shared.resumes(&lane) {
                self.shared.watch.enter(&step.execution, lane.index, &step.token, Kind::Active);
            }
            let overdue = after(now, lane.config.visibility_timeout + MARGIN);
            let (lane, execution) = (lane.index, step.execution);
            let orphan = Orphan { lane, execution, overdue, fate: Fate::Waits };
            self.shared.orphans.add(step.token, orphan);
        }
    }

    fn tell_of_missing_handlers(&mut self) {
        for (handler, steps) in self.shared.missing.counts() {
            if self.missing.insert(handler.clone()) {
                tracing::warn!(
                    handler = &*handler,
                    steps,
                    "the ledger holds unfinished steps of a handler that is not configured; they \
                     wait, and no other handler runs them: configure it again until they are \
                     finished, or let them fail by a limit or a stop, without a cleanup"
                );
            }
        }
    }

    /// Resumes steps whose messages have not come back, if no other worker can have them.
    async fn resume_orphans(&mut self) {
        let mut counts = vec![0_usize; self.shared.lanes.len()];
        for (token, orphan) in self.shared.orphans.overdue(self.shared.clock.now()) {
            if self.shared.steps.contains(&token) {
                self.shared.orphans.resumed(&token);
                continue;
            }
            let lane = &self.shared.lanes[orphan.lane];
            if self.shared.resumes(lane) {
                self.shared.orphans.resumed(&token);
                if let Some(more) = lane.said.again("without message") {
                    tracing::warn!(%token, queue = lane.name, more, "the step's message has not \
                        come back; the step is resumed from the ledger");
                }
                wake(&self.shared, &token, Input::Event(Event::Found), Absent::Start).await;
            } else if self.said.insert(token) {
                counts[orphan.lane] += 1;
            }
        }
        for (lane, count) in self.shared.lanes.iter().zip(counts).filter(|(_, count)| *count > 0) {
            let remedy = if lane.config.exclusive {
                "another consumer was found to read this queue"
            } else {
                "set exclusive = true if no other worker reads this queue"
            };
            tracing::warn!(
                queue = lane.name,
                steps = count,
                "steps in the ledger have no message on the queue, and another worker may have \
                 them; this worker does not start them: `callbackd steps` shows them; {remedy}"
            );
        }
    }

    async fn purge(&self, retention: Duration) {
        let kept = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        let Ok(before) = self.shared.clock.now().checked_sub(kept) else { return };
        match self.shared.ledger.purge(before).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed settled steps older than the retention"),
            Err(error) => tracing::warn!(%error, "old records could not be removed"),
        }
    }
}
