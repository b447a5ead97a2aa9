//! What holds for arbitrary bytes, from the fuzzer or from its corpus. Each function returns
//! whether they were valid.

#![allow(dead_code, reason = "each target has one of them")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use callbackd::Registry;
use callbackd::backoff::Backoff;
use callbackd::builtin::exec::outputs_of;
use callbackd::config::CheckedConfig;
use callbackd::lifecycle::{
    Answer, AnsweredBy, Arrival, Event, Lease, OnStop, Phase, Policy, Record, RunEnd, State,
    Status, Verify, Via, View, WorkerId, Write, decide,
};
use callbackd::outcome::{Outcome, Outputs, Reason};
use callbackd::seam::{Standing, StepResult};
use callbackd::step::Message;
use jiff::Timestamp;

/// SageMaker's limits, from its service model; characters are counted as the most that anyone may
/// count.
const OUTPUTS: usize = 50;
const NAME: usize = 256;
const VALUE: usize = 1024;
const REASON: usize = 256;

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

fn within_limits(outcome: &Outcome) {
    match outcome {
        Outcome::Success(outputs) => {
            assert!(outputs.len() <= OUTPUTS);
            for (name, value) in outputs.iter() {
                assert!((1..=NAME).contains(&units(name)) && units(value) <= VALUE, "{name:?}");
            }
        }
        Outcome::Failure(reason) => assert!(units(reason.as_str()) <= REASON),
    }
}

/// A body is a step that SageMaker could mean, or is refused with a reason; it stays the same when
/// it is written and read again.
pub fn message(data: &[u8]) -> bool {
    let Ok(body) = std::str::from_utf8(data) else { return false };
    let message = match Message::parse(body) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let step = message.step();
    let token = step.token.to_string();
    assert!(
        token.len() == 10 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{token:?}"
    );
    assert!(
        step.execution.as_str().len() <= 2048 && step.execution.as_str().starts_with("arn:aws")
    );
    let status = if matches!(message, Message::Stop(_)) { "Stopping" } else { "Executing" };
    let again = serde_json::json!({
        "token": token, "pipelineExecutionArn": step.execution.as_str(), "arguments": step.arguments, "status": status,
    });
    assert_eq!(Message::parse(&again.to_string()).expect("it was read before"), message);
    true
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::with_builtins);

/// A configuration is valid, or every mistake is reported.
pub fn configuration(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match CheckedConfig::from_toml("callbackd.toml", text, &REGISTRY) {
        Ok(loaded) => {
            let told = loaded.config.to_toml();
            assert!(!loaded.config.queues.is_empty(), "nothing to do:\n{told}");
            true
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in mistakes.iter() {
                assert!(
                    !mistake.what.trim().is_empty() && !mistake.source.is_empty(),
                    "{mistake:?}"
                );
            }
            false
        }
    }
}

/// The content of `$STEP_OUTPUT` becomes outputs that SageMaker accepts, or an error that says why
/// not.
pub fn outputs(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match outputs_of(text) {
        Ok(outputs) => {
            within_limits(&Outcome::Success(outputs.clone()));
            let again = serde_json::to_string(&outputs).expect("outputs are JSON");
            assert_eq!(outputs_of(&again).expect("they were outputs before"), outputs);
            true
        }
        Err(error) => {
            within_limits(&Outcome::Failure(Reason::new(&error.to_string())));
            false
        }
    }
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy {
    alone: false,
    crowded_after: None,
    handler_is_gone: false,
    max_attempts: 3,
    retry: Backoff::new(Duration::from_secs(10), Duration::from_mins(15)),
    time_limit: Duration::from_hours(24),
    deferred_limit: Duration::MAX,
    answers: AnsweredBy::Callbackd,
    on_stop: OnStop::Failure,
    verify: Verify::Redelivered,
    stop_takeover_after: Duration::from_mins(5),
    gone_after: Duration::from_hours(24),
    ask_every: Duration::from_secs(30),
});

fn events() -> Vec<Event> {
    let standings = [
        Standing::Open { stopping: true, queue_url: "https://sqs/123456789012/q".parse().ok() },
        Standing::Closed(StepResult::Failed),
        Standing::NotFound,
    ];
    let mut events = vec![
        Event::Delivered(Arrival::Work {
            receives: 3,
            sent: Some(Timestamp::MAX),
            arguments: Arc::new(serde_json::json!({ "task": 7 })),
        }),
        Event::Delivered(Arrival::Stop),
        Event::Delivered(Arrival::EarlierStop),
        Event::Delivered(Arrival::Foreign),
        Event::Found,
        Event::SlotFree,
        Event::Crowded,
        Event::Checkpoint(serde_json::json!([1])),
        Event::Ended(RunEnd::Success(Outputs::new())),
        Event::Ended(RunEnd::Failure("no such table".to_owned())),
        Event::Ended(RunEnd::Retry { after: None, error: "no route".to_owned() }),
        Event::Ended(RunEnd::Again(Duration::MAX)),
        Event::Ended(RunEnd::Deferred),
        Event::Ended(RunEnd::Hindered {
            what: "space",
            after: Duration::MAX,
            error: "disk full".to_owned(),
        }),
        Event::Ended(RunEnd::Aborted),
        Event::Cleaned(Ok(())),
        Event::Cleaned(Err("no".to_owned())),
        Event::CleanupAborted,
        Event::Trusted,
        Event::GraceOver,
        Event::DeadlineReached,
        Event::Woken,
        Event::StopSeen(Via::Watch),
        Event::SeenEnded { stopped: false },
        Event::ReportAccepted,
        Event::ReportRefused("no".to_owned()),
        Event::LeaseLost,
        Event::ReportFailed { denied: true, detail: "no".to_owned() },
        Event::Phase,
        Event::Answered(Answer::Unknown("denied".to_owned())),
    ];
    events.extend(standings.map(|standing| Event::Answered(Answer::Standing(standing))));
    events
}

/// A record is refused, or stays the same when it is written and read again; whatever happens to
/// its step next, the lifecycle has an answer that can be written too, and a frozen outcome does
/// not change.
pub fn record(data: &[u8]) -> bool {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return false };
    round_trip(&record);
    if let Some(outcome) = &record.outcome {
        within_limits(outcome);
    }
    let me = WorkerId("me".into());
    let events = events();
    for (foreign, phase) in [
        (Lease::Over, Phase::Running),
        (Lease::Until(Timestamp::MAX), Phase::Running),
        (Lease::Over, Phase::Draining),
        (Lease::Over, Phase::Leaving),
    ] {
        let now = Timestamp::MAX;
        let view = View {
            now,
            me: &me,
            policy: &POLICY,
            handlers: "handler",
            foreign,
            random: 1.0,
            phase,
            holds: true,
            own_account: true,
        };
        for first in &events {
            for second in &events {
                let mut state = State::new(record.clone());
                for event in [first, second] {
                    happens(&mut state, event, &view);
                }
            }
        }
    }
    true
}

fn happens(state: &mut State, event: &Event, view: &View<'_>) {
    let Ok(transition) = decide(state, event, view) else { return };
    if let Some(Write { record: written, .. }) = transition.write {
        round_trip(&written);
        // Only a token that waits again begins anew.
        let anew = state.record.returned.is_some()
            && written.returned.is_none()
            && written.outcome.is_none();
        if matches!(state.record.status, Status::Concluded | Status::Settled) && !anew {
            let frozen =
                |record: &Record| (record.outcome.clone(), record.client_request_token.clone());
            assert_eq!(
                frozen(&written),
                frozen(&state.record),
                "what was frozen changed at {event:?}"
            );
        }
        state.record = written;
    }
    state.local = transition.local;
}

fn round_trip(record: &Record) {
    let text = serde_json::to_string(record).expect("a record is JSON");
    let again: Record = serde_json::from_str(&text).expect("it was a record before");
    assert_eq!(again, *record);
}
