//! Tests of the consequences of a worker's death for the steps that it ran.

use super::*;

impl Bench {
    fn counts(&self) -> (u32, u32, u32) {
        let record = &self.state.record;
        (record.attempt, record.crashes, record.suspicion)
    }

    /// It has run beside others in two crashes.
    fn suspected() -> Self {
        let mut bench = Self::running();
        for _ in 0..2 {
            bench.crash_judged(Beside::Others);
            bench.started_again();
        }
        assert!(bench.state.record.is_suspected());
        bench
    }
}

#[test]
fn a_handler_that_kills_its_worker_when_it_runs_alone_is_given_up_after_its_attempts() {
    let mut bench = Bench::running();
    for attempt in 2..=3 {
        bench.crash_judged(Beside::Nothing);
        bench.started_again();
        assert_eq!(bench.state.record.attempt, attempt);
    }
    bench.crash_judged(Beside::Nothing);
    assert_eq!(bench.delivered(true), [Effect::Report]);
    let reason = "gave up after 3 attempts: the worker that ran the last one died, and this step \
                  was the only possible cause";
    assert_eq!(bench.reason(), reason);
}

#[test]
fn a_crash_beside_others_is_no_attempt_and_the_second_in_a_row_makes_a_suspect() {
    let mut bench = Bench::running();
    bench.crash_judged(Beside::Others);
    assert!(!bench.state.record.starts_on_trial(&bench.me), "the machine may have lost its power");
    bench.started_again();
    assert_eq!(bench.counts(), (1, 1, 1));
    bench.crash_judged(Beside::Others);
    assert!(bench.state.record.starts_on_trial(&bench.me));
    bench.started_again();
    assert_eq!(bench.counts(), (1, 2, 2));
}

#[test]
fn a_handler_that_kills_its_worker_on_trial_is_given_up_whatever_ran_beside_it() {
    let mut bench = Bench::suspected();
    for attempt in 2..=3 {
        bench.crash_judged(Beside::Others);
        bench.started_again();
        assert_eq!(bench.counts(), (attempt, attempt + 1, 2));
    }
    bench.crash_judged(Beside::Others);
    assert_eq!(bench.delivered(true), [Effect::Report]);
    assert!(
        bench.reason().starts_with("gave up after 3 attempts: the worker"),
        "{}",
        bench.reason()
    );
    assert_eq!(bench.state.record.suspicion, 0, "it is over");
}

#[test]
fn whoever_crashes_before_a_step_is_taken_again_is_not_counted_against_it() {
    for beside in [Beside::Nothing, Beside::Others] {
        let mut bench = Bench::running();
        bench.crash_judged(beside);
        let record = bench.state.record.clone();
        for _ in 0..20 {
            bench.crash_judged(Beside::Nothing);
        }
        assert_eq!(bench.state.record, record);
    }
}

#[test]
fn a_run_that_ends_by_itself_or_goes_on_for_long_enough_is_not_suspected_any_more() {
    for end in [
        RunEnd::Again(Duration::from_mins(1)),
        RunEnd::Retry { after: None, error: "later".into() },
        RunEnd::Deferred,
    ] {
        let mut bench = Bench::suspected();
        bench.feed(Event::Ended(end));
        assert_eq!((bench.state.record.crashes, bench.state.record.suspicion), (2, 0));
    }
    let mut bench = Bench::suspected();
    bench.feed(Event::DeadlineReached);
    assert_eq!(bench.feed(Event::Ended(RunEnd::Aborted)), [Effect::CleanUp(StopReason::TimeLimit)]);
    assert_eq!(bench.counts(), (1, 2, 0), "its cleanup is not tried");
    let mut bench = Bench::suspected();
    assert_eq!(bench.feed(Event::Trusted), []);
    assert_eq!((bench.written, bench.counts()), (Some(Urgency::First), (1, 2, 0)));
    assert_eq!(
        (bench.feed(Event::Trusted), bench.written),
        (vec![], None),
        "nothing is left to write"
    );
    bench.crash_judged(Beside::Others);
    assert_eq!(bench.counts(), (1, 3, 1), "it begins anew");
}

#[test]
fn what_the_machine_hindered_and_what_was_given_back_is_suspected_still() {
    let hindered = RunEnd::Hindered {
        what: "space",
        after: Duration::from_secs(30),
        error: "disk full".into(),
    };
    let mut bench = Bench::suspected();
    bench.feed(Event::Ended(hindered));
    assert!(bench.state.record.is_suspected());
    let mut bench = Bench::suspected();
    bench.enter(Phase::Stopping);
    bench.feed(Event::Ended(RunEnd::Aborted));
    assert!(bench.state.record.is_suspected());
    assert_eq!(
        (bench.status(), bench.counts()),
        (Status::Waiting, (1, 2, 2)),
        "a drain is no crash"
    );
}

#[test]
fn the_more_often_it_has_crashed_the_longer_a_step_runs_until_it_is_trusted() {
    let mut bench = Bench::running();
    let minutes = |crashes, bench: &mut Bench| {
        bench.state.record.crashes = crashes;
        bench.state.record.trusted_after().as_secs() / 60
    };
    assert_eq!(
        [0, 1, 2, 3, 10, 1000].map(|crashes| minutes(crashes, &mut bench)),
        [1, 1, 1, 2, 9, 15]
    );
}

#[test]
fn in_a_shared_ledger_a_claim_that_lapsed_is_tried_before_it_is_charged() {
    let mut bench = Bench::running();
    bench.crash();
    assert!(
        bench.state.record.is_left_behind(&bench.me)
            && !bench.state.record.starts_on_trial(&bench.me)
    );
    bench.started_again();
    assert_eq!(bench.counts(), (1, 1, 1));
    bench.crash();
    assert!(bench.state.record.starts_on_trial(&bench.me), "as it is once it is claimed");
    bench.started_again();
    assert_eq!(bench.counts(), (1, 2, 2));
    for attempt in 2..=3 {
        bench.crash();
        bench.started_again();
        assert_eq!(bench.state.record.attempt, attempt);
    }
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Report]);
}

#[test]
fn nothing_crashes_for_ever_neither_a_run_nor_a_cleanup() {
    let mut bench = Bench::running();
    while bench.state.record.outcome.is_none() {
        assert!(bench.state.record.crashes < 30);
        bench.feed(Event::Trusted);
        bench.crash_judged(Beside::Others);
        if bench.delivered(true) == [Effect::AwaitSlot] {
            bench.feed(Event::SlotFree);
        }
    }
    assert_eq!(bench.reason(), "gave up: the worker died 30 times while running this step");

    for beside in [Beside::Nothing, Beside::Others] {
        let mut bench = Bench::running();
        bench.stop_delivered();
        assert_eq!(
            bench.feed(Event::Ended(RunEnd::Aborted)),
            [Effect::CleanUp(StopReason::PipelineStopped)]
        );
        while bench.state.record.outcome.is_none() {
            assert!(bench.state.record.crashes < 30);
            bench.crash_judged(beside);
            bench.delivered(true);
        }
        assert_eq!(bench.activity(), Activity::Reporting);
        let reason = "the pipeline was stopped; the cleanup failed: the worker died 30 times while \
                      running this step";
        assert_eq!(bench.reason(), reason);
    }
}
