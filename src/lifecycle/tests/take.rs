//! Tests of taking a step, and of leaving it to others.

use super::*;

#[test]
fn a_step_is_claimed_in_the_ledger_before_it_runs() {
    let mut bench = Bench::new();
    assert_eq!(bench.delivered(false), [Effect::AwaitSlot]);
    assert_eq!(bench.status(), Status::New);
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!((bench.status(), bench.state.record.attempt), (Status::Claimed, 1));
    assert_eq!(bench.state.record.owner.as_ref(), Some(&bench.me));
}

#[test]
fn a_copy_of_a_message_starts_nothing() {
    for mut bench in [Bench::running(), Bench::concluded()] {
        assert_eq!(bench.delivered(true), []);
    }
}

#[test]
fn a_step_of_a_live_worker_is_left_to_it_and_its_stop_is_flagged() {
    let mut bench = Bench::running();
    bench.crash();
    let until = machine::later(bench.now, Duration::from_secs(30));
    bench.foreign = Lease::Until(until);
    assert_eq!(bench.delivered(true), [Effect::Wake(until)]);
    assert_eq!(
        bench.feed(Event::Delivered(Arrival::Stop)),
        [Effect::CountStop(Via::Message), Effect::Wake(until)]
    );
    assert!(bench.state.record.stop_requested.is_some());
    assert_eq!(bench.state.record.owner, Some(WorkerId("me".into())));
    bench.foreign = Lease::Over;
    assert_eq!(bench.feed(Event::Woken), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_step_that_another_worker_claimed_while_it_waited_for_a_slot_is_left_to_that_one() {
    let mut other = Bench::running();
    other.me = WorkerId("other".into());
    let mut bench = Bench::new();
    bench.delivered(false);
    // The write finds the record changed, so it is read and decided again.
    bench.state.record = Record { owner: Some(other.me.clone()), ..other.state.record.clone() };
    bench.foreign = Lease::Until(machine::later(bench.now, LEASE));
    let left = bench.feed(Event::SlotFree);
    assert!(matches!(left[..], [Effect::Wake(_)]), "{left:?}");
    assert_eq!(bench.state.record.owner, Some(other.me));

    let mut late = Bench::new();
    late.delivered(false);
    late.state.record = Bench::concluded().state.record;
    late.state.record.owner = None;
    assert_eq!(late.feed(Event::SlotFree), [Effect::Report], "what is concluded is not run");
}

#[test]
fn a_deferral_that_is_over_fails_its_step_also_where_another_worker_had_deferred_it_meanwhile() {
    for (activity, event) in
        [(Activity::Sleeping, Event::Woken), (Activity::Queued, Event::SlotFree)]
    {
        let mut bench = Bench::new();
        bench.state.local.activity = activity;
        bench.state.record.status = Status::Deferred;
        bench.state.record.deadline = Some(bench.now);
        assert_eq!(bench.feed(event), [Effect::Report]);
    }
}

#[test]
fn a_claim_of_which_the_ledger_did_not_tell_counts_one_attempt_and_is_run() {
    let mut bench = Bench::new();
    bench.delivered(false);
    let claimed = Bench::running().state.record;
    // The write was durable but seemed to fail, so the record is read and decided again.
    bench.state.record = Record { attempt: POLICY.max_attempts, ..claimed };
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!(bench.state.record.attempt, POLICY.max_attempts);
}

#[test]
fn a_step_without_a_handler_fails_and_says_so() {
    let mut bench = Bench::new();
    bench.state.record.handler = None;
    assert_eq!(bench.delivered(false), [Effect::Report]);
    let reason = bench.reason();
    assert!(reason.contains("no handler is configured"), "{reason}");
    assert!(reason.ends_with("lead to: a, b"), "{reason}");
}

#[test]
fn a_claim_names_its_owner_and_a_release_does_not() {
    let mut bench = Bench::running();
    assert_eq!(bench.state.record.owner.as_ref(), Some(&bench.me));
    bench.feed(Event::Ended(RunEnd::Retry { after: None, error: "no route".into() }));
    assert_eq!(bench.state.record.owner, None);
    assert_eq!(bench.state.record.last_error.as_deref(), Some("no route"));
    assert_eq!(
        bench.state.record.not_before,
        Some(machine::later(bench.now, Duration::from_secs(10)))
    );
}

#[test]
fn a_worker_does_not_wait_for_its_own_claim() {
    let mut bench = Bench::concluded();
    bench.foreign = Lease::Until(machine::later(bench.now, LEASE));
    bench.state.local.activity = Activity::Sleeping;
    assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
}

#[test]
fn a_message_that_comes_after_the_end_of_its_step_is_deleted_whichever_it_is() {
    for event in [work(1, None), Event::Delivered(Arrival::Stop)] {
        let mut bench = Bench::concluded();
        bench.feed(Event::ReportAccepted);
        assert_eq!(bench.feed(event.clone()), [Effect::Delete], "{event:?}");
    }
}

#[test]
fn a_copy_of_the_message_of_a_deferred_step_is_deleted() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Deferred));
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Delete]);
    assert_eq!(bench.status(), Status::Deferred);
}

#[test]
fn a_step_that_waits_for_its_next_attempt_waits_on_after_a_crash_unless_it_is_to_end() {
    let waiting = || {
        let mut bench = Bench::running();
        bench.feed(Event::Ended(RunEnd::Again(Duration::from_hours(2))));
        bench.crash();
        bench
    };
    let mut bench = waiting();
    let at = bench.state.record.not_before.expect("it waits");
    assert_eq!(bench.delivered(true), [Effect::Wake(at)]);
    let mut stopped = waiting();
    stopped.state.record.stop_requested = Some(Stop::open(stopped.now));
    assert_eq!(stopped.delivered(true), [Effect::CleanUp(StopReason::PipelineStopped)]);
    let mut overdue = waiting();
    overdue.pass(POLICY.time_limit);
    assert_eq!(overdue.delivered(true), [Effect::CleanUp(StopReason::TimeLimit)]);
}

#[test]
fn a_step_that_waits_goes_on_where_its_execution_has_not_ended_after_all() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(5))));
    let at = bench.state.record.not_before.expect("it waits");
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.answer(OPEN), [Effect::Wake(at)]);
}

#[test]
fn a_wait_that_a_wrong_clock_set_far_ahead_holds_no_step_up() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(5))));
    bench.crash();
    bench.state.record.not_before = Some(machine::later(bench.now, Duration::from_hours(24)));
    assert!(matches!(bench.delivered(true)[..], [Effect::Wake(_)]), "a handler may have said so");
    bench.crash();
    let year = Some(machine::later(bench.now, Duration::from_hours(24 * 365)));
    bench.state.record.not_before = year;
    bench.state.record.deadline = year;
    assert_eq!(bench.delivered(true), [Effect::AwaitSlot]);
    bench.feed(Event::SlotFree);
    assert_eq!(bench.state.record.deadline, Some(machine::later(bench.now, POLICY.time_limit)));
}

#[test]
fn a_worn_message_is_replaced_once_its_step_is_on_record_and_never_before_or_after() {
    let mut bench = Bench::queued();
    assert!(!bench.replaced, "the ledger does not know the step yet");
    bench.feed(Event::SlotFree);
    assert!(bench.replaced, "its claim is durable");
    bench.feed(Event::Checkpoint(json!(1)));
    assert!(!bench.replaced, "there is nothing new to replace");
    bench.delivered(true);
    assert!(bench.replaced);
    bench.stop_delivered();
    assert!(bench.replaced);
    bench.feed(Event::Ended(RunEnd::Success(Outputs::new())));
    bench.delivered(true);
    assert!(bench.replaced, "it is not reported yet");
    bench.feed(Event::ReportAccepted);
    assert!(!bench.replaced);
    bench.delivered(true);
    assert!(!bench.replaced, "it is deleted");

    let mut owed = Bench::new();
    owed.stop_delivered();
    assert!(owed.replaced);
    let mut deferred = Bench::deferred();
    deferred.delivered(true);
    assert!(!deferred.replaced, "it is deleted");
    let mut verifying = Bench::verifying();
    verifying.delivered(true);
    verifying.no_answer();
    assert!(!verifying.replaced);
    let mut forged = Bench::running();
    forged.policy.verify = Verify::Always;
    forged.stop_delivered();
    forged.delivered(true);
    assert!(!forged.replaced, "a forged stop must not outlive the redrive policy");
}

#[test]
fn the_newest_message_that_was_taken_is_on_record() {
    let mut bench = Bench::new();
    bench.feed(work(1, sent_at(20)));
    bench.feed(work(1, sent_at(10)));
    bench.feed(Event::SlotFree);
    assert_eq!(bench.state.record.sent, sent_at(20));
    bench.feed(work(1, sent_at(30)));
    bench.feed(Event::Ended(RunEnd::Failure("no".into())));
    assert_eq!(bench.state.record.sent, sent_at(30));
}

#[test]
fn a_step_of_which_only_the_token_is_known_is_not_begun() {
    assert_eq!(Bench::new().feed(Event::Found), [Effect::LetGo]);
}

#[test]
fn a_step_of_a_live_worker_is_waited_for_only_with_a_message_of_it() {
    let mut bench = Bench::running();
    bench.crash();
    let until = machine::later(bench.now, LEASE);
    bench.foreign = Lease::Until(until);
    assert_eq!(bench.delivered(true), [Effect::Wake(until)]);
    // The message was lost meanwhile.
    bench.holds = false;
    assert_eq!(bench.feed(Event::Woken), [Effect::LetGo]);
    assert_eq!(bench.feed(Event::Found), [Effect::LetGo]);
    assert!(bench.state.local.idle());
}

#[test]
fn a_step_that_waits_long_for_a_slot_is_passed_on_with_its_message() {
    let mut bench = Bench::new();
    assert_eq!(bench.delivered(false), [Effect::AwaitSlot]);
    bench.holds = false;
    assert_eq!(bench.feed(Event::Crowded), []);
    bench.holds = true;
    assert_eq!(bench.feed(Event::Crowded), [Effect::PassOn]);
    assert!(bench.state.local.idle());
    // It has its slot, or has gone, since.
    assert_eq!(bench.feed(Event::Crowded), []);
}

#[test]
fn a_step_that_was_given_back_is_passed_on_and_one_that_is_tried_again_is_not() {
    for (resume, passed) in [(true, vec![Effect::PassOn]), (false, vec![])] {
        let mut bench = Bench::running();
        let record = &mut bench.state.record;
        (record.status, record.owner, record.resume) = (Status::Waiting, None, resume);
        bench.state.local = Local::NOTHING;
        assert_eq!(bench.delivered(true), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::Crowded), passed);
    }
}

#[test]
fn a_step_that_moved_on_while_it_waited_for_a_slot_is_not_passed_on() {
    for (status, activity) in
        [(Status::Settled, Activity::Idle), (Status::Claimed, Activity::Sleeping)]
    {
        let mut bench = Bench::new();
        bench.delivered(false);
        bench.state.record.status = status;
        bench.state.record.owner = Some(WorkerId("other".into()));
        bench.foreign = Lease::Until(machine::later(bench.now, LEASE));
        assert!(!bench.feed(Event::Crowded).contains(&Effect::PassOn));
        assert_eq!(bench.state.local.activity, activity);
    }
}
