//! Tests of a worker that leaves, or loses its claim.

use super::*;

#[test]
fn a_shutdown_releases_a_run_without_failing_it_or_counting_its_attempt() {
    let mut bench = Bench::running();
    assert_eq!(bench.enter(Phase::Draining), []);
    assert_eq!(bench.enter(Phase::Stopping), [Effect::Tell(StopReason::Shutdown)]);
    assert_eq!(bench.feed(Event::GraceOver), [Effect::Abort]);
    assert_eq!(bench.feed(Event::Ended(RunEnd::Aborted)), [Effect::Return]);
    assert_eq!((bench.status(), bench.state.record.owner.clone()), (Status::Waiting, None));
    bench.crash();
    bench.delivered(true);
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!(bench.state.record.attempt, 1);
}

#[test]
fn a_lost_lease_cancels_the_run_and_writes_nothing() {
    let mut bench = Bench::running();
    let before = bench.state.record.clone();
    assert_eq!(bench.feed(Event::LeaseLost), [Effect::Tell(StopReason::LeaseLost)]);
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::LetGo]);
    assert_eq!(bench.state.record, before);
}

#[test]
fn a_cleanup_whose_lease_is_lost_is_dropped_and_left_to_another_worker() {
    for end in [Event::CleanupAborted, Event::Cleaned(Ok(()))] {
        let mut bench = Bench::running();
        bench.state.record.deadline = Some(bench.now);
        bench.feed(Event::DeadlineReached);
        bench.feed(Event::Ended(RunEnd::Aborted));
        let record = bench.state.record.clone();
        assert_eq!(bench.feed(Event::LeaseLost), [Effect::Abort]);
        assert_eq!(bench.feed(end), [Effect::LetGo]);
        assert_eq!((bench.state.local.activity, &bench.state.record), (Activity::Idle, &record));
    }
}

#[test]
fn a_worker_that_leaves_waits_for_no_cleanup_whose_lease_is_lost() {
    let mut bench = Bench::running();
    bench.feed(Event::Delivered(Arrival::Stop));
    bench.feed(Event::Ended(RunEnd::Aborted));
    let before = bench.state.record.clone();
    bench.feed(Event::LeaseLost);
    assert_eq!(bench.enter(Phase::Leaving), [Effect::Abort]);
    assert_eq!(bench.feed(Event::CleanupAborted), [Effect::LetGo]);
    assert_eq!(bench.state.record, before);
}

#[test]
fn a_run_that_a_shutdown_finds_waiting_or_deferring_is_taken_at_its_word() {
    let shut_down = |end| {
        let mut bench = Bench::running();
        bench.enter(Phase::Stopping);
        let effects = bench.feed(Event::Ended(end));
        (bench, effects)
    };
    let (bench, effects) = shut_down(RunEnd::Deferred);
    assert_eq!(
        (bench.status(), effects),
        (Status::Deferred, vec![Effect::Finish(Ending::Deferred), Effect::Delete])
    );
    let wait = Duration::from_mins(5);
    let (bench, effects) = shut_down(RunEnd::Again(wait));
    assert_eq!((bench.status(), effects), (Status::Waiting, vec![Effect::Return]));
    assert_eq!(bench.state.record.not_before, Some(machine::later(bench.now, wait)));
    assert!(bench.state.record.resume, "it counts as no attempt");
}

#[test]
fn a_worker_that_leaves_at_once_aborts_what_runs_and_lets_go_of_what_is_not_taken() {
    assert_eq!(
        Bench::running().enter(Phase::Leaving),
        [Effect::Tell(StopReason::Shutdown), Effect::Abort]
    );
    let mut cleaning = Bench::running();
    cleaning.feed(Event::StopSeen(Via::Message));
    cleaning.feed(Event::Ended(RunEnd::Aborted));
    assert_eq!(cleaning.enter(Phase::Leaving), [Effect::Abort]);
    let mut refused = Bench::concluded();
    refused.feed(Event::ReportRefused("Conflict".into()));
    assert_eq!(refused.state.record.last_error.as_deref(), Some("Conflict"));
    refused.answer(OPEN);
    assert_eq!(
        refused.enter(Phase::Leaving),
        [Effect::LetGo],
        "another ledger's worker would compute it again"
    );
    let mut waiting = Bench::running();
    waiting.feed(Event::Ended(RunEnd::Again(Duration::from_mins(5))));
    assert_eq!(waiting.enter(Phase::Leaving), [Effect::Return]);
}

#[test]
fn what_is_frozen_as_the_worker_leaves_is_sent_once() {
    let failed = Event::ReportFailed { denied: false, detail: "throttled".into() };
    for (end, wants) in [
        (Event::ReportAccepted, vec![Effect::Finish(Ending::Success), Effect::Delete]),
        (failed, vec![Effect::LetGo]),
        (Event::ReportRefused("Conflict".into()), vec![Effect::LetGo]),
    ] {
        let mut under_way = Bench::concluded();
        assert_eq!(under_way.enter(Phase::Leaving), []);
        assert_eq!(under_way.feed(end), wants);
        assert_eq!(under_way.state.local.activity, Activity::Idle);
    }
    let mut cleaning = Bench::running();
    cleaning.feed(Event::StopSeen(Via::Message));
    cleaning.feed(Event::Ended(RunEnd::Aborted));
    cleaning.enter(Phase::Leaving);
    assert_eq!(
        cleaning.feed(Event::Cleaned(Ok(()))),
        [Effect::Report],
        "it ended as it was to be dropped"
    );
}

#[test]
fn a_deferral_at_a_shutdown_does_not_outweigh_a_stop_that_another_worker_has_flagged() {
    let mut bench = Bench::running();
    bench.enter(Phase::Stopping);
    bench.state.record.stop_requested = Some(Stop::open(bench.now));
    assert_eq!(
        bench.feed(Event::Ended(RunEnd::Deferred)),
        [Effect::CleanUp(StopReason::PipelineStopped)]
    );
}

#[test]
fn once_the_worker_drains_nothing_is_started_waited_for_or_asked_about() {
    let asking = |event| {
        let mut bench = Bench::deferred();
        assert_eq!(bench.feed(event), [ASK]);
        bench
    };
    let mut verifying = Bench::new();
    verifying.delivered(true);
    let mut unverified = Bench::verifying();
    unverified.delivered(false);
    unverified.no_answer();
    let mut sleeping = Bench::running();
    sleeping.feed(Event::Ended(RunEnd::Again(Duration::from_mins(5))));
    let mut owed = Bench::new();
    owed.stop_delivered();
    let mut resuming = Bench::running();
    resuming.crash();
    resuming.feed(Event::Found);
    let mut reopening = Bench::settled();
    reopening.feed(work(1, sent_at(5)));
    let benches = [
        Bench::queued(),
        verifying,
        unverified,
        sleeping,
        owed,
        resuming,
        reopening,
        asking(Event::SeenEnded { stopped: false }),
        asking(Event::StopSeen(Via::Watch)),
    ];
    for mut bench in benches {
        let before = bench.state.clone();
        assert_eq!(bench.enter(Phase::Draining), [Effect::Return], "{:?}", before.local);
        assert_eq!((&bench.state.record, bench.state.local), (&before.record, Local::NOTHING));
    }
}

#[test]
fn what_would_start_while_the_worker_drains_is_given_back_whatever_comes_first() {
    for phase in [Phase::Draining, Phase::Stopping, Phase::Leaving] {
        let at = |mut bench: Bench| {
            bench.phase = phase;
            bench
        };
        let mut slot = at(Bench::queued());
        assert_eq!(
            (slot.feed(Event::SlotFree), slot.status()),
            (vec![Effect::Return], Status::New)
        );
        let mut message = at(Bench::new());
        assert_eq!(
            (message.delivered(false), message.status()),
            (vec![Effect::Return], Status::New)
        );
        let mut stop = at(Bench::new());
        assert_eq!((stop.stop_delivered(), stop.status()), (vec![Effect::Return], Status::New));
        let mut found = Bench::running();
        found.crash();
        assert_eq!(at(found).feed(Event::Found), [Effect::Return]);
    }
}

#[test]
fn a_run_that_ends_while_the_worker_drains_is_not_begun_again() {
    let ends = [
        RunEnd::Again(Duration::from_mins(5)),
        RunEnd::Retry { after: None, error: "no route".into() },
    ];
    for (end, error) in ends.into_iter().zip([None, Some("no route")]) {
        let mut bench = Bench::running();
        assert_eq!(bench.enter(Phase::Draining), []);
        assert_eq!(bench.feed(Event::Ended(end)), [Effect::Return]);
        assert_eq!((bench.status(), &bench.state.record.owner), (Status::Waiting, &None));
        assert!(bench.state.record.not_before.is_some());
        assert_eq!(bench.state.record.last_error.as_deref(), error);
    }
}

#[test]
fn a_run_is_told_of_the_shutdown_by_whatever_comes_first() {
    for event in [Event::Phase, Event::Woken, Event::Found, Event::SeenEnded { stopped: false }] {
        let mut bench = Bench::running();
        bench.phase = Phase::Stopping;
        let effects = bench.feed(event.clone());
        assert_eq!(effects.last(), Some(&Effect::Tell(StopReason::Shutdown)), "{event:?}");
        assert_eq!(bench.feed(Event::Phase), [], "once");
    }
}

#[test]
fn a_run_is_not_told_of_the_shutdown_by_what_waits_for_the_ledger() {
    let mut bench = Bench::running();
    bench.phase = Phase::Stopping;
    assert_eq!(
        (bench.feed(Event::Checkpoint(json!(1))), bench.activity()),
        (vec![], Activity::Running)
    );
    assert_eq!(bench.feed(Event::Phase), [Effect::Tell(StopReason::Shutdown)]);
}

#[test]
fn a_stopped_run_is_cleaned_up_after_until_the_worker_leaves() {
    let mut bench = Bench::running();
    bench.stop_delivered();
    assert_eq!(bench.enter(Phase::Stopping), []);
    assert_eq!(
        bench.feed(Event::Ended(RunEnd::Aborted)),
        [Effect::CleanUp(StopReason::PipelineStopped)]
    );
    assert_eq!(bench.enter(Phase::Leaving), [Effect::Abort]);
    assert_eq!(bench.feed(Event::CleanupAborted), [Effect::Return]);
    assert!(bench.status() == Status::Waiting && bench.state.record.stop_requested.is_some());
}

#[test]
fn a_cleanup_that_would_begin_as_the_worker_leaves_is_left_to_the_next_with_the_stop_on_record() {
    let leave = |mut bench: Bench, event| {
        bench.phase = Phase::Leaving;
        assert_eq!(bench.feed(event), [Effect::Return]);
        bench
    };
    let bench = leave(Bench::deferred(), Event::Delivered(Arrival::Stop));
    assert_eq!(bench.status(), Status::Deferred);
    assert!(bench.state.record.stop_requested.is_some() && bench.state.record.owner.is_none());
    let mut died = Bench::running();
    died.crash();
    let bench = leave(died, Event::Delivered(Arrival::Stop));
    assert_eq!(bench.status(), Status::Waiting);
    assert!(bench.state.record.stop_requested.is_some() && bench.state.record.owner.is_none());
}

#[test]
fn a_concluded_step_is_reported_again_until_the_worker_leaves() {
    let fails = || Event::ReportFailed { denied: false, detail: "throttled".into() };
    let mut bench = Bench::running();
    bench.enter(Phase::Stopping);
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::Report]);
    assert!(matches!(bench.feed(fails())[..], [Effect::Wake(_)]));
    assert_eq!(bench.feed(Event::Phase), []);
    assert_eq!(bench.enter(Phase::Leaving), [Effect::LetGo]);
    let mut late = Bench::running();
    late.phase = Phase::Leaving;
    assert_eq!(late.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::Report]);
    assert_eq!((late.feed(fails()), late.status()), (vec![Effect::LetGo], Status::Concluded));
}

#[test]
fn a_stopped_run_that_defers_as_the_worker_leaves_keeps_its_stop_and_its_messages() {
    let mut bench = Bench::running();
    bench.stop_delivered();
    bench.enter(Phase::Leaving);
    assert_eq!(bench.feed(Event::Ended(RunEnd::Deferred)), [Effect::Return]);
    assert!(bench.status() == Status::Waiting && bench.state.record.stop_requested.is_some());
}

#[test]
fn what_runs_is_not_dropped_by_what_waits_for_the_ledger() {
    let mut bench = Bench::running();
    bench.phase = Phase::Leaving;
    assert_eq!(
        (bench.feed(Event::Checkpoint(json!(1))), bench.activity()),
        (vec![], Activity::Running)
    );
    assert_eq!(bench.feed(Event::Phase), [Effect::Tell(StopReason::Shutdown), Effect::Abort]);
}

#[test]
fn a_run_whose_lease_is_lost_is_let_go_of_also_where_its_outcome_was_frozen() {
    let mut bench = Bench::running();
    bench.feed(Event::LeaseLost);
    bench.state.record = Bench::concluded().state.record;
    assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::LetGo]);
}
