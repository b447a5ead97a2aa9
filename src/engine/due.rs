//! Wakes parked steps when they or their handlers are due, when the worker's phase changes, and
//! when the clock was set.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep, sleep_until};

use super::dispatch::wake;
use super::inbox::{Absent, Claim, Input};
use super::shared::Shared;
use crate::clock::after;
use crate::lifecycle::{Event, Lease, Phase};
use crate::seam::Observation;
use crate::step::CallbackToken;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(5);
/// If a timer is late by more than this, the machine counts as having been suspended.
const LATE: Duration = Duration::from_secs(2);

/// Wakes steps that are due, until dropped.
pub(crate) async fn wake_due(shared: Arc<Shared>) {
    let (watched, claims) = mpsc::unbounded_channel();
    tokio::join!(wake_in_turn(&shared, &watched), watch_claims(&shared, claims));
}

/// Those that wait for the end of another worker's claim are passed to `watched`, because a ledger
/// that is slow holds up no others.
async fn wake_in_turn(shared: &Arc<Shared>, watched: &UnboundedSender<(CallbackToken, Claim)>) {
    let mut phase = Phase::Running;
    loop {
        while let Some((token, claim)) = shared.steps.pop_due(shared.clock.now()) {
            match claim {
                // The receiver lives as long as this does.
                Some(claim) => drop(watched.send((token, claim))),
                None => wake(shared, &token, Input::Look, Absent::Skip).await,
            }
        }
        let next = shared.steps.first_due().map(|due| shared.clock.instant(due));
        tokio::select! {
            biased;
            () = shared.phases.beyond(phase) => {
                phase = shared.phase();
                wake_all(shared, || Input::Look).await;
            }
            () = shared.steps.due_changed() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Wakes steps once the claims of their owners are over, or it is time to read them all the same.
async fn watch_claims(shared: &Arc<Shared>, mut claims: UnboundedReceiver<(CallbackToken, Claim)>) {
    // Until when a ledger that did not answer is not asked again: not for each step.
    let mut blind = None;
    while let Some((token, claim)) = claims.recv().await {
        blind = blind.filter(|until| *until > shared.clock.now());
        let until = match blind {
            Some(_) => blind,
            None => match shared.ledger.lease_of(&claim.owner).await {
                Ok(Lease::Until(until)) => Some(until),
                Ok(Lease::Over) => None,
                Err(_) => {
                    blind = Some(after(shared.clock.now(), shared.ledger.lease() / 6));
                    blind
                }
            },
        };
        let now = shared.clock.now();
        match until.map(|until| until.min(claim.read_at)).filter(|until| *until > now) {
            Some(until) => shared.steps.put_off(&token, until),
            None => wake(shared, &token, Input::Look, Absent::Skip).await,
        }
    }
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
        shared.ledger.tell_recovery();
        let now = shared.clock.correction();
        let by = now - std::mem::replace(&mut correction, now);
        if slept > LATE {
            tracing::warn!(
                event = "machine_suspended",
                ?slept,
                "the machine was suspended; limits that expired meanwhile count as reached"
            );
        }
        if !by.is_zero() {
            tracing::warn!(
                event = "clock_set",
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
        names_are_old(&error);
    }
}

/// The clock was set, and the ledger did not take over the new times.
pub(crate) fn names_are_old(error: impl Display) {
    tracing::warn!(
        event = "times_not_renewed",
        %error,
        "the ledger's records keep the old clock's times until they are next written"
    );
}

/// Wakes the steps that wait for an impaired handler, until dropped: all of them if it works again,
/// otherwise one at a time.
pub(crate) async fn wake_hindered(shared: Arc<Shared>) {
    loop {
        let (token, trial) = shared.impaired.next().await;
        wake(&shared, &token, Input::Try(trial), Absent::Skip).await;
    }
}

/// Wakes the steps that wait for a limit of their handler when their turn has come, until dropped.
pub(crate) async fn wake_limited(shared: Arc<Shared>) {
    loop {
        let (token, berth) = shared.limits.next().await;
        wake(&shared, &token, Input::Berth(berth), Absent::Skip).await;
    }
}

async fn wake_all(shared: &Arc<Shared>, input: impl Fn() -> Input) {
    for token in shared.steps.tokens() {
        wake(shared, &token, input(), Absent::Skip).await;
    }
}
