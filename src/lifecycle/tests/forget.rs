//! Records that are ended without a worker.

use super::*;
use crate::outcome::ClientRequestToken;
use crate::seam::ExecutionStanding;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const GONE: ExecutionStanding = ExecutionStanding::NotFound;
const RUNS: ExecutionStanding = ExecutionStanding::Executing;
const OPEN: Standing = Standing::Open { stopping: false, queue_url: None };

fn record(status: Status) -> Record {
    let mut record = Bench::new().state.record;
    record.status = status;
    record.version = 1;
    record.attempt = 1;
    record.first_seen = NOW;
    match status {
        Status::Claimed => record.owner = Some(WorkerId("other".into())),
        Status::Deferred => record.deadline = Some(NOW),
        Status::Concluded => {
            let outcome = Outcome::Success(Outputs::new());
            let request = ClientRequestToken::of(&record.execution, &record.token, &outcome);
            record.outcome = Some(outcome);
            record.client_request_token = Some(request);
            record.ending = Some(Ending::Success);
            record.concluded_at = Some(NOW);
        }
        Status::Owed => record.stop_requested = Some(Stop::open(NOW)),
        Status::New | Status::Waiting | Status::Settled => {}
    }
    record
}

const UNSETTLED: [Status; 5] =
    [Status::Owed, Status::Claimed, Status::Waiting, Status::Deferred, Status::Concluded];

#[test]
fn what_sagemaker_waits_for_is_never_forgotten() {
    for status in UNSETTLED {
        for execution in [RUNS, ExecutionStanding::Stopping, GONE] {
            let refused = forget(&record(status), Lease::Over, &OPEN, execution, NOW);
            assert_eq!(refused, Err(Unforgettable::Waits(status)));
        }
        for execution in [RUNS, ExecutionStanding::Stopping] {
            let refused = forget(&record(status), Lease::Over, &Standing::NotFound, execution, NOW);
            assert_eq!(refused, Err(Unforgettable::MayWait), "not found is not closed");
        }
    }
    let told = Unforgettable::Waits(Status::Deferred).to_string();
    assert!(told.contains("callbackd complete"), "{told}");
}

#[test]
fn a_step_that_is_closed_or_gone_with_its_execution_leaves_a_sound_settled_record() {
    let ended = ExecutionStanding::Ended(StepResult::Failed);
    let closed = Standing::Closed(StepResult::Stopped);
    for status in UNSETTLED {
        for (standing, execution) in
            [(&Standing::NotFound, GONE), (&Standing::NotFound, ended), (&closed, RUNS)]
        {
            let left = forget(&record(status), Lease::Over, standing, execution, NOW);
            let left = left.expect("it is forgotten");
            assert_eq!((left.status, left.settled_at), (Status::Settled, Some(NOW)));
            assert_eq!(contradictions(&left), [""; 0], "{status:?}");
            let again = forget(&left, Lease::Over, standing, execution, NOW);
            assert_eq!(again, Err(Unforgettable::Settled));
        }
    }
}

#[test]
fn what_a_living_worker_runs_is_left_to_it() {
    let claimed = record(Status::Claimed);
    let refused = forget(&claimed, Lease::Until(NOW), &Standing::NotFound, GONE, NOW);
    assert_eq!(refused, Err(Unforgettable::Runs(WorkerId("other".into()))));
    let reported = Record { owner: claimed.owner, ..record(Status::Concluded) };
    let left = forget(&reported, Lease::Until(NOW), &Standing::NotFound, GONE, NOW);
    assert_eq!(left.map(|left| left.ending), Ok(Some(Ending::Success)));
}

#[test]
fn a_token_that_may_wait_again_is_forgotten_only_if_it_does_not() {
    let returned = Some(Returned { sent: NOW, arguments: Arc::default() });
    let settled = Record {
        returned,
        ending: Some(Ending::Success),
        settled_at: Some(NOW),
        arguments: Arc::default(),
        ..record(Status::Settled)
    };
    let refused = forget(&settled, Lease::Over, &OPEN, RUNS, NOW);
    assert_eq!(refused, Err(Unforgettable::Waits(Status::Settled)));
    let left = forget(&settled, Lease::Over, &Standing::NotFound, GONE, NOW);
    assert_eq!(left.map(|left| left.returned), Ok(None));
}

#[test]
fn an_older_copy_catches_up_with_what_was_answered_and_leaves_cleanups_to_a_worker() {
    use StepResult::{Failed, Stopped, Succeeded};
    for (status, how, wants) in [
        (Status::Owed, Stopped, true),
        (Status::Claimed, Succeeded, true),
        (Status::Claimed, Failed, false),
        (Status::Claimed, Stopped, false),
        (Status::Waiting, Succeeded, true),
        (Status::Waiting, Failed, false),
        (Status::Deferred, Succeeded, true),
        (Status::Deferred, Failed, true),
        (Status::Deferred, Stopped, false),
        (Status::Concluded, Succeeded, true),
        (Status::Concluded, Failed, true),
    ] {
        let caught = catch_up(&record(status), how, NOW).expect("it has gone on");
        assert_eq!(contradictions(&caught), [""; 0], "{status:?} {how:?}");
        assert_eq!(caught.status == Status::Settled, wants, "{status:?} {how:?}");
        if !wants {
            assert_eq!(
                caught.stop_requested.map(|stop| (stop.closed, stop.succeeded)),
                Some((true, false))
            );
            assert_eq!((caught.status, caught.closed_as), (status, Some(how)));
            continue;
        }
        let as_ours = status == Status::Concluded && how == Succeeded;
        let expected = if as_ours {
            (Some(Ending::Success), None)
        } else {
            (Some(Ending::SettledElsewhere), Some(how))
        };
        assert_eq!((caught.ending, caught.closed_as), expected, "{status:?} {how:?}");
    }
    assert_eq!(catch_up(&record(Status::Settled), Succeeded, NOW), None);
    let fresh = Record { attempt: 0, ..record(Status::Waiting) };
    let caught = catch_up(&fresh, Stopped, NOW).map(|caught| caught.status);
    assert_eq!(caught, Some(Status::Settled), "nothing has run");
}

/// A worker that finds the record cleans up, and neither runs it again nor reports.
#[test]
fn what_an_older_copy_had_begun_is_cleaned_up_after_by_the_next_worker() {
    for status in [Status::Claimed, Status::Waiting, Status::Deferred] {
        let mut bench = Bench::new();
        bench.state.record = catch_up(&record(status), StepResult::Failed, NOW)
            .filter(|caught| caught.status != Status::Settled)
            .unwrap_or_else(|| {
                catch_up(&record(status), StepResult::Stopped, NOW).expect("a stop")
            });
        bench.foreign = Lease::Over;
        let effects = bench.feed(Event::Found);
        let cleans = |effect: &Effect| matches!(effect, Effect::CleanUp(_));
        assert!(effects.iter().any(cleans), "{status:?}: {effects:?}");
        assert!(!effects.contains(&Effect::Run), "{status:?}: {effects:?}");
    }
}

#[test]
fn its_history_says_who_had_it_forgotten() {
    let mut left = record(Status::Waiting);
    left.remember_forgotten("ada on host-1", NOW);
    let [it] = left.history.events() else { panic!("{:?}", left.history) };
    assert_eq!((it.event.as_str(), it.detail.as_deref()), ("forgotten", Some("ada on host-1")));
}
