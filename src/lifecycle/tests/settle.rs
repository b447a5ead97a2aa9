//! Tests of reports, and of what settles a step.

use super::*;

#[test]
fn a_refused_report_settles_the_step_only_if_it_is_closed() {
    let mut bench = Bench::concluded();
    let request = bench.state.record.client_request_token.clone();
    for wait in [2, 4, 8, 16, 32] {
        assert_eq!(bench.feed(Event::ReportRefused("Conflict".into())), [ASK]);
        let at = machine::later(bench.now, Duration::from_secs(wait));
        assert_eq!(bench.answer(OPEN), [Effect::Wake(at)]);
        assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
        assert_eq!(bench.state.record.client_request_token, request);
    }
    bench.feed(Event::ReportRefused("Conflict".into()));
    let effects = bench.answer(Standing::Closed(StepResult::Succeeded));
    assert_eq!(effects, [Effect::Finish(Ending::Success), Effect::Delete]);
}

#[test]
fn a_settled_step_says_how_and_when_it_ended_and_waits_for_nothing() {
    let mut bench = Bench::running();
    bench.feed(Event::SeenEnded { stopped: false });
    bench.answer(CLOSED);
    bench.pass(Duration::from_secs(5));
    bench.feed(Event::Ended(RunEnd::Failure("no".into())));
    let record = &bench.state.record;
    assert_eq!(
        (record.ending, record.settled_at),
        (Some(Ending::SettledElsewhere), Some(bench.now))
    );
    assert_eq!((record.not_before, record.deadline, &record.owner), (None, None, &None));
}

#[test]
fn a_settled_step_keeps_no_arguments_and_no_checkpoint_and_may_wait_for_company() {
    let mut bench = Bench::running();
    bench.feed(Event::Checkpoint(json!({"job": 7})));
    bench.feed(Event::Ended(RunEnd::Success(Outputs::new())));
    assert_eq!(bench.written, Some(Urgency::First));
    bench.feed(Event::ReportAccepted);
    assert_eq!(bench.written, Some(Urgency::Lazy));
    assert_eq!(
        (&*bench.state.record.arguments, &bench.state.record.checkpoint),
        (&Value::Null, &None)
    );
}

#[test]
fn a_report_that_fails_is_sent_again_ever_more_slowly_and_most_slowly_without_permission() {
    for (denied, waits) in [(false, [0.5, 1.0, 2.0, 4.0]), (true, [5.0, 10.0, 20.0, 40.0])] {
        let mut bench = Bench::concluded();
        let record = bench.state.record.clone();
        for wait in waits {
            let at = machine::later(bench.now, Duration::from_secs_f64(wait));
            assert_eq!(
                bench.feed(Event::ReportFailed { denied, detail: "no".into() }),
                [Effect::Wake(at)]
            );
            assert_eq!(bench.activity(), Activity::Sleeping);
            assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
        }
        assert_eq!(bench.state.record, record, "it costs no write");
    }
}

#[test]
fn a_report_that_fails_never_waits_for_longer_than_a_minute_for_lack_of_an_answer() {
    let mut bench = Bench::concluded();
    for _ in 0..20 {
        bench.feed(Event::ReportFailed { denied: false, detail: "throttled".into() });
        bench.feed(Event::Woken);
    }
    let slowest = bench.wakes_in(60);
    assert_eq!(
        bench.feed(Event::ReportFailed { denied: false, detail: "throttled".into() }),
        [slowest]
    );
}

#[test]
fn after_every_fifth_denial_it_is_asked_where_the_step_stands_and_closed_is_settled() {
    let denied = || Event::ReportFailed { denied: true, detail: "AccessDenied".into() };
    let mut bench = Bench::concluded();
    for round in [80, 300] {
        for _ in 0..4 {
            assert!(matches!(bench.feed(denied())[..], [Effect::Wake(_)]));
            assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
        }
        assert_eq!(bench.feed(denied()), [ASK]);
        assert_eq!(bench.activity(), Activity::CheckingRefusal);
        assert_eq!(bench.state.record.last_error.as_deref(), Some("AccessDenied"));
        let slow = bench.wakes_in(round);
        let effects = if round == 80 { bench.answer(OPEN) } else { bench.no_answer() };
        assert_eq!(effects, [slow], "it goes on backing off");
        bench.feed(Event::Woken);
    }
    for _ in 0..4 {
        bench.feed(denied());
        bench.feed(Event::Woken);
    }
    assert_eq!(bench.feed(denied()), [ASK]);
    assert_eq!(bench.answer(CLOSED), ELSEWHERE);
}

/// A report is refused, and SageMaker does not find the step.
fn not_found(bench: &mut Bench) -> Vec<Effect> {
    assert_eq!(bench.feed(Event::ReportRefused("ResourceNotFound".into())), [ASK]);
    bench.answer(Standing::NotFound)
}

#[test]
fn a_step_of_a_refused_report_that_is_not_found_counts_as_closed_only_after_long() {
    let mut bench = Bench::concluded();
    let since = bench.now;
    for wait in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        let again = bench.wakes_in(wait);
        assert_eq!(not_found(&mut bench), [Effect::Missing, again]);
        assert_eq!(
            (bench.status(), bench.state.record.missing_since),
            (Status::Concluded, Some(since))
        );
        bench.pass(Duration::from_secs(wait));
        assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
    }
    let gone = machine::later(since, POLICY.gone_after);
    while machine::later(bench.now, Duration::from_mins(5)) < gone {
        assert!(matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]));
        bench.pass(Duration::from_mins(5));
        bench.feed(Event::Woken);
    }
    assert!(matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]));
    bench.now = gone;
    bench.crash();
    assert_eq!(bench.feed(Event::Found), [Effect::Report]);
    assert_eq!(not_found(&mut bench), ELSEWHERE, "also in another life");
}

#[test]
fn time_in_which_sagemaker_was_not_asked_makes_no_step_gone() {
    let mut bench = Bench::concluded();
    assert!(matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]));
    bench.crash();
    bench.pass(POLICY.gone_after * 2);
    bench.feed(Event::Found);
    assert!(matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]));
    assert_eq!(bench.state.record.missing_since, Some(bench.now), "it begins anew");
}

#[test]
fn being_found_once_or_not_being_answered_makes_a_step_no_more_missing() {
    let mut bench = Bench::concluded();
    not_found(&mut bench);
    bench.pass(POLICY.gone_after);
    bench.feed(Event::Woken);
    bench.feed(Event::ReportRefused("Conflict".into()));
    bench.no_answer();
    assert_eq!(bench.status(), Status::Concluded, "no answer says nothing");
    assert!(bench.state.record.missing_since.is_some());
    bench.feed(Event::Woken);
    bench.feed(Event::ReportRefused("Conflict".into()));
    bench.answer(OPEN);
    assert_eq!(bench.state.record.missing_since, None);
    bench.feed(Event::Woken);
    assert!(
        matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]),
        "it begins anew"
    );
}

#[test]
fn a_step_is_never_gone_for_a_lane_that_looks_in_another_account() {
    let mut bench = Bench::concluded();
    bench.own_account = false;
    assert!(matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]));
    assert_eq!(bench.state.record.missing_since, None, "it was not looked for where it would be");
    bench.state.record.missing_since = Some(bench.now);
    bench.pass(POLICY.gone_after * 2);
    bench.feed(Event::Woken);
    assert!(matches!(not_found(&mut bench)[..], [Effect::Missing, Effect::Wake(_)]));
    assert_eq!(bench.status(), Status::Concluded);
}

#[test]
fn what_another_worker_has_settled_meanwhile_is_not_settled_again() {
    let late: [fn(&mut Bench) -> Vec<Effect>; 4] = [
        |bench| bench.feed(Event::ReportAccepted),
        |bench| bench.feed(Event::ReportRefused("Conflict".into())),
        |bench| bench.feed(Event::ReportFailed { denied: true, detail: "no".into() }),
        |bench| {
            bench.state.local.activity = Activity::CheckingRefusal;
            bench.answer(CLOSED)
        },
    ];
    for late in late {
        let mut bench = Bench::concluded();
        bench.state.record.status = Status::Settled;
        assert_eq!(late(&mut bench), [Effect::Delete]);
        assert_eq!(bench.written, None);
    }
}

#[test]
fn a_report_that_is_refused_at_last_waits_as_refused_ones_do_whatever_came_before() {
    let mut bench = Bench::concluded();
    for _ in 0..4 {
        bench.feed(Event::ReportFailed { denied: true, detail: "AccessDenied".into() });
        bench.feed(Event::Woken);
    }
    bench.feed(Event::ReportRefused("Conflict".into()));
    let soon = bench.wakes_in(2);
    assert_eq!(bench.answer(OPEN), [soon]);
}
