//! The real protocol in each set-up: nothing breaks, everything ends, and every interesting thing
//! happens on the way.

use jiff::Timestamp;
use stateright::{Checker, Model};

use crate::setup::Setup;
use crate::witness::Witness;
use crate::world::Budget;

const ONE: &[u8] = &[0];
const APART: &[u8] = &[0, 1];
const SHARED: &[u8] = &[0, 0];

/// Witnesses that need other processes that write the ledger.
const OF_A_SHARED_LEDGER: [Witness; 10] = [
    Witness::StopOfAForeignRun,
    Witness::StopFoundInLedger,
    Witness::LeaseLostWhileRunning,
    Witness::LeaseLostWhileCleaning,
    Witness::Fenced,
    Witness::DeferredMeanwhile,
    Witness::EndedMeanwhile,
    Witness::PassedOn,
    Witness::RenewedInTime,
    Witness::StopUnheard,
];

/// Witnesses for one worker as well as two.
const OF_ONE: [Witness; 9] = [
    Witness::AskedAgain,
    Witness::WentOnWithoutItsMessage,
    Witness::CameBack,
    Witness::AskedWhenDenied,
    Witness::GoneForGood,
    Witness::StopRefused,
    Witness::StopConfirmed,
    Witness::StopConfirmedWhileRunning,
    Witness::ChargedOnTrial,
];

/// What can be met only where steps and stops are verified before they are believed.
const OF_VERIFYING: [Witness; 4] = [
    Witness::AskedAgain,
    Witness::StopRefused,
    Witness::StopConfirmed,
    Witness::StopConfirmedWhileRunning,
];

/// What can be met only where the handler answers its steps itself.
const OF_ANSWERING: [Witness; 2] =
    [Witness::AnsweredByItsHandler, Witness::AnsweredBeforeAnotherRun];

/// Explores everything that each of `budgets` allows, and returns what never happened.
fn explore(name: &str, ledgers: &'static [u8], budgets: &[&str]) -> Vec<Witness> {
    explore_each(name, budgets, |budget| Setup::new(ledgers, budget))
}

/// The same where steps and stops are verified before they are believed.
fn explore_verifying(name: &str, ledgers: &'static [u8], budgets: &[&str]) -> Vec<Witness> {
    explore_each(name, budgets, |budget| Setup::new(ledgers, budget).verifying())
}

fn explore_each(name: &str, budgets: &[&str], setup: impl Fn(Budget) -> Setup) -> Vec<Witness> {
    let mut missing = Witness::ALL.to_vec();
    for budget in budgets {
        let start = Timestamp::now();
        let checker = setup(Budget::parse(budget)).checker().threads(2).spawn_bfs().join();
        println!(
            "{name}, {budget}: {} states, {} transitions, depth {}, {:.1} s",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            Timestamp::now().duration_since(start).as_secs_f64(),
        );
        if let Some((property, path)) = checker.discoveries().into_iter().next() {
            let last = path.last_state().clone();
            panic!(
                "not so, with {budget}: {property}: {:#?}\n{last:#?}\n{:?}",
                path.into_actions(),
                last.broken
            );
        }
        missing = checker.model().witnesses.missing(&missing);
    }
    missing
}

#[test]
fn one_worker_keeps_its_promises() {
    let budgets = [
        "stops=1 crashes=1",
        "stops=1 replies=1 visibility=1",
        "stops=1 writes=1",
        "writes=1 shutdowns=1",
        "stops=1 endings=1 limits=1",
        "crashes=1 replies=1 limits=1",
        "replies=2 lies=2",
        "stops=1 lies=2",
        "stops=1 shutdowns=1",
        "losses=1 crashes=1",
        "losses=1 shutdowns=1 endings=1",
        "redrives=1 crashes=2",
        "returns=1 stops=1 replies=1",
        "deletions=1 stops=1",
        "denials=1 endings=1 replies=1",
        "forgeries=1 stops=1",
        "hindrances=2 crashes=1",
        "crashes=3",
        "hindrances=1 stops=1 limits=1",
        "hindrances=1 shutdowns=1 writes=1",
        "answers=2 stops=1",
        "answers=1 crashes=1 replies=1",
        "answers=1 endings=1 limits=1",
        "retries=1 crashes=1 stops=1",
        "retries=2 writes=1",
        "retries=1 shutdowns=1 limits=1",
    ];
    let missing = explore("one worker", ONE, &budgets);
    assert_eq!(
        missing,
        [&OF_A_SHARED_LEDGER[..], &OF_VERIFYING, &OF_ANSWERING].concat(),
        "all else comes to pass"
    );
}

#[test]
fn a_worker_that_verifies_keeps_its_promises() {
    let budgets = [
        "forgeries=1 stops=1",
        "forgeries=1 crashes=1",
        "forgeries=1 shutdowns=1",
        "forgeries=1 replies=1 endings=1",
        "forgeries=1 lies=1",
        "forgeries=1 limits=1",
        "stops=1 replies=1",
        "stops=1 writes=1",
        "replies=2 redrives=1",
    ];
    let missing = explore_verifying("one worker that verifies", ONE, &budgets);
    let seen = OF_VERIFYING.iter().all(|witness| !missing.contains(witness));
    assert!(seen, "never came to pass: {missing:?}");
}

#[test]
fn two_workers_with_a_ledger_each_keep_their_promises() {
    let budgets = [
        "stops=1",
        "crashes=1",
        "endings=1 replies=1",
        "duplicates=1",
        "writes=1",
        "visibility=1",
        "shutdowns=1",
        "limits=1 lies=2",
        "redrives=1 crashes=2",
        "hindrances=1",
        "answers=2",
        "retries=1 crashes=1",
    ];
    // What takes more than one trouble at a time, or others who write the ledger.
    let of_more = [
        Witness::StopOfAForeignRun,
        Witness::StopFoundInLedger,
        Witness::LeaseLostWhileRunning,
        Witness::LeaseLostWhileCleaning,
        Witness::Fenced,
        Witness::AbandonedAtHalt,
        Witness::DeferredMeanwhile,
        Witness::EndedMeanwhile,
        Witness::PassedOn,
        Witness::RenewedInTime,
        Witness::StopUnheard,
    ];
    let of_more = [&of_more[..], &OF_ONE, &OF_ANSWERING].concat();
    assert_eq!(explore("two ledgers", APART, &budgets), of_more, "all else comes to pass");
}

#[test]
fn two_workers_that_share_a_ledger_keep_their_promises() {
    let budgets = [
        "stops=1 writes=1",
        "stops=1 leases=1",
        "leases=1 visibility=1",
        "freezes=1 visibility=1",
        "crashes=1 replies=1",
        "visibility=1 lies=2",
        "crashes=1 visibility=1",
        "endings=1 duplicates=1",
        "shutdowns=1",
        "writes=1 shutdowns=1",
        "visibility=1 limits=1",
        "losses=1",
        "redrives=1 crashes=1",
        "returns=1",
        "denials=1 endings=1",
        "deletions=1",
        "hindrances=1",
        "answers=1 stops=1",
        "answers=2 crashes=1",
        "retries=1 stops=1",
        "retries=1 visibility=1",
    ];
    let missing = explore("shared ledger", SHARED, &budgets);
    let of_more = [
        &[Witness::CleanupInterrupted],
        &OF_VERIFYING[..],
        &[Witness::ChargedOnTrial],
        &OF_ANSWERING,
    ]
    .concat();
    assert_eq!(missing, of_more, "all else comes to pass");
}

#[test]
fn steps_that_their_handlers_answer_keep_the_promises() {
    let answering = |ledgers, budget| Setup::new(ledgers, budget).answering();
    let budgets = [
        "endings=1 crashes=1",
        "endings=1 replies=1 lies=1",
        "endings=1 stops=1",
        "endings=1 limits=1",
        "endings=1 writes=1",
        "endings=1 shutdowns=1",
        "losses=1 crashes=1 endings=1",
        "returns=1 endings=1",
    ];
    let name = "one worker whose handler answers";
    let missing = explore_each(name, &budgets, |budget| answering(ONE, budget));
    let seen = OF_ANSWERING.iter().all(|witness| !missing.contains(witness));
    assert!(seen, "never came to pass: {missing:?}");
    let budgets = ["endings=1", "endings=1 duplicates=1", "crashes=1", "stops=1", "leases=1"];
    for (name, ledgers) in [("two ledgers", APART), ("shared ledger", SHARED)] {
        explore_each(name, &budgets, |budget| answering(ledgers, budget));
    }
}

#[test]
fn further_bounds_hold_too() {
    let Ok(text) = std::env::var("CALLBACKD_MODEL") else { return };
    if text != "large" {
        let words = text.split_whitespace().filter(|word| *word != "always");
        let (budget, ledgers): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('='));
        let ledgers: Vec<u8> =
            ledgers.iter().map(|ledger| ledger.parse().expect("a ledger's number")).collect();
        let (name, budget) = (format!("ledgers {ledgers:?}"), budget.join(" "));
        let explored = if text.contains("always") { explore_verifying } else { explore };
        let missing = explored(&name, ledgers.leak(), &[&budget]);
        println!("never came to pass: {missing:?}");
        return;
    }
    let budgets = [
        "stops=1 endings=1 crashes=2 replies=1",
        "stops=1 crashes=1 writes=1 shutdowns=1",
        "stops=1 duplicates=1 visibility=1 replies=2",
        "stops=1 replies=2 lies=3",
        "crashes=2 duplicates=1 visibility=1 limits=1",
        "losses=1 stops=1 crashes=1 endings=1",
        "returns=1 stops=1 crashes=1",
        "deletions=1 stops=1 crashes=1 replies=1",
        "denials=1 stops=1 crashes=1 endings=1",
        "redrives=1 stops=1 crashes=2",
        "forgeries=1 stops=1 crashes=1",
        "hindrances=2 stops=1 crashes=1 limits=1",
        "answers=2 stops=1 crashes=1 limits=1",
        "crashes=4",
        "retries=2 stops=1 crashes=1 limits=1",
    ];
    let missing = explore("one worker", ONE, &budgets);
    assert_eq!(
        missing,
        [&OF_A_SHARED_LEDGER[..], &OF_VERIFYING, &OF_ANSWERING].concat(),
        "all else comes to pass"
    );
    let budgets = [
        "forgeries=1 stops=1 crashes=1",
        "forgeries=1 stops=1 shutdowns=1",
        "forgeries=1 stops=1 replies=1",
        "forgeries=1 endings=1 writes=1",
        "stops=1 lies=1 replies=1 crashes=1",
    ];
    explore_verifying("one worker that verifies", ONE, &budgets);
    let budgets = [
        "stops=1 crashes=1",
        "stops=1 replies=1 endings=1",
        "stops=1 writes=1",
        "crashes=1 duplicates=1",
        "writes=1 shutdowns=1",
        "visibility=1 limits=1",
        "stops=1 lies=2",
        "hindrances=1 stops=1",
        "answers=2 stops=1",
        "retries=1 stops=1",
    ];
    let missing = explore("two ledgers", APART, &budgets);
    let of_more = [
        Witness::StopOfAForeignRun,
        Witness::StopFoundInLedger,
        Witness::LeaseLostWhileRunning,
        Witness::LeaseLostWhileCleaning,
        Witness::Fenced,
        Witness::DeferredMeanwhile,
        Witness::Replaced,
        Witness::PassedOn,
        Witness::RenewedInTime,
        Witness::StopUnheard,
    ];
    let of_more = [&of_more[..], &OF_ONE, &OF_ANSWERING].concat();
    assert_eq!(missing, of_more, "all else comes to pass");
    let budgets = [
        "stops=1 crashes=1",
        "stops=1 leases=1 duplicates=1",
        "stops=1 freezes=1",
        "endings=1 freezes=1 visibility=1",
        "stops=1 shutdowns=1 leases=1",
        "stops=1 endings=1 writes=1",
        "stops=1 limits=1 duplicates=1",
        "crashes=1 leases=1 visibility=1",
        "stops=1 lies=2",
        "losses=1 crashes=1",
        "redrives=1 crashes=1",
        "crashes=1 replies=1",
        "writes=1 shutdowns=1",
        "returns=1 stops=1",
        "denials=1 endings=1 crashes=1",
        "deletions=1 crashes=1",
        "hindrances=1 stops=1",
        "hindrances=1 leases=1 crashes=1",
        "answers=2 stops=1 crashes=1",
        "crashes=3",
        "retries=1 leases=1 crashes=1",
    ];
    let of_more = [&OF_VERIFYING[..], &OF_ANSWERING].concat();
    assert_eq!(explore("shared ledger", SHARED, &budgets), of_more, "all else comes to pass");
    explore_verifying(
        "shared ledger that verifies",
        SHARED,
        &["forgeries=1", "forgeries=1 leases=1", "stops=1"],
    );
}
