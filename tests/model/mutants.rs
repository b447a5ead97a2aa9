//! Each mutant of the protocol breaks what it must break, on a path that is printed; the real
//! protocol does not.

use callbackd::lifecycle::contradictions;
use stateright::{Checker, Model};

use crate::driver::TOKEN;
use crate::judge::Broken as Promise;
use crate::mutant::Mutant;
use crate::setup::{ENDS, SAFE, SOUND, Setup};
use crate::world::{Broken, Budget, World};

const ONE: &[u8] = &[0];
const APART: &[u8] = &[0, 1];
const SHARED: &[u8] = &[0, 0];

/// The end of the shortest path to what the mutant breaks.
fn found(mutant: Mutant, ledgers: &'static [u8], budget: Budget, property: &'static str) -> World {
    found_in(Setup::new(ledgers, budget), mutant, property)
}

fn found_in(setup: Setup, mutant: Mutant, property: &'static str) -> World {
    let checker = setup.hunt(mutant, property).checker().spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{mutant:?} was not found"));
    let world = path.last_state().clone();
    println!(
        "{mutant:?}: {property:?} is violated after {} actions: {:?}",
        path.into_actions().len(),
        world.broken
    );
    world
}

fn breaks(mutant: Mutant, ledgers: &'static [u8], budget: Budget, promise: &Promise<u64>) {
    assert_eq!(found(mutant, ledgers, budget, SAFE).broken, Some(Broken::Promise(promise.clone())));
}

fn does(mutant: Mutant, ledgers: &'static [u8], budget: Budget, broken: &Broken) {
    assert_eq!(found(mutant, ledgers, budget, SAFE).broken.as_ref(), Some(broken));
}

fn never_ends(mutant: Mutant, ledgers: &'static [u8], budget: Budget) {
    let world = found(mutant, ledgers, budget, ENDS);
    assert!(world.broken.is_none(), "{mutant:?} breaks nothing, and never ends");
}

fn writes(mutant: Mutant, contradiction: &str) {
    let world = found(mutant, ONE, NO_FAULT, SOUND);
    let stored = world.ledgers.iter().flatten().map(|known| contradictions(known.record()));
    let told: Vec<&str> = stored.flatten().collect();
    assert_eq!(told, [contradiction], "{mutant:?}");
}

const NO_FAULT: Budget = Budget {
    stops: 0,
    endings: 0,
    duplicates: 0,
    crashes: 0,
    replies: 0,
    lies: 0,
    writes: 0,
    visibility: 0,
    leases: 0,
    freezes: 0,
    shutdowns: 0,
    limits: 0,
    losses: 0,
    redrives: 0,
    forgeries: 0,
    denials: 0,
    deletions: 0,
    returns: 0,
    hindrances: 0,
    answers: 0,
    retries: 0,
};
const AN_ENDING: Budget = Budget { endings: 1, ..NO_FAULT };
const A_STOP: Budget = Budget { stops: 1, ..NO_FAULT };
const A_BAD_REPLY: Budget = Budget { replies: 1, ..NO_FAULT };
const A_COPY: Budget = Budget { visibility: 1, ..NO_FAULT };

#[test]
fn deleting_before_the_report_breaks_p1() {
    breaks(Mutant::DeleteBeforeReport, ONE, NO_FAULT, &Promise::DeletedTooEarly(1));
}

#[test]
fn deleting_a_stop_at_once_breaks_p1() {
    breaks(Mutant::DeleteStopAtOnce, ONE, A_STOP, &Promise::DeletedTooEarly(1));
}

#[test]
fn settling_on_a_refusal_breaks_p1() {
    breaks(Mutant::SettleWhenRefused, ONE, A_BAD_REPLY, &Promise::DeletedTooEarly(1));
}

#[test]
fn believing_that_there_is_no_step_is_noticed_breaks_p1_and_never_ends() {
    let lies = Budget { lies: 2, ..NO_FAULT };
    does(Mutant::BelieveNotFound, ONE, lies, &Broken::StoppedForNothing);
    breaks(
        Mutant::SettleMissingAtOnce,
        ONE,
        Budget { replies: 1, lies: 1, ..NO_FAULT },
        &Promise::DeletedTooEarly(1),
    );
    never_ends(Mutant::SettleDeferralNotFound, ONE, lies);
}

#[test]
fn deleting_for_a_deferral_that_is_not_durable_breaks_p1() {
    breaks(Mutant::ForgetDeferral, ONE, NO_FAULT, &Promise::DeletedTooEarly(1));
}

#[test]
fn a_record_that_the_lifecycle_does_not_write_is_not_sound() {
    writes(Mutant::KeepTheOwner, "it has an owner, but no one may run it");
    writes(Mutant::DeferWithoutALimit, "it is deferred without a limit");
}

#[test]
fn a_random_request_token_breaks_p2() {
    let budget = Budget { crashes: 1, replies: 1, ..NO_FAULT };
    breaks(Mutant::RandomRequest, ONE, budget, &Promise::TwoRequests(1));
}

#[test]
fn reporting_what_is_not_durable_breaks_p2() {
    breaks(Mutant::ForgetOutcome, ONE, NO_FAULT, &Promise::ReportedUnfrozen(1));
}

#[test]
fn answering_a_stop_without_cleanup_breaks_p3() {
    breaks(Mutant::AnswerStopWithoutCleanup, ONE, A_STOP, &Promise::NotCleaned(1));
}

#[test]
fn cleaning_up_what_somebody_completed_breaks_p3() {
    breaks(Mutant::CleanUpWhatIsCompleted, ONE, AN_ENDING, &Promise::CleanedAfterSuccess(1));
}

#[test]
fn cleaning_up_what_succeeded_elsewhere_and_calling_that_a_stop_are_noticed() {
    does(Mutant::CleanUpWhatSucceeded, ONE, AN_ENDING, &Broken::CleanedWhatSucceeded);
    does(Mutant::CallASuccessAStop, ONE, AN_ENDING, &Broken::StoppedForNothing);
    does(Mutant::CallASuccessAStop, APART, A_COPY, &Broken::StoppedForNothing);
}

#[test]
fn answering_for_a_handler_that_is_to_and_running_it_again_unasked_are_noticed() {
    let answering = |budget| Setup::new(ONE, budget).answering();
    let world = found_in(answering(NO_FAULT), Mutant::AnswerForTheHandler, SAFE);
    assert_eq!(world.broken, Some(Broken::AnsweredForItsHandler));
    for budget in [NO_FAULT, Budget { crashes: 1, ..NO_FAULT }] {
        let world = found_in(answering(budget), Mutant::RunWhatMayBeAnswered, SAFE);
        assert_eq!(world.broken, Some(Broken::StartedUnasked));
    }
    assert!(found_in(answering(NO_FAULT), Mutant::AskForTheAnswerOnce, ENDS).broken.is_none());
}

#[test]
fn answering_a_stop_of_what_others_may_run_is_noticed() {
    assert_eq!(
        found(Mutant::AnswerStopBlindly, ONE, A_STOP, SAFE).broken,
        Some(Broken::AnsweredBlindly)
    );
    assert_eq!(
        found(Mutant::AnswerStopBlindly, APART, A_STOP, SAFE).broken,
        Some(Broken::AnsweredBlindly)
    );
}

#[test]
fn forgetting_a_stop_breaks_p3() {
    let budget = Budget { stops: 1, crashes: 1, ..NO_FAULT };
    breaks(Mutant::ForgetStop, ONE, budget, &Promise::StartedAfterStop(1));
}

#[test]
fn answering_what_is_being_stopped_breaks_p3_and_answering_anew_breaks_p2() {
    let budget = Budget { answers: 1, ..A_STOP };
    breaks(Mutant::AnswerWhatIsBeingStopped, ONE, budget, &Promise::NotCleaned(1));
    let budget = Budget { answers: 2, ..A_BAD_REPLY };
    breaks(Mutant::AnswerAnew, ONE, budget, &Promise::TwoRequests(1));
}

#[test]
fn leaving_an_answer_where_it_was_given_never_ends() {
    never_ends(Mutant::LeaveWhatIsFound, ONE, Budget { answers: 1, ..NO_FAULT });
}

#[test]
fn running_without_a_claim_breaks_p4() {
    breaks(Mutant::RunWithoutClaim, SHARED, A_COPY, &Promise::Overlap(1));
}

#[test]
fn running_before_the_claim_is_written_breaks_p4() {
    breaks(Mutant::RunBeforeWrite, SHARED, A_COPY, &Promise::Overlap(1));
}

#[test]
fn writing_whatever_has_changed_breaks_p4() {
    breaks(Mutant::OverwriteBlindly, SHARED, A_COPY, &Promise::Overlap(1));
}

#[test]
fn ignoring_a_foreign_lease_breaks_p4() {
    breaks(Mutant::IgnoreForeignLease, SHARED, A_COPY, &Promise::Overlap(1));
    // That a worker may stand still excuses no overlap before one did.
    breaks(
        Mutant::IgnoreForeignLease,
        SHARED,
        Budget { freezes: 1, ..A_COPY },
        &Promise::Overlap(1),
    );
}

#[test]
fn running_on_without_a_lease_breaks_p4() {
    let budget = Budget { leases: 1, visibility: 1, ..NO_FAULT };
    breaks(Mutant::KeepRunningWithoutLease, SHARED, budget, &Promise::Overlap(1));
}

#[test]
fn computing_again_after_a_refusal_breaks_p6() {
    breaks(Mutant::RecomputeWhenRefused, ONE, A_BAD_REPLY, &Promise::ComputedAgain(1));
}

#[test]
fn an_attempt_that_is_not_counted_is_noticed() {
    assert_eq!(
        found(Mutant::DoNotCountTheAttempt, ONE, NO_FAULT, SAFE).broken,
        Some(Broken::TooManyAttempts)
    );
}

#[test]
fn charging_whoever_ran_as_a_worker_died_is_noticed() {
    does(Mutant::SuspectEverybody, ONE, Budget { crashes: 1, ..NO_FAULT }, &Broken::Blamed);
    does(Mutant::SuspectEverybody, SHARED, Budget { crashes: 1, ..NO_FAULT }, &Broken::Blamed);
}

#[test]
fn giving_up_on_a_lost_reply_never_ends() {
    never_ends(Mutant::GiveUpOnALostReply, ONE, A_BAD_REPLY);
}

#[test]
fn forgetting_to_wake_never_ends() {
    never_ends(Mutant::ForgetToWake, ONE, NO_FAULT);
}

#[test]
fn deferring_for_ever_never_ends() {
    never_ends(Mutant::DeferForEver, ONE, Budget { limits: 1, ..NO_FAULT });
}

#[test]
fn a_run_that_is_never_told_to_end_never_does() {
    never_ends(Mutant::NeverTell, ONE, A_STOP);
    never_ends(Mutant::NeverTell, ONE, Budget { endings: 1, ..NO_FAULT });
    never_ends(Mutant::NeverTell, ONE, Budget { limits: 1, ..NO_FAULT });
}

#[test]
fn a_run_that_will_not_end_and_is_never_dropped_never_does() {
    never_ends(Mutant::NeverAbort, ONE, A_STOP);
    never_ends(Mutant::NeverAbort, ONE, Budget { endings: 1, ..NO_FAULT });
    never_ends(Mutant::NeverAbort, ONE, Budget { limits: 1, ..NO_FAULT });
    never_ends(Mutant::NeverAbort, ONE, Budget { shutdowns: 1, ..NO_FAULT });
}

#[test]
fn a_stop_that_is_left_to_the_watch_or_to_its_message_never_ends() {
    never_ends(Mutant::LeaveStopsToTheWatch, ONE, A_STOP);
    never_ends(Mutant::LeaveStopsToTheirMessages, ONE, A_STOP);
}

#[test]
fn taking_over_without_fencing_and_renewing_after_a_fence_are_noticed() {
    let budget = Budget { freezes: 1, visibility: 1, ..NO_FAULT };
    does(Mutant::TakeOverWithoutFencing, SHARED, budget, &Broken::RenewedTooLate);
    does(Mutant::RenewAfterAFence, SHARED, budget, &Broken::RenewedTooLate);
}

#[test]
fn fencing_who_has_just_renewed_breaks_p4() {
    let budget = Budget { freezes: 1, visibility: 1, ..NO_FAULT };
    breaks(Mutant::FenceWhateverItsVersion, SHARED, budget, &Promise::Overlap(1));
}

#[test]
fn losing_only_the_step_that_is_taken_over_breaks_p4() {
    let budget = Budget { freezes: 1, visibility: 1, ..NO_FAULT };
    breaks(Mutant::KeepWhatIsNotTakenYet, SHARED, budget, &Promise::Overlap(1));
}

#[test]
fn claiming_again_under_the_id_of_a_lost_lease_never_ends() {
    never_ends(Mutant::KeepTheIdOfALostLease, SHARED, Budget { leases: 1, ..NO_FAULT });
}

#[test]
fn a_stop_of_which_the_owner_is_not_told_never_ends() {
    never_ends(Mutant::ForgetTheStopSet, SHARED, A_STOP);
}

#[test]
fn a_stop_that_leaves_the_set_before_the_owner_has_heard_of_it_never_ends() {
    never_ends(Mutant::DropStopsAsTheyAreRead, SHARED, Budget { writes: 1, ..A_STOP });
}

#[test]
fn holding_messages_for_ever_never_ends() {
    never_ends(Mutant::HoldMessagesForEver, SHARED, Budget { leases: 1, ..NO_FAULT });
}

#[test]
fn dropping_what_a_failing_ledger_did_not_take_never_ends() {
    let budget = Budget { leases: 1, writes: 1, ..NO_FAULT };
    never_ends(Mutant::DropWhatTheLedgerDidNotTake, SHARED, budget);
}

#[test]
fn starting_what_is_found_without_asking_is_noticed_and_leaving_it_never_ends() {
    let budget = Budget { losses: 1, crashes: 1, ..NO_FAULT };
    does(Mutant::StartWhatIsFound, ONE, budget, &Broken::StartedUnasked);
    never_ends(Mutant::LeaveWhatIsFound, ONE, budget);
}

#[test]
fn looking_for_what_is_gone_for_good_never_ends() {
    never_ends(Mutant::NeverGone, ONE, Budget { deletions: 1, ..NO_FAULT });
}

#[test]
fn reporting_what_is_denied_without_ever_asking_never_ends() {
    never_ends(Mutant::NeverAskWhenDenied, ONE, Budget { denials: 1, endings: 1, ..NO_FAULT });
}

#[test]
fn refusing_what_sagemaker_does_not_say_feeds_the_redrive_policy_and_never_ends() {
    let budget = Budget { replies: 2, redrives: 1, ..NO_FAULT };
    let world = found_in(Setup::new(ONE, budget).verifying(), Mutant::RefuseWhatIsUnknown, ENDS);
    assert!(world.broken.is_none());
}

#[test]
fn believing_a_stop_that_must_be_verified_is_noticed() {
    let forged = Budget { forgeries: 1, ..NO_FAULT };
    let world = found_in(Setup::new(ONE, forged).verifying(), Mutant::BelieveStops, SAFE);
    assert_eq!(world.broken, Some(Broken::Promise(Promise::StoppedUnasked(TOKEN))));
    breaks(Mutant::BelieveForeignStops, ONE, forged, &Promise::StoppedUnasked(TOKEN));
}

#[test]
fn holding_a_stop_that_is_not_believed_never_ends() {
    let forged = Setup::new(ONE, Budget { forgeries: 1, ..NO_FAULT }).verifying();
    assert!(found_in(forged, Mutant::NeverRefuseStops, ENDS).broken.is_none());
}

#[test]
fn taking_a_stop_over_without_asking_is_noticed() {
    does(Mutant::TakeOverUnasked, ONE, A_STOP, &Broken::AnsweredUnasked);
}

#[test]
fn forgetting_that_the_worker_is_on_its_way_out_is_noticed() {
    does(Mutant::ForgetThePhase, ONE, Budget { shutdowns: 1, ..NO_FAULT }, &Broken::StartedTooLate);
}

#[test]
fn telling_only_what_is_written_is_noticed() {
    does(Mutant::TellOnceWritten, ONE, Budget { writes: 1, ..A_STOP }, &Broken::ToldTooLate);
}

#[test]
fn replacing_what_is_not_on_record_is_noticed_and_replacing_nothing_never_ends() {
    does(Mutant::ReplaceAtOnce, ONE, NO_FAULT, &Broken::ReplacedTooEarly);
    never_ends(Mutant::NeverReplace, APART, Budget { crashes: 2, redrives: 1, ..NO_FAULT });
}

#[test]
fn deleting_the_message_of_a_token_that_comes_back_breaks_p1() {
    breaks(
        Mutant::DeleteWhatReturns,
        ONE,
        Budget { returns: 1, ..NO_FAULT },
        &Promise::DeletedTooEarly(1),
    );
}

#[test]
fn trying_again_what_sagemaker_was_not_asked_about_is_noticed() {
    let budget = Budget { retries: 1, crashes: 1, ..NO_FAULT };
    does(Mutant::RetryUnasked, ONE, budget, &Broken::StartedUnasked);
}

#[test]
fn trying_again_what_another_worker_runs_breaks_p4() {
    let budget = Budget { retries: 1, ..NO_FAULT };
    breaks(Mutant::RetryWhatRuns, SHARED, budget, &Promise::Overlap(1));
}
