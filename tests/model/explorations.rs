//! The shipped protocol in each set-up: nothing breaks, everything ends, and every interesting thing happens on the way.

use jiff::Timestamp;
use stateright::{Checker, Model};

use crate::driver::TOKEN;
use crate::judge::Broken as Promise;
use crate::setup::{SAFE, Setup};
use crate::witness::Witness;
use crate::world::{Broken, Budget};

const ONE: &[u8] = &[0];
const APART: &[u8] = &[0, 1];
const SHARED: &[u8] = &[0, 0];

/// What can be met only where others write the ledger.
const OF_A_SHARED_LEDGER: [Witness; 5] = [
    Witness::StopOfAForeignRun,
    Witness::LeaseLostWhileRunning,
    Witness::LeaseLostWhileCleaning,
    Witness::DeferredMeanwhile,
    Witness::EndedMeanwhile,
];

/// Explores all that each of `budgets` allows, and returns what never came to pass.
fn explore(name: &str, ledgers: &'static [u8], budgets: &[&str]) -> Vec<Witness> {
    let mut missing = Witness::ALL.to_vec();
    for budget in budgets {
        let start = Timestamp::now();
        let checker = Setup::new(ledgers, Budget::parse(budget)).checker().threads(2).spawn_bfs().join();
        println!(
            "{name}, {budget}: {} states, {} transitions, depth {}, {:.1} s",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            Timestamp::now().duration_since(start).as_secs_f64(),
        );
        if let Some((property, path)) = checker.discoveries().into_iter().next() {
            let last = path.last_state().clone();
            panic!("not so, with {budget}: {property}: {:#?}\n{last:#?}\n{:?}", path.into_actions(), last.broken);
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
    ];
    let missing = explore("one worker", ONE, &budgets);
    assert_eq!(missing, OF_A_SHARED_LEDGER, "all else comes to pass");
}

/// What SageMaker refuses and does not find that often counts as gone, although it is not.
#[test]
fn only_three_refusals_of_a_step_that_is_not_found_settle_it() {
    explore("one worker", ONE, &["replies=3 lies=2", "replies=2 lies=3"]);
    let checker = Setup::new(ONE, Budget::parse("replies=3 lies=3")).checker().spawn_bfs().join();
    let path = checker.discovery(SAFE).expect("three are enough");
    assert_eq!(path.last_state().broken, Some(Broken::Promise(Promise::DeletedTooEarly(TOKEN))));
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
    ];
    // What takes more than one trouble at a time, or others who write the ledger.
    let of_more = [
        Witness::CleanupInterrupted,
        Witness::CleanupTakenOver,
        Witness::StopOfAForeignRun,
        Witness::StopFoundInLedger,
        Witness::LeaseLostWhileRunning,
        Witness::LeaseLostWhileCleaning,
        Witness::AbandonedAtHalt,
        Witness::DeferredMeanwhile,
        Witness::EndedMeanwhile,
    ];
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
    ];
    assert_eq!(explore("shared ledger", SHARED, &budgets), [Witness::CleanupInterrupted], "all else comes to pass");
}

#[test]
fn further_bounds_hold_too() {
    let Ok(text) = std::env::var("CALLBACKD_MODEL") else { return };
    if text != "large" {
        let (budget, ledgers): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|word| word.contains('='));
        let ledgers: Vec<u8> = ledgers.iter().map(|ledger| ledger.parse().expect("a ledger's number")).collect();
        let missing = explore(&format!("ledgers {ledgers:?}"), ledgers.clone().leak(), &[&budget.join(" ")]);
        println!("never came to pass: {missing:?}");
        return;
    }
    let budgets = [
        "stops=1 endings=1 crashes=2 replies=1",
        "stops=1 crashes=1 writes=1 shutdowns=1",
        "stops=1 duplicates=1 visibility=1 replies=2",
        "stops=1 replies=2 lies=3",
        "crashes=2 duplicates=1 visibility=1 limits=1",
    ];
    let missing = explore("one worker", ONE, &budgets);
    assert_eq!(missing, OF_A_SHARED_LEDGER, "all else comes to pass");
    let budgets = [
        "stops=1 crashes=1",
        "stops=1 replies=1 endings=1",
        "stops=1 writes=1",
        "crashes=1 duplicates=1",
        "writes=1 shutdowns=1",
        "visibility=1 limits=1",
        "stops=1 lies=2",
    ];
    let missing = explore("two ledgers", APART, &budgets);
    assert_eq!(missing, OF_A_SHARED_LEDGER, "all else comes to pass");
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
    ];
    assert_eq!(explore("shared ledger", SHARED, &budgets), [], "everything comes to pass");
}
