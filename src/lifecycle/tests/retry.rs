//! Retries that an operator asks for.

use super::*;

impl Bench {
    /// A step whose attempt has failed, and whose next one is due later.
    fn backing_off() -> Self {
        let mut bench = Self::running();
        bench.feed(Event::Ended(RunEnd::Retry { after: None, error: "no route".to_owned() }));
        assert_eq!(bench.state.local.activity, Activity::Sleeping);
        assert!(bench.state.record.not_before > Some(bench.now));
        bench
    }

    fn may_retry(&self) -> Result<(), NotRetried> {
        may_retry(&self.state, &self.view())
    }

    /// Why it is not tried again, which nothing changes.
    fn refuses_retry(&mut self) -> NotRetried {
        let why = self.may_retry().expect_err("refused");
        let before = self.state.clone();
        assert_eq!(self.feed(Event::RetryAsked), []);
        assert_eq!((&self.state, self.written), (&before, None), "{why}");
        why
    }

    /// As a worker that finds it in the ledger.
    fn found(mut self) -> Self {
        self.state.local = Local::NOTHING;
        self.holds = false;
        self
    }
}

#[test]
fn a_step_that_waits_for_its_next_attempt_begins_it_and_the_attempt_counts() {
    let mut bench = Bench::backing_off();
    assert_eq!(bench.may_retry(), Ok(()));
    assert_eq!(bench.feed(Event::RetryAsked), [Effect::AwaitSlot]);
    assert_eq!(bench.state.record.not_before, None, "it is due also after a crash");
    assert_eq!(bench.written, Some(Urgency::First));
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!(bench.state.record.attempt, 2);
}

#[test]
fn a_job_that_is_polled_is_looked_at_at_once_and_that_is_no_attempt() {
    let mut bench = Bench::running();
    bench.feed(Event::Ended(RunEnd::Again(Duration::from_mins(10))));
    assert_eq!(bench.feed(Event::RetryAsked), [Effect::AwaitSlot]);
    assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
    assert_eq!(bench.state.record.attempt, 1);
}

#[test]
fn a_step_of_the_ledger_is_asked_about_first_and_does_not_wait_after_that() {
    let mut bench = Bench::backing_off().found();
    assert_eq!(bench.feed(Event::RetryAsked), [ASK]);
    assert_eq!(bench.answer(OPEN), [Effect::AwaitSlot]);

    let mut asked = Bench::backing_off().found();
    assert_eq!(asked.feed(Event::Found), [ASK]);
    assert_eq!(asked.feed(Event::RetryAsked), [], "the question is under way");
    assert_eq!(asked.answer(OPEN), [Effect::AwaitSlot]);

    let mut closed = Bench::backing_off().found();
    closed.feed(Event::RetryAsked);
    let effects = closed.answer(CLOSED);
    assert!(!effects.contains(&Effect::AwaitSlot), "it is not run: {effects:?}");
    assert!(closed.state.record.stop_requested.is_some_and(|stop| stop.closed));
}

#[test]
fn what_does_not_wait_for_a_time_is_refused_with_what_it_is() {
    assert_eq!(Bench::new().refuses_retry(), NotRetried::New);
    let queued = NotRetried::UnderWay(Activity::Queued);
    let mut bench = Bench::backing_off();
    bench.feed(Event::RetryAsked);
    assert_eq!(bench.refuses_retry(), queued, "it cannot be asked for twice");
    let running = NotRetried::UnderWay(Activity::Running);
    assert_eq!(Bench::running().refuses_retry(), running);
    assert_eq!(Bench::deferred().refuses_retry(), NotRetried::Deferred);
    assert_eq!(Bench::concluded().refuses_retry(), NotRetried::Concluded);
    assert_eq!(Bench::settled().refuses_retry(), NotRetried::Settled);

    let mut overdue = Bench::backing_off();
    overdue.pass(Duration::from_hours(2));
    assert_eq!(overdue.refuses_retry(), NotRetried::Overdue);
    let mut draining = Bench::backing_off();
    draining.phase = Phase::Draining;
    assert_eq!(draining.may_retry(), Err(NotRetried::ShuttingDown));
    let mut stopped = Bench::backing_off().found();
    stopped.state.record.stop_requested = Some(Stop::open(stopped.now));
    assert_eq!(stopped.refuses_retry(), NotRetried::Stopping);
}

#[test]
fn what_waits_for_its_handler_is_refused_with_the_reason() {
    let mut gone = Bench::backing_off();
    gone.policy.handler_is_gone = true;
    assert!(gone.refuses_retry().to_string().contains("`h` is not configured"));
    let mut hindered = Bench::backing_off();
    hindered.state.record.hindered = true;
    hindered.state.record.last_error = Some("no space\u{1b}".to_owned());
    let why = hindered.refuses_retry().to_string();
    assert!(why.ends_with("no space\\u{1b}"), "{why}");
}

#[test]
fn what_another_worker_runs_is_refused_with_its_name() {
    let mut bench = Bench::running().found();
    bench.me = WorkerId("other".into());
    bench.foreign = Lease::Until(machine::later(bench.now, LEASE));
    assert_eq!(bench.refuses_retry(), NotRetried::Elsewhere(WorkerId("me".into())));
    bench.foreign = Lease::Over;
    assert_eq!(bench.refuses_retry(), NotRetried::LeftBehind);
}
