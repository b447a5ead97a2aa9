//! What the daemon answers on its admin socket: the pages of the status server, and orders.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use futures_util::future::BoxFuture;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connections;
use super::metrics::Metrics;
use super::server::{self, Problem, Source, answer, in_time, json_answer, problem};
use super::socket::AdminSocket;

/// What an operator may have the daemon do. Nothing here may block.
pub trait Operator: Send + Sync {
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
}

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

/// How often it is looked what a drain still waits for.
const EVERY: Duration = Duration::from_secs(1);

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
    operator: Arc<dyn Operator>,
    stop: CancellationToken,
) {
    connections::serve_all(socket, router(source, metrics, operator), stop).await;
}

fn router(source: Arc<dyn Source>, metrics: Arc<Metrics>, operator: Arc<dyn Operator>) -> Router {
    Router::new()
        .route("/drain", post(drain))
        .route("/reload", post(reload))
        .route("/steps/{token}/retry", post(retry))
        .with_state(operator)
        .merge(server::pages(source, metrics))
}

/// Begins the drain, whether or not the answer is read.
async fn drain(State(operator): State<Arc<dyn Operator>>) -> Response {
    operator.drain();
    let lines = stream::unfold(Some(None), move |before| {
        let operator = operator.clone();
        async move {
            let line = next_line(&*operator, before?).await;
            let text = Bytes::from(format!("{}\n", json!(line)));
            let then = (line != Draining::Ended).then_some(Some(line));
            Some((Ok::<_, Infallible>(text), then))
        }
    });
    answer(StatusCode::OK, "application/jsonl", Body::from_stream(lines))
}

/// What is left, once it differs from `before`.
async fn next_line(operator: &dyn Operator, before: Option<Draining>) -> Draining {
    let drained = operator.drained();
    loop {
        let now = Draining::Unfinished(operator.unfinished());
        let is_news = before.as_ref().is_none_or(|before| counts(before) != counts(&now));
        if is_news && !drained.is_cancelled() {
            return now;
        }
        tokio::select! {
            biased;
            () = drained.cancelled() => return Draining::Ended,
            () = sleep(EVERY) => {}
        }
    }
}

/// What makes a line different: not that time passes.
fn counts(line: &Draining) -> Option<(usize, Vec<(&str, &str)>)> {
    let Draining::Unfinished(left) = line else { return None };
    let steps = left.first.iter().map(|step| (step.token.as_str(), step.activity.as_str()));
    Some((left.steps, steps.collect()))
}

async fn retry(State(operator): State<Arc<dyn Operator>>, Path(token): Path<String>) -> Response {
    match in_time(operator.retry(&token)).await {
        Ok(()) => json_answer(StatusCode::OK, &json!({ "token": token })),
        Err(Problem { status, reason }) => problem(status, &reason),
    }
}

async fn reload(State(operator): State<Arc<dyn Operator>>) -> Response {
    match operator.reload().await {
        Ok(taken) => json_answer(StatusCode::OK, &json!(taken)),
        Err(Problem { status, reason }) => problem(status, &reason),
    }
}
