//! ECS task scale-in protection, held while steps run, so that neither a scale-in nor a deployment
//! ends a busy task.
//!
//! The container agent offers it at `$ECS_AGENT_URI/task-protection/v1/state`, on EC2 and on
//! Fargate, to tasks of a service; see
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html>.
//! It signs with the task's role, which needs `ecs:UpdateTaskProtection`. A protected task that is
//! stopped by other means (`StopTask`, a Spot interruption, a failing host) still stops: the drain
//! is what saves its steps.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::{Backoff, Failures};
use crate::causes::with_causes;

/// How long protection is requested for; ECS allows 1 to 2880 minutes and ends it after that. Long
/// enough to survive an outage of the ECS API, short enough that a broken task does not block a
/// deployment for a day.
const EXPIRES_MINUTES: u32 = 60;
/// Protection is renewed at half of its time.
const RENEW: Duration = Duration::from_mins(30);
/// How long the task stays protected after its last step ended: otherwise consecutive short steps
/// would need two calls each, and the API is throttled. The only cost is that a scale-in waits as
/// long.
const LINGER: Duration = Duration::from_secs(10);
/// The agent allows its own call to ECS some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing depends on a quick answer, and some failures last: a task that belongs to no service is
/// always refused.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
/// Each task has an agent of its own, so there is nothing to spread out.
const UNJITTERED: f64 = 1.0;
/// At the end the task goes away anyway: it tries a little, then relies on the expiry. ECS kills a
/// task 30 s after it told it to stop.
const LAST_TRIES: u32 = 2;
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// The agent's answers are a few hundred bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Something that can protect this task.
pub trait Agent {
    /// Protects the task for an hour from now, or ends the protection; an error is one line.
    fn set(&self, protected: bool) -> impl Future<Output = Result<(), String>> + Send;
}

/// The ECS container agent, over HTTP on the task's own link-local address.
#[derive(Clone, Debug)]
pub struct EcsAgent {
    uri: Uri,
}

/// Keeps the task protected exactly while steps run, and ten seconds longer. `running` is the
/// number of running steps; once its sender is dropped the protection is released within three
/// seconds, and this returns. Outside ECS, without `$ECS_AGENT_URI`, it returns at once.
pub async fn hold_while_running(running: watch::Receiver<usize>) {
    let Some(base) = std::env::var_os("ECS_AGENT_URI") else { return };
    match EcsAgent::at(&base.to_string_lossy()) {
        Ok(agent) => hold(&agent, running).await,
        Err(error) => {
            tracing::warn!(
                event = "protection_unavailable",
                %error,
                uri = ?base,
                "ECS_AGENT_URI cannot be used: the task is not protected from scale-in"
            );
        }
    }
}

/// [`hold_while_running`] with any agent.
pub async fn hold(agent: &impl Agent, mut running: watch::Receiver<usize>) {
    let mut hold = Hold::new(Instant::now());
    // A pending call is dropped at the end: an agent that does not answer must not delay it.
    tokio::select! {
        biased;
        () = gone(running.clone()) => {}
        () = keep(agent, &mut hold, &mut running) => {}
    }
    let let_go = async {
        for _ in 0..LAST_TRIES {
            if hold.renew_at.is_none() {
                return;
            }
            ask(agent, &mut hold, false).await;
        }
    };
    if timeout(LAST_PATIENCE, let_go).await.is_err() {
        tracing::warn!(
            event = "protection_not_released",
            "ECS task protection could not be released; it ends with the task, or after an hour"
        );
    }
}

/// Makes the calls that are due, until the sender is dropped.
async fn keep(agent: &impl Agent, hold: &mut Hold, running: &mut watch::Receiver<usize>) {
    loop {
        hold.see(*running.borrow_and_update() > 0, Instant::now());
        tokio::select! {
            changed = running.changed() => if changed.is_err() { return },
            protected = reached(hold.due()) => ask(agent, hold, protected).await,
        }
    }
}

/// Resolves once the sender is dropped.
async fn gone(mut running: watch::Receiver<usize>) {
    while running.changed().await.is_ok() {}
}

async fn reached(due: Option<(Instant, bool)>) -> bool {
    match due {
        Some((at, protected)) => {
            sleep_until(at).await;
            protected
        }
        None => std::future::pending().await,
    }
}

async fn ask(agent: &impl Agent, hold: &mut Hold, protected: bool) {
    let before = hold.failures.count();
    if protected {
        // It may be set although the answer never arrives.
        hold.renew_at.get_or_insert(Instant::now());
    }
    let done = agent.set(protected).await;
    hold.answered(protected, done.is_ok(), Instant::now());
    match done {
        Ok(()) if before > 0 => tracing::info!(
            event = "protection_recovered",
            protected,
            "ECS task protection works again"
        ),
        Ok(()) => tracing::debug!(protected, "set ECS task protection"),
        // Logged once for consecutive failures.
        Err(error) if before == 0 => {
            tracing::warn!(
                event = "protection_failed",
                protected,
                error,
                "ECS task protection could not be set; it is tried again; steps run meanwhile"
            );
        }
        Err(error) => tracing::debug!(protected, error, "ECS task protection could not be set"),
    }
}

/// What is known about the protection, and so what to request when.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Hold {
    /// Since when no step runs; `None` while some do.
    idle_since: Option<Instant>,
    /// When to request protection again; `None` if there certainly is none.
    renew_at: Option<Instant>,
    not_before: Instant,
    /// Consecutive failures.
    failures: Failures,
}

impl Hold {
    fn new(now: Instant) -> Self {
        Self {
            idle_since: Some(now),
            renew_at: None,
            not_before: now,
            failures: Failures::default(),
        }
    }

    fn see(&mut self, busy: bool, now: Instant) {
        self.idle_since = if busy { None } else { self.idle_since.or(Some(now)) };
    }

    /// What to request next (`true`: protection) and when, if nothing changes until then.
    fn due(&self) -> Option<(Instant, bool)> {
        let (at, protected) = match (self.idle_since, self.renew_at) {
            (None, renew_at) => (renew_at.unwrap_or(self.not_before), true),
            (Some(idle_since), Some(_)) => (idle_since + LINGER, false),
            (Some(_), None) => return None,
        };
        Some((at.max(self.not_before), protected))
    }

    fn answered(&mut self, protected: bool, ok: bool, now: Instant) {
        self.not_before = if ok {
            self.failures.end();
            now
        } else {
            now + self.failures.another(RETRY, UNJITTERED)
        };
        self.renew_at = match (protected, ok) {
            (true, true) => Some(now + RENEW),
            // It may have been set although the answer did not arrive.
            (true, false) => Some(self.renew_at.unwrap_or(now)),
            (false, true) => None,
            (false, false) => self.renew_at,
        };
    }
}

impl EcsAgent {
    /// The agent whose `$ECS_AGENT_URI` is `base`.
    ///
    /// # Errors
    /// If `base` is not an `http` address.
    pub fn at(base: &str) -> Result<Self, String> {
        let uri = format!("{}/task-protection/v1/state", base.trim_end_matches('/'));
        let uri: Uri =
            uri.parse().map_err(|error| format!("{base:?} is not an address: {error}"))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(format!("{base:?} is not an http address"));
        }
        Ok(Self { uri })
    }

    async fn put(&self, protected: bool) -> Result<(), String> {
        // The agent refuses unknown fields.
        let body = if protected {
            json!({ "ProtectionEnabled": true, "ExpiresInMinutes": EXPIRES_MINUTES })
        } else {
            json!({ "ProtectionEnabled": false })
        };
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::builder()
            .method(Method::PUT)
            .uri(self.uri.path())
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| error.to_string())?;

        // One call per half hour: no connection is worth keeping.
        let address = (self.uri.host().unwrap_or_default(), self.uri.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect to {host}: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| with_causes(&error))?;
        let exchange = async move {
            let response =
                sender.send_request(request).await.map_err(|error| with_causes(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            read(status, &body.to_bytes(), protected)
        };
        // Whatever breaks the connection also breaks the exchange, which reports it.
        tokio::join!(exchange, connection).0
    }
}

impl Agent for EcsAgent {
    async fn set(&self, protected: bool) -> Result<(), String> {
        timeout(PATIENCE, self.put(protected))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }
}

/// The agent's answer: one of the three.
#[derive(Deserialize)]
struct AgentAnswer {
    protection: Option<Protection>,
    failure: Option<Failure>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Protection {
    protection_enabled: bool,
}

/// ECS refused, with status 200 all the same: `DEPLOYMENT_BLOCKED`, `TASK_NOT_VALID`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    reason: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
    message: String,
}

fn read(status: u16, body: &[u8], protected: bool) -> Result<(), String> {
    let answer: AgentAnswer = serde_json::from_slice(body)
        .map_err(|error| format!("HTTP {status}, not an answer of the agent: {error}"))?;
    if let Some(Refusal { code, message }) = answer.error {
        return Err(format!("{code}: {message}"));
    }
    if let Some(Failure { reason, detail }) = answer.failure {
        let reason = reason.unwrap_or_else(|| "refused without a reason".to_owned());
        return Err(detail.map_or(reason.clone(), |detail| format!("{reason}: {detail}")));
    }
    match answer.protection {
        Some(Protection { protection_enabled })
            if status == 200 && protection_enabled == protected =>
        {
            Ok(())
        }
        Some(Protection { protection_enabled }) => {
            Err(format!("HTTP {status}, ProtectionEnabled {protection_enabled}"))
        }
        None => Err(format!("HTTP {status}, without a state")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use axum::Router;
    use axum::body::to_bytes;
    use axum::routing::put;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;

    /// Records its requests and their times; fails as often as it is told to.
    struct Fake {
        started: Instant,
        asked: mpsc::UnboundedSender<(u64, bool)>,
        failures: Mutex<VecDeque<bool>>,
    }

    /// Answers within its own patience, but never anything useful.
    struct Silent;

    impl Agent for Silent {
        async fn set(&self, _: bool) -> Result<(), String> {
            sleep(PATIENCE).await;
            Err("no answer".to_owned())
        }
    }

    impl Agent for Fake {
        async fn set(&self, protected: bool) -> Result<(), String> {
            self.asked
                .send((self.started.elapsed().as_secs(), protected))
                .expect("the test listens");
            let fails = self.failures.lock().expect("not poisoned").pop_front().unwrap_or(false);
            if fails { Err("throttled".to_owned()) } else { Ok(()) }
        }
    }

    /// What was requested, with the second at which it was, while `act` changes the number of
    /// running steps.
    async fn asked(
        failures: &[bool],
        act: impl AsyncFnOnce(watch::Sender<usize>),
    ) -> Vec<(u64, bool)> {
        let (sender, mut asked) = mpsc::unbounded_channel();
        let failures = Mutex::new(failures.iter().copied().collect());
        let agent = Fake { started: Instant::now(), asked: sender, failures };
        let (running, receiver) = watch::channel(0);
        tokio::join!(hold(&agent, receiver), act(running));
        drop(agent);
        let mut all = Vec::new();
        while let Some(one) = asked.recv().await {
            all.push(one);
        }
        all
    }

    async fn until(seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_task_is_never_protected() {
        assert_eq!(asked(&[], async |_running| until(100_000).await).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn protection_begins_with_the_first_step_is_renewed_and_ends_after_the_last() {
        let calls = asked(&[], async |running| {
            until(100).await;
            running.send_replace(1);
            until(1000).await;
            running.send_replace(2);
            until(3000).await;
            running.send_replace(0);
            until(10_000).await;
        });
        assert_eq!(calls.await, [(100, true), (1900, true), (3700, true), (4110, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn short_steps_one_after_the_other_cost_two_calls_in_all() {
        let calls = asked(&[], async |running| {
            for _ in 0..20 {
                running.send_replace(1);
                until(1).await;
                running.send_replace(0);
                until(1).await;
            }
            until(1000).await;
        });
        assert_eq!(calls.await, [(0, true), (49, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_ever_more_slowly_until_it_works() {
        let calls = asked(&[true, true, true], async |running| {
            running.send_replace(1);
            until(100).await;
            running.send_replace(0);
            until(100).await;
        });
        assert_eq!(calls.await, [(0, true), (1, true), (3, true), (7, true), (110, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_set_although_we_were_not_told_is_released() {
        let calls = asked(&[true], async |running| {
            running.send_replace(1);
            sleep(Duration::from_millis(500)).await;
            running.send_replace(0);
            until(100).await;
        });
        assert_eq!(calls.await, [(0, true), (10, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_protection_is_released_at_once_and_not_insisted_on() {
        let started = Instant::now();
        let calls = asked(&[false, true, true, true], async |running| {
            running.send_replace(1);
            until(5).await;
        });
        assert_eq!(calls.await, [(0, true), (5, false), (5, false)]);
        assert_eq!(started.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_answer_holds_up_the_end_for_seconds() {
        for after in [1, 15, 100] {
            let (running, receiver) = watch::channel(1);
            let act = async {
                until(after).await;
                drop(running);
                Instant::now()
            };
            let ((), ended) = tokio::join!(hold(&Silent, receiver), act);
            assert!(ended.elapsed() <= Duration::from_secs(4), "{after}: {:?}", ended.elapsed());
        }
    }

    #[test]
    fn waits_double_to_five_minutes() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, u32::MAX]
            .map(|failures| RETRY.after(failures, UNJITTERED).as_secs())
            .to_vec();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn an_answer_is_good_only_if_it_says_what_was_asked() {
        let enabled =
            br#"{"protection":{"ExpirationDate":"2026-01-01T00:00:00Z","ProtectionEnabled":true,"TaskArn":"arn:x"}}"#;
        assert_eq!(read(200, enabled, true), Ok(()));
        assert!(read(200, enabled, false).is_err());
        assert!(read(500, enabled, true).is_err());
        let blocked = br#"{"failure":{"Arn":"arn:x","Detail":null,"Reason":"DEPLOYMENT_BLOCKED"}}"#;
        assert_eq!(read(200, blocked, true), Err("DEPLOYMENT_BLOCKED".to_owned()));
        let denied = br#"{"requestID":"1","error":{"Arn":"arn:x","Code":"AccessDeniedException","Message":"no"}}"#;
        assert_eq!(read(400, denied, true), Err("AccessDeniedException: no".to_owned()));
        for odd in ["", "{}", "[]", "<html>"] {
            assert!(read(200, odd.as_bytes(), true).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for odd in ["", "169.254.170.2/api/x", "https://169.254.170.2", "http://", "http://a b"] {
            assert!(EcsAgent::at(odd).is_err(), "{odd}");
        }
    }

    #[tokio::test]
    async fn the_agent_is_asked_as_its_interface_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, mut seen) = mpsc::unbounded_channel();
        let serve = put(move |request: axum::extract::Request| {
            let sender = sender.clone();
            async move {
                let content_type =
                    request.headers()["content-type"].to_str().expect("ASCII").to_owned();
                let body = to_bytes(request.into_body(), 1000).await.expect("a body");
                let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                sender.send((content_type, body.clone())).expect("the test listens");
                json!({ "protection": { "ProtectionEnabled": body["ProtectionEnabled"], "TaskArn": "arn:x" } })
                    .to_string()
            }
        });
        let router = Router::new().route("/api/some-id/task-protection/v1/state", serve);
        let agent = EcsAgent::at(&format!("http://{address}/api/some-id/")).expect("an address");
        tokio::select! {
            served = axum::serve(listener, router) => served.expect("it serves on"),
            () = async {
                assert_eq!(agent.set(true).await, Ok(()));
                assert_eq!(agent.set(false).await, Ok(()));
            } => {}
        }
        let json = "application/json".to_owned();
        assert_eq!(
            seen.recv().await,
            Some((json.clone(), json!({ "ProtectionEnabled": true, "ExpiresInMinutes": 60 })))
        );
        assert_eq!(seen.recv().await, Some((json, json!({ "ProtectionEnabled": false }))));
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_an_error_that_says_so() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port")
            .local_addr()
            .expect("it was bound");
        let agent = EcsAgent::at(&format!("http://{gone}")).expect("an address");
        let error = agent.set(true).await.expect_err("nobody listens");
        assert!(error.contains("refused"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_never_answers_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let agent = EcsAgent::at(&format!("http://{}", listener.local_addr().expect("bound")))
            .expect("an address");
        let error = agent.set(true).await.expect_err("nobody answers");
        assert_eq!(error, "no answer within 10s");
    }
}
