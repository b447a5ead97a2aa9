//! Tests of the judge: it accepts what is right, and names each promise when it is broken.

#[path = "support/judge.rs"]
mod judge;

use judge::{About, Broken, Judge, Seen, Worker};

const WORKER: Worker = Worker { ledger: 0, process: 1 };
const SUCCESSOR: Worker = Worker { ledger: 0, process: 2 };
const STRANGER: Worker = Worker { ledger: 1, process: 1 };

const OPENED: Seen<u8> = Seen::Opened { token: 1 };
const SENT: Seen<u8> = Seen::Sent { message: 1, about: About::Work(1) };
const STARTED: Seen<u8> = Seen::Started { worker: WORKER, token: 1 };
const ENDED: Seen<u8> = Seen::Ended { worker: WORKER, token: 1, own: true };
const TOLD_TO_END: Seen<u8> = Seen::Ended { worker: WORKER, token: 1, own: false };
const CLEANING: Seen<u8> = Seen::CleanupBegan { worker: WORKER, token: 1 };
const CLEANED: Seen<u8> = Seen::CleanupEnded { worker: WORKER, token: 1 };
const STOPPING: Seen<u8> = Seen::Stopping { token: 1 };
const DEFERRED: Seen<u8> = Seen::Deferred { ledger: 0, token: 1 };
const CONCLUDED: Seen<u8> = Seen::Concluded { ledger: 0, token: 1 };
const STOP_KNOWN: Seen<u8> = Seen::StopKnown { ledger: 0, token: 1 };
const DELETED: Seen<u8> = Seen::Deleted { message: 1 };

fn report(worker: Worker, request: u8, accepted: bool) -> Seen<u8> {
    Seen::Reported { worker, token: 1, request, accepted }
}

/// What the last event breaks; all earlier ones must be right.
fn last<const N: usize>(story: [Seen<u8>; N]) -> Result<Judge<u8>, Broken<u8>> {
    let mut judge = Judge::default();
    let mut verdicts = story.map(|seen| judge.see(&seen));
    let last = verdicts.last_mut().map(|last| std::mem::replace(last, Ok(())));
    assert!(verdicts.iter().all(Result::is_ok), "broken before the last: {verdicts:?}");
    last.unwrap_or(Ok(())).map(|()| judge)
}

#[test]
fn a_step_that_is_run_reported_again_after_a_lost_reply_and_deleted_breaks_nothing() {
    let story = [
        OPENED,
        SENT,
        STARTED,
        ENDED,
        CONCLUDED,
        report(WORKER, 7, true),
        report(SUCCESSOR, 7, true),
        DELETED,
    ];
    assert_eq!(last(story).expect("it is right").in_the_end(), []);
}

#[test]
fn a_step_that_is_run_again_after_its_worker_died_breaks_nothing() {
    let again = Seen::Started { worker: SUCCESSOR, token: 1 };
    assert!(last([OPENED, SENT, STARTED, Seen::Died { worker: WORKER }, again]).is_ok());
}

#[test]
fn a_token_that_comes_back_is_a_step_of_its_own_and_is_held_to_all_promises_again() {
    let first =
        [OPENED, SENT, STARTED, ENDED, CONCLUDED, report(WORKER, 7, true), DELETED, OPENED, SENT];
    let story = |after: &[Seen<u8>]| {
        let mut judge = Judge::default();
        let verdicts: Vec<_> = first.iter().chain(after).map(|seen| judge.see(seen)).collect();
        assert!(verdicts[..first.len()].iter().all(Result::is_ok), "{verdicts:?}");
        verdicts.last().cloned().expect("something happened")
    };
    assert_eq!(story(&[STARTED, ENDED, CONCLUDED, report(WORKER, 8, true), DELETED]), Ok(()));
    assert_eq!(story(&[DELETED]), Err(Broken::DeletedTooEarly(1)));
    assert_eq!(story(&[report(WORKER, 8, true)]), Err(Broken::ReportedUnfrozen(1)));
}

#[test]
fn a_stop_of_the_time_before_a_token_came_back_may_be_deleted_until_it_is_stopped_again() {
    let stop = Seen::Sent { message: 2, about: About::Stop(1) };
    let closed = Seen::Closed { token: 1, succeeded: false };
    let first = [OPENED, SENT, STOPPING, stop, closed, DELETED, OPENED, SENT];
    let gone = Seen::Deleted { message: 2 };
    for (again, verdict) in [(None, Ok(())), (Some(STOPPING), Err(Broken::DeletedTooEarly(1)))] {
        let mut judge = Judge::default();
        let verdicts = first.iter().cloned().chain(again).chain([gone.clone()]);
        assert_eq!(verdicts.map(|seen| judge.see(&seen)).last(), Some(verdict));
    }
}

#[test]
fn a_stop_that_was_written_late_is_over_once_the_step_that_came_back_is_taken_up_again() {
    let closed = Seen::Closed { token: 1, succeeded: false };
    let again = || Seen::TakenUpAgain { ledger: 0, token: 1 };
    let before = [OPENED, SENT, STOPPING, STOP_KNOWN];
    let story = |after: &[Seen<u8>]| {
        let mut judge = Judge::default();
        let verdicts = before.iter().chain(after).map(|seen| judge.see(seen));
        verdicts.last().expect("something happened")
    };
    // The ledger's write of the stop was repeated after the token had come back.
    let late = [closed, OPENED, STOP_KNOWN];
    assert_eq!(story(&[&late[..], &[again(), STARTED]].concat()), Ok(()));
    assert_eq!(story(&[&late[..], &[STARTED]].concat()), Err(Broken::StartedAfterStop(1)));
    let unreturned = story(&[again(), STARTED]);
    assert_eq!(unreturned, Err(Broken::StartedAfterStop(1)), "it has not come back");
}

#[test]
fn a_message_deleted_before_the_step_is_closed_breaks_p1() {
    assert_eq!(
        last([OPENED, SENT, STARTED, ENDED, CONCLUDED, DELETED]),
        Err(Broken::DeletedTooEarly(1))
    );
    assert_eq!(
        last([OPENED, SENT, STARTED, ENDED, CONCLUDED, report(WORKER, 7, false), DELETED]),
        Err(Broken::DeletedTooEarly(1))
    );
}

#[test]
fn a_message_may_go_where_a_copy_is_left_or_the_step_is_deferred_or_closed() {
    let copy = Seen::Sent { message: 2, about: About::Work(1) };
    assert!(last([OPENED, SENT, copy, DELETED]).is_ok());
    let stop = Seen::Sent { message: 2, about: About::Stop(1) };
    assert_eq!(
        last([OPENED, SENT, stop, DELETED]),
        Err(Broken::DeletedTooEarly(1)),
        "a stop is no copy of the work"
    );
    assert!(last([OPENED, SENT, DEFERRED, DELETED]).is_ok());
    assert!(last([OPENED, SENT, Seen::Closed { token: 1, succeeded: false }, DELETED]).is_ok());
    let stop = Seen::Sent { message: 1, about: About::Stop(1) };
    assert_eq!(
        last([OPENED, stop, DEFERRED, DELETED]),
        Err(Broken::DeletedTooEarly(1)),
        "it waits for the stop's answer"
    );
}

#[test]
fn an_outcome_that_is_not_frozen_or_not_the_same_breaks_p2() {
    assert_eq!(
        last([OPENED, STARTED, ENDED, report(WORKER, 7, true)]),
        Err(Broken::ReportedUnfrozen(1))
    );
    assert_eq!(
        last([OPENED, CONCLUDED, report(WORKER, 7, false), report(WORKER, 8, false)]),
        Err(Broken::TwoRequests(1))
    );
    let elsewhere = Seen::Concluded { ledger: 1, token: 1 };
    assert_eq!(
        last([OPENED, CONCLUDED, elsewhere, report(WORKER, 7, true), report(STRANGER, 8, true)]),
        Err(Broken::TwoAnswers(1))
    );
}

#[test]
fn a_stop_that_is_forgotten_or_answered_without_cleanup_breaks_p3() {
    assert_eq!(last([OPENED, STOPPING, STOP_KNOWN, STARTED]), Err(Broken::StartedAfterStop(1)));
    assert_eq!(
        last([
            OPENED,
            STARTED,
            STOPPING,
            STOP_KNOWN,
            TOLD_TO_END,
            CONCLUDED,
            report(WORKER, 7, true)
        ]),
        Err(Broken::NotCleaned(1))
    );
    let answered = || report(WORKER, 7, true);
    assert!(
        last([
            OPENED,
            STARTED,
            STOPPING,
            STOP_KNOWN,
            TOLD_TO_END,
            CLEANING,
            CLEANED,
            CONCLUDED,
            answered()
        ])
        .is_ok()
    );
    let interrupted = [
        OPENED,
        STOPPING,
        STOP_KNOWN,
        CLEANING,
        Seen::Died { worker: WORKER },
        CONCLUDED,
        answered(),
    ];
    assert_eq!(last(interrupted), Err(Broken::NotCleaned(1)));
    let forgotten = [
        OPENED,
        STARTED,
        STOPPING,
        STOP_KNOWN,
        ENDED,
        Seen::Died { worker: WORKER },
        CONCLUDED,
        answered(),
    ];
    assert_eq!(last(forgotten), Err(Broken::NotCleaned(1)));
    assert!(
        last([OPENED, STARTED, STOPPING, STOP_KNOWN, ENDED, CONCLUDED, report(WORKER, 7, true)])
            .is_ok(),
        "its own outcome"
    );
}

#[test]
fn two_calls_at_once_break_p4_in_one_ledger_and_not_in_two() {
    assert_eq!(last([OPENED, STARTED, CLEANING]), Err(Broken::Overlap(1)));
    assert_eq!(
        last([OPENED, CLEANING, Seen::Started { worker: SUCCESSOR, token: 1 }]),
        Err(Broken::Overlap(1))
    );
    assert_eq!(
        last([OPENED, STARTED, Seen::Started { worker: SUCCESSOR, token: 1 }]),
        Err(Broken::Overlap(1))
    );
    assert!(last([OPENED, STARTED, Seen::Started { worker: STRANGER, token: 1 }]).is_ok());
}

#[test]
fn an_unreadable_message_that_is_deleted_breaks_p5() {
    assert_eq!(
        last([Seen::Sent { message: 1, about: About::Unreadable }, DELETED]),
        Err(Broken::UnreadableDeleted(1))
    );
}

#[test]
fn a_step_with_an_outcome_that_is_started_breaks_p6() {
    assert_eq!(last([OPENED, CONCLUDED, STARTED]), Err(Broken::ComputedAgain(1)));
}

#[test]
fn what_waits_is_left_over_or_runs_in_the_end_is_named() {
    let judge = last([OPENED, SENT, STARTED]).expect("nothing is broken on the way");
    assert_eq!(judge.in_the_end(), [Broken::Hung(1), Broken::RunsStill(1), Broken::MessageLeft(1)]);
}

#[test]
fn a_deferred_step_may_wait_in_the_end_but_not_for_a_stop_or_an_outcome() {
    let left =
        |story: [Seen<u8>; 3]| last(story).expect("nothing is broken on the way").in_the_end();
    let told =
        last([OPENED, DEFERRED, STOPPING, STOP_KNOWN]).expect("nothing is broken on the way");
    assert_eq!(told.in_the_end(), [Broken::Hung(1)]);
    assert_eq!(left([OPENED, ENDED, DEFERRED]), []);
    assert_eq!(left([OPENED, DEFERRED, STOPPING]), [Broken::Hung(1)]);
    assert_eq!(left([OPENED, DEFERRED, CONCLUDED]), [Broken::Hung(1)]);
}

#[test]
fn a_deferred_step_is_not_cleaned_up_once_somebody_has_completed_it() {
    let closed = |succeeded| Seen::Closed { token: 1, succeeded };
    assert_eq!(
        last([OPENED, DEFERRED, closed(true), CLEANING]),
        Err(Broken::CleanedAfterSuccess(1))
    );
    assert!(last([OPENED, DEFERRED, closed(false), CLEANING]).is_ok());
    assert!(
        last([OPENED, DEFERRED, STOPPING, closed(true), CLEANING]).is_ok(),
        "the stop came first"
    );
    assert!(last([OPENED, STARTED, closed(true), TOLD_TO_END, CLEANING]).is_ok(), "it ran here");
}

#[test]
fn a_stop_that_sagemaker_never_asked_for_is_not_believed() {
    let told = Seen::StopTold { worker: WORKER, token: 1 };
    assert_eq!(last([OPENED, STARTED, told.clone()]), Err(Broken::StoppedUnasked(1)));
    assert_eq!(last([OPENED, STARTED, STOP_KNOWN]), Err(Broken::StoppedUnasked(1)));
    assert!(last([OPENED, STARTED, STOPPING, STOP_KNOWN, told.clone()]).is_ok());
    assert!(
        last([OPENED, STARTED, Seen::Closed { token: 1, succeeded: false }, told]).is_ok(),
        "nothing waits for it"
    );
}

#[test]
fn no_run_is_told_of_a_success_that_sagemaker_does_not_show() {
    let told = Seen::SuccessTold { worker: WORKER, token: 1 };
    assert_eq!(last([OPENED, STARTED, told.clone()]), Err(Broken::StoppedUnasked(1)));
    let closed = Seen::Closed { token: 1, succeeded: true };
    assert!(last([OPENED, STARTED, closed.clone(), told.clone()]).is_ok());
    assert!(last([OPENED, STARTED, closed, OPENED, told]).is_ok(), "its token has come back since");
}

#[test]
fn a_forged_message_is_neither_acted_upon_nor_deleted() {
    let forged = Seen::Forged { message: 1, token: 1 };
    assert_eq!(last([forged.clone(), STARTED]), Err(Broken::ForgeryBelieved(1)));
    assert_eq!(last([forged.clone(), CLEANING]), Err(Broken::ForgeryBelieved(1)));
    assert_eq!(
        last([forged.clone(), CONCLUDED, report(WORKER, 7, false)]),
        Err(Broken::ForgeryBelieved(1))
    );
    assert_eq!(last([forged.clone(), DELETED]), Err(Broken::ForgeryDeleted(1)));
    assert!(last([forged.clone(), Seen::Lost { message: 1 }, DELETED]).is_ok());
    let judge = last([forged.clone()]).expect("nothing is broken");
    assert_eq!(judge.in_the_end(), [], "it may lie there");
    assert!(
        last([OPENED, Seen::Sent { message: 2, about: About::Work(1) }, forged, STARTED]).is_ok(),
        "it has a true one"
    );
}

#[test]
fn a_step_is_not_run_more_often_than_its_attempts_allow() {
    let allowed = |attempts| Seen::Allowed { token: 1, attempts };
    let again = || [STARTED, TOLD_TO_END];
    let [a, b] = again();
    assert_eq!(
        last([OPENED, allowed(1), a.clone(), b.clone(), STARTED]),
        Err(Broken::TooManyRuns(1))
    );
    assert!(last([OPENED, allowed(2), a.clone(), b.clone(), STARTED]).is_ok());
    let free = Seen::Free { worker: WORKER, token: 1 };
    assert!(last([OPENED, allowed(1), a.clone(), free, b, STARTED]).is_ok());
    let died = Seen::Died { worker: WORKER };
    let elsewhere = Seen::Started { worker: SUCCESSOR, token: 1 };
    assert_eq!(
        last([OPENED, allowed(1), a, died, elsewhere]),
        Err(Broken::TooManyRuns(1)),
        "a death counts"
    );
}

#[test]
fn a_crash_counts_against_none_but_the_step_whose_handler_kills_its_worker_and_that_one_ends() {
    let charged = |token| Seen::Judged { ledger: WORKER.ledger, token, charged: true };
    let (kills, died) = (Seen::Kills { worker: WORKER, token: 2 }, Seen::Died { worker: WORKER });
    let other = Seen::Started { worker: WORKER, token: 2 };
    let crash = |then| last([OPENED, STARTED, other.clone(), kills.clone(), died.clone(), then]);
    assert_eq!(crash(charged(1)), Err(Broken::Blamed(1)));
    assert!(crash(charged(2)).is_ok());
    assert!(last([OPENED, STARTED, died.clone(), charged(1)]).is_ok(), "it may have been anything");
    let allowed = Seen::Allowed { token: 2, attempts: 1 };
    let [a, b, c, d] = std::array::from_fn(|_| kills.clone());
    assert_eq!(last([allowed, a, b, c, d]), Err(Broken::KillsOn(2)));
    let spared = Seen::Judged { ledger: WORKER.ledger, token: 1, charged: false };
    let again = Seen::Started { worker: SUCCESSOR, token: 1 };
    let one = Seen::Allowed { token: 1, attempts: 1 };
    assert!(last([OPENED, one, STARTED, died, spared, again]).is_ok());
}

#[test]
fn a_drain_starts_no_runs_but_lets_one_begin_that_was_claimed_before() {
    let draining = Seen::Draining { worker: WORKER };
    let claiming = Seen::Claiming { worker: WORKER, token: 1 };
    assert_eq!(
        last([OPENED, draining.clone(), claiming.clone(), STARTED]),
        Err(Broken::StartedInDrain(1))
    );
    assert!(last([OPENED, claiming.clone(), draining.clone(), STARTED]).is_ok());
    let renewed = [OPENED, STARTED, draining, claiming, TOLD_TO_END];
    assert!(last(renewed).is_ok(), "a claim is renewed while it is run");
}

#[test]
fn a_step_may_wait_whose_message_was_lost_before_any_ledger_had_it() {
    let lost = Seen::Lost { message: 1 };
    let recorded = Seen::Recorded { ledger: 0, token: 1 };
    let excused = |story: Vec<Seen<u8>>, several| {
        let mut judge = Judge::default();
        assert!(story.iter().all(|seen| judge.see(seen).is_ok()));
        judge.is_excused(&1, several)
    };
    assert!(excused(vec![OPENED, SENT, lost.clone()], false));
    assert!(!excused(vec![OPENED, SENT], false), "it is not lost");
    assert!(!excused(
        vec![OPENED, SENT, Seen::Sent { message: 2, about: About::Work(1) }, lost.clone()],
        false
    ));
    assert!(
        !excused(vec![OPENED, SENT, recorded.clone(), lost.clone()], false),
        "its ledger knows all"
    );
    assert!(
        excused(vec![OPENED, SENT, recorded.clone(), lost.clone()], true),
        "another ledger may run it"
    );
    assert!(!excused(vec![OPENED, SENT, recorded, CONCLUDED, lost], true), "its outcome is known");
}

#[test]
fn a_token_that_comes_back_is_a_step_anew() {
    let closed = Seen::Closed { token: 1, succeeded: false };
    let again = Seen::Sent { message: 2, about: About::Work(1) };
    let first = || {
        vec![
            OPENED,
            SENT,
            STARTED,
            ENDED,
            CONCLUDED,
            report(WORKER, 7, true),
            closed.clone(),
            OPENED,
            again.clone(),
        ]
    };
    let with = |rest: &[Seen<u8>]| {
        let mut judge = Judge::default();
        let story: Vec<_> = first().into_iter().chain(rest.iter().cloned()).collect();
        story.iter().try_for_each(|seen| judge.see(seen)).map(|()| judge)
    };
    assert!(
        with(&[
            DELETED,
            STARTED,
            ENDED,
            CONCLUDED,
            report(WORKER, 8, true),
            Seen::Deleted { message: 2 }
        ])
        .is_ok()
    );
    assert!(with(&[report(WORKER, 7, false)]).is_ok(), "the reply to the earlier report was lost");
    assert_eq!(with(&[report(WORKER, 8, false)]), Err(Broken::ReportedUnfrozen(1)));
    assert_eq!(with(&[DELETED, Seen::Deleted { message: 2 }]), Err(Broken::DeletedTooEarly(1)));
    let judge = with(&[]).expect("nothing is broken");
    assert!(judge.in_the_end().contains(&Broken::Hung(1)));
    let lost =
        with(&[Seen::Lost { message: 1 }, Seen::Lost { message: 2 }]).expect("nothing is broken");
    assert!(lost.is_excused(&1, false), "no ledger knows that it came back");
}

#[test]
fn a_message_that_is_copied_without_end_is_named() {
    let mut judge = Judge::default();
    let sent = |message| Seen::Sent { message, about: About::Work(1_u16) };
    assert!((0..=199_u16).all(|message| judge.see(&sent(message)).is_ok()));
    assert_eq!(judge.see(&sent(200)), Err(Broken::Multiplied(1)));
}
