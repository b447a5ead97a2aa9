//! Tests of how runs end.

use super::*;

#[test]
fn an_outcome_is_frozen_before_it_is_sent_and_survives_a_crash() {
    let mut bench = Bench::concluded();
    let frozen =
        (bench.state.record.outcome.clone(), bench.state.record.client_request_token.clone());
    assert!(frozen.0.is_some() && frozen.1.is_some());
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Report]);
    assert_eq!(
        (bench.state.record.outcome.clone(), bench.state.record.client_request_token.clone()),
        frozen
    );
    assert_eq!(
        bench.feed(Event::ReportAccepted),
        [Effect::Finish(Ending::Success), Effect::Delete]
    );
    assert_eq!(bench.status(), Status::Settled);
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Delete]);
}

#[test]
fn an_error_is_tried_again_after_a_growing_wait_and_then_fails_the_step() {
    let mut bench = Bench::running();
    let error = || Event::Ended(RunEnd::Retry { after: None, error: "no route".into() });
    for (attempt, wait) in [(1, 10), (2, 20)] {
        assert_eq!(bench.state.record.attempt, attempt);
        let at = machine::later(bench.now, Duration::from_secs(wait));
        assert_eq!(bench.feed(error()), [Effect::Wake(at)]);
        assert_eq!(bench.status(), Status::Waiting);
        bench.pass(Duration::from_secs(wait));
        assert_eq!(bench.feed(Event::Woken), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    }
    assert_eq!(bench.feed(error()), [Effect::Report]);
    assert_eq!(bench.reason(), "gave up after 3 attempts: no route");
}

#[test]
fn a_job_that_is_not_done_yet_counts_no_attempt_but_its_time_limit_runs_on() {
    let mut bench = Bench::running();
    for _ in 0..10 {
        bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(5))));
        bench.pass(Duration::from_mins(5));
        assert_eq!(bench.feed(Event::Woken), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        assert_eq!(bench.state.record.attempt, 1);
    }
    bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(30))));
    bench.pass(Duration::from_mins(10));
    assert_eq!(bench.feed(Event::DeadlineReached), [Effect::CleanUp(StopReason::TimeLimit)]);
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
    assert_eq!(bench.reason(), "the time limit of 1h was reached");
}

fn hindered(seconds: u64) -> Event {
    let after = Duration::from_secs(seconds);
    Event::Ended(RunEnd::Hindered {
        what: "program",
        after,
        error: "the program is not there".into(),
    })
}

#[test]
fn a_run_that_the_machine_hinders_counts_no_attempt_but_its_time_limit_runs_on() {
    let mut bench = Bench::running();
    for _ in 0..50 {
        let at = machine::later(bench.now, Duration::from_secs(30));
        assert_eq!(bench.feed(hindered(30)), [Effect::Wake(at)]);
        bench.pass(Duration::from_secs(30));
        assert_eq!(bench.feed(Event::Woken), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        assert_eq!(bench.state.record.attempt, 1);
    }
    bench.feed(hindered(3600));
    bench.pass(Duration::from_mins(35));
    assert_eq!(bench.feed(Event::DeadlineReached), [Effect::CleanUp(StopReason::TimeLimit)]);
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
    assert_eq!(
        bench.reason(),
        "the time limit of 1h was reached before it could be started: the program is not there"
    );
}

#[test]
fn a_step_that_ran_in_the_end_does_not_blame_the_machine_for_its_time_limit() {
    let mut bench = Bench::running();
    bench.feed(hindered(1));
    bench.pass(Duration::from_secs(1));
    bench.feed(Event::Woken);
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    bench.pass(Duration::from_hours(1));
    bench.feed(Event::DeadlineReached);
    bench.feed(Event::Ended(RunEnd::Retry { after: None, error: "told".into() }));
    bench.feed(Event::Cleaned(Ok(())));
    assert_eq!(bench.reason(), "the time limit of 1h was reached");
}

#[test]
fn a_hindered_step_that_is_new_here_is_given_back_where_another_worker_may_take_it() {
    let mut bench = Bench::running();
    bench.policy.alone = false;
    assert_eq!(bench.feed(hindered(30)), [Effect::Return]);
    assert_eq!((bench.status(), bench.state.record.attempt), (Status::Waiting, 1));
    // It is not tried again here too early, however often its message comes back.
    let at = machine::later(bench.now, Duration::from_secs(30));
    assert_eq!(bench.delivered(true), [Effect::Wake(at)]);

    // What it has done is known only in this ledger.
    let mut bench = Bench::running();
    bench.policy.alone = false;
    bench.feed(Event::Checkpoint("job-7".into()));
    assert!(matches!(bench.feed(hindered(30))[..], [Effect::Wake(_)]));
}

#[test]
fn a_hindered_run_that_was_told_to_end_is_what_the_order_was() {
    let mut bench = Bench::running();
    bench.feed(Event::StopSeen(Via::Watch));
    assert_eq!(bench.feed(hindered(30)), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_deferred_step_lets_go_of_its_message_only_once_that_is_recorded() {
    let mut bench = Bench::running();
    let effects = bench.feed(Event::Ended(RunEnd::Deferred));
    assert_eq!(effects, [Effect::Finish(Ending::Deferred), Effect::Delete]);
    assert_eq!(bench.status(), Status::Deferred);
    bench.pass(Duration::from_hours(24));
    assert_eq!(bench.feed(Event::Found), [Effect::Report]);
    assert_eq!(bench.reason(), "nobody completed the deferred step within 1d");
}

#[test]
fn a_run_that_ends_by_itself_within_its_grace_keeps_its_outcome() {
    let mut bench = Bench::running();
    bench.feed(Event::Delivered(Arrival::Stop));
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::Report]);
    assert_eq!(bench.state.record.outcome, Some(Outcome::Success(Outputs::new())));
}

#[test]
fn a_run_that_ends_while_another_worker_flags_its_stop_is_cleaned_up_after_unless_it_has_an_outcome()
 {
    let retry = RunEnd::Retry { after: None, error: "no route".into() };
    for end in [retry, RunEnd::Again(Duration::from_secs(1)), RunEnd::Aborted, RunEnd::Deferred] {
        let mut bench = Bench::running();
        bench.state.record.attempt = POLICY.max_attempts;
        bench.state.record.stop_requested = Some(Stop::open(bench.now));
        assert_eq!(
            bench.feed(Event::Ended(end.clone())),
            [Effect::CleanUp(StopReason::PipelineStopped)],
            "{end:?}"
        );
    }
    let mut bench = Bench::running();
    bench.state.record.stop_requested = Some(Stop::open(bench.now));
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::Report]);
    assert_eq!(bench.state.record.ending, Some(Ending::Success));
}

#[test]
fn a_checkpoint_is_kept_for_the_next_attempt() {
    let mut bench = Bench::running();
    bench.feed(Event::Checkpoint(json!({"job": 7})));
    bench.crash();
    bench.delivered(true);
    bench.feed(Event::SlotFree);
    assert_eq!(bench.state.record.checkpoint, Some(Arc::new(json!({"job": 7}))));
}

#[test]
fn a_checkpoint_of_a_run_whose_claim_is_anothers_is_refused() {
    let mut bench = Bench::running();
    bench.state.record.owner = Some(WorkerId("other".into()));
    assert!(bench.try_feed(&Event::Checkpoint(json!(1))).is_err());
}

#[test]
fn a_deferral_has_a_limit_of_its_own() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Deferred));
    assert_eq!(bench.state.record.deadline, Some(machine::later(bench.now, POLICY.deferred_limit)));
}

#[test]
fn a_run_that_finishes_after_its_execution_has_ended_is_settled_without_a_report() {
    let mut bench = Bench::running();
    bench.feed(Event::SeenEnded { stopped: false });
    assert_eq!(bench.answer(CLOSED)[1..], [Effect::Tell(StopReason::PipelineStopped)]);
    let settled = ELSEWHERE;
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), settled);
}

#[test]
fn what_the_ledger_has_frozen_without_saying_so_is_reported_whatever_has_come_since() {
    let retry = RunEnd::Retry { after: None, error: "no route".into() };
    for end in [
        RunEnd::Success(Outputs::new()),
        retry,
        RunEnd::Again(Duration::ZERO),
        RunEnd::Deferred,
        RunEnd::Aborted,
    ] {
        let mut bench = Bench::running();
        bench.enter(Phase::Stopping);
        let concluded = Bench::concluded().state.record;
        bench.state.record = concluded.clone();
        assert_eq!(bench.feed(Event::Ended(end)), [Effect::Report]);
        assert_eq!(bench.state.record, concluded);
    }
    for event in [Event::Cleaned(Ok(())), Event::CleanupAborted] {
        let mut bench = Bench::concluded();
        bench.state.local.activity = Activity::Cleaning(StopReason::TimeLimit);
        assert_eq!(bench.feed(event), [Effect::Report]);
        assert_eq!(bench.state.record, Bench::concluded().state.record);
    }
}
