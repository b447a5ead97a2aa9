//! What the machine promises, as tests.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::backoff::Backoff;
use crate::outcome::{Outcome, Outputs};
use crate::seam::{Ending as Closed, Standing};
use crate::step::{Message, StopReason};

const POLICY: Policy = Policy {
    max_attempts: 3,
    retry: Backoff::new(Duration::from_secs(10), Duration::from_mins(15)),
    time_limit: Duration::from_hours(1),
    deferred_limit: Duration::from_hours(24),
    on_stop: OnStop::Failure,
    verify: Verify::Redelivered,
    stop_takeover_after: Duration::from_mins(5),
    ask_every: Duration::from_secs(30),
    lease: Duration::from_mins(1),
};

/// One step, one worker, and a ledger that takes every write.
struct Bench {
    state: State,
    policy: Policy,
    now: Timestamp,
    me: WorkerId,
    foreign: Lease,
}

impl Bench {
    fn new() -> Self {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json")).expect("message").step().clone();
        let now = Timestamp::UNIX_EPOCH;
        let record = Record::of_message(
            step,
            "https://sqs.us-east-1.amazonaws.com/123456789012/q".into(),
            Some("h".into()),
            now,
        );
        Self { state: State::new(record), policy: POLICY, now, me: WorkerId("me".into()), foreign: Lease::Over }
    }

    fn running() -> Self {
        let mut bench = Self::new();
        bench.delivered(false);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        bench
    }

    fn deferred() -> Self {
        let mut bench = Self::running();
        assert_eq!(bench.feed(Event::Ended(End::Deferred)), [Effect::Finish(Ending::Deferred), Effect::Delete]);
        bench
    }

    fn concluded() -> Self {
        let mut bench = Self::running();
        assert_eq!(bench.feed(Event::Ended(End::Success(Outputs::new()))), [Effect::Report]);
        bench
    }

    fn delivered(&mut self, redelivered: bool) -> Vec<Effect> {
        self.feed(Event::Delivered(Arrival::Work { redelivered }))
    }

    #[expect(clippy::needless_pass_by_value, reason = "the claims read better")]
    fn feed(&mut self, event: Event) -> Vec<Effect> {
        self.try_feed(&event).expect("the event fits")
    }

    fn try_feed(&mut self, event: &Event) -> Result<Vec<Effect>, Illegal> {
        let view = View { now: self.now, me: &self.me, policy: &self.policy, foreign: self.foreign, random: 1.0 };
        let transition = decide(&self.state, event, &view)?;
        if let Some(record) = transition.write {
            self.state.record = Record { version: record.version + 1, ..record };
        }
        self.state.here = transition.here;
        self.state.work_seen = transition.work_seen;
        self.state.refusals = transition.refusals;
        self.state.not_found = transition.not_found;
        Ok(transition.effects)
    }

    fn pass(&mut self, time: Duration) {
        self.now = machine::later(self.now, time);
    }

    /// The process dies; another one of the same ledger finds the record.
    fn crash(&mut self) {
        self.me = WorkerId(format!("{}'", self.me));
        if self.state.record.version > 0 {
            self.state = State::new(self.state.record.clone());
        } else {
            self.state = Self::new().state;
        }
    }

    fn answer(&mut self, standing: Standing) -> Vec<Effect> {
        self.feed(Event::Answered(Answer::Standing(standing)))
    }

    fn status(&self) -> Status {
        self.state.record.status
    }

    fn reason(&self) -> &str {
        match &self.state.record.outcome {
            Some(Outcome::Failure(reason)) => reason.as_str(),
            other => panic!("no failure: {other:?}"),
        }
    }
}

const OPEN: Standing = Standing::Open { stopping: false, queue_url: None };
const CLOSED: Standing = Standing::Closed(Closed::Stopped);

#[test]
fn a_step_is_claimed_in_the_ledger_before_it_runs() {
    let mut bench = Bench::new();
    assert_eq!(bench.delivered(false), [Effect::AwaitSlot]);
    assert_eq!(bench.status(), Status::New);
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!((bench.status(), bench.state.record.attempt), (Status::Claimed, 1));
    assert_eq!(bench.state.record.owner.as_ref(), Some(&bench.me));
}

#[test]
fn a_copy_of_a_message_starts_nothing() {
    for mut bench in [Bench::running(), Bench::concluded()] {
        assert_eq!(bench.delivered(true), []);
    }
}

#[test]
fn a_redelivered_step_that_the_ledger_does_not_know_is_asked_about_first() {
    for (answer, effects, status) in [
        (OPEN, vec![Effect::AwaitSlot], Status::New),
        (Standing::NotFound, vec![Effect::AwaitSlot], Status::New),
        (CLOSED, vec![Effect::Finish(Ending::SettledElsewhere), Effect::Delete], Status::Settled),
        (
            Standing::Open { stopping: true, queue_url: None },
            vec![Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)],
            Status::Claimed,
        ),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.delivered(true), [Effect::Ask]);
        assert_eq!(bench.answer(answer.clone()), effects, "{answer:?}");
        assert_eq!(bench.status(), status, "{answer:?}");
    }
}

#[test]
fn a_step_that_waits_on_another_queue_is_refused_and_one_that_waits_on_its_own_is_run() {
    let waits_on = |queue_url: &str| {
        let mut bench = Bench::new();
        bench.delivered(true);
        let effects = bench.answer(Standing::Open { stopping: false, queue_url: queue_url.parse().ok() });
        (bench, effects)
    };
    let (bench, effects) = waits_on("https://sqs.us-east-1.amazonaws.com/123456789012/r");
    assert!(matches!(&effects[..], [Effect::Refuse(_)]));
    assert_eq!(bench.status(), Status::New);
    let (_, effects) = waits_on("https://queue.amazonaws.com/123456789012/q");
    assert_eq!(effects, [Effect::AwaitSlot]);
}

#[test]
fn where_steps_must_be_verified_one_that_cannot_be_is_refused() {
    for answer in [Answer::Standing(Standing::NotFound), Answer::Unknown("denied".into())] {
        let mut bench = Bench::new();
        bench.policy.verify = Verify::Always;
        assert_eq!(bench.delivered(false), [Effect::Ask]);
        assert!(matches!(&bench.feed(Event::Answered(answer))[..], [Effect::Refuse(_)]));
    }
}

#[test]
fn an_outcome_is_frozen_before_it_is_sent_and_survives_a_crash() {
    let mut bench = Bench::concluded();
    let frozen = (bench.state.record.outcome.clone(), bench.state.record.client_request_token.clone());
    assert!(frozen.0.is_some() && frozen.1.is_some());
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Report]);
    assert_eq!((bench.state.record.outcome.clone(), bench.state.record.client_request_token.clone()), frozen);
    assert_eq!(bench.feed(Event::ReportAccepted), [Effect::Finish(Ending::Success), Effect::Delete]);
    assert_eq!(bench.status(), Status::Settled);
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Delete]);
}

#[test]
fn a_handler_that_kills_its_worker_is_given_up_after_its_attempts() {
    let mut bench = Bench::running();
    for attempt in 2..=3 {
        bench.crash();
        assert_eq!(bench.delivered(true), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        assert_eq!(bench.state.record.attempt, attempt);
    }
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Report]);
    assert_eq!(bench.reason(), "gave up after 3 attempts: the worker that ran the last one died");
}

#[test]
fn an_error_is_tried_again_after_a_growing_wait_and_then_fails_the_step() {
    let mut bench = Bench::running();
    let error = || Event::Ended(End::Retry { after: None, error: "no route".into() });
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
        bench.feed(Event::Ended(End::Again(Duration::from_mins(5))));
        bench.pass(Duration::from_mins(5));
        assert_eq!(bench.feed(Event::Woken), [Effect::AwaitSlot]);
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        assert_eq!(bench.state.record.attempt, 1);
    }
    bench.feed(Event::Ended(End::Again(Duration::from_mins(30))));
    bench.pass(Duration::from_mins(10));
    assert_eq!(bench.feed(Event::DeadlineReached), [Effect::CleanUp(StopReason::TimeLimit)]);
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
    assert_eq!(bench.reason(), "the time limit of 1h was reached");
}

#[test]
fn a_deferred_step_lets_go_of_its_message_only_once_that_is_recorded() {
    let mut bench = Bench::running();
    let effects = bench.feed(Event::Ended(End::Deferred));
    assert_eq!(effects, [Effect::Finish(Ending::Deferred), Effect::Delete]);
    assert_eq!(bench.status(), Status::Deferred);
    bench.pass(Duration::from_hours(24));
    assert_eq!(bench.feed(Event::Found), [Effect::Report]);
    assert_eq!(bench.reason(), "nobody completed the deferred step within 1day");
}

#[test]
fn a_stop_of_a_running_step_is_answered_after_its_cleanup() {
    let mut bench = Bench::running();
    let told = [Effect::CountStop(Via::Message), Effect::Tell(StopReason::PipelineStopped)];
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), told);
    assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), []);
    assert_eq!(bench.feed(Event::GraceOver), [Effect::Abort]);
    assert_eq!(bench.feed(Event::Ended(End::Aborted)), [Effect::CleanUp(StopReason::PipelineStopped)]);
    assert_eq!(bench.feed(Event::Cleaned(Err("no permission".into()))), [Effect::Report]);
    assert_eq!(bench.reason(), "the pipeline was stopped; the cleanup failed: no permission");
    assert_eq!(bench.feed(Event::ReportAccepted), [Effect::Finish(Ending::Stopped), Effect::Delete]);
}

#[test]
fn a_run_that_ends_by_itself_within_its_grace_keeps_its_outcome() {
    let mut bench = Bench::running();
    bench.feed(Event::Delivered(Arrival::Stop));
    assert_eq!(bench.feed(Event::Ended(End::Success(Outputs::new()))), [Effect::Report]);
    assert_eq!(bench.state.record.outcome, Some(Outcome::Success(Outputs::new())));
}

#[test]
fn a_worker_that_dies_while_stopping_a_step_leaves_the_stop_to_be_answered_and_runs_nothing_again() {
    for die_in_cleanup in [false, true] {
        let mut bench = Bench::running();
        bench.feed(Event::Delivered(Arrival::Stop));
        if die_in_cleanup {
            bench.feed(Event::Ended(End::Aborted));
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
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), [Effect::CountStop(Via::Message), Effect::Ask]);
    assert_eq!(bench.status(), Status::Owed);
    bench.answer(OPEN);
    assert_eq!(bench.delivered(false), [Effect::CleanUp(StopReason::PipelineStopped)]);
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
    assert_eq!(bench.feed(Event::Woken), [Effect::Ask]);
    assert_eq!(bench.answer(CLOSED), [Effect::Finish(Ending::SettledElsewhere), Effect::Delete]);
}

#[test]
fn an_owed_stop_that_nobody_answers_is_answered_here_also_after_a_crash() {
    let mut bench = Bench::new();
    bench.feed(Event::Delivered(Arrival::Stop));
    bench.answer(OPEN);
    bench.pass(POLICY.stop_takeover_after);
    bench.crash();
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), [Effect::CleanUp(StopReason::PipelineStopped)]);
    assert_eq!(bench.feed(Event::Cleaned(Ok(()))), [Effect::Report]);
}

#[test]
fn a_step_whose_execution_ended_otherwise_is_cleaned_up_and_not_reported() {
    let mut bench = Bench::running();
    assert_eq!(bench.feed(Event::ExecutionEnded), [Effect::Ask]);
    assert_eq!(bench.answer(OPEN), []);
    assert_eq!(bench.answer(CLOSED), [Effect::CountStop(Via::Watch), Effect::Tell(StopReason::PipelineStopped)]);
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::CleanUp(StopReason::PipelineStopped)]);
    let effects = bench.feed(Event::Cleaned(Ok(())));
    assert_eq!(effects, [Effect::Finish(Ending::SettledElsewhere), Effect::Delete]);
    assert_eq!(bench.state.record.outcome, None);
}

#[test]
fn a_deferred_step_that_somebody_has_completed_is_settled_without_cleanup() {
    for event in [Event::ExecutionEnded, Event::StopSeen(Via::Watch)] {
        for closed in [Closed::Succeeded, Closed::Failed] {
            let mut bench = Bench::deferred();
            assert_eq!(bench.feed(event.clone()), [Effect::Ask]);
            let effects = bench.answer(Standing::Closed(closed));
            assert_eq!(effects, [Effect::Finish(Ending::SettledElsewhere), Effect::Delete]);
        }
        let mut bench = Bench::deferred();
        bench.feed(event);
        let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
        assert_eq!(bench.answer(Standing::Closed(Closed::Stopped)), stop);
        let effects = bench.feed(Event::Cleaned(Ok(())));
        assert_eq!(effects, [Effect::Finish(Ending::SettledElsewhere), Effect::Delete]);
    }
}

#[test]
fn a_step_that_another_worker_deferred_meanwhile_and_somebody_completed_is_not_cleaned_up_either() {
    let completed = || Standing::Closed(Closed::Succeeded);
    let settled = [Effect::Finish(Ending::SettledElsewhere), Effect::Delete];
    for here in [Here::Queued, Here::Sleeping] {
        for event in [Event::ExecutionEnded, Event::StopSeen(Via::Watch)] {
            let mut bench = Bench::deferred();
            bench.state.here = here;
            assert_eq!(bench.feed(event), [Effect::Ask]);
            assert_eq!(bench.answer(completed()), settled);
        }
    }
    let mut bench = Bench::deferred();
    bench.state.here = Here::Running;
    assert_eq!(bench.feed(Event::ExecutionEnded), [Effect::Ask]);
    assert_eq!(bench.answer(completed()), [], "its claim is lost, and says so with its renewal");
    assert_eq!(bench.state.here, Here::Running);
}

#[test]
fn a_deferred_step_is_stopped_by_the_watch_only_if_sagemaker_waits_for_it() {
    let mut bench = Bench::deferred();
    let stop = [Effect::CountStop(Via::Watch), Effect::CleanUp(StopReason::PipelineStopped)];
    for silence in [Answer::Standing(Standing::NotFound), Answer::Unknown("denied".into())] {
        assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [Effect::Ask]);
        assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [], "it is being asked");
        assert_eq!(bench.feed(Event::Answered(silence)), [Effect::Delete]);
        assert_eq!(bench.status(), Status::Deferred);
    }
    bench.feed(Event::ExecutionEnded);
    assert_eq!(bench.feed(Event::StopSeen(Via::Watch)), [], "it is being asked");
    assert_eq!(bench.answer(OPEN), stop);
}

#[test]
fn a_stop_message_of_a_deferred_step_is_taken_at_its_word() {
    let stop = [Effect::CountStop(Via::Message), Effect::CleanUp(StopReason::PipelineStopped)];
    assert_eq!(Bench::deferred().feed(Event::Delivered(Arrival::Stop)), stop);
    let mut asking = Bench::deferred();
    asking.feed(Event::ExecutionEnded);
    assert_eq!(asking.feed(Event::Delivered(Arrival::Stop)), stop);
}

#[test]
fn a_step_that_sagemaker_does_not_find_goes_on() {
    let mut bench = Bench::running();
    assert_eq!(bench.feed(Event::ExecutionEnded), [Effect::Ask]);
    assert_eq!(bench.answer(Standing::NotFound), []);
    assert_eq!(bench.state.here, Here::Running);
    let mut bench = Bench::deferred();
    assert_eq!(bench.feed(Event::ExecutionEnded), [Effect::Ask]);
    assert_eq!(bench.answer(Standing::NotFound), [Effect::Delete]);
    assert_eq!(bench.status(), Status::Deferred);
}

#[test]
fn a_step_of_a_live_worker_is_left_to_it_and_its_stop_is_flagged() {
    let mut bench = Bench::running();
    bench.crash();
    let until = machine::later(bench.now, Duration::from_secs(30));
    bench.foreign = Lease::Until(until);
    assert_eq!(bench.delivered(true), [Effect::Wake(until)]);
    assert_eq!(bench.feed(Event::Delivered(Arrival::Stop)), [Effect::CountStop(Via::Message), Effect::Wake(until)]);
    assert!(bench.state.record.stop_requested.is_some());
    assert_eq!(bench.state.record.owner, Some(WorkerId("me".into())));
    bench.foreign = Lease::Over;
    assert_eq!(bench.feed(Event::Woken), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_step_that_another_worker_claimed_while_it_waited_for_a_slot_is_left_to_that_one() {
    let mut other = Bench::running();
    other.me = WorkerId("other".into());
    let mut bench = Bench::new();
    bench.delivered(false);
    // The write finds the record changed, so it is read anew and decided upon again.
    bench.state.record = Record { owner: Some(other.me.clone()), ..other.state.record.clone() };
    bench.foreign = Lease::Until(machine::later(bench.now, POLICY.lease));
    let left = bench.feed(Event::SlotFree);
    assert!(matches!(left[..], [Effect::Wake(_)]), "{left:?}");
    assert_eq!(bench.state.record.owner, Some(other.me));

    let mut late = Bench::new();
    late.delivered(false);
    late.state.record = Bench::concluded().state.record;
    late.state.record.owner = None;
    assert_eq!(late.feed(Event::SlotFree), [Effect::Report], "what is concluded is not run");
}

#[test]
fn a_stop_that_another_worker_answered_while_sagemaker_was_asked_is_let_go() {
    let mut bench = Bench::new();
    bench.feed(Event::Delivered(Arrival::Stop));
    bench.state.record.status = Status::Settled;
    assert_eq!(bench.answer(CLOSED), [Effect::Delete]);

    let mut bench = Bench::new();
    assert_eq!(bench.delivered(true), [Effect::Ask]);
    bench.state.record.status = Status::Settled;
    assert_eq!(bench.answer(Standing::Open { stopping: true, queue_url: None }), [Effect::Delete]);
}

#[test]
fn a_run_that_ends_while_another_worker_flags_its_stop_is_cleaned_up_after_unless_it_has_an_outcome() {
    let retry = End::Retry { after: None, error: "no route".into() };
    for end in [retry, End::Again(Duration::from_secs(1)), End::Aborted, End::Deferred] {
        let mut bench = Bench::running();
        bench.state.record.attempt = POLICY.max_attempts;
        bench.state.record.stop_requested = Some(Stop { at: bench.now, closed: false });
        assert_eq!(bench.feed(Event::Ended(end.clone())), [Effect::CleanUp(StopReason::PipelineStopped)], "{end:?}");
    }
    let mut bench = Bench::running();
    bench.state.record.stop_requested = Some(Stop { at: bench.now, closed: false });
    assert_eq!(bench.feed(Event::Ended(End::Success(Outputs::new()))), [Effect::Report]);
    assert_eq!(bench.state.record.ending, Some(Ending::Success));
}

#[test]
fn a_refused_report_settles_the_step_only_if_it_is_closed() {
    let mut bench = Bench::concluded();
    let request = bench.state.record.client_request_token.clone();
    for wait in [2, 4, 8, 16, 32] {
        assert_eq!(bench.feed(Event::ReportRefused("Conflict".into())), [Effect::Ask]);
        let at = machine::later(bench.now, Duration::from_secs(wait));
        assert_eq!(bench.answer(OPEN), [Effect::Wake(at)]);
        assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
        assert_eq!(bench.state.record.client_request_token, request);
    }
    bench.feed(Event::ReportRefused("Conflict".into()));
    let effects = bench.answer(Standing::Closed(Closed::Succeeded));
    assert_eq!(effects, [Effect::Finish(Ending::Success), Effect::Delete]);
}

#[test]
fn a_refused_report_of_a_step_that_is_not_found_is_sent_again_before_that_is_believed() {
    let mut bench = Bench::concluded();
    for _ in 0..2 {
        bench.feed(Event::ReportRefused("ResourceNotFound".into()));
        assert!(matches!(bench.answer(Standing::NotFound)[..], [Effect::Wake(_)]));
        bench.feed(Event::Woken);
    }
    // One that says otherwise, and it begins anew.
    for answer in [OPEN, Standing::NotFound, Standing::NotFound] {
        bench.feed(Event::ReportRefused("ResourceNotFound".into()));
        assert!(matches!(bench.answer(answer)[..], [Effect::Wake(_)]));
        bench.feed(Event::Woken);
    }
    bench.feed(Event::ReportRefused("ResourceNotFound".into()));
    assert_eq!(bench.answer(Standing::NotFound), [Effect::Finish(Ending::SettledElsewhere), Effect::Delete]);
}

#[test]
fn a_shutdown_releases_a_run_without_failing_it_or_counting_its_attempt() {
    let mut bench = Bench::running();
    assert_eq!(bench.feed(Event::Drain), []);
    assert_eq!(bench.feed(Event::Shutdown), [Effect::Tell(StopReason::Shutdown)]);
    assert_eq!(bench.feed(Event::GraceOver), [Effect::Abort]);
    assert_eq!(bench.feed(Event::Ended(End::Aborted)), [Effect::Return]);
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
    assert_eq!(bench.feed(Event::Ended(End::Success(Outputs::new()))), [Effect::LetGo]);
    assert_eq!(bench.state.record, before);
}

#[test]
fn a_cleanup_whose_lease_is_lost_is_dropped_and_left_to_another_worker() {
    for end in [Event::CleanupAborted, Event::Cleaned(Ok(()))] {
        let mut bench = Bench::running();
        bench.state.record.deadline = Some(bench.now);
        bench.feed(Event::DeadlineReached);
        bench.feed(Event::Ended(End::Aborted));
        let record = bench.state.record.clone();
        assert_eq!(bench.feed(Event::LeaseLost), [Effect::Abort]);
        assert_eq!(bench.feed(end), [Effect::LetGo]);
        assert_eq!((bench.state.here, &bench.state.record), (Here::Nothing, &record));
    }
}

#[test]
fn a_claim_that_another_worker_has_taken_is_not_renewed() {
    let mut bench = Bench::running();
    bench.state.record.owner = Some(WorkerId("other".into()));
    let record = bench.state.record.clone();
    assert_eq!(bench.feed(Event::Renew), []);
    assert_eq!(bench.state.record, record);
}

#[test]
fn a_worker_that_leaves_waits_for_no_cleanup_whose_lease_is_lost() {
    let mut bench = Bench::running();
    bench.feed(Event::Delivered(Arrival::Stop));
    bench.feed(Event::Ended(End::Aborted));
    let before = bench.state.record.clone();
    bench.feed(Event::LeaseLost);
    assert_eq!(bench.feed(Event::Halt), [Effect::Abort]);
    assert_eq!(bench.feed(Event::CleanupAborted), [Effect::LetGo]);
    assert_eq!(bench.state.record, before);
}

#[test]
fn a_deferral_that_is_over_fails_its_step_also_where_another_worker_had_deferred_it_meanwhile() {
    for (here, event) in [(Here::Sleeping, Event::Woken), (Here::Queued, Event::SlotFree)] {
        let mut bench = Bench::new();
        bench.state.here = here;
        bench.state.record.status = Status::Deferred;
        bench.state.record.deadline = Some(bench.now);
        assert_eq!(bench.feed(event), [Effect::Report]);
    }
}

#[test]
fn a_claim_of_which_the_ledger_did_not_tell_counts_one_attempt_and_is_run() {
    let mut bench = Bench::new();
    bench.delivered(false);
    let claimed = Bench::running().state.record;
    // The write was durable and failed, so the record is read anew and decided upon again.
    bench.state.record = Record { attempt: POLICY.max_attempts, ..claimed };
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!(bench.state.record.attempt, POLICY.max_attempts);
}

#[test]
fn a_step_found_closed_that_another_worker_has_taken_meanwhile_is_left_to_that_one() {
    let mut bench = Bench::new();
    bench.delivered(true);
    bench.state.record = Record { owner: Some(WorkerId("other".into())), ..Bench::running().state.record };
    let until = machine::later(bench.now, POLICY.lease);
    bench.foreign = Lease::Until(until);
    assert_eq!(bench.answer(CLOSED), [Effect::Wake(until)]);
}

#[test]
fn a_checkpoint_is_kept_for_the_next_attempt() {
    let mut bench = Bench::running();
    bench.feed(Event::Checkpoint(json!({"job": 7})));
    bench.crash();
    bench.delivered(true);
    bench.feed(Event::SlotFree);
    assert_eq!(bench.state.record.checkpoint, Some(json!({"job": 7})));
}

#[test]
fn a_step_without_a_handler_fails_and_says_so() {
    let mut bench = Bench::new();
    bench.state.record.handler = None;
    assert_eq!(bench.delivered(false), [Effect::Report]);
    assert!(bench.reason().contains("no handler is configured"), "{}", bench.reason());
}

#[test]
fn an_event_that_does_not_fit_is_refused_with_both_named() {
    let mut bench = Bench::new();
    let error = bench.try_feed(&Event::Ended(End::Deferred)).expect_err("nothing runs").to_string();
    assert!(error.contains("Ended(Deferred)") && error.contains("New"), "{error}");
}

#[test]
fn a_claim_says_how_long_it_holds_and_a_release_says_nothing_of_it() {
    let mut bench = Bench::running();
    let first = bench.state.record.lease_end;
    assert_eq!(first, Some(machine::later(bench.now, POLICY.lease)));
    bench.pass(Duration::from_secs(20));
    bench.feed(Event::Renew);
    assert_eq!(bench.state.record.lease_end, Some(machine::later(bench.now, POLICY.lease)));
    bench.feed(Event::Ended(End::Retry { after: None, error: "no route".into() }));
    assert_eq!((&bench.state.record.owner, bench.state.record.lease_end), (&None, None));
    assert_eq!(bench.state.record.last_error.as_deref(), Some("no route"));
    assert_eq!(bench.state.record.not_before, Some(machine::later(bench.now, Duration::from_secs(10))));
}

#[test]
fn a_checkpoint_of_a_run_whose_claim_is_anothers_is_refused() {
    let mut bench = Bench::running();
    bench.state.record.owner = Some(WorkerId("other".into()));
    assert!(bench.try_feed(&Event::Checkpoint(json!(1))).is_err());
}

#[test]
fn a_worker_does_not_wait_for_its_own_claim() {
    let mut bench = Bench::concluded();
    bench.foreign = Lease::Until(machine::later(bench.now, POLICY.lease));
    bench.state.here = Here::Sleeping;
    assert_eq!(bench.feed(Event::Woken), [Effect::Report]);
}

#[test]
fn a_deferral_has_a_limit_of_its_own() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(End::Deferred));
    assert_eq!(bench.state.record.deadline, Some(machine::later(bench.now, POLICY.deferred_limit)));
}

#[test]
fn a_run_that_finishes_after_its_execution_has_ended_is_settled_without_a_report() {
    let mut bench = Bench::running();
    bench.feed(Event::ExecutionEnded);
    assert_eq!(bench.answer(CLOSED)[1..], [Effect::Tell(StopReason::PipelineStopped)]);
    let settled = [Effect::Finish(Ending::SettledElsewhere), Effect::Delete];
    assert_eq!(bench.feed(Event::Ended(End::Success(Outputs::new()))), settled);
}

#[test]
fn a_run_that_a_shutdown_finds_waiting_or_deferring_is_taken_at_its_word() {
    let shut_down = |end| {
        let mut bench = Bench::running();
        bench.feed(Event::Shutdown);
        let effects = bench.feed(Event::Ended(end));
        (bench, effects)
    };
    let (bench, effects) = shut_down(End::Deferred);
    assert_eq!((bench.status(), effects), (Status::Deferred, vec![Effect::Finish(Ending::Deferred), Effect::Delete]));
    let wait = Duration::from_mins(5);
    let (bench, effects) = shut_down(End::Again(wait));
    assert_eq!((bench.status(), effects), (Status::Waiting, vec![Effect::Return]));
    assert_eq!(bench.state.record.not_before, Some(machine::later(bench.now, wait)));
    assert!(bench.state.record.resume, "it counts as no attempt");
}

#[test]
fn a_worker_that_leaves_at_once_aborts_what_runs_and_lets_go_of_what_is_frozen() {
    assert_eq!(Bench::running().feed(Event::Halt), [Effect::Tell(StopReason::Shutdown), Effect::Abort]);
    let mut cleaning = Bench::running();
    cleaning.feed(Event::StopSeen(Via::Message));
    cleaning.feed(Event::Ended(End::Aborted));
    assert_eq!(cleaning.feed(Event::Halt), [Effect::Abort]);
    let mut reporting = Bench::concluded();
    assert_eq!(reporting.feed(Event::Halt), [Effect::LetGo], "another ledger's worker would compute it again");
    let mut refused = Bench::concluded();
    refused.feed(Event::ReportRefused("Conflict".into()));
    assert_eq!(refused.state.record.last_error.as_deref(), Some("Conflict"));
    refused.answer(OPEN);
    assert_eq!(refused.feed(Event::Halt), [Effect::LetGo]);
    let mut waiting = Bench::running();
    waiting.feed(Event::Ended(End::Again(Duration::from_mins(5))));
    assert_eq!(waiting.feed(Event::Halt), [Effect::Return]);
}

#[test]
fn a_settled_step_says_how_and_when_it_ended_and_waits_for_nothing() {
    let mut bench = Bench::running();
    bench.feed(Event::ExecutionEnded);
    bench.answer(CLOSED);
    bench.pass(Duration::from_secs(5));
    bench.feed(Event::Ended(End::Failure("no".into())));
    let record = &bench.state.record;
    assert_eq!((record.ending, record.settled_at), (Some(Ending::SettledElsewhere), Some(bench.now)));
    assert_eq!((record.not_before, record.deadline, &record.owner), (None, None, &None));
}

#[test]
fn a_message_that_comes_after_the_end_of_its_step_is_deleted_whichever_it_is() {
    for arrival in [Arrival::Work { redelivered: false }, Arrival::Stop] {
        let mut bench = Bench::concluded();
        bench.feed(Event::ReportAccepted);
        assert_eq!(bench.feed(Event::Delivered(arrival)), [Effect::Delete], "{arrival:?}");
    }
}

#[test]
fn a_copy_of_the_message_of_a_deferred_step_is_deleted() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(End::Deferred));
    bench.crash();
    assert_eq!(bench.delivered(true), [Effect::Delete]);
    assert_eq!(bench.status(), Status::Deferred);
}

#[test]
fn a_step_that_waits_for_its_next_attempt_waits_on_after_a_crash_unless_it_is_to_end() {
    let waiting = || {
        let mut bench = Bench::running();
        bench.feed(Event::Ended(End::Again(Duration::from_hours(2))));
        bench.crash();
        bench
    };
    let mut bench = waiting();
    let at = bench.state.record.not_before.expect("it waits");
    assert_eq!(bench.delivered(true), [Effect::Wake(at)]);
    let mut stopped = waiting();
    stopped.state.record.stop_requested = Some(Stop { at: stopped.now, closed: false });
    assert_eq!(stopped.delivered(true), [Effect::CleanUp(StopReason::PipelineStopped)]);
    let mut overdue = waiting();
    overdue.pass(POLICY.time_limit);
    assert_eq!(overdue.delivered(true), [Effect::CleanUp(StopReason::TimeLimit)]);
}

#[test]
fn a_step_that_waits_goes_on_where_its_execution_has_not_ended_after_all() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(End::Again(Duration::from_mins(5))));
    let at = bench.state.record.not_before.expect("it waits");
    assert_eq!(bench.feed(Event::ExecutionEnded), [Effect::Ask]);
    assert_eq!(bench.answer(OPEN), [Effect::Wake(at)]);
}

#[test]
fn a_deadline_ends_only_what_is_over_and_runs_nowhere_else() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(End::Deferred));
    assert_eq!(bench.feed(Event::DeadlineReached), []);
    bench.pass(POLICY.deferred_limit);
    assert_eq!(bench.feed(Event::DeadlineReached), [Effect::Report]);

    let mut elsewhere = Bench::running();
    elsewhere.crash();
    elsewhere.foreign = Lease::Until(machine::later(elsewhere.now, POLICY.lease));
    elsewhere.delivered(true);
    elsewhere.pass(POLICY.time_limit);
    assert_eq!(elsewhere.feed(Event::DeadlineReached), [], "it is its owner's to end");
}

#[test]
fn a_step_whose_stop_came_to_another_worker_while_it_waited_for_a_slot_is_not_run() {
    let mut bench = Bench::new();
    bench.delivered(false);
    // The write finds the record changed, so it is read anew and decided upon again.
    bench.state.record.status = Status::Owed;
    bench.state.record.stop_requested = Some(Stop { at: bench.now, closed: false });
    assert_eq!(bench.feed(Event::SlotFree), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn a_deferral_at_a_shutdown_does_not_outweigh_a_stop_that_another_worker_has_flagged() {
    let mut bench = Bench::running();
    bench.feed(Event::Shutdown);
    bench.state.record.stop_requested = Some(Stop { at: bench.now, closed: false });
    bench.feed(Event::Ended(End::Deferred));
    assert_eq!(bench.status(), Status::Deferred);
    bench.crash();
    assert_eq!(bench.feed(Event::Found), [Effect::CleanUp(StopReason::PipelineStopped)]);
}

#[test]
fn what_people_read_is_named_as_it_is_stored() {
    use Status::{Claimed, Concluded, Deferred, New, Owed, Settled, Waiting};
    for status in [New, Owed, Claimed, Waiting, Deferred, Concluded, Settled] {
        assert_eq!(json!(status), status.as_str());
    }
    for ending in [Ending::Success, Ending::Failure, Ending::Deferred, Ending::Stopped, Ending::SettledElsewhere] {
        assert_eq!(json!(ending), ending.as_str());
    }
    assert_eq!([Via::Message, Via::Watch, Via::Ledger].map(Via::as_str), ["message", "watch", "ledger"]);
    assert_eq!([Here::Running, Here::Winding(StopReason::Shutdown)].map(Here::as_str), ["running", "stopping"]);
    assert_eq!(WorkerId("me".into()).to_string(), "me");
}

fn any_event() -> impl Strategy<Value = Event> {
    let standing = prop_oneof![
        Just(OPEN),
        Just(Standing::Open { stopping: true, queue_url: None }),
        Just(CLOSED),
        Just(Standing::Closed(Closed::Succeeded)),
        Just(Standing::NotFound),
    ];
    prop_oneof![
        3 => any::<bool>().prop_map(|redelivered| Event::Delivered(Arrival::Work { redelivered })),
        2 => Just(Event::Delivered(Arrival::Stop)),
        1 => Just(Event::Found),
        3 => standing.prop_map(|standing| Event::Answered(Answer::Standing(standing))),
        1 => Just(Event::Answered(Answer::Unknown("denied".into()))),
        4 => Just(Event::SlotFree),
        1 => Just(Event::Checkpoint(json!(1))),
        2 => Just(Event::Ended(End::Success(Outputs::new()))),
        1 => Just(Event::Ended(End::Failure("no".into()))),
        1 => Just(Event::Ended(End::Retry { after: None, error: "later".into() })),
        1 => Just(Event::Ended(End::Again(Duration::from_mins(1)))),
        1 => Just(Event::Ended(End::Deferred)),
        1 => Just(Event::Ended(End::Aborted)),
        2 => Just(Event::Cleaned(Ok(()))),
        1 => Just(Event::Cleaned(Err("no".into()))),
        1 => Just(Event::CleanupAborted),
        1 => Just(Event::GraceOver),
        1 => Just(Event::DeadlineReached),
        2 => Just(Event::Woken),
        1 => Just(Event::StopSeen(Via::Watch)),
        1 => Just(Event::ExecutionEnded),
        2 => Just(Event::ReportAccepted),
        1 => Just(Event::ReportRefused("conflict".into())),
        1 => Just(Event::Renew),
        1 => Just(Event::LeaseLost),
        1 => Just(Event::Drain),
        1 => Just(Event::Shutdown),
        1 => Just(Event::Halt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_happens_the_promises_hold(
        events in prop::collection::vec((any_event(), 0..400u64, prop::bool::weighted(0.05)), 1..60),
    ) {
        let mut bench = Bench::new();
        let mut frozen = None;
        for (event, minutes, crash) in events {
            bench.pass(Duration::from_secs(minutes * 3));
            if crash {
                bench.crash();
            }
            let stopped = bench.state.record.stop_requested.is_some();
            let Ok(effects) = bench.try_feed(&event) else { continue };
            let record = &bench.state.record;
            for effect in &effects {
                match effect {
                    Effect::Delete => prop_assert!(matches!(record.status, Status::Settled | Status::Deferred), "deleted {record:?}"),
                    Effect::Run => {
                        prop_assert!(!stopped && record.stop_requested.is_none(), "a stopped step was started");
                        prop_assert!(record.status == Status::Claimed && record.owner.as_ref() == Some(&bench.me));
                        prop_assert!(record.outcome.is_none() && record.attempt <= POLICY.max_attempts);
                    }
                    Effect::CleanUp(_) => prop_assert!(record.status == Status::Claimed && record.owner.as_ref() == Some(&bench.me)),
                    Effect::Report => prop_assert!(record.status == Status::Concluded && record.outcome.is_some()),
                    _ => {}
                }
            }
            if let Some((outcome, request)) = &frozen {
                prop_assert_eq!(outcome, &record.outcome);
                prop_assert_eq!(request, &record.client_request_token);
            } else if record.outcome.is_some() {
                frozen = Some((record.outcome.clone(), record.client_request_token.clone()));
            }
        }
    }
}
