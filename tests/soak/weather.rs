//! What goes wrong at the endpoint: a little of everything always, and everything now and then.

use std::time::Duration;

use callbackd::local::faults::{EXECUTING_MESSAGE, STOPPING_MESSAGE};
use callbackd::local::{Fault, Rule};

use crate::stage::Stage;

/// Of each such time, the last part is an outage of everything.
const CYCLE: Duration = Duration::from_mins(2);
const OUTAGE: Duration = Duration::from_secs(15);

pub struct Weather {
    out: Option<bool>,
    pub outages: u32,
}

impl Weather {
    pub fn new() -> Self {
        Self { out: None, outages: 0 }
    }

    pub fn is_fair(&self) -> bool {
        self.out == Some(false)
    }

    pub fn change(&mut self, stage: &Stage, since: Duration) {
        let into = Duration::from_secs(since.as_secs() % CYCLE.as_secs());
        let out = into >= CYCLE.saturating_sub(OUTAGE);
        if self.out.replace(out) != Some(out) {
            self.outages += u32::from(out);
            stage.set_faults(if out { outage() } else { drizzle() });
        }
    }

    /// Nothing goes wrong any more.
    pub fn clear(&mut self, stage: &Stage) {
        self.out = Some(false);
        stage.set_faults(Vec::new());
    }
}

fn outage() -> Vec<Rule> {
    vec![Rule::new("*", Fault::Disconnect { acted: false, reset: true })]
}

fn drizzle() -> Vec<Rule> {
    let now_and_then =
        |operation: &str, probability: f64, fault: Fault| Rule { probability, ..Rule::new(operation, fault) };
    let error = |status: u16, code: &str, acted: bool| {
        let (code, message) = (code.to_owned(), "as the soak wills".to_owned());
        Fault::Error { status, code, message, acted }
    };
    vec![
        now_and_then("*", 0.02, error(503, "ServiceUnavailable", false)),
        now_and_then("*", 0.01, error(500, "InternalFailure", true)),
        now_and_then("*", 0.02, error(400, "ThrottlingException", false)),
        now_and_then("*", 0.01, Fault::Disconnect { acted: true, reset: true }),
        now_and_then("*", 0.01, Fault::Disconnect { acted: false, reset: false }),
        now_and_then("*", 0.05, Fault::Latency { millis: 400, acted: false }),
        now_and_then("*", 0.02, Fault::Latency { millis: 400, acted: true }),
        now_and_then("ReceiveMessage", 0.03, Fault::Duplicate),
        now_and_then("ReceiveMessage", 0.2, Fault::Reorder),
        now_and_then("DeleteMessageBatch", 0.05, Fault::FailEntries { first: 1, code: "InternalError".to_owned() }),
        now_and_then(
            "ChangeMessageVisibilityBatch",
            0.05,
            Fault::FailEntries { first: 1, code: "InternalError".to_owned() },
        ),
        now_and_then(EXECUTING_MESSAGE, 0.05, Fault::Duplicate),
        now_and_then(STOPPING_MESSAGE, 0.2, Fault::Lose),
        now_and_then(STOPPING_MESSAGE, 0.2, Fault::Duplicate),
    ]
}
