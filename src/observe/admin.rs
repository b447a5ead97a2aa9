//! What the daemon answers on its admin socket: the pages of the status server, and orders.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::actions::{self, Office};
use super::caller::Caller;
use super::connections;
use super::metrics::Metrics;
use super::server::{self, Problem, Source};
use super::socket::AdminSocket;

/// What an operator may have the daemon do. Nothing here may block.
pub trait Operator: Send + Sync {
    /// Has an order carried out to its end, whatever becomes of the request.
    fn carry_out(&self, work: BoxFuture<'static, ()>);

    /// Begins the drain, unless it has begun.
    fn drain(&self);

    /// What a drain still waits for.
    fn unfinished(&self) -> Unfinished;

    /// Cancelled once everything is drained.
    fn drained(&self) -> CancellationToken;

    /// Reads the configuration again.
    ///
    /// # Errors
    /// [`Problem::bad`] if it is refused, [`Problem::unavailable`] while the daemon drains.
    fn reload(&self) -> BoxFuture<'_, Result<Taken, Problem>>;

    /// Has a step tried again now.
    ///
    /// # Errors
    /// [`Problem::not_found`], or [`Problem::refused`] with what the step is instead.
    fn retry<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<(), Problem>>;

    /// Gives a deferred step its answer, which is frozen then.
    ///
    /// # Errors
    /// [`Problem::bad`] if it can be no answer, [`Problem::not_found`], or [`Problem::refused`]
    /// with what the step is instead.
    fn complete<'a>(
        &'a self,
        token: &'a str,
        answer: Answer,
        by: Caller,
    ) -> BoxFuture<'a, Result<Completed, Problem>>;

    /// Has a queue or a handler paused or resumed, also across restarts; returns what follows.
    ///
    /// # Errors
    /// [`Problem::not_found`] with what is configured, or [`Problem::unavailable`].
    fn pause<'a>(
        &'a self,
        thing: Thing,
        name: &'a str,
        paused: Paused,
    ) -> BoxFuture<'a, Result<String, Problem>>;

    /// What the step's programs printed last on this worker.
    ///
    /// # Errors
    /// [`Problem::bad`] if it is no token.
    fn log(&self, token: &str) -> Result<Log, Problem>;
}

/// The answer to `GET /steps/TOKEN/log`; no lines if the worker has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    pub token: String,
    /// The oldest first.
    pub lines: Vec<LogLine>,
}

/// A line that a program printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, by the wall clock.
    pub at: String,
    pub attempt: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// As it was printed: untrusted.
    pub text: String,
}

/// The answer of a deferred step: the body of `POST /steps/TOKEN/complete`.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A JSON object of outputs, which may be empty.
    Outputs(Box<RawValue>),
    /// Why it fails.
    Failure(String),
}

/// The answer to `POST /steps/TOKEN/complete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Completed {
    pub token: String,
    /// The same answer had been given before.
    pub before: bool,
}

/// What may be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    Queue,
    Handler,
}

/// Whether it is to be paused, or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused(pub bool);

/// A line of the answer to `POST /drain`, in JSON. The last one says that the drain has ended; if
/// the connection ends without it, so has the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draining {
    Unfinished(Unfinished),
    Ended,
}

/// What a drain still waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// How many steps are in hand.
    pub steps: usize,
    /// The first of them, in the order of their tokens: at most [`Unfinished::LISTED`].
    pub first: Vec<UnfinishedStep>,
}

/// A step that is in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedStep {
    pub token: String,
    /// A word for people.
    pub activity: String,
    /// For how long its handler runs.
    pub seconds: Option<u64>,
}

/// The answer to `POST /reload`: the keys of the configuration, dotted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub changed: Vec<String>,
    /// They take effect at the next start.
    pub needs_restart: Vec<String>,
    pub warnings: Vec<String>,
}

impl Answer {
    /// # Errors
    /// [`Problem::bad`] says what an answer looks like.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            outputs: Option<Box<RawValue>>,
            failure: Option<String>,
        }
        let bad = |why: &str| {
            Problem::bad(format!(
                "the body is no answer: {why}; send {{\"outputs\": {{\"name\": \"value\"}}}} or \
                 {{\"failure\": \"why\"}}"
            ))
        };
        let Written { outputs, failure } =
            serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))?;
        match (outputs, failure) {
            (Some(outputs), None) => Ok(Self::Outputs(outputs)),
            (None, Some(failure)) if failure.trim().is_empty() => Err(bad("the failure is empty")),
            (None, Some(failure)) => Ok(Self::Failure(failure)),
            (Some(_), Some(_)) => Err(bad("it has both outputs and a failure")),
            (None, None) => Err(bad("it has neither outputs nor a failure")),
        }
    }
}

impl Thing {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Handler => "handler",
        }
    }
}

impl Unfinished {
    /// A screen has room for no more.
    pub const LISTED: usize = 10;
}

/// Answers on the socket until `stop`, then finishes pending answers and removes it. It starts no
/// task.
pub async fn serve(
    socket: AdminSocket,
    source: Arc<dyn Source>,
    metrics: Arc<Metrics>,
    office: Office,
    stop: CancellationToken,
) {
    let pages = server::pages(source, metrics, actions::router(office));
    connections::serve_all(socket, pages, stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_either_outputs_as_they_are_or_a_failure() {
        let parse = |body: &str| Answer::parse(body.as_bytes());
        let Ok(Answer::Outputs(outputs)) = parse(r#"{"outputs": {"score": 1.50}}"#) else {
            panic!("it is one")
        };
        assert_eq!(outputs.get(), r#"{"score": 1.50}"#, "digits are kept");
        assert!(matches!(parse(r#"{"failure": "biased"}"#), Ok(Answer::Failure(_))));
        for (body, why) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            ("{}", "neither"),
            (r#"{"outputs": null}"#, "neither"),
            (r#"{"failure": " "}"#, "empty"),
            (r#"{"failure": 7}"#, "invalid type"),
            (r#"{"outputs": {}, "failure": "x"}"#, "both"),
            (r#"{"output": {}}"#, "unknown field"),
            (r#"{"outputs": {}, "outputs": {}}"#, "duplicate field"),
        ] {
            let Err(problem) = parse(body) else { panic!("{body} is refused") };
            assert!(problem.reason.contains(why), "{body}: {}", problem.reason);
        }
    }
}
