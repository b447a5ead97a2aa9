//! Tests of what is believed only once SageMaker confirms it.

use super::*;

#[test]
fn where_steps_must_be_verified_only_a_step_that_is_not_there_is_refused() {
    let mut bench = Bench::verifying();
    assert_eq!(bench.delivered(false), [ASK]);
    assert!(matches!(bench.answer(Standing::NotFound)[..], [Effect::Refuse(_)]));
    assert_eq!((bench.status(), bench.state.local), (Status::New, Local::NOTHING));
}

#[test]
fn an_answer_that_says_nothing_is_waited_out_with_the_message_held() {
    let mut bench = Bench::verifying();
    assert_eq!(bench.delivered(false), [ASK]);
    for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
        assert!(bench.activity().is_verifying());
        let again = bench.wakes_in(wait);
        assert_eq!(bench.no_answer(), [again]);
        assert_eq!(bench.activity(), Activity::Unverified);
        assert_eq!(bench.delivered(true), [], "a copy changes nothing");
        assert_eq!(bench.feed(Event::Woken), [ASK]);
    }
    assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);
    assert_eq!(bench.state.local.failures, 0);
}

#[test]
fn where_steps_need_not_be_verified_an_answer_that_says_nothing_runs_them() {
    for silence in [Answer::Standing(Standing::NotFound), Answer::Unknown("denied".into())] {
        let mut bench = Bench::new();
        bench.delivered(true);
        assert_eq!(bench.feed(Event::Answered(silence)), [Effect::AwaitSlot]);
    }
}

#[test]
fn a_message_that_names_another_execution_is_refused_and_harms_nothing() {
    for verify in [Verify::Redelivered, Verify::Always, Verify::Never] {
        for mut bench in [Bench::running(), Bench::deferred(), Bench::concluded(), Bench::settled()]
        {
            bench.policy.verify = verify;
            let before = bench.state.clone();
            let effects = bench.feed(Event::Delivered(Arrival::Foreign));
            assert!(
                matches!(&effects[..], [Effect::RefuseDelivery(why)] if why.contains("another \
                    execution"))
            );
            assert_eq!((&bench.state, bench.written, bench.replaced), (&before, None, false));
        }
    }
}

/// Steps at every point where a stop can reach them, with verified stops.
fn everywhere() -> Vec<Bench> {
    let mut sleeping = Bench::running();
    sleeping.feed(Event::Ended(RunEnd::Again(Duration::from_mins(30))));
    let mut winding = Bench::running();
    winding.pass(POLICY.time_limit);
    winding.feed(Event::DeadlineReached);
    let mut benches =
        vec![Bench::new(), Bench::queued(), Bench::running(), winding, sleeping, Bench::deferred()];
    for bench in &mut benches {
        bench.policy.verify = Verify::Always;
    }
    benches
}

#[test]
fn a_stop_that_is_not_confirmed_tells_nobody_and_writes_nothing() {
    for mut bench in everywhere() {
        let before = bench.state.clone();
        assert_eq!(bench.stop_delivered(), [CONFIRM]);
        assert_eq!(bench.stop_delivered(), [], "asked once is enough");
        assert_eq!((bench.written, bench.replaced), (None, false));
        assert_eq!(bench.state.record, before.record);
        let there = if before.local.idle() { Activity::Confirming } else { before.local.activity };
        assert_eq!(bench.activity(), there);
        assert_eq!(bench.state.local.stop_in_doubt, Some(bench.now));
    }
}

#[test]
fn a_stop_that_sagemaker_confirms_is_taken_at_its_word() {
    for mut bench in everywhere() {
        let (status, activity) = (bench.status(), bench.activity());
        bench.stop_delivered();
        let effects = bench.answer(STOPPING);
        let expected = match (status, activity) {
            (Status::New, Activity::Idle) => bench.wakes_in(30),
            (_, Activity::Running | Activity::Stopping(_)) => {
                Effect::Tell(StopReason::PipelineStopped)
            }
            _ => Effect::CleanUp(StopReason::PipelineStopped),
        };
        assert_eq!(effects, [Effect::CountStop(Via::Message), expected], "{status:?} {activity:?}");
        assert!(bench.state.record.stop_requested.is_some() && bench.replaced);
        assert_eq!(bench.state.local.stop_in_doubt, None);
    }
}

#[test]
fn a_stop_of_a_step_that_sagemaker_does_not_know_is_refused_and_the_step_goes_on() {
    for mut bench in everywhere() {
        let before = bench.state.clone();
        bench.stop_delivered();
        let effects = bench.answer(Standing::NotFound);
        assert!(matches!(&effects[0], Effect::RefuseStop(_)), "{effects:?}");
        match before.record.status {
            Status::Deferred => assert_eq!(effects[1..], [Effect::Delete]),
            _ => assert_eq!(effects[1..], []),
        }
        assert_eq!(bench.state, before);
    }
}

#[test]
fn a_stop_that_is_not_confirmed_is_asked_about_again_and_refused_in_the_end() {
    for mut bench in everywhere() {
        let (activity, record) = (bench.activity(), bench.state.record.clone());
        bench.stop_delivered();
        let mut waited = 0;
        for wait in [5, 10, 20, 40, 80, 160] {
            let again = bench.wakes_in(wait);
            let effects = if wait == 20 { bench.no_answer() } else { bench.answer(OPEN) };
            assert_eq!(effects, [again], "{activity:?}");
            bench.pass(Duration::from_secs(wait));
            waited += wait;
            let effects = bench.feed(Event::Woken);
            assert!(effects.contains(&CONFIRM), "{activity:?}: {effects:?}");
        }
        assert!(Duration::from_secs(waited) > POLICY.stop_takeover_after);
        assert!(matches!(bench.no_answer()[..], [Effect::Wake(_)]), "no answer refuses nothing");
        assert!(matches!(bench.answer(OPEN)[..], [Effect::RefuseStop(_), ..]));
        assert_eq!(bench.state.record, record);
    }
}

#[test]
fn a_stop_of_a_step_that_is_closed_is_what_an_ended_execution_is() {
    for mut bench in everywhere() {
        let (status, activity) = (bench.status(), bench.activity());
        bench.stop_delivered();
        let effects = bench.answer(CLOSED);
        match (status, activity) {
            (Status::New, _) => assert_eq!(effects, ELSEWHERE),
            (_, Activity::Stopping(_)) => assert_eq!(effects, [], "it is ending"),
            (_, Activity::Running) => {
                assert_eq!(
                    effects,
                    [Effect::CountStop(Via::Watch), Effect::Tell(StopReason::PipelineStopped)]
                );
            }
            _ => {
                assert_eq!(
                    effects,
                    [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)]
                );
                assert!(bench.state.record.stop_requested.is_some_and(|stop| stop.closed));
            }
        }
    }
}

#[test]
fn a_step_is_verified_and_its_stop_confirmed_by_whichever_answer_comes() {
    let mut bench = Bench::verifying();
    bench.stop_delivered();
    assert_eq!(bench.delivered(false), [CONFIRM]);
    assert!(matches!(bench.answer(OPEN)[..], [Effect::AwaitSlot, Effect::Wake(_)]));
    let stopped = [Effect::CountStop(Via::Message), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(bench.answer(STOPPING), stopped);

    let mut forged = Bench::verifying();
    forged.delivered(false);
    assert_eq!(forged.stop_delivered(), [CONFIRM]);
    assert!(matches!(forged.no_answer()[..], [Effect::Wake(_)]));
    assert_eq!(forged.feed(Event::StopSeen(Via::Watch)), [], "the execution may have no such step");
    assert_eq!(forged.feed(Event::Woken), [CONFIRM]);
    assert!(matches!(
        forged.answer(Standing::NotFound)[..],
        [Effect::RefuseStop(_), Effect::Refuse(_)]
    ));
    assert_eq!(forged.status(), Status::New);
}

#[test]
fn a_forged_stop_for_an_execution_that_is_stopping_cleans_nothing_up() {
    let mut bench = Bench::verifying();
    bench.stop_delivered();
    assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), []);
    assert!(matches!(bench.answer(Standing::NotFound)[..], [Effect::RefuseStop(_)]));
    assert!(bench.state.local.idle());
}

#[test]
fn a_step_that_sleeps_for_long_is_woken_to_ask_about_a_stop_in_doubt_and_then_sleeps_on() {
    let mut bench = Bench::running();
    bench.policy.verify = Verify::Always;
    assert_eq!(bench.stop_delivered(), [CONFIRM]);
    let soon = bench.wakes_in(5);
    assert_eq!(
        bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(30)))),
        std::slice::from_ref(&soon),
        "not in half an hour"
    );
    let due = bench.state.record.not_before.expect("it waits");
    assert_eq!(bench.feed(Event::Woken), [soon, CONFIRM]);
    assert!(matches!(bench.answer(Standing::NotFound)[..], [Effect::RefuseStop(_)]));
    assert_eq!(bench.feed(Event::Woken), [Effect::Wake(due)]);
}

#[test]
fn a_step_that_defers_while_its_stop_is_in_doubt_keeps_the_message() {
    let mut bench = Bench::running();
    bench.policy.verify = Verify::Always;
    bench.stop_delivered();
    assert_eq!(
        bench.feed(Event::Ended(RunEnd::Deferred)),
        [Effect::Finish(Ending::Deferred), CONFIRM]
    );
    assert_eq!((bench.status(), bench.activity()), (Status::Deferred, Activity::Confirming));
    let again = bench.wakes_in(5);
    assert_eq!(bench.no_answer(), [again]);
    assert_eq!(bench.feed(Event::Woken), [CONFIRM]);
    assert!(matches!(
        bench.answer(Standing::NotFound)[..],
        [Effect::RefuseStop(_), Effect::Delete]
    ));
}

#[test]
fn a_stop_that_the_watch_or_another_worker_has_seen_is_in_doubt_no_longer() {
    for via in [Via::Watch, Via::Ledger] {
        let mut bench = Bench::running();
        bench.policy.verify = Verify::Always;
        bench.stop_delivered();
        let told = [Effect::CountStop(via), Effect::Tell(StopReason::PipelineStopped)];
        assert_eq!(bench.feed(Event::StopSeen(via)), told);
        assert_eq!(bench.state.local.stop_in_doubt, None);
        assert_eq!(bench.feed(Event::Woken), []);
    }
    let mut flagged = Bench::deferred();
    flagged.policy.verify = Verify::Always;
    flagged.stop_delivered();
    flagged.state.record.stop_requested = Some(Stop::open(flagged.now));
    assert_eq!(flagged.feed(Event::Woken), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_run_that_ends_with_its_outcome_while_its_stop_is_in_doubt_is_reported() {
    let mut bench = Bench::running();
    bench.policy.verify = Verify::Always;
    bench.stop_delivered();
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::Report]);
    assert_eq!(
        bench.feed(Event::ReportAccepted),
        [Effect::Finish(Ending::Success), Effect::Delete]
    );
}

#[test]
fn a_deferred_step_whose_execution_seems_to_have_ended_keeps_a_stop_that_is_in_doubt() {
    let mut bench = Bench::deferred();
    bench.policy.verify = Verify::Always;
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.stop_delivered(), [CONFIRM]);
    let again = bench.wakes_in(5);
    assert_eq!(bench.no_answer(), [again]);
    assert_eq!(bench.activity(), Activity::Confirming);
    assert_eq!(bench.feed(Event::Woken), [CONFIRM]);
}
