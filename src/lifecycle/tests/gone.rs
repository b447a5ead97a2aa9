//! Tests of a step whose handler is not configured any more: no other handler continues it, and no
//! cleanup is omitted silently.

use super::*;

const GONE: &str = "its handler `h` is not configured any more";

/// The step was begun, and the next process has no such handler.
fn begun(mut bench: Bench) -> Bench {
    bench.crash();
    bench.policy.handler_is_gone = true;
    bench.policy.time_limit = Duration::ZERO;
    bench.policy.deferred_limit = Duration::ZERO;
    bench
}

fn held() -> Bench {
    let mut bench = begun(Bench::running());
    assert!(matches!(bench.delivered(true)[..], [Effect::Wake(_)]));
    bench
}

#[test]
fn it_waits_for_its_handler_and_goes_on_with_it() {
    let mut bench = held();
    assert_eq!(
        (bench.status(), bench.activity(), bench.state.record.attempt),
        (Status::Waiting, Activity::Sleeping, 1)
    );
    assert_eq!(bench.state.record.last_error.as_deref(), Some(GONE));
    let before = bench.state.record.clone();
    assert!(matches!(bench.feed(Event::Woken)[..], [Effect::Wake(_)]));
    assert_eq!(bench.state.record, before, "nothing is written again");
    bench.crash();
    bench.policy = POLICY;
    assert_eq!(bench.delivered(true), [Effect::AwaitSlot]);
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
}

#[test]
fn a_stop_is_answered_at_once_and_says_that_nothing_was_cleaned_up() {
    for mut bench in [held(), begun(Bench::running()), begun(Bench::deferred())] {
        let effects = bench.stop_delivered();
        assert_eq!(effects, [Effect::CountStop(Via::Message), Effect::Report]);
        let reason = bench.reason();
        assert!(
            reason.contains("the pipeline was stopped; the cleanup failed")
                && reason.contains(GONE),
            "{reason}"
        );
    }
    let mut closed = held();
    assert_eq!(closed.feed(Event::SeenEnded { stopped: false }), [ASK]);
    let effects = closed.answer(CLOSED);
    assert_eq!(effects[1..], ELSEWHERE);
}

#[test]
fn its_limits_end_it_and_name_the_handler() {
    let mut bench = held();
    bench.pass(POLICY.time_limit);
    assert_eq!(bench.feed(Event::DeadlineReached), [Effect::Report]);
    assert!(
        bench.reason().contains("the time limit was reached") && bench.reason().contains(GONE),
        "{}",
        bench.reason()
    );
    let mut deferred = begun(Bench::deferred());
    deferred.pass(POLICY.deferred_limit);
    assert_eq!(deferred.feed(Event::Found), [Effect::Report]);
    assert!(deferred.reason().contains(GONE), "{}", deferred.reason());
}
