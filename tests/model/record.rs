//! A record as the model keeps it: what decisions depend on, and times as ticks from now, so that there are finitely many.

use std::sync::LazyLock;
use std::time::Duration;

use callbackd::backoff::Backoff;
use callbackd::lifecycle::{
    self, Effect, End, Ending, Event, Illegal, Lease, OnStop, Policy, Record, State, Status, Stop, Transition, Verify,
    View, WorkerId, decide,
};
use callbackd::outcome::{ClientRequestToken, Outcome, Outputs};
use callbackd::step::Message;
use jiff::{SignedDuration, Timestamp};

use crate::worker::Driver;

const TICK: Duration = Duration::from_hours(1);
pub const ATTEMPTS: u32 = 2;
/// A stop that is owed is taken over after so many ticks, and asked about at each.
pub const TAKEOVER: u8 = 2;

const POLICY: Policy = Policy {
    max_attempts: ATTEMPTS,
    retry: Backoff::new(TICK, TICK),
    time_limit: Duration::from_hours(10_000),
    deferred_limit: Duration::from_hours(10_000),
    on_stop: OnStop::Failure,
    verify: Verify::Redelivered,
    stop_takeover_after: Duration::from_hours(TAKEOVER as u64),
    ask_every: TICK,
    lease: TICK,
};

/// A process of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub worker: u8,
    pub process: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    pub status: Status,
    pub owner: Option<Owner>,
    pub attempt: u32,
    pub resume: bool,
    /// In how many ticks; 0 is past.
    pub not_before: Option<u8>,
    /// Whether the time limit is reached.
    pub overdue: Option<bool>,
    pub stop: Option<StopFlag>,
    pub outcome: Option<String>,
    pub client_request_token: Option<String>,
    pub ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StopFlag {
    /// For how many ticks, at most [`TAKEOVER`].
    pub age: u8,
    pub closed: bool,
}

pub struct Decided {
    pub write: Option<Kept>,
    pub here: lifecycle::Here,
    pub work_seen: bool,
    pub refusals: u8,
    pub effects: Vec<Effect>,
}

static MESSAGE: LazyLock<Record> = LazyLock::new(|| {
    let message = Message::parse(include_str!("../fixtures/executing.json")).expect("a message");
    let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".to_owned();
    Record::of_message(message.step().clone(), queue, Some("h".to_owned()), now())
});

pub fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn after(ticks: u8) -> Timestamp {
    now() + TICK * u32::from(ticks)
}

/// Rounded up: nothing that is to wait is due at once.
pub fn ticks_until(at: Timestamp) -> u8 {
    let left = at.duration_since(now());
    if left <= SignedDuration::ZERO {
        return 0;
    }
    let tick = i64::try_from(TICK.as_secs()).expect("a tick is short");
    u8::try_from((left.as_secs() + tick - 1).max(1) / tick).unwrap_or(u8::MAX).max(1)
}

/// What a run computes; no two runs the same.
pub fn success(run: u8) -> End {
    let mut outputs = Outputs::new();
    outputs.insert("run", u64::from(run)).expect("a number is an output");
    End::Success(outputs)
}

/// The shipped decision, between the model's terms.
pub fn decided(driver: &Driver, event: &Event, me: Owner, foreign_over: bool) -> Result<Decided, Illegal> {
    let state = State {
        record: driver.record.record(),
        here: driver.here,
        work_seen: driver.work_seen,
        refusals: u32::from(driver.refusals),
    };
    let foreign = if foreign_over { Lease::Over } else { Lease::Until(after(1)) };
    let me = me.id();
    let view = View { now: now(), me: &me, policy: &POLICY, foreign, random: 1.0 };
    let Transition { write, here, work_seen, refusals, effects } = decide(&state, event, &view)?;
    let refusals = u8::try_from(refusals).unwrap_or(u8::MAX).min(3);
    Ok(Decided { write: write.as_ref().map(Kept::of), here, work_seen, refusals, effects })
}

impl Owner {
    fn id(self) -> WorkerId {
        WorkerId(format!("{}.{}", self.worker, self.process))
    }

    fn of(id: &WorkerId) -> Self {
        let (worker, process) = id.0.split_once('.').expect("an id of ours");
        Self { worker: worker.parse().expect("a number"), process: process.parse().expect("a number") }
    }
}

impl Kept {
    pub fn of_message() -> Self {
        Self::of(&MESSAGE)
    }

    fn of(record: &Record) -> Self {
        let age = |stop: Stop| u8::try_from(now().duration_since(stop.at).as_secs() / 3600).unwrap_or(TAKEOVER);
        Self {
            status: record.status,
            owner: record.owner.as_ref().map(Owner::of),
            attempt: record.attempt,
            resume: record.resume,
            not_before: record.not_before.map(ticks_until),
            overdue: record.deadline.map(|deadline| deadline <= now()),
            stop: record.stop_requested.map(|stop| StopFlag { age: age(stop).min(TAKEOVER), closed: stop.closed }),
            outcome: record.outcome.as_ref().map(|outcome| serde_json::to_string(outcome).expect("JSON")),
            client_request_token: record.client_request_token.as_ref().map(|token| token.as_str().to_owned()),
            ending: record.ending,
        }
    }

    fn record(&self) -> Record {
        let outcome: Option<Outcome> =
            self.outcome.as_ref().map(|outcome| serde_json::from_str(outcome).expect("an outcome of ours"));
        let request =
            outcome.as_ref().map(|outcome| ClientRequestToken::of(&MESSAGE.execution, &MESSAGE.token, outcome));
        let stop = |flag: StopFlag| Stop { at: now() - TICK * u32::from(flag.age), closed: flag.closed };
        Record {
            status: self.status,
            owner: self.owner.map(Owner::id),
            attempt: self.attempt,
            resume: self.resume,
            not_before: self.not_before.map(after),
            deadline: self.overdue.map(|overdue| if overdue { now() } else { now() + POLICY.time_limit }),
            stop_requested: self.stop.map(stop),
            outcome,
            client_request_token: request,
            ending: self.ending,
            ..MESSAGE.clone()
        }
    }

    /// A tick goes by.
    pub fn tick(&mut self) {
        self.not_before = self.not_before.map(|ticks| ticks.saturating_sub(1));
        if let Some(stop) = &mut self.stop {
            stop.age = (stop.age + 1).min(TAKEOVER);
        }
    }
}
