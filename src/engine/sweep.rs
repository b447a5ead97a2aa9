//! What the ledger holds that needs no message: unreported outcomes, unanswered stops, deferred
//! steps past their limit, steps whose message is gone, and records too old to keep. Also what
//! killed workers left on this machine of settled steps.
//!
//! Of a shared ledger each worker reads its share when one has come or gone. All else that is due
//! is known from what this worker minds, so that as long as nothing happens only what is due is
//! read, however much is held.

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
use super::shared::Shared;
use super::watch::{Kind, Others};
use crate::ledger::{Filter, LedgerError, Outline};
use crate::lifecycle::{Event, Status};
use crate::step::CallbackToken;

/// Everything that is not settled.
const UNSETTLED: [Status; 5] =
    [Status::Concluded, Status::Owed, Status::Claimed, Status::Waiting, Status::Deferred];
/// How often the ledger is looked through; a deferral's limit is this precise.
const EVERY: Duration = Duration::from_secs(15);
/// A purge is one look at an index; more often gains nothing with a retention of days.
const PURGE_EVERY: Duration = Duration::from_hours(1);
/// How often what is due in a shared ledger is looked at: a worker may have come and gone
/// unnoticed.
const DUE_EVERY: Duration = Duration::from_mins(15);
/// How often a worker's share of it is read for that reason, whatever it holds.
const SHARE_EVERY: Duration = Duration::from_hours(24);

/// How much of the ledger is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    /// What is due of this worker's parts of a shared ledger.
    Due,
    /// This worker's parts of a shared ledger.
    Share,
    /// All that is not settled.
    Whole,
}

struct Sweep {
    shared: Arc<Shared>,
    fleet: Fleet,
    /// When the workers of a shared ledger are to be looked at again.
    fleet_due: Instant,
    /// When what is due in a shared ledger is to be looked at, and when this worker's share is.
    due: [(Extent, Instant); 2],
    /// What is still to be read.
    unread: Option<Extent>,
    /// Unconfigured queues that were logged.
    unknown: BTreeSet<String>,
    /// Unconfigured handlers that were logged.
    missing: BTreeSet<Arc<str>>,
    /// Steps without a message that were logged.
    said: BTreeSet<CallbackToken>,
}

/// Looks through the ledger regularly, until dropped.
pub(crate) async fn sweep(shared: Arc<Shared>, retention: Duration) {
    let now = Instant::now();
    let mut sweep = Sweep {
        shared,
        fleet: Fleet::default(),
        fleet_due: now,
        due: [(Extent::Due, now + DUE_EVERY), (Extent::Share, now + SHARE_EVERY)],
        unread: None,
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
        sweep.look_through(Filter::of(&[Status::Settled])).await;
    }
    sweep.tidy().await;
    loop {
        sweep.shared.ledger.look().await;
        sweep.look_at_fleet().await;
        if sweep.shared.unseen.swap(false, Ordering::SeqCst) {
            sweep.unread = Some(Extent::Whole);
        }
        // Before it is known who lives, everything would seem to be this worker's to mind.
        if (!sweep.shared.ledger.is_shared() || sweep.fleet.is_known())
            && let Some(extent) = sweep.unread.take()
            && !sweep.read(extent).await
        {
            sweep.unread = sweep.unread.max(Some(extent));
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
    /// Decides what of a shared ledger is to be read: this worker's share if another one has come
    /// or gone.
    async fn look_at_fleet(&mut self) {
        let now = Instant::now();
        if !self.shared.ledger.is_shared() || self.fleet_due > now {
            return;
        }
        match self.shared.ledger.fleet().await {
            Ok(lives) => {
                let (me, lease) = (self.shared.ledger.me(), self.shared.ledger.lease());
                self.shared.watch.heed(Others::of(&me, &lives, lease * 2));
                // Who relies on another worker notices sooner that it is gone.
                let parts = if self.shared.watch.relies() { 2 } else { 3 };
                self.fleet_due = now + lease * parts / 2;
                if self.fleet.is(lives.into_keys().collect()) {
                    self.unread = self.unread.max(Some(Extent::Share));
                }
            }
            Err(error) => {
                self.shared.watch.rely_on_none();
                self.unlisted("workers", &error);
            }
        }
        for (extent, due) in self.due.iter_mut().filter(|(_, due)| *due <= now) {
            self.unread = self.unread.max(Some(*extent));
            *due = now + if *extent == Extent::Due { DUE_EVERY } else { SHARE_EVERY };
        }
    }

    /// False if not all of it could be read.
    async fn read(&mut self, extent: Extent) -> bool {
        let all = Filter::of(&UNSETTLED);
        let parts = self.fleet.parts(&self.shared.ledger.me());
        let due = (extent == Extent::Due).then(|| self.shared.clock.now());
        let filters = match extent {
            Extent::Whole => vec![all],
            Extent::Share | Extent::Due => parts
                .into_iter()
                .map(|part| Filter { part: Some(part), due, ..all.clone() })
                .collect(),
        };
        let mut done = true;
        for filter in filters {
            done &= self.look_through(filter).await;
        }
        self.tell_of_missing_handlers();
        done
    }

    /// Looks at all records that `filter` selects. False if they could not be read.
    async fn look_through(&mut self, mut filter: Filter) -> bool {
        loop {
            let page = match self.shared.ledger.outlines(filter.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    self.unlisted("steps", &error);
                    return false;
                }
            };
            for outline in page.found.into_iter().flatten() {
                self.look_at(outline).await;
            }
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return true,
            }
        }
    }

    /// Removes what is left on this machine of settled steps.
    async fn tidy(&self) {
        for parts in self.shared.handlers.all() {
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
                    event = "queue_not_configured",
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
            && !self.shared.handlers.contains(name)
        {
            self.shared.missing.add(&step.token, name);
        }
        let found = match step.status {
            Status::Concluded | Status::Owed => true,
            Status::Deferred => {
                lane.deferred.set(&step.token, step.due.unwrap_or(Timestamp::MAX));
                self.shared.watch.enter(&step.execution, lane.index, &step.token, Kind::Deferred);
                step.flagged || self.shared.answers_itself(step.handler.as_deref())
            }
            // Of the settled ones, those whose token may have come back.
            Status::Claimed | Status::Waiting | Status::Settled => step.flagged,
            Status::New => false,
        };
        if found {
            wake(&self.shared, &step.token, Input::Event(Event::Found), Absent::Start).await;
        } else if matches!(step.status, Status::Claimed | Status::Waiting) {
            self.shared.expect(step.token, &lane, step.execution);
        }
    }

    fn tell_of_missing_handlers(&mut self) {
        for (handler, steps) in self.shared.missing.counts() {
            if self.missing.insert(handler.clone()) {
                tracing::warn!(
                    event = "handler_not_configured",
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
                    tracing::warn!(
                        event = "step_resumed_without_message",
                        %token,
                        queue = lane.name,
                        more,
                        "the step's message has not come back; the step is resumed from the ledger"
                    );
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
                event = "steps_without_message",
                queue = lane.name,
                steps = count,
                "steps in the ledger have no message on the queue, and another worker may have \
                 them; this worker does not start them: `callbackd steps` shows them; {remedy}"
            );
        }
    }

    /// A ledger that cannot be reached fails all lists, of which each sweep makes several.
    fn unlisted(&self, what: &str, error: &LedgerError) {
        if let Some(more) = self.shared.said.again("unlisted") {
            tracing::warn!(
                event = "ledger_not_listed",
                what,
                %error,
                more,
                "the ledger could not be listed; that is tried again"
            );
        }
    }

    async fn purge(&self, retention: Duration) {
        let kept = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        let Ok(before) = self.shared.clock.now().checked_sub(kept) else { return };
        match self.shared.ledger.purge(before).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(
                event = "records_removed",
                count,
                "removed settled steps older than the retention"
            ),
            Err(error) => tracing::warn!(
                event = "records_not_removed",
                %error,
                "old records could not be removed"
            ),
        }
    }
}
