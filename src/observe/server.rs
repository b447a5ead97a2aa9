//! The status server: the daemon's health, its metrics, and its steps.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::observe::actions::{self, Office};
use crate::observe::connections;
use crate::observe::gate::{self, Gate};
pub use crate::observe::listen::{Config, Listen};
use crate::observe::metrics::{CONTENT_TYPE, Metrics};
use crate::observe::page;

/// How long the answer of `/steps` may take. Load balancers and Prometheus give up after about as
/// long.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What the server shows. Nothing here may block.
pub trait Source: Send + Sync {
    /// `/healthz`: whether the process does its work at all. A failure leads to a restart, so
    /// nothing that a restart would not fix belongs here.
    fn health(&self) -> Vec<Check>;

    /// `/readyz`: whether it accepts and answers steps now.
    fn readiness(&self) -> Vec<Check>;

    /// `/status`: the worker, its queues and what ended last, for the page.
    fn status(&self) -> Value;

    /// `/steps`: a page of what the ledger holds.
    fn steps(&self, query: StepsQuery) -> BoxFuture<'_, Result<Steps, Problem>>;

    /// `/steps/TOKEN`: everything that the ledger holds about one step.
    fn step<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, Problem>>;

    /// Called before `/metrics` is rendered, to set the gauges that are not updated continuously.
    fn refresh(&self, _metrics: &Metrics) {}
}

/// Which steps `/steps` should return.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepsQuery {
    /// With one of these statuses, separated by commas.
    pub status: Option<String>,
    pub pipeline: Option<String>,
    pub handler: Option<String>,
    /// With this text in the token, the pipeline's name or the key, whatever its case. A whole
    /// token finds its step, whatever the other conditions are.
    pub search: Option<String>,
    /// First seen, concluded or settled since then: a time (RFC 3339), or how long ago (`1h`).
    pub since: Option<String>,
    /// At most this many.
    pub limit: Option<usize>,
    /// After another page: the value in that page's `Link` header.
    #[serde(alias = "cursor")]
    pub after: Option<String>,
}

/// A page of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Without arguments and checkpoints, which may be large.
    pub rows: Vec<Value>,
    /// Where the next page begins, if there may be one.
    pub next: Option<String>,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl Problem {
    /// The request is wrong.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: reason.into() }
    }

    /// The requested thing does not exist.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: reason.into() }
    }

    /// What is asked for cannot be done as things are, and the reason says why.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, reason: reason.into() }
    }

    /// It may be answered later.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, reason: reason.into() }
    }
}

/// The result of one health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// In one line: what is wrong and what to do, or what works.
    pub detail: String,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for the status server: {}; set another address as http.listen, or \
     \"off\"",
    reason(error)
)]
pub struct BindError {
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// A bound server, which answers once it [runs](Self::run).
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

#[derive(Clone)]
pub(super) struct Shared {
    source: Arc<dyn Source>,
    metrics: Arc<Metrics>,
    /// Bound to loopback, so a host name that resolves to it was made to.
    loopback: bool,
    /// Orders are taken here.
    acts: bool,
}

impl Server {
    /// Binds the configured address; `None` if the server is off. Those who have the configured
    /// token give their orders to `office`.
    ///
    /// # Errors
    /// [`BindError`] names the address, why it is unavailable, and what to do.
    pub async fn bind(
        config: &Config,
        source: Arc<dyn Source>,
        metrics: Arc<Metrics>,
        office: Office,
    ) -> Result<Option<Self>, BindError> {
        let Listen::On(address) = config.listen else { return Ok(None) };
        let refused = |error| BindError { address, error };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let loopback = address.ip().is_loopback();
        if !loopback {
            tracing::warn!(
                event = "status_server_open",
                %address,
                "the status server is open to everyone who can reach this address, without a \
                 password"
            );
        }
        let gate = Arc::new(Gate::new(config.token_file.clone()));
        let shared = Shared { source, metrics, loopback, acts: gate.opens() };
        let actions =
            actions::router(office).route_layer(middleware::from_fn_with_state(gate, gate::admit));
        let router = router(shared, actions);
        Ok(Some(Self { listener, address, router }))
    }

    /// The address that it listens on, with the actual port if the configured one is 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then finishes pending answers. It starts no task.
    pub async fn run(self, stop: CancellationToken) {
        connections::serve_all(self.listener, self.router, stop).await;
    }
}

/// The same pages for a socket that no browser reaches, and `actions` for all who do.
pub(super) fn pages(
    source: Arc<dyn Source>,
    metrics: Arc<Metrics>,
    actions: Router<Shared>,
) -> Router {
    router(Shared { source, metrics, loopback: false, acts: true }, actions)
}

fn router(shared: Shared, actions: Router<Shared>) -> Router {
    Router::new()
        .merge(actions)
        .merge(page::router())
        .route("/status", get(status))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/steps", get(steps))
        .route("/steps/{token}", get(step))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

async fn status(State(shared): State<Shared>) -> Response {
    let mut status = shared.source.status();
    status["actions"] = shared.acts.into();
    json_answer(StatusCode::OK, &status)
}

async fn health(State(shared): State<Shared>) -> Response {
    checked(&shared.source.health())
}

async fn ready(State(shared): State<Shared>) -> Response {
    checked(&shared.source.readiness())
}

async fn metrics(State(shared): State<Shared>) -> Response {
    shared.source.refresh(&shared.metrics);
    match shared.metrics.exposition() {
        Ok(text) => answer(StatusCode::OK, CONTENT_TYPE, text),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn steps(
    State(shared): State<Shared>,
    query: Result<Query<StepsQuery>, QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(rejection) => return problem(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let asked = query.clone();
    match in_time(shared.source.steps(query)).await {
        Ok(Steps { rows, next }) => {
            let mut response = json_answer(StatusCode::OK, &Value::Array(rows));
            let link = next.map(|next| format!("<{}>; rel=\"next\"", following(&asked, &next)));
            if let Some(Ok(link)) = link.map(|link| HeaderValue::from_str(&link)) {
                response.headers_mut().insert(header::LINK, link);
            }
            response
        }
        Err(Problem { status, reason }) => problem(status, &reason),
    }
}

async fn step(State(shared): State<Shared>, Path(token): Path<String>) -> Response {
    match in_time(shared.source.step(&token)).await {
        Ok(step) => json_answer(StatusCode::OK, &step),
        Err(Problem { status, reason }) => problem(status, &reason),
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let late = |_| Problem::unavailable(format!("the ledger did not answer within {PATIENCE:?}"));
    timeout(PATIENCE, answer).await.map_err(late)?
}

/// The address of the page that begins at `next`.
fn following(query: &StepsQuery, next: &str) -> String {
    let limit = query.limit.map(|limit| limit.to_string());
    let parts = [
        ("status", query.status.as_deref()),
        ("pipeline", query.pipeline.as_deref()),
        ("handler", query.handler.as_deref()),
        ("search", query.search.as_deref()),
        ("since", query.since.as_deref()),
        ("limit", limit.as_deref()),
        ("after", Some(next)),
    ];
    let given: Vec<String> = parts
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={}", percent_encoded(value))))
        .collect();
    format!("/steps?{}", given.join("&"))
}

/// As a query value: all except unreserved characters (RFC 3986) as their bytes.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

async fn unknown() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "no such page; the pages are /, /healthz, /readyz, /metrics, /status and /steps",
    )
}

/// 200 if all checks pass, else 503; the body lists each check with its result.
fn checked(checks: &[Check]) -> Response {
    let ok = checks.iter().all(|check| check.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_answer(status, &json!({ "ok": ok, "checks": checks }))
}

pub(super) fn problem(status: StatusCode, reason: &str) -> Response {
    json_answer(status, &json!({ "error": reason }))
}

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response {
    answer(status, "application/json", format!("{body}\n"))
}

pub(super) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Refuses requests that a browser was tricked into sending, and keeps every answer out of caches,
/// frames and other sites' reach.
async fn guard(
    State(shared): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let mut response = if shared.loopback && !is_for_loopback(request.uri(), request.headers()) {
        problem(
            StatusCode::MISDIRECTED_REQUEST,
            "ask for this server as localhost, 127.0.0.1 or [::1]",
        )
    } else {
        next.run(request).await
    };
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whether every host name in the request is one of loopback's own. A page of `http://evil.example`
/// whose name was made to resolve to 127.0.0.1 sends its own name here, and could otherwise read
/// our answers. HTTP/1.0 may send none.
fn is_for_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let in_uri = uri.host().map(str::to_owned);
    let mut hosts =
        headers.get_all(header::HOST).iter().map(|host| host.to_str().ok().map(str::to_owned));
    in_uri.is_none_or(|host| is_loopback_name(&host))
        && hosts.all(|host| host.is_some_and(|host| is_loopback_name(&host)))
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process is listening there".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted (ports below 1024 need a privilege)".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    use super::*;
    use crate::observe::admin::{
        Answer, Completed, Log, LogLine, Operator, Paused, Taken, Thing, Unfinished,
    };
    use crate::observe::caller::Caller;
    use crate::observe::connections::{CONNECTIONS, HEAD_BYTES, HEADERS, Listener, Seats};

    const LIFE: Duration = <TcpListener as Listener>::LIFE;
    const HERE: Caller = Caller::Http(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// Healthy or not, as a test says; its steps are returned once allowed.
    #[derive(Default)]
    struct Fake {
        checks: Mutex<Vec<Check>>,
        asked: Notify,
        may_answer: Notify,
    }

    impl Source for Fake {
        fn health(&self) -> Vec<Check> {
            self.readiness()
        }

        fn readiness(&self) -> Vec<Check> {
            self.checks.lock().expect("not poisoned").clone()
        }

        fn status(&self) -> Value {
            json!({ "ready": true })
        }

        fn steps(&self, query: StepsQuery) -> BoxFuture<'_, Result<Steps, Problem>> {
            Box::pin(async move {
                self.asked.notify_one();
                self.may_answer.notified().await;
                let next = query.limit.map(|_| "b c".to_owned());
                Ok(Steps {
                    rows: vec![json!({ "token": "abcdefghij", "after": query.after })],
                    next,
                })
            })
        }

        fn step<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, Problem>> {
            Box::pin(async move {
                if token == "abcdefghij" {
                    Ok(json!({ "token": token }))
                } else {
                    Err(Problem::not_found("none"))
                }
            })
        }

        fn refresh(&self, metrics: &Metrics) {
            metrics.set_tasks(42);
        }
    }

    fn shared(source: Arc<Fake>, loopback: bool) -> Shared {
        Shared { source, metrics: Arc::default(), loopback, acts: false }
    }

    /// What a connection answers to `request` before it is closed.
    async fn ask_of(shared: Shared, request: &str) -> String {
        let (mut client, server) = duplex(1 << 20);
        let talk = async {
            client.write_all(request.as_bytes()).await.expect("it listens");
            rest(&mut client).await
        };
        let never = CancellationToken::new();
        let seat = Arc::new(Seats::default()).take();
        let actions = actions::router(Office::default());
        let router = router(shared, actions);
        tokio::join!(talk, connections::serve(server, HERE, router, seat, &never, LIFE)).0
    }

    async fn ask(path: &str, host: &str) -> String {
        let source = Arc::new(Fake::default());
        source.may_answer.notify_one();
        ask_of(shared(source, true), &get_of(path, host)).await
    }

    fn get_of(path: &str, host: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    }

    async fn rest(client: &mut DuplexStream) -> String {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("UTF-8 until the end");
        answer
    }

    fn check(name: &'static str, ok: bool, detail: &str) -> Check {
        Check { name, ok, detail: detail.to_owned() }
    }

    fn config(listen: &str) -> Config {
        Config { listen: listen.parse().expect(listen), token_file: None }
    }

    async fn bind(listen: &str) -> Result<Option<Server>, BindError> {
        let (source, office) = (Arc::new(Fake::default()), Office::default());
        Server::bind(&config(listen), source, Arc::default(), office).await
    }

    #[tokio::test]
    async fn every_page_is_there_and_says_what_it_is() {
        for (path, content_type, holds) in [
            ("/", "text/html; charset=utf-8", "/readyz"),
            ("/page/app.js", "text/javascript; charset=utf-8", "visibilitychange"),
            ("/page/style.css", "text/css; charset=utf-8", "prefers-color-scheme"),
            ("/page/icon.svg", "image/svg+xml", "<svg"),
            ("/status", "application/json", "\"ready\":true"),
            ("/healthz", "application/json", "\"ok\":true"),
            ("/readyz", "application/json", "\"ok\":true"),
            ("/metrics", CONTENT_TYPE, "callbackd_tasks 42\n"),
            ("/steps", "application/json", "abcdefghij"),
        ] {
            let answer = ask(path, "localhost").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            assert!(
                answer.contains(&format!("content-type: {content_type}\r\n")),
                "{path}: {answer}"
            );
            assert!(answer.contains(holds), "{path}: {answer}");
        }
        assert!(ask("/other", "localhost").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn one_thing_that_is_not_well_makes_503_and_says_why() {
        let source = Arc::new(Fake::default());
        *source.checks.lock().expect("not poisoned") =
            vec![check("queues", true, "polled 3 s ago"), check("ledger", false, "disk full")];
        for path in ["/healthz", "/readyz"] {
            let answer =
                ask_of(shared(Arc::clone(&source), true), &get_of(path, "localhost")).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
            let body: Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(body["ok"], false);
            assert_eq!(
                body["checks"][1],
                json!({ "name": "ledger", "ok": false, "detail": "disk full" })
            );
        }
    }

    #[tokio::test]
    async fn every_answer_is_kept_out_of_caches_frames_and_guesses() {
        for (path, host) in
            [("/metrics", "localhost"), ("/none", "localhost"), ("/", "evil.example")]
        {
            let answer = ask(path, host).await;
            for (name, value) in SECURITY_HEADERS {
                assert!(answer.contains(&format!("{name}: {value}\r\n")), "{path}: {answer}");
            }
        }
    }

    #[tokio::test]
    async fn a_foreign_name_for_loopback_is_refused() {
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.2:80",
            "[::1]",
            "[::1]:9464",
        ] {
            assert!(ask("/steps", host).await.starts_with("HTTP/1.1 200 "), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9464",
            "10.0.0.1",
            "",
            "127.0.0.1.evil.example",
            "\u{e9}",
        ] {
            assert!(ask("/steps", host).await.starts_with("HTTP/1.1 421 "), "{host}");
        }
        let absolute = "GET http://evil.example/steps HTTP/1.1\r\nHost: localhost\r\nConnection: \
                        close\r\n\r\n";
        let answer = ask_of(shared(Arc::new(Fake::default()), true), absolute).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    }

    #[tokio::test]
    async fn beyond_loopback_any_name_will_do() {
        let answer = ask_of(
            shared(Arc::new(Fake::default()), false),
            &get_of("/healthz", "worker-1.internal"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn nothing_can_be_written_here() {
        let post = "POST /steps HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: \
                    close\r\n\r\n{}";
        let answer = ask_of(shared(Arc::new(Fake::default()), true), post).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }

    #[tokio::test]
    async fn a_head_beyond_the_limits_is_refused() {
        let many = "X: y\r\n".repeat(HEADERS + 1);
        let long = format!("X: {}\r\n", "y".repeat(HEAD_BYTES));
        for headers in [many, long] {
            let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
            let answer = ask_of(shared(Arc::new(Fake::default()), true), &request).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_finishes_its_request_is_let_go() {
        let answer =
            ask_of(shared(Arc::new(Fake::default()), true), "GET /healthz HTTP/1.1\r\nHost: loc")
                .await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn steps_that_do_not_come_are_answered_for() {
        let answer =
            ask_of(shared(Arc::new(Fake::default()), true), &get_of("/steps", "localhost")).await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("did not answer within 10s"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn an_address_in_use_is_told_with_the_address_and_a_remedy() {
        let first = bind("127.0.0.1:0").await.expect("a free port").expect("it is on");
        let taken = first.address().to_string();
        let error = bind(&taken).await.err().expect("it is taken").to_string();
        assert_eq!(
            error,
            format!(
                "cannot listen on {taken} for the status server: another process is listening \
                 there; set another address as http.listen, or \"off\""
            )
        );
    }

    #[tokio::test]
    async fn where_it_is_off_nothing_is_bound() {
        assert!(bind("off").await.expect("nothing to go wrong").is_none());
    }

    /// A server that runs until the returned guard is dropped.
    async fn serving(source: &Arc<Fake>) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let (config, office) = (config("127.0.0.1:0"), Office::default());
        let server = Server::bind(&config, source.clone(), Arc::default(), office).await;
        let server = server.expect("a free port").expect("it is on");
        let (address, stop) = (server.address(), CancellationToken::new());
        tokio::spawn(server.run(stop.clone()));
        (address, stop.drop_guard())
    }

    /// Connects and sends no more than this.
    async fn connected(address: SocketAddr, says: &str) -> TcpStream {
        let mut client = TcpStream::connect(address).await.expect("it listens");
        client.write_all(says.as_bytes()).await.expect("it is open");
        client
    }

    async fn answered(mut client: TcpStream) -> String {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("it is closed in order");
        answer
    }

    /// Whether the server has closed the connection, if it does so before it answers another
    /// client.
    async fn is_closed(client: &TcpStream, address: SocketAddr) -> bool {
        answered(connected(address, &get_of("/healthz", "localhost")).await).await;
        let mut byte = [0];
        !matches!(client.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn sockets_that_nobody_uses_keep_no_health_check_out() {
        for says in ["", "GET /healthz HTTP/1.1\r\nHost: loc"] {
            let (address, _serving) = serving(&Arc::default()).await;
            let mut idle = Vec::new();
            for _ in 0..3 * CONNECTIONS {
                idle.push(connected(address, says).await);
            }
            let answer = answered(connected(address, &get_of("/healthz", "localhost")).await).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(is_closed(&idle[0], address).await, "the oldest makes room");
            assert!(
                !is_closed(&idle[3 * CONNECTIONS - 1], address).await,
                "the youngest is not touched"
            );
        }
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_is_not_shed_for_idle_ones() {
        let source = Arc::new(Fake::default());
        let (address, _serving) = serving(&source).await;
        let steps = connected(address, &get_of("/steps", "localhost")).await;
        source.asked.notified().await;
        let mut idle = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            idle.push(connected(address, "").await);
        }
        assert!(is_closed(&idle[0], address).await);
        source.may_answer.notify_one();
        assert!(answered(steps).await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn questions_that_wait_for_the_ledger_keep_no_health_check_out() {
        let source = Arc::new(Fake::default());
        let (address, _serving) = serving(&source).await;
        let mut waiting = Vec::new();
        for _ in 0..CONNECTIONS {
            waiting.push(connected(address, &get_of("/steps", "localhost")).await);
            source.asked.notified().await;
        }
        let answer = answered(connected(address, &get_of("/healthz", "localhost")).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!is_closed(&waiting[CONNECTIONS - 1], address).await, "it was not waited for");
    }

    #[tokio::test]
    async fn a_stop_lets_the_answer_under_way_be_finished() {
        let source = Arc::new(Fake::default());
        let (config, office) = (config("127.0.0.1:0"), Office::default());
        let server = Server::bind(&config, source.clone(), Arc::default(), office).await;
        let server = server.expect("a free port").expect("it is on");
        let address = server.address();
        let stop = CancellationToken::new();
        let client = async {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client
                .write_all(b"GET /steps HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await
                .expect("it reads");
            source.asked.notified().await;
            stop.cancel();
            source.may_answer.notify_one();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("it is closed in order");
            answer
        };
        let (answer, ()) = tokio::join!(client, server.run(stop.clone()));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("abcdefghij"), "{answer}");
        TcpStream::connect(address).await.expect_err("nobody listens any more");
    }

    /// Writes down what it is ordered.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Recorder {
        fn note(&self, what: String) {
            self.0.lock().expect("not poisoned").push(what);
        }

        fn told(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().expect("not poisoned"))
        }
    }

    impl Operator for Recorder {
        fn carry_out(&self, work: BoxFuture<'static, ()>) {
            tokio::spawn(work);
        }

        fn drain(&self) {
            self.note("drain".to_owned());
        }

        fn unfinished(&self) -> Unfinished {
            Unfinished::default()
        }

        fn drained(&self) -> CancellationToken {
            let drained = CancellationToken::new();
            drained.cancel();
            drained
        }

        fn reload(&self) -> BoxFuture<'_, Result<Taken, Problem>> {
            self.note("reload".to_owned());
            Box::pin(async { Err(Problem::bad("a mistake")) })
        }

        fn retry<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<(), Problem>> {
            self.note(format!("retry {token}"));
            Box::pin(async { Ok(()) })
        }

        fn complete<'a>(
            &'a self,
            token: &'a str,
            answer: Answer,
            by: Caller,
        ) -> BoxFuture<'a, Result<Completed, Problem>> {
            let answer = match answer {
                Answer::Outputs(outputs) => outputs.get().to_owned(),
                Answer::Failure(text) => text,
            };
            self.note(format!("{by}: complete {token}: {answer}"));
            Box::pin(async move { Ok(Completed { token: token.to_owned(), before: false }) })
        }

        fn log(&self, token: &str) -> Result<Log, Problem> {
            let line = LogLine {
                at: "1970-01-01T00:00:00Z".to_owned(),
                attempt: 1,
                stream: "stdout".to_owned(),
                text: "\u{1b}[2J<b>".to_owned(),
            };
            Ok(Log { token: token.to_owned(), lines: vec![line] })
        }

        fn pause<'a>(
            &'a self,
            thing: Thing,
            name: &'a str,
            paused: Paused,
        ) -> BoxFuture<'a, Result<String, Problem>> {
            self.note(format!("{} {name}: {}", thing.as_str(), paused.0));
            Box::pin(async { Ok("as you wish".to_owned()) })
        }
    }

    const TOKEN: &str = "authorization: Bearer 0123456789abcdef\r\n";
    const JSON: &str = "content-type: application/json\r\n";
    const ORDERS: [(&str, &str); 8] = [
        ("/drain", "drain"),
        ("/reload", "reload"),
        ("/steps/abcdefghij/retry", "retry abcdefghij"),
        (
            "/steps/abcdefghij/complete",
            "status server, from 127.0.0.1: complete abcdefghij: {\"n\": 1.0}",
        ),
        ("/queues/https%3A%2F%2Fsqs%2F1%2Fq/pause", "queue https://sqs/1/q: true"),
        ("/queues/q/resume", "queue q: false"),
        ("/handlers/h/pause", "handler h: true"),
        ("/handlers/h/resume", "handler h: false"),
    ];

    /// What a server that takes orders, if it has the token's file, answers.
    async fn ordered(
        token_file: Option<std::path::PathBuf>,
        operator: Option<&Arc<Recorder>>,
        request: String,
    ) -> String {
        let office = Office::default();
        if let Some(operator) = operator {
            office.open(operator.clone());
        }
        let config = Config { token_file, ..config("127.0.0.1:0") };
        let source = Arc::new(Fake::default());
        let server = Server::bind(&config, source, Arc::default(), office).await;
        let server = server.expect("a free port").expect("it is on");
        let (address, stop) = (server.address(), CancellationToken::new());
        let client = async {
            let answer = answered(connected(address, &request).await).await;
            stop.cancel();
            answer
        };
        tokio::join!(client, server.run(stop.clone())).0
    }

    fn request(method: &str, path: &str, headers: &str) -> String {
        let body = if method == "POST" { "{\"outputs\": {\"n\": 1.0}}" } else { "" };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn orders_are_carried_out_for_who_has_the_token_and_for_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").expect("it is ours");
        let operator = Arc::new(Recorder::default());
        for (path, told) in ORDERS {
            let by = async |file: Option<&std::path::PathBuf>, method: &str, headers: &str| {
                let request = request(method, path, headers);
                let answer = ordered(file.cloned(), Some(&operator), request).await;
                answer["HTTP/1.1 ".len()..][..3].to_owned()
            };
            let whole = [TOKEN, JSON].concat();
            let foreign = [&whole, "sec-fetch-site: cross-site\r\n"].concat();
            assert_eq!(by(None, "POST", &whole).await, "404", "{path}");
            for (method, headers, status) in [
                ("POST", "", "415"),
                ("POST", JSON, "401"),
                ("POST", TOKEN, "415"),
                ("POST", &foreign, "403"),
                ("GET", &whole, "405"),
                ("HEAD", &whole, "405"),
                ("OPTIONS", "origin: http://evil.example\r\n", "403"),
            ] {
                assert_eq!(by(Some(&file), method, headers).await, status, "{method} {path}");
            }
            assert_eq!(operator.told(), [""; 0], "{path}");
            let status = by(Some(&file), "POST", &whole).await;
            assert_eq!(status, if path == "/reload" { "400" } else { "200" }, "{path}");
            assert_eq!(operator.told(), [told]);
        }
        let early = ordered(Some(file), None, request("POST", "/drain", &[TOKEN, JSON].concat()));
        let early = early.await;
        assert!(early.starts_with("HTTP/1.1 503 ") && early.contains("being started"), "{early}");
    }

    #[tokio::test]
    async fn what_a_program_printed_is_shown_to_who_has_the_token_and_to_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef").expect("it is ours");
        let operator = Arc::new(Recorder::default());
        for (file, headers, status) in [
            (None, TOKEN, "404"),
            (Some(&file), "", "401"),
            (Some(&file), "authorization: Bearer 0123456789abcdeg\r\n", "401"),
            (Some(&file), TOKEN, "200"),
        ] {
            let request = request("GET", "/steps/abcdefghij/log", headers);
            let answer = ordered(file.cloned(), Some(&operator), request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert_eq!(answer.contains("\\u001b[2J<b>"), status == "200", "{answer}");
        }
    }

    #[tokio::test]
    async fn an_answer_beyond_all_limits_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef").expect("it is ours");
        let operator = Arc::new(Recorder::default());
        let head = format!(
            "POST /steps/abcdefghij/complete HTTP/1.1\r\nHost: localhost\r\n{TOKEN}{JSON}\
             Connection: close\r\nContent-Length: 10000000\r\n\r\n"
        );
        let answer = ordered(Some(file), Some(&operator), head).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("at most"), "{answer}");
        assert_eq!(operator.told(), [""; 0]);
    }
}
