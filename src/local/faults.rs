//! Faults on demand: rules that say which operations fail, how, and how often.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// More rules than a drill needs, and few enough to check on every request.
pub const MAX_RULES: usize = 256;

/// The longest latency: longer than any client's timeout.
pub const MAX_LATENCY: Duration = Duration::from_hours(1);

/// Not an operation of a client: the message with which a pipeline starts a callback step.
pub const EXECUTING_MESSAGE: &str = "ExecutingMessage";

/// Not an operation of a client: the message with which a pipeline stops a callback step.
pub const STOPPING_MESSAGE: &str = "StoppingMessage";

/// One rule: of the calls of `operation`, skip the first `skip`, then affect `count` of them, each
/// with `probability`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `ReceiveMessage`, `SendPipelineExecutionStepSuccess`, …; [`EXECUTING_MESSAGE`],
    /// [`STOPPING_MESSAGE`]; or `*` for every client operation.
    pub operation: String,
    #[serde(default)]
    pub skip: u64,
    /// How many calls are affected before the rule is used up; unlimited if absent.
    #[serde(default)]
    pub count: Option<u64>,
    /// Above 0, at most 1, which is the default.
    #[serde(default = "always")]
    pub probability: f64,
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The call takes `millis` longer: before it acts, or, with `acted`, between acting and
    /// answering. A step's message becomes visible that much later.
    Latency {
        millis: u64,
        #[serde(default)]
        acted: bool,
    },
    /// The call is answered with an error, without having acted or, with `acted`, after it did.
    Error {
        #[serde(default = "internal_server_error")]
        status: u16,
        #[serde(default = "internal_failure")]
        code: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        acted: bool,
    },
    /// The connection is closed without an answer, before the call acts or, with `acted`, after;
    /// with `reset`, by a TCP reset instead of an orderly close.
    Disconnect {
        #[serde(default)]
        acted: bool,
        #[serde(default)]
        reset: bool,
    },
    /// `SendMessage` and steps' messages: sent twice, with two message ids. `ReceiveMessage`: the
    /// messages handed out stay visible, so that the next receive brings them again.
    Duplicate,
    /// `ReceiveMessage` hands out any visible messages instead of the oldest.
    Reorder,
    /// A step's message is never sent.
    Lose,
    /// Of a batch, the first `first` entries fail with `code`, the others succeed.
    FailEntries {
        first: usize,
        #[serde(default = "internal_error")]
        code: String,
    },
}

/// The faults of one call: everything that the matching rules ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Misbehaviour {
    pub before: Duration,
    pub after: Duration,
    pub error: Option<Refusal>,
    pub disconnect: Option<Disconnect>,
    pub duplicate: bool,
    /// A seed for the order.
    pub reorder: Option<u64>,
    pub lose: bool,
    pub fail_entries: Option<(usize, String)>,
    /// The names of the faults that apply.
    pub struck: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub acted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    pub acted: bool,
    pub reset: bool,
}

/// The rules in force, and how far each is used up.
#[derive(Debug)]
pub struct Plan {
    rules: Vec<Armed>,
    random: fastrand::Rng,
}

/// A rule and what it has seen so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Armed {
    pub rule: Rule,
    /// Calls of its operation.
    pub seen: u64,
    /// Calls that it affected.
    pub struck: u64,
}

/// # Errors
/// A sentence about the first invalid rule, or that there are too many.
pub fn check(rules: &[Rule]) -> Result<(), String> {
    if rules.len() > MAX_RULES {
        return Err(format!(
            "at most {MAX_RULES} fault rules can be in force, not {}",
            rules.len()
        ));
    }
    rules.iter().try_for_each(Rule::check)
}

impl Rule {
    /// A rule that affects every call of an operation.
    pub fn new(operation: impl Into<String>, fault: Fault) -> Self {
        Self { operation: operation.into(), skip: 0, count: None, probability: 1.0, fault }
    }

    #[must_use]
    pub fn skip(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    #[must_use]
    pub fn times(self, calls: u64) -> Self {
        Self { count: Some(calls), ..self }
    }

    /// # Errors
    /// A sentence that says what is wrong with the rule.
    pub fn check(&self) -> Result<(), String> {
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            return Err(format!(
                "a probability lies above 0 and is at most 1: {}",
                self.probability
            ));
        }
        match &self.fault {
            Fault::Latency { millis, .. } if u128::from(*millis) > MAX_LATENCY.as_millis() => {
                return Err(format!(
                    "a latency is at most {} ms: {millis}",
                    MAX_LATENCY.as_millis()
                ));
            }
            Fault::Error { status, .. } if !(400..600).contains(status) => {
                return Err(format!("an error's status lies from 400 to 599: {status}"));
            }
            _ => {}
        }
        if self.operation != "*" && !self.fault.fits(&self.operation) {
            return Err(format!("{} cannot happen to {}", self.fault.name(), self.operation));
        }
        Ok(())
    }

    fn names(&self, operation: &str) -> bool {
        if self.operation == "*" {
            operation != EXECUTING_MESSAGE
                && operation != STOPPING_MESSAGE
                && self.fault.fits(operation)
        } else {
            self.operation == operation
        }
    }
}

impl Fault {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Latency { .. } => "latency",
            Self::Error { .. } => "error",
            Self::Disconnect { .. } => "disconnect",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Lose => "lose",
            Self::FailEntries { .. } => "fail_entries",
        }
    }

    fn fits(&self, operation: &str) -> bool {
        let message = operation == EXECUTING_MESSAGE || operation == STOPPING_MESSAGE;
        match self {
            Self::Latency { .. } => true,
            Self::Error { .. } | Self::Disconnect { .. } => !message,
            Self::Duplicate => {
                message
                    || matches!(operation, "SendMessage" | "SendMessageBatch" | "ReceiveMessage")
            }
            Self::Reorder => operation == "ReceiveMessage",
            Self::Lose => message,
            Self::FailEntries { .. } => operation.ends_with("Batch"),
        }
    }
}

impl Plan {
    pub fn new(rules: Vec<Rule>, seed: u64) -> Self {
        let rules = rules.into_iter().map(|rule| Armed { rule, seen: 0, struck: 0 }).collect();
        Self { rules, random: fastrand::Rng::with_seed(seed) }
    }

    pub fn rules(&self) -> &[Armed] {
        &self.rules
    }

    /// The faults of the next call of `operation`.
    pub fn strike(&mut self, operation: &str) -> Misbehaviour {
        let mut misbehaviour = Misbehaviour::default();
        for armed in self.rules.iter_mut().filter(|armed| armed.rule.names(operation)) {
            armed.seen += 1;
            let spent = armed.rule.count.is_some_and(|count| armed.struck >= count);
            if armed.seen > armed.rule.skip && !spent && self.random.f64() < armed.rule.probability
            {
                armed.struck += 1;
                misbehaviour.suffer(&armed.rule.fault, &mut self.random);
            }
        }
        misbehaviour
    }
}

impl Misbehaviour {
    fn suffer(&mut self, fault: &Fault, random: &mut fastrand::Rng) {
        self.struck.push(fault.name());
        match fault {
            Fault::Latency { millis, acted: false } => {
                self.before += Duration::from_millis(*millis);
            }
            Fault::Latency { millis, acted: true } => self.after += Duration::from_millis(*millis),
            Fault::Error { status, code, message, acted } => {
                let (code, message) = (code.clone(), message.clone());
                self.error = Some(Refusal { status: *status, code, message, acted: *acted });
            }
            Fault::Disconnect { acted, reset } => {
                self.disconnect = Some(Disconnect { acted: *acted, reset: *reset });
            }
            Fault::Duplicate => self.duplicate = true,
            Fault::Reorder => self.reorder = Some(random.u64(..)),
            Fault::Lose => self.lose = true,
            Fault::FailEntries { first, code } => self.fail_entries = Some((*first, code.clone())),
        }
    }
}

const fn always() -> f64 {
    1.0
}

const fn internal_server_error() -> u16 {
    500
}

fn internal_failure() -> String {
    "InternalFailure".to_owned()
}

fn internal_error() -> String {
    "InternalError".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Fault {
        Fault::Disconnect { acted: true, reset: false }
    }

    #[test]
    fn a_rule_strikes_as_often_as_it_says_after_as_many_as_it_passes_over() {
        let mut plan = Plan::new(vec![Rule::new("DeleteMessage", lost()).skip(1).times(2)], 1);
        let struck: Vec<bool> =
            (0..5).map(|_| plan.strike("DeleteMessage").disconnect.is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert_eq!((plan.rules()[0].seen, plan.rules()[0].struck), (5, 2));
    }

    #[test]
    fn a_rule_leaves_other_operations_alone() {
        let mut plan = Plan::new(vec![Rule::new("DeleteMessage", lost())], 1);
        assert_eq!(plan.strike("ReceiveMessage"), Misbehaviour::default());
        assert_eq!(plan.rules()[0].seen, 0);
    }

    #[test]
    fn the_same_seed_strikes_the_same_calls() {
        let rule = Rule { probability: 0.5, ..Rule::new("*", lost()) };
        let run = |seed| {
            let mut plan = Plan::new(vec![rule.clone()], seed);
            (0..64).map(|_| plan.strike("SendMessage").disconnect.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).contains(&true) && run(1).contains(&false));
    }

    #[test]
    fn every_rule_that_strikes_adds_to_what_a_call_suffers() {
        let slow = |acted| Fault::Latency { millis: 100, acted };
        let rules = [slow(false), slow(false), slow(true), lost()]
            .map(|fault| Rule::new("SendMessage", fault));
        let suffered = Plan::new(rules.into(), 1).strike("SendMessage");
        assert_eq!(
            (suffered.before, suffered.after),
            (Duration::from_millis(200), Duration::from_millis(100))
        );
        assert_eq!(suffered.disconnect, Some(Disconnect { acted: true, reset: false }));
    }

    #[test]
    fn a_fault_that_cannot_happen_to_the_operation_is_refused() {
        for (operation, fault) in [
            ("DeleteMessage", Fault::Reorder),
            ("SendMessage", Fault::Lose),
            ("SendMessage", Fault::FailEntries { first: 1, code: internal_error() }),
            (STOPPING_MESSAGE, lost()),
        ] {
            let refusal = Rule::new(operation, fault).check().expect_err(operation);
            assert!(refusal.contains(operation), "{refusal}");
        }
        assert_eq!(Rule::new(STOPPING_MESSAGE, Fault::Lose).check(), Ok(()));
    }

    #[test]
    fn a_rule_out_of_bounds_is_refused() {
        let rule = Rule::new("*", lost());
        assert!(Rule { probability: 0.0, ..rule.clone() }.check().is_err());
        assert!(Rule { probability: f64::NAN, ..rule.clone() }.check().is_err());
        assert!(
            Rule { fault: Fault::Latency { millis: 3_600_001, acted: false }, ..rule }
                .check()
                .is_err()
        );
    }

    #[test]
    fn a_rule_for_everything_spares_the_messages_of_steps() {
        let mut plan = Plan::new(vec![Rule::new("*", Fault::Duplicate)], 1);
        assert!(plan.strike("ReceiveMessage").duplicate);
        assert!(!plan.strike(EXECUTING_MESSAGE).duplicate);
        assert!(!plan.strike("DeleteMessage").duplicate);
    }

    #[test]
    fn a_rule_reads_from_json_and_a_misspelt_key_is_refused() {
        let rule: Rule = serde_json::from_str(
            r#"{"operation": "SendMessage", "count": 2, "fault": {"kind": "error", "status": 503}}"#,
        )
        .expect("a rule");
        assert_eq!(
            rule.fault,
            Fault::Error {
                status: 503,
                code: "InternalFailure".to_owned(),
                message: String::new(),
                acted: false
            }
        );
        for wrong in [
            r#"{"operation": "SendMessage", "counts": 2, "fault": {"kind": "lose"}}"#,
            r#"{"operation": "SendMessage", "fault": {"kind": "disconnect", "after": true}}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(wrong).is_err(), "{wrong}");
        }
    }
}
