//! Answers to deferred steps through the ledger.

use super::*;
use crate::outcome::Reason;
use crate::step::{CallbackToken, StepKey};

fn approved() -> Outcome {
    Outcome::Success(Outputs::of([("approved_by", "ada")]).expect("an output"))
}

fn rejected() -> Outcome {
    Outcome::Failure(Reason::new("it is biased"))
}

impl Bench {
    fn answered(&self, answer: Outcome) -> Result<Completed, Unanswerable> {
        complete(&self.state.record, answer, self.now)
    }

    /// Another process writes the answer.
    fn complete(&mut self, answer: Outcome) {
        let Ok(Completed::Now(record)) = self.answered(answer) else { panic!("it takes one") };
        self.state.record = Record { version: record.version + 1, ..*record };
    }

    fn refuses(&self, answer: Outcome) -> String {
        self.answered(answer).expect_err("it takes none").to_string()
    }
}

#[test]
fn an_answer_is_frozen_like_any_outcome_and_reported_by_the_worker_that_finds_it() {
    for (answer, ending) in [(approved(), Ending::Success), (rejected(), Ending::Failure)] {
        let mut bench = Bench::deferred();
        bench.complete(answer.clone());
        let record = bench.state.record.clone();
        assert_eq!((record.status, record.owner), (Status::Concluded, None));
        let request = record.client_request_token.expect("it is named");
        assert_eq!(record.outcome, Some(answer.clone()));
        assert_eq!((record.ending, record.concluded_at), (Some(ending), Some(bench.now)));
        assert_eq!((record.deadline, record.not_before), (None, Some(bench.now)), "due at once");

        let mut same = Bench::running();
        same.feed(Event::Ended(match answer {
            Outcome::Success(outputs) => RunEnd::Success(outputs),
            Outcome::Failure(reason) => RunEnd::Failure(reason.to_string()),
        }));
        assert_eq!(same.state.record.client_request_token, Some(request), "as a handler's own");

        assert_eq!(bench.feed(Event::Found), [Effect::Report]);
        assert_eq!(bench.feed(Event::ReportAccepted), [Effect::Finish(ending), Effect::Delete]);
        assert_eq!(
            (bench.state.record.status, bench.state.record.not_before),
            (Status::Settled, None)
        );
    }
}

#[test]
fn the_first_answer_counts_and_repeating_it_changes_nothing() {
    let mut bench = Bench::deferred();
    bench.complete(approved());
    for settled in [false, true] {
        assert_eq!(bench.answered(approved()), Ok(Completed::Before));
        assert_eq!(
            bench.refuses(rejected()),
            "it was answered before, and differently: success with approved_by=ada"
        );
        if !settled {
            bench.feed(Event::Found);
            bench.feed(Event::ReportAccepted);
        }
    }
    let mut bench = Bench::deferred();
    bench.complete(rejected());
    assert!(bench.refuses(approved()).ends_with("differently: failure: it is biased"));
}

#[test]
fn a_step_that_is_not_deferred_takes_no_answer() {
    let told = |bench: &Bench| bench.refuses(approved());
    assert!(told(&Bench::new()).contains("it is not deferred: it is new"));
    assert!(told(&Bench::running()).contains("it is not deferred: it is claimed"));
    let mut waiting = Bench::running();
    waiting.feed(Event::Ended(RunEnd::Again(Duration::from_secs(60))));
    assert!(told(&waiting).contains("it is not deferred: it is waiting"));
    let own = told(&Bench::concluded());
    assert!(own.ends_with("and differently: success"), "{own}");
    let mut stopping = Bench::deferred();
    assert_eq!(
        stopping.stop_delivered().last(),
        Some(&Effect::CleanUp(StopReason::PipelineStopped))
    );
    assert!(told(&stopping).contains("it is being stopped"));
    stopping.feed(Event::Cleaned(Ok(())));
    let stopped = told(&stopping);
    assert!(
        stopped.contains("its pipeline was stopped") && stopped.contains("failure: "),
        "{stopped}"
    );
}

#[test]
fn an_answer_in_time_is_taken_after_the_limit_until_the_failure_is_frozen() {
    let mut bench = Bench::deferred();
    bench.now = bench.state.record.deadline.expect("a limit");
    let mut late = Bench { state: bench.state.clone(), ..Bench::deferred() };
    late.now = bench.now;
    bench.complete(approved());
    assert_eq!(bench.feed(Event::Found), [Effect::Report]);
    assert_eq!(late.feed(Event::Found), [Effect::Report]);
    let why = late.refuses(approved());
    assert!(why.contains("nobody completed the deferred step within 1d"), "{why}");
}

#[test]
fn a_stop_that_comes_after_the_answer_is_settled_with_it() {
    let mut bench = Bench::deferred();
    bench.complete(approved());
    assert_eq!(bench.stop_delivered(), [Effect::Report]);
    assert_eq!(
        bench.feed(Event::ReportAccepted),
        [Effect::Finish(Ending::Success), Effect::Delete]
    );
}

#[test]
fn an_answer_given_at_sagemaker_is_settled_and_known_as_what_it_was() {
    for how in [StepResult::Succeeded, StepResult::Failed] {
        let mut bench = Bench::deferred();
        bench.feed(Event::SeenEnded { stopped: false });
        let closed = Event::Answered(Answer::Standing(Standing::Closed(how)));
        assert_eq!(bench.feed(closed), ELSEWHERE);
        let record = &bench.state.record;
        assert_eq!((&record.outcome, record.closed_as), (&None, Some(how)));
        let why = bench.refuses(approved());
        assert!(why.ends_with(&format!("not by this ledger: it has {}", how.as_str())), "{why}");
    }
}

#[test]
fn an_answer_that_came_too_late_for_sagemaker_is_told_from_one_that_arrived() {
    let mut bench = Bench::deferred();
    bench.complete(approved());
    bench.feed(Event::Found);
    bench.feed(Event::ReportRefused("closed".to_owned()));
    let closed = Event::Answered(Answer::Standing(Standing::Closed(StepResult::Failed)));
    assert_eq!(bench.feed(closed), ELSEWHERE);
    assert!(bench.refuses(approved()).contains("it is closed at SageMaker already"));
}

#[test]
fn a_key_is_kept_with_the_step_and_written_only_if_it_is_new() {
    let key = |text: &str| text.parse::<StepKey>().expect("a key");
    let mut bench = Bench::running();
    for (name, written) in [("ORDER-17", true), ("ORDER-17", false), ("ORDER-18", true)] {
        assert_eq!(bench.feed(Event::Key(key(name))), []);
        assert_eq!(bench.written.is_some(), written, "{name}");
        assert_eq!(bench.state.record.key, Some(key(name)));
    }
    bench.feed(Event::Ended(RunEnd::Deferred));
    bench.complete(approved());
    bench.feed(Event::Found);
    bench.feed(Event::ReportAccepted);
    assert_eq!(bench.state.record.key, Some(key("ORDER-18")), "it is found when it is settled too");
    assert!(Bench::deferred().try_feed(&Event::Key(key("late"))).is_err());
}

#[test]
fn a_key_means_the_one_step_that_is_deferred_or_the_newest_of_the_others() {
    let key: StepKey = "ORDER-17".parse().expect("a key");
    let step = |token: &str, status: Status, second: i64| Record {
        token: token.parse().expect("a token"),
        first_seen: Timestamp::from_second(second).expect("in range"),
        ..Record { status, ..Bench::new().state.record }
    };
    let means = |named: &[Record]| meant(&key, named).map(|token| token.to_string());
    let old = step("aaaaaaaaaa", Status::Settled, 1);
    let new = step("bbbbbbbbbb", Status::Settled, 2);
    let open = step("cccccccccc", Status::Deferred, 0);
    let other = step("dddddddddd", Status::Deferred, 3);
    assert_eq!(means(&[old.clone(), open.clone(), new.clone()]), Ok("cccccccccc".to_owned()));
    assert_eq!(means(&[new.clone(), old]), Ok("bbbbbbbbbb".to_owned()));
    assert_eq!(means(&[]), Err(Unclear::Unknown(key.clone())));
    let unclear = means(&[open, new, other.clone()]).expect_err("two of them").to_string();
    assert!(unclear.contains("2 deferred steps have it"), "{unclear}");
    assert!(unclear.ends_with("cccccccccc, dddddddddd"), "{unclear}");
    let crowd: Vec<Record> = (0..12)
        .map(|number| {
            let token: CallbackToken = format!("token{number:05}").parse().expect("a token");
            Record { token, ..other.clone() }
        })
        .collect();
    assert!(means(&crowd).expect_err("twelve").to_string().ends_with("token00009, …"));
}
