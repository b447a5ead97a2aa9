//! Tests of stops, time limits and executions that end.

use super::*;

#[test]
fn a_stop_of_a_running_step_is_answered_after_its_cleanup() {
    let mut bench = Bench::running();
    let told = [Effect::CountStop(Via::Message), Effect::Tell(StopReason::PipelineStopped)];
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), told);
    assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), []);
    assert_eq!(bench.feed(Event::GraceOver), [Effect::Abort]);
    assert_eq!(
        bench.feed(Event::Ended(RunEnd::Aborted)),
        [Effect::CleanUp(StopReason::PipelineStopped)]
    );
    assert_eq!(bench.feed(Event::Cleaned(Err("no permission".into()))), [Effect::Report]);
    assert_eq!(bench.reason(), "the pipeline was stopped; the cleanup failed: no permission");
    assert_eq!(
        bench.feed(Event::ReportAccepted),
        [Effect::Finish(Ending::Stopped), Effect::Delete]
    );
}

#[test]
fn a_worker_that_dies_while_stopping_a_step_leaves_the_stop_to_be_answered_and_runs_nothing_again()
{
    for die_in_cleanup in [false, true] {
        let mut bench = Bench::running();
        bench.feed(Event::Delivered(Arrival::Stop));
        if die_in_cleanup {
            bench.feed(Event::Ended(RunEnd::Aborted));
        }
        bench.crash();
        assert_eq!(bench.delivered(true), [Effect::CleanUp(StopReason::PipelineStopped)]);
        assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
    }
}

#[test]
fn a_stop_of_a_step_whose_worker_died_is_cleaned_up_after_at_once() {
    let mut bench = Bench::running();
    bench.crash();
    let cleaned = [Effect::CountStop(Via::Message), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), cleaned);
}

#[test]
fn a_stop_for_an_unknown_step_is_owed_and_its_work_is_never_run() {
    let mut bench = Bench::new();
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), [Effect::CountStop(Via::Message), ASK]);
    assert_eq!(bench.status(), Status::Owed);
    bench.answer(OPEN);
    assert_eq!(bench.delivered(false), [ASK], "it may have been answered elsewhere since");
    assert_eq!(bench.answer(OPEN), [Effect::CleanUp(StopReason::PipelineStopped)]);
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
    assert_eq!(bench.reason(), "the pipeline was stopped");
}

#[test]
fn an_owed_stop_is_held_until_the_step_is_closed_elsewhere() {
    let mut bench = Bench::new();
    bench.feed(Event::Delivered(Arrival::Stop));
    let again = machine::later(bench.now, POLICY.ask_every);
    assert_eq!(bench.answer(OPEN), [Effect::Wake(again)]);
    bench.pass(POLICY.ask_every);
    assert_eq!(bench.feed(Event::Woken), [ASK]);
    assert_eq!(bench.answer(CLOSED), ELSEWHERE);
}

#[test]
fn an_owed_stop_that_nobody_answers_is_answered_here_also_after_a_crash() {
    let mut bench = Bench::new();
    bench.feed(Event::Delivered(Arrival::Stop));
    bench.answer(OPEN);
    bench.pass(POLICY.stop_takeover_after);
    bench.crash();
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), [ASK]);
    assert_eq!(bench.no_answer(), [Effect::CleanUp(StopReason::PipelineStopped)]);
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
}

#[test]
fn an_owed_stop_is_never_taken_over_without_asking_at_that_moment() {
    let owed = || {
        let mut bench = Bench::new();
        bench.stop_delivered();
        bench.answer(OPEN);
        bench.pass(POLICY.stop_takeover_after);
        bench
    };
    let found = || {
        let mut bench = owed();
        bench.crash();
        bench
    };
    for (mut bench, event) in [
        (owed(), Event::Woken),
        (owed(), work(1, None)),
        (found(), Event::Found),
        (found(), work(2, None)),
        (found(), Event::Delivered(Arrival::Stop)),
        (found(), Event::StopSeen(Via::Watch)),
    ] {
        assert_eq!(bench.feed(event.clone()), [ASK], "{event:?}");
        assert_eq!(bench.answer(Standing::Closed(StepResult::Succeeded)), ELSEWHERE, "{event:?}");
    }
}

#[test]
fn an_owed_stop_is_asked_about_no_later_than_it_is_taken_over() {
    let mut bench = Bench::new();
    bench.stop_delivered();
    bench.pass(Duration::from_secs(290));
    let takeover = bench.wakes_in(10);
    assert_eq!(bench.answer(Standing::NotFound), [takeover]);
}

#[test]
fn a_run_is_told_of_its_stop_whether_or_not_the_ledger_takes_it() {
    let mut bench = Bench::running();
    bench.stop_delivered();
    assert_eq!(bench.written, Some(Urgency::Along));
    for event in [Event::DeadlineReached, Event::LeaseLost, Event::GraceOver] {
        let mut bench = Bench::running();
        bench.feed(event.clone());
        assert_eq!(bench.written, None, "{event:?}");
    }
}

#[test]
fn a_stop_from_before_the_token_came_back_is_confirmed_before_anybody_is_told() {
    let open = |stopping| Standing::Open { stopping, queue_url: None };
    for (stopping, told) in [(true, true), (false, false)] {
        let mut bench = Bench::running();
        assert_eq!(
            bench.feed(Event::Delivered(Arrival::EarlierStop)),
            [Effect::Ask { confirm_stop: true }]
        );
        assert_eq!(bench.written, None);
        let effects = bench.answer(open(stopping));
        assert_eq!(
            effects.contains(&Effect::Tell(StopReason::PipelineStopped)),
            told,
            "{effects:?}"
        );
        assert_eq!(bench.state.record.stop_requested.is_some(), told);
    }
}

#[test]
fn a_stop_that_the_ledger_lost_while_the_run_is_told_is_written_again_and_counted_once() {
    let mut bench = Bench::running();
    bench.stop_delivered();
    bench.state.record.stop_requested = None;
    assert_eq!(
        (bench.feed(Event::StopSeen(Via::Watch)), bench.written),
        (vec![], Some(Urgency::Along))
    );
    assert!(bench.state.record.stop_requested.is_some());
    assert_eq!((bench.feed(Event::StopSeen(Via::Watch)), bench.written), (vec![], None));

    bench.state.record.stop_requested = None;
    bench.feed(Event::Ended(RunEnd::Aborted));
    assert!(bench.state.record.stop_requested.is_some(), "a crash in the cleanup must not lose it");
}

#[test]
fn a_step_that_waits_for_a_slot_and_is_closed_elsewhere_is_settled_without_cleanup() {
    let mut bench = Bench::queued();
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.answer(Standing::Closed(StepResult::Succeeded)), ELSEWHERE);
}

#[test]
fn a_step_whose_execution_ended_otherwise_is_cleaned_up_and_not_reported() {
    let mut bench = Bench::running();
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.answer(OPEN), []);
    assert_eq!(
        bench.answer(CLOSED),
        [Effect::CountStop(Via::Watch), Effect::Tell(StopReason::PipelineStopped)]
    );
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::CleanUp(StopReason::PipelineStopped)]);
    let effects = bench.feed(Event::Cleaned(Ok(())));
    assert_eq!(effects, ELSEWHERE);
    assert_eq!(bench.state.record.outcome, None);
}

#[test]
fn a_deferred_step_that_somebody_has_completed_is_settled_without_cleanup() {
    for event in [Event::SeenEnded { stopped: false }, Event::StopSeen(Via::Watch)] {
        for closed in [StepResult::Succeeded, StepResult::Failed] {
            let mut bench = Bench::deferred();
            assert_eq!(bench.feed(event.clone()), [ASK]);
            let effects = bench.answer(Standing::Closed(closed));
            assert_eq!(effects, ELSEWHERE);
        }
        let mut bench = Bench::deferred();
        bench.feed(event);
        let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
        assert_eq!(bench.answer(Standing::Closed(StepResult::Stopped)), stop);
        let effects = bench.feed(Event::Cleaned(Ok(())));
        assert_eq!(effects, ELSEWHERE);
    }
}

#[test]
fn a_step_that_another_worker_deferred_meanwhile_and_somebody_completed_is_not_cleaned_up_either() {
    let completed = || Standing::Closed(StepResult::Succeeded);
    let settled = ELSEWHERE;
    for activity in [Activity::Queued, Activity::Sleeping] {
        for event in [Event::SeenEnded { stopped: false }, Event::StopSeen(Via::Watch)] {
            let mut bench = Bench::deferred();
            bench.state.local.activity = activity;
            assert_eq!(bench.feed(event), [ASK]);
            assert_eq!(bench.answer(completed()), settled);
        }
    }
    let mut bench = Bench::deferred();
    bench.state.local.activity = Activity::Running;
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.answer(completed()), [], "its claim is lost, and says so with its renewal");
    assert_eq!(bench.state.local.activity, Activity::Running);
}

#[test]
fn a_deferred_step_is_stopped_by_the_watch_only_if_sagemaker_waits_for_it() {
    let mut bench = Bench::deferred();
    let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    for silence in [Answer::Standing(Standing::NotFound), Answer::Unknown("denied".into())] {
        assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [ASK]);
        assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [], "it is being asked");
        assert_eq!(bench.feed(Event::Answered(silence)), [Effect::Delete]);
        assert_eq!(bench.status(), Status::Deferred);
    }
    bench.feed(Event::SeenEnded { stopped: false });
    assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [], "it is being asked");
    assert_eq!(bench.answer(OPEN), stop);
}

#[test]
fn a_stop_message_of_a_deferred_step_is_taken_at_its_word() {
    let stop = [Effect::CountStop(Via::Message), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(Bench::deferred().feed(Event::Delivered(Arrival::Stop)), stop);
    let mut asking = Bench::deferred();
    asking.feed(Event::SeenEnded { stopped: false });
    assert_eq!(asking.feed(Event::Delivered(Arrival::Stop)), stop);
}

#[test]
fn a_deadline_ends_only_what_is_over_and_runs_nowhere_else() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Deferred));
    assert_eq!(bench.feed(Event::DeadlineReached), []);
    bench.pass(POLICY.deferred_limit);
    assert_eq!(bench.feed(Event::DeadlineReached), [Effect::Report]);

    let mut elsewhere = Bench::running();
    elsewhere.crash();
    elsewhere.foreign = Lease::Until(machine::later(elsewhere.now, LEASE));
    elsewhere.delivered(true);
    elsewhere.pass(POLICY.time_limit);
    assert_eq!(elsewhere.feed(Event::DeadlineReached), [], "it is its owner's to end");
}

#[test]
fn a_step_whose_stop_came_to_another_worker_while_it_waited_for_a_slot_is_not_run() {
    let mut bench = Bench::new();
    bench.delivered(false);
    // The write finds the record changed, so it is read and decided again.
    bench.state.record.status = Status::Owed;
    bench.state.record.stop_requested = Some(Stop::open(bench.now));
    assert_eq!(bench.feed(Event::SlotFree), [ASK]);
    assert_eq!(bench.answer(OPEN), [Effect::CleanUp(StopReason::PipelineStopped)]);
}
