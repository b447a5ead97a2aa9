//! Tests of what SageMaker is asked, and what its answers decide.

use super::*;

#[test]
fn a_redelivered_step_that_the_ledger_does_not_know_is_asked_about_first() {
    for (answer, effects, status) in [
        (OPEN, vec![Effect::AwaitSlot], Status::New),
        (Standing::NotFound, vec![Effect::AwaitSlot], Status::New),
        (CLOSED, ELSEWHERE.to_vec(), Status::Settled),
        (
            Standing::Open { stopping: true, queue_url: None },
            vec![Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)],
            Status::Claimed,
        ),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.delivered(true), [ASK]);
        assert_eq!(bench.answer(answer.clone()), effects, "{answer:?}");
        assert_eq!(bench.status(), status, "{answer:?}");
    }
}

#[test]
fn a_step_that_waits_on_another_queue_is_refused_and_one_that_waits_on_its_own_is_run() {
    let waits_on = |queue_url: &str| {
        let mut bench = Bench::new();
        bench.delivered(true);
        let effects =
            bench.answer(Standing::Open { stopping: false, queue_url: queue_url.parse().ok() });
        (bench, effects)
    };
    let (bench, effects) = waits_on("https://sqs.us-east-1.amazonaws.com/123456789012/r");
    assert!(matches!(&effects[..], [Effect::Refuse(_)]));
    assert_eq!(bench.status(), Status::New);
    let (_, effects) = waits_on("https://queue.amazonaws.com/123456789012/q");
    assert_eq!(effects, [Effect::AwaitSlot]);
}

#[test]
fn a_step_that_sagemaker_does_not_find_goes_on() {
    let mut bench = Bench::running();
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.answer(Standing::NotFound), []);
    assert_eq!(bench.state.local.activity, Activity::Running);
    let mut bench = Bench::deferred();
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(bench.answer(Standing::NotFound), [Effect::Delete]);
    assert_eq!(bench.status(), Status::Deferred);
}

#[test]
fn a_stop_that_another_worker_answered_while_sagemaker_was_asked_is_let_go() {
    let mut bench = Bench::new();
    bench.feed(Event::Delivered(Arrival::Stop));
    bench.state.record.status = Status::Settled;
    assert_eq!(bench.answer(CLOSED), [Effect::Delete]);

    let mut bench = Bench::new();
    assert_eq!(bench.delivered(true), [ASK]);
    bench.state.record.status = Status::Settled;
    assert_eq!(bench.answer(Standing::Open { stopping: true, queue_url: None }), [Effect::Delete]);
}

#[test]
fn a_step_found_closed_that_another_worker_has_taken_meanwhile_is_left_to_that_one() {
    let mut bench = Bench::new();
    bench.delivered(true);
    bench.state.record =
        Record { owner: Some(WorkerId("other".into())), ..Bench::running().state.record };
    let until = machine::later(bench.now, LEASE);
    bench.foreign = Lease::Until(until);
    assert_eq!(bench.answer(CLOSED), [Effect::Wake(until)]);
}
