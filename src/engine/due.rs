//! Wakes parked steps when they or their handlers are due, when the worker's phase changes, and
//! when the clock was set.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::dispatch::wake;
use super::inbox::{Absent, Claim, Input};
use super::shared::Shared;
use crate::clock::after;
use crate::lifecycle::{Event, Lease, Phase};
use crate::seam::Observation;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(5);
/// If a timer is late by more than this, the machine counts as having been suspended.
const LATE: Duration = Duration::from_secs(2);

/// Wakes steps that are due, until dropped.
pub(crate) async fn wake_due(shared: Arc<Shared>) {
    let mut phase = Phase::Running;
    loop {
        while let Some((token, claim)) = shared.steps.pop_due(shared.clock.now()) {
            match claim {
                Some(claim) if let Some(until) = still_holds(&shared, &claim).await => {
                    shared.steps.put_off(&token, until);
                }
                _ => wake(&shared, &token, Input::Look, Absent::Skip).await,
            }
        }
        let next = shared.steps.first_due().map(|due| shared.clock.instant(due));
        tokio::select! {
            biased;
            () = shared.phases.beyond(phase) => {
                phase = shared.phase();
                wake_all(&shared, || Input::Look).await;
            }
            () = shared.steps.due_changed() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Until when a step need not be read because its owner lives, as far as that is known. One list of
/// workers tells it of all steps.
async fn still_holds(shared: &Shared, claim: &Claim) -> Option<Timestamp> {
    let now = shared.clock.now();
    let lease = shared.ledger.lease_of(&claim.owner).await;
    let until = match lease {
        Ok(Lease::Over) => return None,
        Ok(Lease::Until(until)) => until,
        // A table that does not answer is not asked for each step.
        Err(_) => after(now, shared.ledger.lease() / 6),
    };
    Some(until.min(claim.read_at)).filter(|until| *until > now)
}

/// Compares the clocks regularly, until dropped: the wall clock may be set, and tokio's timers do
/// not count suspension.
pub(crate) async fn keep_time(shared: Arc<Shared>) {
    let (mut ticks, mut moment, mut correction) =
        (Instant::now(), shared.clock.now(), shared.clock.correction());
    loop {
        sleep(LOOK).await;
        let passed = shared.clock.since(moment);
        let slept = passed.saturating_sub(ticks.elapsed());
        (ticks, moment) = (Instant::now(), shared.clock.now());
        // A write that noticed it first has adopted the change only for its own record.
        shared.clock.look();
        let now = shared.clock.correction();
        let by = now - std::mem::replace(&mut correction, now);
        if slept > LATE {
            tracing::warn!(
                ?slept,
                "the machine was suspended; limits that expired meanwhile count as reached"
            );
        }
        if !by.is_zero() {
            tracing::warn!(
                by = crate::duration::text(Duration::from_secs(by.unsigned_abs().as_secs())),
                ahead = by.is_positive(),
                "{} was set; the remaining time of each limit is unchanged",
                shared.clock.source()
            );
            shared.observer.observe(Observation::ClockSet);
            shared.unseen.store(true, Ordering::SeqCst);
            rename(&shared).await;
        }
        if !by.is_zero() || slept > LATE {
            shared.steps.look_again();
            wake_all(&shared, || Input::Event(Event::Woken)).await;
        }
    }
}

/// When the worker leaves: the clock may have been set since the last look.
pub(crate) async fn keep_names(shared: &Shared) {
    shared.clock.look();
    if !shared.clock.correction().is_zero() {
        rename(shared).await;
    }
}

async fn rename(shared: &Shared) {
    if let Err(error) = shared.ledger.rename().await {
        tracing::warn!(%error, "the ledger's records keep the old clock's times until they are \
                                next written");
    }
}

/// Wakes the steps that wait for an impaired handler, until dropped: all of them if it works again,
/// otherwise one at a time.
pub(crate) async fn wake_hindered(shared: Arc<Shared>) {
    loop {
        let (token, trial) = shared.impaired.next().await;
        wake(&shared, &token, Input::Try(trial), Absent::Skip).await;
    }
}

async fn wake_all(shared: &Arc<Shared>, input: impl Fn() -> Input) {
    for token in shared.steps.tokens() {
        wake(shared, &token, input(), Absent::Skip).await;
    }
}
