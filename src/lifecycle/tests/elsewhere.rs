//! Tests of steps that someone else answers while this ledger has them, and of those that their
//! own handler answers.

use super::*;

const SUCCEEDED: Standing = Standing::Closed(StepResult::Succeeded);
const FAILED: Standing = Standing::Closed(StepResult::Failed);
const BY_HANDLER: [Effect; 2] = [Effect::Finish(Ending::AnsweredByHandler), Effect::Delete];

fn retry() -> RunEnd {
    RunEnd::Retry { after: None, error: "no route".into() }
}

fn success() -> Event {
    Event::Ended(RunEnd::Success(Outputs::new()))
}

/// Steps that have run and wait: for the next poll, and for the next attempt.
fn asleep() -> [Bench; 2] {
    [RunEnd::Again(Duration::from_mins(1)), retry()].map(|end| {
        let mut bench = Bench::running();
        bench.feed(Event::Ended(end));
        assert_eq!((bench.status(), bench.activity()), (Status::Waiting, Activity::Sleeping));
        bench
    })
}

/// A run of a handler that answers its steps itself.
fn running() -> Bench {
    let mut bench = Bench::running();
    bench.policy.answers = AnsweredBy::Handler;
    bench
}

/// It has ended well, and SageMaker is being asked.
fn ended() -> Bench {
    let mut bench = running();
    assert_eq!(bench.feed(success()), [Effect::Delete, ASK]);
    assert_eq!((bench.status(), bench.activity()), (Status::Deferred, Activity::Asking));
    bench
}

#[test]
fn a_step_that_succeeds_elsewhere_while_nothing_of_it_runs_is_settled_without_a_cleanup() {
    for mut bench in asleep() {
        assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
        assert_eq!(bench.answer(SUCCEEDED), ELSEWHERE);
        assert_eq!(bench.state.record.stop_requested, None);
    }
    for mut bench in asleep() {
        bench.crash();
        assert_eq!(bench.feed(Event::Found), [ASK]);
        let told = Effect::AnsweredElsewhere(StepResult::Succeeded);
        assert_eq!(bench.answer(SUCCEEDED), [&[told], &ELSEWHERE[..]].concat());
    }
    let mut queued = Bench::running();
    queued.feed(Event::Ended(RunEnd::Again(Duration::ZERO)));
    assert_eq!(queued.feed(Event::Woken), [Effect::AwaitSlot]);
    assert_eq!(queued.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(queued.answer(SUCCEEDED), ELSEWHERE);
    let mut died = Bench::running();
    died.crash();
    died.feed(Event::Found);
    assert_eq!(died.answer(SUCCEEDED)[1..], ELSEWHERE);
}

#[test]
fn an_answer_that_comes_once_the_outcome_is_frozen_decides_nothing() {
    let mut bench = Bench::running();
    assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
    bench.feed(success());
    bench.feed(Event::ReportFailed { denied: false, detail: "no answer".into() });
    assert_eq!(bench.activity(), Activity::Sleeping);
    assert_eq!(bench.answer(SUCCEEDED), [], "it may be by that very report");
    assert_eq!(bench.status(), Status::Concluded);
}

#[test]
fn a_step_that_fails_or_is_stopped_with_its_execution_while_it_waits_is_cleaned_up_after() {
    for how in [FAILED, CLOSED] {
        for mut bench in asleep() {
            bench.feed(Event::SeenEnded { stopped: false });
            assert_eq!(
                bench.answer(how.clone()),
                [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)]
            );
            assert_eq!(bench.feed(Event::Cleaned(Ok(()))), ELSEWHERE);
        }
    }
}

#[test]
fn a_run_whose_step_succeeds_elsewhere_is_told_so_and_counts_as_no_stop() {
    let told = || {
        let mut bench = Bench::running();
        assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
        assert_eq!(bench.answer(SUCCEEDED), [Effect::Tell(StopReason::SettledElsewhere)]);
        assert_eq!(bench.written, Some(Urgency::Along));
        bench
    };
    let cleanup = [Effect::CleanUp(StopReason::SettledElsewhere)];
    let mut aborted = told();
    assert_eq!(aborted.feed(Event::GraceOver), [Effect::Abort]);
    assert_eq!(aborted.feed(Event::Ended(RunEnd::Aborted)), cleanup);
    assert_eq!(aborted.feed(Event::Cleaned(Err("no permission".into()))), ELSEWHERE);
    assert_eq!(aborted.state.record.outcome, None, "nothing is reported");

    let mut finished = told();
    assert_eq!(finished.feed(success()), ELSEWHERE, "it needs no cleanup");

    let mut died = told();
    died.crash();
    assert_eq!(died.delivered(true), cleanup, "the reason outlives the worker");
    died.crash();
    assert_eq!(died.feed(Event::Found), cleanup, "also in the cleanup");
}

#[test]
fn a_run_that_is_told_of_a_success_elsewhere_needs_the_ledger_for_nothing() {
    for lost in [false, true] {
        let mut bench = Bench::running();
        bench.feed(Event::SeenEnded { stopped: false });
        bench.answer(SUCCEEDED);
        // The write was not accepted, or a stop is noticed before it is.
        bench.state.record.stop_requested = None;
        if !lost {
            assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), []);
            assert!(bench.state.record.stop_requested.is_some_and(|it| it.closed && it.succeeded));
        }
        bench.feed(Event::Ended(RunEnd::Aborted));
        assert!(bench.state.record.stop_requested.is_some_and(|it| it.closed && it.succeeded));
        assert_eq!(bench.feed(Event::Cleaned(Ok(()))), ELSEWHERE);
    }
}

#[test]
fn a_step_that_succeeds_while_it_is_being_stopped_is_still_a_stopped_one() {
    for mut bench in [Bench::running(), Bench::queued()] {
        bench.stop_delivered();
        bench.crash();
        assert_eq!(bench.delivered(true), [Effect::CleanUp(StopReason::PipelineStopped)]);
    }
    let mut bench = Bench::running();
    bench.state.record.stop_requested = Some(Stop::open(bench.now));
    bench.feed(Event::SeenEnded { stopped: false });
    let effects = bench.answer(SUCCEEDED);
    assert_eq!(effects, [Effect::Tell(StopReason::PipelineStopped)]);
}

#[test]
fn the_owner_of_a_step_that_succeeded_elsewhere_is_told_by_the_worker_that_noticed() {
    let owner = WorkerId("owner".into());
    let mut noticing = Bench::running();
    noticing.state.record.owner = Some(owner.clone());
    noticing.state.local.activity = Activity::Sleeping;
    let until = machine::later(noticing.now, LEASE);
    noticing.foreign = Lease::Until(until);
    assert_eq!(noticing.feed(Event::SeenEnded { stopped: false }), [ASK]);
    assert_eq!(noticing.answer(SUCCEEDED), [Effect::Wake(until)]);
    let flagged = noticing.state.record.clone();
    assert!(flagged.stop_requested.is_some_and(|stop| stop.succeeded));

    let mut told = Bench::running();
    (told.state.record, told.me) = (flagged, owner);
    let reason = StopReason::SettledElsewhere;
    assert_eq!(told.feed(Event::StopSeen(Via::Ledger)), [Effect::Tell(reason)]);
    told.state.local.activity = Activity::Running;
    assert_eq!(told.feed(Event::Ended(RunEnd::Aborted)), [Effect::CleanUp(reason)]);
}

#[test]
fn a_handler_that_is_to_answer_is_not_answered_for_and_sagemaker_is_asked_at_once() {
    for end in [RunEnd::Success(Outputs::new()), RunEnd::Deferred] {
        for how in [SUCCEEDED, FAILED] {
            let mut bench = running();
            assert_eq!(bench.feed(Event::Ended(end.clone())), [Effect::Delete, ASK]);
            assert_eq!(bench.written, Some(Urgency::First), "no message is left to say it");
            assert_eq!(bench.answer(how), BY_HANDLER);
            assert_eq!(bench.state.record.outcome, None);
        }
    }
    let mut stopped = ended();
    let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(stopped.answer(CLOSED), stop);
    assert_eq!(stopped.feed(Event::Cleaned(Ok(()))), ELSEWHERE);
}

#[test]
fn what_does_not_end_well_is_answered_for_a_handler_that_is_to_answer() {
    let mut failed = running();
    assert_eq!(failed.feed(Event::Ended(RunEnd::Failure("no".into()))), [Effect::Report]);
    assert_eq!(failed.feed(Event::ReportRefused("Conflict".into())), [ASK]);
    assert_eq!(failed.answer(SUCCEEDED), BY_HANDLER, "unless it has answered");
    let mut late = running();
    late.feed(Event::DeadlineReached);
    let effects = late.feed(Event::Ended(RunEnd::Aborted));
    assert_eq!(effects, [Effect::CleanUp(StopReason::TimeLimit)]);
    let mut stopped = running();
    stopped.stop_delivered();
    let effects = stopped.feed(Event::Ended(RunEnd::Aborted));
    assert_eq!(effects, [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_handler_that_has_not_answered_is_asked_for_ever_more_slowly_until_its_limit() {
    let mut bench = ended();
    let since = bench.now;
    let limit = machine::later(since, POLICY.deferred_limit);
    assert_eq!(bench.state.record.deadline, Some(limit), "it begins as the run ends");
    for (asked, wait) in [5, 10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        let again = bench.wakes_in(wait);
        let effects = match asked % 3 {
            0 => bench.answer(OPEN),
            1 => bench.no_answer(),
            _ => bench.answer(Standing::NotFound),
        };
        assert_eq!((effects, bench.written), (vec![again], None));
        bench.pass(Duration::from_secs(wait));
        assert_eq!(bench.feed(Event::Woken), [Effect::Delete, ASK]);
    }
    bench.now = machine::later(since, POLICY.deferred_limit.saturating_sub(LEASE));
    assert_eq!(bench.answer(OPEN), [Effect::Wake(limit)], "never beyond the limit");
    bench.now = limit;
    assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
    let reason = "the handler ended well but did not answer the step within 1d";
    assert_eq!(bench.reason(), reason);
    assert_eq!(bench.feed(Event::ReportRefused("Conflict".into())), [ASK]);
    assert_eq!(bench.answer(SUCCEEDED), BY_HANDLER, "it has answered at the last moment");
}

#[test]
fn the_wait_for_a_handlers_answer_outlives_worker_messages_and_shutdown() {
    let mut bench = ended();
    bench.answer(OPEN);
    bench.crash();
    assert_eq!(bench.feed(Event::Found), [Effect::Delete, ASK]);
    bench.answer(OPEN);
    assert_eq!(bench.delivered(true), [], "a duplicate is held");
    assert_eq!(bench.feed(Event::Woken), [Effect::Delete, ASK]);
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Delete, ASK]);
    assert_eq!(bench.enter(Phase::Draining), [Effect::Return]);
    assert_eq!((bench.status(), bench.activity()), (Status::Deferred, Activity::Idle));
    bench.crash();
    bench.feed(Event::Found);
    assert_eq!(bench.answer(SUCCEEDED), BY_HANDLER);
}

#[test]
fn a_step_that_its_handler_may_have_answered_is_asked_about_before_the_handler_runs_again() {
    let next_poll = || {
        let mut bench = running();
        bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(1))));
        bench.pass(Duration::from_mins(1));
        assert_eq!(bench.feed(Event::Woken), [ASK]);
        bench
    };
    assert_eq!(next_poll().answer(SUCCEEDED), BY_HANDLER);
    assert_eq!(next_poll().answer(FAILED), BY_HANDLER, "which is its own answer too");
    let mut open = next_poll();
    assert_eq!(open.answer(OPEN), [Effect::AwaitSlot]);
    assert_eq!(open.feed(Event::SlotFree), [Effect::Run]);

    let died = || {
        let mut bench = running();
        bench.crash();
        assert_eq!(bench.delivered(true), [ASK], "its message does not say that it waits");
        bench
    };
    assert_eq!(died().answer(SUCCEEDED), BY_HANDLER);
    let mut told_again = died();
    assert_eq!(told_again.delivered(true), [], "it is being asked");
    let mut unanswered = died();
    assert!(matches!(unanswered.no_answer()[..], [Effect::Wake(_)]), "it is not run blindly");
    assert_eq!(died().answer(OPEN), [Effect::AwaitSlot]);
    let mut first = Bench::new();
    first.policy.answers = AnsweredBy::Handler;
    assert_eq!(first.delivered(false), [Effect::AwaitSlot], "nothing has answered it yet");
}

#[test]
fn a_handler_that_the_machine_kept_from_working_has_not_answered() {
    let mut bench = running();
    let (what, after, error) = ("space", Duration::from_secs(30), "disk full".into());
    bench.feed(Event::Ended(RunEnd::Hindered { what, after, error }));
    bench.pass(after);
    assert_eq!(bench.feed(Event::Woken), [Effect::AwaitSlot]);
}

#[test]
fn a_wait_of_a_handler_that_answers_ends_with_its_time_limit_once_sagemaker_was_asked() {
    let due = || {
        let mut bench = running();
        let limit = bench.state.record.deadline.expect("a limit");
        let effects = bench.feed(Event::Ended(RunEnd::Again(POLICY.time_limit * 2)));
        assert_eq!(effects, [Effect::Wake(limit)]);
        bench.now = limit;
        assert_eq!(bench.feed(Event::Woken), [ASK]);
        bench
    };
    let cleanup = [Effect::CleanUp(StopReason::TimeLimit)];
    assert_eq!(due().answer(OPEN), cleanup);
    assert_eq!(due().answer(Standing::NotFound), cleanup);
    assert_eq!(due().no_answer(), cleanup, "no one can say whether it was answered");
}

#[test]
fn a_run_that_has_answered_its_step_is_left_to_its_end() {
    for how in [SUCCEEDED, FAILED] {
        let mut bench = running();
        assert_eq!(bench.feed(Event::SeenEnded { stopped: false }), [ASK]);
        assert_eq!(bench.answer(how.clone()), []);
        assert_eq!(bench.activity(), Activity::Running);
        bench.feed(success());
        assert_eq!(bench.answer(how), BY_HANDLER);
    }
    let mut stopped = running();
    stopped.feed(Event::SeenEnded { stopped: false });
    let effects = stopped.answer(CLOSED);
    assert_eq!(effects[1..], [Effect::Tell(StopReason::PipelineStopped)]);

    let mut elsewhere = running();
    elsewhere.state.record.owner = Some(WorkerId("other".into()));
    elsewhere.state.local.activity = Activity::Sleeping;
    let until = machine::later(elsewhere.now, LEASE);
    elsewhere.foreign = Lease::Until(until);
    elsewhere.feed(Event::SeenEnded { stopped: false });
    assert_eq!((elsewhere.answer(SUCCEEDED), elsewhere.written), (vec![Effect::Wake(until)], None));
}

#[test]
fn a_stop_does_not_wait_for_the_handlers_answer_and_respects_one_that_was_given() {
    let told = || {
        let mut bench = running();
        bench.stop_delivered();
        assert_eq!(bench.feed(success()), [ASK], "the stop's message is kept until it is answered");
        bench
    };
    assert_eq!(told().answer(SUCCEEDED), BY_HANDLER, "it has answered within its grace");
    let cleanup = [Effect::CleanUp(StopReason::PipelineStopped)];
    for answer in [STOPPING, OPEN, CLOSED, Standing::NotFound] {
        assert_eq!(told().answer(answer.clone()), cleanup, "{answer:?}");
    }
    let mut died = told();
    died.crash();
    assert_eq!(died.feed(Event::Found), [ASK]);
    assert_eq!(died.no_answer(), cleanup);

    let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(ended().answer(STOPPING), stop);
    let mut waiting = ended();
    waiting.answer(OPEN);
    assert_eq!(waiting.feed(Event::StopSeen(Via::Watch)), [ASK]);
    assert!(matches!(waiting.no_answer()[..], [Effect::Wake(_)]));
    waiting.feed(Event::StopSeen(Via::Watch));
    assert_eq!(waiting.answer(OPEN), stop);
    let mut message = ended();
    message.answer(OPEN);
    assert_eq!(
        message.stop_delivered(),
        [Effect::CountStop(Via::Message), Effect::CleanUp(StopReason::PipelineStopped)]
    );
}

#[test]
fn the_stop_of_a_later_step_is_no_stop_of_one_that_has_succeeded() {
    let cleaned = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    for mut bench in asleep() {
        assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [ASK]);
        assert_eq!(bench.answer(SUCCEEDED), ELSEWHERE);
    }
    // That its execution is being stopped is known, whatever SageMaker says of the step.
    for answer in [Some(OPEN), Some(STOPPING), Some(Standing::NotFound), None] {
        for mut bench in asleep() {
            bench.feed(Event::StopSeen(Via::Watch));
            let effects = match answer.clone() {
                Some(standing) => bench.answer(standing),
                None => bench.no_answer(),
            };
            assert_eq!(effects, cleaned, "{answer:?}");
        }
    }
    let mut bench = running();
    assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [CONFIRM]);
    let told = [Effect::CountStop(Via::Watch), Effect::Tell(StopReason::PipelineStopped)];
    assert_eq!(bench.answer(STOPPING), told);
    let mut answered = running();
    answered.feed(Event::StopSeen(Via::Watch));
    assert_eq!(answered.answer(SUCCEEDED), [Effect::Tell(StopReason::SettledElsewhere)]);
    let mut over = running();
    assert_eq!(over.feed(Event::SeenEnded { stopped: true }), [ASK]);
    assert_eq!(over.answer(SUCCEEDED), [Effect::Tell(StopReason::SettledElsewhere)]);
}

#[test]
fn an_answer_through_the_ledger_ends_the_wait_for_the_handlers_own() {
    let mut bench = ended();
    assert!(matches!(bench.answer(OPEN)[..], [Effect::Wake(_)]));
    let answer = Outcome::Success(Outputs::new());
    let Ok(Completed::Now(record)) = complete(&bench.state.record, answer, bench.now) else {
        panic!("it takes an answer")
    };
    bench.state.record = *record;
    assert_eq!(bench.feed(Event::Found), [Effect::Report]);
}

#[test]
fn an_unconfirmed_stop_is_kept_while_a_handlers_answer_is_waited_for() {
    let mut bench = running();
    bench.policy.verify = Verify::Always;
    assert_eq!(bench.stop_delivered(), [CONFIRM]);
    assert_eq!(bench.feed(success()), [CONFIRM], "its message is held");
    assert!(matches!(bench.answer(OPEN)[..], [Effect::Wake(_)]));
    assert_eq!(bench.feed(Event::Woken), [CONFIRM]);
    assert_eq!(bench.answer(SUCCEEDED), BY_HANDLER);
}

#[test]
fn a_handlers_own_answer_is_no_evidence_of_another_consumer() {
    let mut bench = running();
    bench.crash();
    bench.feed(Event::Found);
    assert_eq!(bench.answer(SUCCEEDED), BY_HANDLER);
}
