//! What can be done with a running daemon over HTTP: the same on the admin socket and, for those
//! who have the token, on the status server.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::admin::{Answer, Draining, Operator, Paused, Thing};
use super::caller::Caller;
use super::server::{PATIENCE, Problem, answer, json_answer, problem};

/// Where the operator is found, once the daemon works.
#[derive(Clone, Default)]
pub struct Office(Arc<OnceLock<Arc<dyn Operator>>>);

impl Office {
    /// From now on orders are carried out.
    pub fn open(&self, operator: Arc<dyn Operator>) {
        // There is one daemon.
        let _ = self.0.set(operator);
    }
}

/// The operator, and who gives it an order.
struct Desk {
    operator: Arc<dyn Operator>,
    by: Caller,
}

impl FromRequestParts<Office> for Desk {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, office: &Office) -> Result<Self, Response> {
        let by = parts.extensions.get::<Caller>().copied();
        match (office.0.get().cloned(), by) {
            (Some(operator), Some(by)) => Ok(Self { operator, by }),
            _ => Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the worker is being started")),
        }
    }
}

/// Fifty outputs of the longest names and values, each character escaped.
const BODY: usize = 512 << 10;
/// How often it is looked what a drain still waits for.
const EVERY: Duration = Duration::from_secs(1);

/// Takes orders for the operator in the office.
pub(super) fn router<S: Clone + Send + Sync + 'static>(office: Office) -> Router<S> {
    let paused = |thing, paused| {
        post(async move |desk: Desk, Path(name): Path<String>| {
            desk.pause(thing, name, paused).await
        })
    };
    Router::new()
        .route("/drain", post(drain))
        .route("/reload", post(reload))
        .route("/steps/{token}/retry", post(retry))
        .route("/steps/{token}/complete", post(complete))
        .route("/steps/{token}/log", get(log))
        .route("/queues/{name}/pause", paused(Thing::Queue, Paused(true)))
        .route("/queues/{name}/resume", paused(Thing::Queue, Paused(false)))
        .route("/handlers/{name}/pause", paused(Thing::Handler, Paused(true)))
        .route("/handlers/{name}/resume", paused(Thing::Handler, Paused(false)))
        .with_state(office)
}

/// Begins the drain, whether or not the answer is read.
async fn drain(Desk { operator, by }: Desk) -> Response {
    operator.drain();
    Order { name: "drain", about: "the worker".to_owned(), by }.tell();
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

async fn reload(desk: Desk) -> Response {
    let about = "the configuration".to_owned();
    let reloaded = |operator: Arc<dyn Operator>| async move { Ok(json!(operator.reload().await?)) };
    desk.order("reload", about, reloaded).await
}

async fn retry(desk: Desk, Path(token): Path<String>) -> Response {
    let about = token.clone();
    let retried = |operator: Arc<dyn Operator>| async move {
        operator.retry(&token).await?;
        Ok(json!({ "token": token }))
    };
    desk.order("retry", about, retried).await
}

async fn complete(desk: Desk, Path(token): Path<String>, body: Body) -> Response {
    let (answer, by) = (whole(body).await.and_then(|body| Answer::parse(&body)), desk.by);
    let about = token.clone();
    let given = |operator: Arc<dyn Operator>| async move {
        Ok(json!(operator.complete(&token, answer?, by).await?))
    };
    desk.order("complete", about, given).await
}

/// No order, but what a program prints may be as secret.
async fn log(Desk { operator, .. }: Desk, Path(token): Path<String>) -> Response {
    match operator.log(&token) {
        Ok(log) => json_answer(StatusCode::OK, &json!(log)),
        Err(Problem { status, reason }) => problem(status, &reason),
    }
}

/// The body, if it is short enough and comes soon enough.
async fn whole(body: Body) -> Result<Bytes, Problem> {
    let too_long = || Problem {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        reason: format!("an answer has at most {BODY} bytes"),
    };
    // What the head says need not be waited for.
    if body.size_hint().lower() > BODY as u64 {
        return Err(too_long());
    }
    let late = |_| Problem {
        status: StatusCode::REQUEST_TIMEOUT,
        reason: format!("the body did not come within {PATIENCE:?}"),
    };
    timeout(PATIENCE, to_bytes(body, BODY)).await.map_err(late)?.map_err(|_| too_long())
}

impl Desk {
    async fn pause(self, thing: Thing, name: String, paused: Paused) -> Response {
        let order = if paused.0 { "pause" } else { "resume" };
        let about = format!("{} {name}", thing.as_str());
        let ordered = |operator: Arc<dyn Operator>| async move {
            let text = operator.pause(thing, &name, paused).await?;
            Ok(json!({ "done": text }))
        };
        self.order(order, about, ordered).await
    }

    /// The answer to an order about something, which the operator carries out by `work`.
    async fn order<W: Future<Output = Result<Value, Problem>> + Send + 'static>(
        self,
        name: &'static str,
        about: String,
        work: impl FnOnce(Arc<dyn Operator>) -> W,
    ) -> Response {
        let Self { operator, by } = self;
        let work = work(operator.clone());
        Order { name, about, by }.carried_out(work, |work| operator.carry_out(work)).await
    }
}

/// What is ordered, for the log.
struct Order {
    name: &'static str,
    about: String,
    by: Caller,
}

impl Order {
    /// The answer to the order. `start` has it carried out to its end, and logged, also if the
    /// client does not wait for that.
    async fn carried_out(
        self,
        carrying_out: impl Future<Output = Result<Value, Problem>> + Send + 'static,
        start: impl FnOnce(BoxFuture<'static, ()>),
    ) -> Response {
        let (answer, answered) = oneshot::channel();
        start(Box::pin(async move {
            let done = carrying_out.await;
            if done.is_ok() {
                self.tell();
            }
            // The client may be gone.
            let _ = answer.send(done);
        }));
        let unknown = || {
            Problem::unavailable(format!(
                "it is not known whether the order is carried out, because the ledger or a disk \
                 has not answered within {PATIENCE:?}: look, or give it again"
            ))
        };
        // A task that panicked has been logged by the panic hook.
        let done = timeout(PATIENCE, answered)
            .await
            .map_or_else(|_| Err(unknown()), |done| done.unwrap_or_else(|_| Err(unknown())));
        match done {
            Ok(body) => json_answer(StatusCode::OK, &body),
            Err(Problem { status, reason }) => problem(status, &reason),
        }
    }

    fn tell(&self) {
        let Self { name: order, about, by } = self;
        tracing::info!(event = "order_taken", order, about, %by, "an operator's order is carried out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_is_carried_out_although_nobody_waits_for_the_answer() {
        let (goes, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let by = Caller::Socket { uid: 0 };
        let order = Order { name: "complete", about: "abcdefghij".to_owned(), by };
        let carrying_out = async move {
            let _ = gone.await;
            let _ = done.send(());
            Ok(json!({}))
        };
        let mut answer = Box::pin(order.carried_out(carrying_out, |work| drop(tokio::spawn(work))));
        assert!(futures_util::poll!(&mut answer).is_pending());
        drop(answer);
        goes.send(()).expect("it is under way");
        seen.await.expect("it is carried out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_if_it_is_short_enough_and_comes() {
        let status = async |body| whole(body).await.map_err(|problem| problem.status.as_u16());
        assert_eq!(status(Body::from("{}")).await.as_deref(), Ok(&b"{}"[..]));
        assert_eq!(status(Body::from(vec![b' '; BODY])).await.map(|bytes| bytes.len()), Ok(BODY));
        assert_eq!(status(Body::from(vec![b' '; BODY + 1])).await, Err(413));
        let piece = || Ok::<_, Infallible>(Bytes::from(vec![b' '; BODY / 2]));
        let endless = Body::from_stream(stream::repeat_with(piece));
        assert_eq!(status(endless).await, Err(413));
        let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(status(never).await, Err(408));
    }
}
