//! Tests of steps that continue without their message, and of tokens that come back.

use super::*;

/// In another life than the one that ran it: a step that waits for nothing, and one whose worker
/// died.
fn left_behind() -> [Bench; 2] {
    let mut released = Bench::running();
    released.enter(Phase::Stopping);
    released.feed(Event::Ended(RunEnd::Aborted));
    let mut died = Bench::running();
    died.feed(Event::Checkpoint(json!({"job": 7})));
    for bench in [&mut released, &mut died] {
        bench.crash();
    }
    [released, died]
}

#[test]
fn a_step_found_without_its_message_is_asked_about_and_goes_on_if_it_is_open() {
    for mut bench in left_behind() {
        let checkpoint = bench.state.record.checkpoint.clone();
        assert_eq!(bench.feed(Event::Found), [ASK]);
        assert_eq!((bench.activity(), bench.written), (Activity::Resuming, None));
        assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        assert_eq!(bench.state.record.checkpoint, checkpoint);
    }
}

#[test]
fn a_step_found_without_its_message_that_sagemaker_does_not_confirm_is_never_started() {
    for mut bench in left_behind() {
        assert_eq!(bench.feed(Event::Found), [ASK]);
        for (turn, wait) in [5, 10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
            let again = bench.wakes_in(wait);
            let effects =
                if turn % 2 == 0 { bench.answer(Standing::NotFound) } else { bench.no_answer() };
            assert_eq!(effects, [again]);
            assert_eq!(bench.activity(), Activity::Sleeping);
            assert_eq!(
                bench.feed(Event::SeenEnded { stopped: false }),
                [],
                "it is asked about anyway"
            );
            assert_eq!(bench.feed(Event::Found), []);
            assert_eq!(bench.feed(Event::Woken), [ASK]);
        }
        bench.no_answer();
        bench.pass(POLICY.time_limit * 2);
        assert_eq!((bench.feed(Event::DeadlineReached), bench.state.deadline()), (vec![], None));
        assert_eq!(bench.feed(Event::Woken), [ASK]);
        bench.answer(OPEN);
        assert_ne!(bench.activity(), Activity::Sleeping);
    }
}

#[test]
fn a_step_found_without_its_message_that_is_closed_is_cleaned_up_after_where_it_ran_and_settled() {
    for mut bench in left_behind() {
        bench.feed(Event::Found);
        let cleaned = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
        assert_eq!(bench.answer(CLOSED), cleaned);
        assert_eq!(bench.feed(Event::Cleaned(Ok(()))), ELSEWHERE);
    }
    let [mut never_ran, _] = left_behind();
    never_ran.state.record.attempt = 0;
    never_ran.feed(Event::Found);
    assert_eq!(never_ran.answer(CLOSED), ELSEWHERE);
}

#[test]
fn a_step_found_answered_that_this_ledger_never_answered_is_told_of_where_it_should_be_alone() {
    let told = |bench: &mut Bench, how| {
        let effects = bench.answer(Standing::Closed(how));
        let told = effects.iter().filter(|it| matches!(it, Effect::AnsweredElsewhere(_)));
        let told = told.cloned().collect::<Vec<_>>();
        assert!(effects.starts_with(&told), "the rest goes on as ever: {effects:?}");
        told
    };
    for how in [StepResult::Succeeded, StepResult::Failed] {
        for mut bench in left_behind() {
            bench.feed(Event::Found);
            assert_eq!(told(&mut bench, how), [Effect::AnsweredElsewhere(how)]);
        }
        for mut bench in left_behind() {
            bench.feed(Event::SeenEnded { stopped: false });
            assert_eq!(told(&mut bench, how), [Effect::AnsweredElsewhere(how)]);
        }
        for mut bench in left_behind() {
            bench.policy.alone = false;
            bench.feed(Event::Found);
            assert_eq!(told(&mut bench, how), [], "others may read the queue");
        }
        for mut bench in left_behind() {
            bench.delivered(true);
            bench.feed(Event::SeenEnded { stopped: false });
            assert_eq!(told(&mut bench, how), [], "its message is here");
        }
        for mut bench in [Bench::running(), Bench::deferred(), Bench::concluded()] {
            bench.feed(Event::SeenEnded { stopped: false });
            assert_eq!(told(&mut bench, how), [], "the handler, or who completes it, may answer");
        }
        let mut reported = Bench::concluded();
        reported.crash();
        assert_eq!(reported.feed(Event::Found), [Effect::Report]);
        assert_eq!(reported.feed(Event::ReportRefused("conflict".into())), [ASK]);
        assert_eq!(told(&mut reported, how), [], "the report was accepted, its answer lost");
    }
    for mut bench in left_behind() {
        bench.feed(Event::Found);
        assert_eq!(told(&mut bench, StepResult::Stopped), []);
    }
}

#[test]
fn only_some_endings_of_a_step_can_have_come_by_an_answer_alone() {
    use crate::seam::ExecutionStanding::{Ended, Executing, NotFound, Stopping};
    use StepResult::{Failed, Stopped, Succeeded};
    let all = [Executing, Stopping, Ended(Succeeded), Ended(Failed), Ended(Stopped), NotFound];
    let shown = |step| all.into_iter().filter(|it| shows_an_answer(step, *it)).collect::<Vec<_>>();
    assert_eq!(shown(Succeeded), [Executing, Ended(Succeeded), Ended(Failed)]);
    assert_eq!(shown(Failed), [Executing]);
    assert_eq!(shown(Stopped), []);
}

#[test]
fn a_step_found_without_its_message_that_is_being_stopped_is_cleaned_up_after() {
    let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    for mut bench in left_behind() {
        bench.feed(Event::Found);
        assert_eq!(bench.answer(STOPPING), stop);
    }
    for mut bench in left_behind() {
        bench.feed(Event::Found);
        assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [], "it is being asked about");
        bench.no_answer();
        assert_eq!(
            bench.feed(Event::StopSeen(Via::Watch)),
            [CONFIRM],
            "a later step may be the one that is stopped"
        );
        assert_eq!(bench.answer(STOPPING), stop);
    }
}

#[test]
fn the_message_of_a_step_that_was_found_without_it_says_that_the_step_waits() {
    for asking in [true, false] {
        let [mut bench, _] = left_behind();
        bench.feed(Event::Found);
        if !asking {
            bench.no_answer();
        }
        assert_eq!(bench.delivered(true), [Effect::AwaitSlot]);
        assert_eq!(bench.no_answer(), []);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    }
}

#[test]
fn a_step_found_without_its_message_waits_for_its_time_and_its_owner() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(5))));
    let at = bench.state.record.not_before.expect("it waits");
    bench.crash();
    assert_eq!(bench.feed(Event::Found), [ASK]);
    assert_eq!(bench.answer(OPEN), [Effect::Wake(at)]);
    bench.pass(Duration::from_mins(5));
    assert_eq!(bench.feed(Event::Woken), [Effect::AwaitSlot]);

    let [_, mut owned] = left_behind();
    let until = machine::later(owned.now, LEASE);
    owned.foreign = Lease::Until(until);
    assert_eq!(owned.feed(Event::Found), [Effect::Wake(until)]);
    owned.foreign = Lease::Over;
    assert_eq!(owned.feed(Event::Woken), [ASK]);
}

#[test]
fn a_record_of_a_stop_is_cleaned_up_after_without_asking_anew() {
    let mut bench = Bench::running();
    bench.stop_delivered();
    bench.crash();
    assert_eq!(bench.feed(Event::Found), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_message_sent_after_its_step_was_settled_is_asked_about_before_it_is_deleted() {
    let mut bench = Bench::new();
    bench.feed(work(1, sent_at(10)));
    bench.feed(Event::SlotFree);
    bench.feed(Event::Checkpoint(json!({"job": 7})));
    bench.feed(Event::Ended(RunEnd::Success(Outputs::new())));
    bench.feed(Event::ReportAccepted);
    assert_eq!(bench.state.record.sent, sent_at(10));
    bench.pass(Duration::from_mins(1));
    for crash in [false, true] {
        if crash {
            bench.crash();
        }
        assert_eq!(bench.feed(work(2, sent_at(10))), [Effect::Delete], "a mere redelivery");
        assert_eq!(bench.feed(work(1, sent_at(11))), [ASK]);
        assert_eq!((bench.status(), bench.activity()), (Status::Settled, Activity::Reopening));
    }
    assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);
    assert_eq!(bench.written, Some(Urgency::First));
    let record = &bench.state.record;
    assert_eq!((record.status, record.attempt, &record.outcome), (Status::Waiting, 0, &None));
    assert_eq!((&*record.arguments, &record.checkpoint), (&json!({"day": 2}), &None));
    assert_eq!((record.first_seen, record.sent, &record.returned), (bench.now, sent_at(11), &None));
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!(bench.state.record.attempt, 1);
    assert_eq!(bench.state.record.deadline, Some(machine::later(bench.now, POLICY.time_limit)));
}

#[test]
fn a_token_that_seemed_to_wait_again_is_asked_about_after_a_crash_although_its_message_is_gone() {
    let mut bench = came_back();
    bench.crash();
    assert_eq!(bench.feed(Event::Found), [ASK]);
    assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);
    assert_eq!((bench.status(), bench.state.record.returns), (Status::Waiting, 1));
}

#[test]
fn a_step_that_waits_again_stays_in_its_trace() {
    let mut bench = came_back();
    let trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1".parse().ok();
    bench.state.record.trace.clone_from(&trace);
    assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);
    assert_eq!((bench.state.record.returns, &bench.state.record.trace), (1, &trace));
    assert!(trace.is_some());
}

/// A settled step whose token seems to wait again.
fn came_back() -> Bench {
    let mut bench = Bench::settled();
    bench.pass(Duration::from_mins(1));
    assert_eq!(bench.feed(work(1, Some(bench.now))), [ASK]);
    bench
}

#[test]
fn a_message_that_comes_while_a_closed_step_is_cleaned_up_after_is_given_back_and_then_asked_about()
{
    let mut bench = Bench::running();
    bench.state.record.sent = sent_at(10);
    bench.feed(Event::SeenEnded { stopped: false });
    bench.answer(CLOSED);
    bench.feed(Event::Ended(RunEnd::Aborted));
    assert_eq!(bench.activity(), Activity::Cleaning(StopReason::PipelineStopped));
    assert_eq!(bench.feed(work(1, sent_at(11))), []);
    bench.feed(Event::Checkpoint(json!({"job": 7})));
    let settled = [Effect::Finish(Ending::SettledElsewhere), Effect::Return];
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), settled);
    assert_eq!((bench.status(), bench.state.record.sent), (Status::Settled, sent_at(10)));
    assert_eq!(bench.feed(work(2, sent_at(11))), [ASK]);
}

/// The cleanup was interrupted by a shutdown, and the execution was retried before its next one.
#[test]
fn a_message_that_comes_before_the_cleanup_of_a_closed_step_is_given_back_and_then_asked_about() {
    let mut bench = Bench::running();
    bench.state.record.sent = sent_at(10);
    bench.feed(Event::SeenEnded { stopped: false });
    bench.answer(CLOSED);
    bench.feed(Event::Ended(RunEnd::Aborted));
    bench.feed(Event::CleanupAborted);
    assert_eq!((bench.status(), bench.activity()), (Status::Waiting, Activity::Idle));
    bench.crash();
    let cleanup = [Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(bench.feed(work(1, sent_at(11))), cleanup);
    let settled = [Effect::Finish(Ending::SettledElsewhere), Effect::Return];
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), settled);
    assert_eq!((bench.status(), bench.state.record.sent), (Status::Settled, sent_at(10)));
    assert_eq!(bench.feed(work(2, sent_at(11))), [ASK]);
    assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);
}

/// The write that settles a step seemed to fail, and what had arrived meanwhile is decided before
/// the record is found settled.
#[test]
fn a_message_that_comes_while_the_settlement_is_in_doubt_is_given_back_and_then_asked_about() {
    let mut bench = Bench::concluded();
    bench.state.record.sent = sent_at(10);
    assert_eq!(bench.activity(), Activity::Reporting);
    bench.state.record.status = Status::Settled;
    assert_eq!(bench.feed(work(1, sent_at(11))), []);
    assert_eq!(bench.feed(Event::ReportAccepted), [Effect::Return]);
    assert_eq!(bench.feed(work(2, sent_at(11))), [ASK]);
}

#[test]
fn a_record_that_knows_of_no_message_goes_by_the_time_it_was_settled() {
    let mut bench = Bench::settled();
    assert_eq!(
        (bench.state.record.sent, bench.feed(work(1, Some(bench.now)))),
        (None, vec![Effect::Delete])
    );
    assert_eq!(bench.feed(work(1, None)), [Effect::Delete]);
    came_back();
}

#[test]
fn a_message_of_a_settled_step_is_deleted_refused_or_held_as_sagemaker_says() {
    let mut closed = came_back();
    assert_eq!(closed.answer(CLOSED), [Effect::Delete]);
    assert_eq!((closed.status(), &closed.state.record.returned), (Status::Settled, &None));
    assert_eq!(closed.feed(work(2, Some(closed.now))), [Effect::Delete], "asked once is enough");

    let mut unknown = came_back();
    let again = unknown.wakes_in(5);
    assert_eq!(unknown.no_answer(), [again]);
    assert_eq!((unknown.feed(Event::Found), unknown.delivered(true)), (vec![], vec![]));
    assert_eq!(unknown.feed(Event::Woken), [ASK]);
    assert!(matches!(unknown.answer(Standing::NotFound)[..], [Effect::Refuse(_)]));
    assert_eq!(unknown.status(), Status::Settled);
    assert_eq!(unknown.feed(work(2, Some(unknown.now))), [ASK], "it comes back by redrive at most");

    let queue_url = "https://sqs.us-east-1.amazonaws.com/123456789012/r".parse().ok();
    let elsewhere = came_back().answer(Standing::Open { stopping: false, queue_url });
    assert!(matches!(elsewhere[..], [Effect::Refuse(_)]));
}

#[test]
fn a_token_that_comes_back_to_be_stopped_is_answered_and_not_run() {
    let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(came_back().answer(STOPPING), stop);
    let mut told = came_back();
    assert_eq!(told.stop_delivered(), [], "it is held");
    assert_eq!(told.answer(STOPPING), stop);
    let mut late = came_back();
    late.stop_delivered();
    assert!(matches!(late.answer(OPEN)[..], [Effect::AwaitSlot, Effect::Wake(_)]));
    assert_eq!(late.feed(Event::Woken), [CONFIRM]);
    late.feed(Event::SlotFree);
    let told = [Effect::CountStop(Via::Message), Effect::Tell(StopReason::PipelineStopped)];
    assert_eq!(late.answer(STOPPING), told);
}

#[test]
fn a_token_that_another_worker_has_taken_back_meanwhile_is_left_to_that_one() {
    let mut bench = came_back();
    bench.state.record = Bench::running().state.record;
    bench.state.record.owner = Some(WorkerId("other".into()));
    let until = machine::later(bench.now, LEASE);
    bench.foreign = Lease::Until(until);
    assert_eq!(bench.answer(OPEN), [Effect::Wake(until)]);

    let mut settled = came_back();
    settled.state.record.returned = None;
    assert_eq!(settled.answer(OPEN), [Effect::Return], "its message says again what it is about");
}
