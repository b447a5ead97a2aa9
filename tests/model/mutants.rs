//! Each rule of the protocol is broken on purpose, and the model says what comes of it.

use stateright::{Checker, Model};

use crate::worker::Mutant;
use crate::world::{Left, NOTHING};
use crate::{ONE, SHARING, Setup, TWO, rest};

/// What the model has to find.
enum Found {
    /// That this promise is broken.
    Promise(&'static str),
    TooManyRuns,
    Hang,
}

fn found(setup: &Setup, left: Left, mutant: Mutant, what: &Found) {
    let setup = Setup { left, mutant: Some(mutant), ..setup.clone() };
    if matches!(what, Found::Hang) {
        assert!(rest::without_a_way(&setup).is_some(), "{mutant:?} hangs nothing");
        return;
    }
    let checker = setup.clone().checker().threads(1).spawn_bfs().join();
    let property = match what {
        Found::TooManyRuns => "no step is run more often than it may be tried",
        _ => "no promise is broken",
    };
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{mutant:?} does no harm"));
    let broken = path.last_state().broken.clone();
    if let Found::Promise(promise) = what {
        let broken = broken.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(broken.starts_with(promise), "{mutant:?} breaks another promise: {broken}");
    }
    println!("{mutant:?}: {broken:?} after {} steps", path.into_actions().len());
}

#[test]
fn a_message_deleted_before_its_step_is_closed_is_found() {
    let found = |left, mutant| found(&ONE, left, mutant, &Found::Promise("P1"));
    found(NOTHING, Mutant::DeleteBeforeReport);
    found(NOTHING, Mutant::SettleBeforeReport);
    found(Left { stops: 1, ..NOTHING }, Mutant::StopMessageDeletedAtOnce);
    found(Left { refusals: 1, ..NOTHING }, Mutant::RefusalTakenForAnEnd);
}

#[test]
fn a_stop_that_is_forgotten_or_answered_without_cleanup_is_found() {
    let left = Left { stops: 1, ..NOTHING };
    found(&ONE, left, Mutant::StopAnsweredWithoutCleanup, &Found::Promise("P3"));
    let left = Left { crashes: 1, ..left };
    found(&ONE, left, Mutant::StopFlagForgotten, &Found::Promise("P3"));
}

#[test]
fn an_outcome_that_is_not_frozen_is_found() {
    let left = Left { losses: 1, ..NOTHING };
    found(&ONE, left, Mutant::RandomClientToken, &Found::Promise("P2"));
    found(&ONE, NOTHING, Mutant::ConclusionNotWritten, &Found::Promise("P2"));
    let left = Left { refusals: 1, ..NOTHING };
    found(&ONE, left, Mutant::RefusalComputedAgain, &Found::Promise("P6"));
}

#[test]
fn two_runs_at_once_are_found() {
    let left = Left { lapses: 1, ..NOTHING };
    found(&SHARING, left, Mutant::ClaimNotWritten, &Found::Promise("P4"));
    found(&SHARING, left, Mutant::ForeignLeaseIgnored, &Found::Promise("P4"));
    found(&SHARING, Left { renewals_failing: 1, ..left }, Mutant::LostLeaseIgnored, &Found::Promise("P4"));
}

#[test]
fn a_write_that_overwrites_another_workers_is_found() {
    found(&SHARING, Left { lapses: 1, ..NOTHING }, Mutant::WritesUnconditional, &Found::Promise("P6"));
}

#[test]
fn attempts_that_are_not_counted_are_found() {
    found(&ONE, Left { crashes: 2, ..NOTHING }, Mutant::AttemptNotCounted, &Found::TooManyRuns);
}

#[test]
fn what_is_never_looked_at_again_is_found_to_hang() {
    found(&ONE, Left { losses: 1, ..NOTHING }, Mutant::LostReplyForgotten, &Found::Hang);
    found(&TWO, Left { stops: 1, ..NOTHING }, Mutant::OwedStopNeverLookedAtAgain, &Found::Hang);
}
