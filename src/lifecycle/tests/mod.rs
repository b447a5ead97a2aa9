//! What the machine promises, as tests: one file for each of its stages, and [`properties`].

mod answer;
mod blame;
mod complete;
mod conclude;
mod elsewhere;
mod forget;
mod gone;
mod leave;
mod properties;
mod resume;
mod retry;
mod settle;
mod sound;
mod stop;
mod take;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::backoff::Backoff;
use crate::outcome::{Outcome, Outputs};
use crate::seam::{Standing, StepResult};
use crate::step::{Message, StopReason};

const POLICY: Policy = Policy {
    alone: true,
    crowded_after: None,
    handler_is_gone: false,
    max_attempts: 3,
    retry: Backoff::new(Duration::from_secs(10), Duration::from_mins(15)),
    time_limit: Duration::from_hours(1),
    deferred_limit: Duration::from_hours(24),
    answers: AnsweredBy::Callbackd,
    on_stop: OnStop::Failure,
    verify: Verify::Redelivered,
    stop_takeover_after: Duration::from_mins(5),
    gone_after: Duration::from_hours(24),
    ask_every: Duration::from_secs(30),
};

const LEASE: Duration = Duration::from_mins(1);

/// One step, one worker, and a ledger that accepts every write.
struct Bench {
    state: State,
    policy: Policy,
    now: Timestamp,
    me: WorkerId,
    foreign: Lease,
    phase: Phase,
    holds: bool,
    own_account: bool,
    /// By the last event.
    written: Option<Urgency>,
    /// The last event had old messages replaced, which most tests are not about.
    replaced: bool,
}

impl Bench {
    fn new() -> Self {
        let step = Message::parse(include_str!("../../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let now = Timestamp::UNIX_EPOCH;
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        let record = Record::of_message(step, queue, Some("h".into()), now);
        Self {
            state: State::new(record),
            policy: POLICY,
            now,
            me: WorkerId("me".into()),
            foreign: Lease::Over,
            phase: Phase::Running,
            holds: true,
            own_account: true,
            written: None,
            replaced: false,
        }
    }

    fn verifying() -> Self {
        let mut bench = Self::new();
        bench.policy.verify = Verify::Always;
        bench
    }

    fn queued() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.delivered(false), [Effect::AwaitSlot]);
        bench
    }

    fn running() -> Self {
        let mut bench = Self::queued();
        assert_eq!(bench.feed(Event::SlotFree), [Effect::Run]);
        bench
    }

    fn deferred() -> Self {
        let mut bench = Self::running();
        assert_eq!(
            bench.feed(Event::Ended(RunEnd::Deferred)),
            [Effect::Finish(Ending::Deferred), Effect::Delete]
        );
        bench
    }

    fn concluded() -> Self {
        let mut bench = Self::running();
        assert_eq!(bench.feed(Event::Ended(RunEnd::Success(Outputs::new()))), [Effect::Report]);
        bench
    }

    fn settled() -> Self {
        let mut bench = Self::concluded();
        assert_eq!(
            bench.feed(Event::ReportAccepted),
            [Effect::Finish(Ending::Success), Effect::Delete]
        );
        bench
    }

    fn delivered(&mut self, redelivered: bool) -> Vec<Effect> {
        self.feed(work(if redelivered { 2 } else { 1 }, None))
    }

    fn stop_delivered(&mut self) -> Vec<Effect> {
        self.feed(Event::Delivered(Arrival::Stop))
    }

    #[expect(clippy::needless_pass_by_value, reason = "the claims read better")]
    fn feed(&mut self, event: Event) -> Vec<Effect> {
        self.try_feed(&event).expect("the event fits")
    }

    fn try_feed(&mut self, event: &Event) -> Result<Vec<Effect>, Illegal> {
        let Transition { write, local, mut effects } = decide(&self.state, event, &self.view())?;
        self.written = write.as_ref().map(|write| write.urgency);
        if let Some(Write { record, .. }) = write {
            self.state.record = Record { version: record.version + 1, ..record };
        }
        self.state.local = local;
        self.replaced = effects.contains(&Effect::Replace);
        effects.retain(|effect| *effect != Effect::Replace);
        Ok(effects)
    }

    fn view(&self) -> View<'_> {
        View {
            now: self.now,
            me: &self.me,
            policy: &self.policy,
            handlers: "a, b",
            foreign: self.foreign,
            random: 1.0,
            phase: self.phase,
            holds: self.holds,
            own_account: self.own_account,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = machine::later(self.now, time);
    }

    fn enter(&mut self, phase: Phase) -> Vec<Effect> {
        self.phase = phase;
        self.feed(Event::Phase)
    }

    /// The process dies; another one of the same ledger finds the record.
    fn crash(&mut self) {
        self.me = WorkerId(format!("{}'", self.me).into());
        self.phase = Phase::Running;
        if self.state.record.version > 0 {
            self.state = State::new(self.state.record.clone());
        } else {
            self.state = Self::new().state;
        }
    }

    /// The same if no other process has the ledger open: the consequences of the death are written
    /// first.
    fn crash_judged(&mut self, beside: Beside) {
        self.crash();
        let record = self.state.record.clone();
        if record.is_left_behind(&self.me) {
            self.state.record =
                Record { version: record.version + 1, ..record.after_crash(beside) };
        }
    }

    /// Its message comes back, and it has a slot.
    fn started_again(&mut self) {
        assert_eq!(self.delivered(true), [Effect::AwaitSlot]);
        assert_eq!(self.feed(Event::SlotFree), [Effect::Run]);
    }

    fn answer(&mut self, standing: Standing) -> Vec<Effect> {
        self.feed(Event::Answered(Answer::Standing(standing)))
    }

    fn no_answer(&mut self) -> Vec<Effect> {
        self.feed(Event::Answered(Answer::Unknown("throttled".into())))
    }

    fn wakes_in(&self, seconds: u64) -> Effect {
        Effect::Wake(machine::later(self.now, Duration::from_secs(seconds)))
    }

    fn status(&self) -> Status {
        self.state.record.status
    }

    fn activity(&self) -> Activity {
        self.state.local.activity
    }

    fn reason(&self) -> &str {
        match &self.state.record.outcome {
            Some(Outcome::Failure(reason)) => reason.as_str(),
            other => panic!("no failure: {other:?}"),
        }
    }
}

fn work(receives: u32, sent: Option<Timestamp>) -> Event {
    Event::Delivered(Arrival::Work { receives, sent, arguments: Arc::new(json!({"day": 2})) })
}

fn sent_at(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok()
}

const ASK: Effect = Effect::Ask { confirm_stop: false };
const CONFIRM: Effect = Effect::Ask { confirm_stop: true };
const STOPPING: Standing = Standing::Open { stopping: true, queue_url: None };
const ELSEWHERE: [Effect; 2] = [Effect::Finish(Ending::SettledElsewhere), Effect::Delete];
const OPEN: Standing = Standing::Open { stopping: false, queue_url: None };
const CLOSED: Standing = Standing::Closed(StepResult::Stopped);

#[test]
fn an_event_that_does_not_fit_is_refused_with_both_named() {
    let mut bench = Bench::new();
    let error =
        bench.try_feed(&Event::Ended(RunEnd::Deferred)).expect_err("nothing runs").to_string();
    assert!(error.contains("Ended(Deferred)") && error.contains("New"), "{error}");
}

#[test]
fn what_people_read_is_named_as_it_is_stored() {
    use Status::{Claimed, Concluded, Deferred, New, Owed, Settled, Waiting};
    for status in [New, Owed, Claimed, Waiting, Deferred, Concluded, Settled] {
        assert_eq!(json!(status), status.as_str());
    }
    for ending in [
        Ending::Success,
        Ending::Failure,
        Ending::Deferred,
        Ending::Stopped,
        Ending::SettledElsewhere,
        Ending::AnsweredByHandler,
    ] {
        assert_eq!(json!(ending), ending.as_str());
    }
    assert_eq!(
        [Via::Message, Via::Watch, Via::Ledger].map(Via::as_str),
        ["message", "watch", "ledger"]
    );
    assert_eq!(
        [Activity::Running, Activity::Stopping(StopReason::Shutdown)].map(Activity::as_str),
        ["running", "stopping"]
    );
    assert_eq!(WorkerId("me".into()).to_string(), "me");
}
