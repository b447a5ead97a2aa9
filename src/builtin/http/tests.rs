//! The handler against a server of the test's own.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::*;
use crate::handler::Severity;
use crate::testing::TestStep;

/// What the server does with one request.
#[derive(Clone)]
enum Reply {
    /// Status, whole header lines, body.
    Answer(u16, &'static str, String),
    /// A status and its length, and then less than that.
    Cut,
    /// 200, once it may.
    Late(Arc<Notify>),
    /// Nothing, until the client closes the connection.
    Hang,
}

/// One request as it came.
#[derive(Clone, Debug)]
struct Request {
    connection: usize,
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// Answers requests in order of arrival; hangs once the script is over.
struct Server {
    url: String,
    requests: watch::Receiver<Vec<Request>>,
    /// How many clients closed a connection that hung.
    given_up: watch::Receiver<usize>,
}

struct Script {
    replies: Mutex<VecDeque<Reply>>,
    requests: watch::Sender<Vec<Request>>,
    given_up: watch::Sender<usize>,
}

impl Server {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/run", listener.local_addr().expect("an address"));
        let ((requests, seen), (given_up, ended)) = (watch::channel(vec![]), watch::channel(0));
        let replies = Mutex::new(replies.into_iter().collect());
        let script = Arc::new(Script { replies, requests, given_up });
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, script.clone()));
            }
        });
        Self { url, requests: seen, given_up: ended }
    }

    async fn answering(status: u16, body: &(impl ToString + ?Sized)) -> Self {
        Self::start([ok(status, body)]).await
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    async fn was_asked(&mut self, times: usize) {
        self.requests.wait_for(|requests| requests.len() >= times).await.expect("it serves");
    }
}

fn ok(status: u16, body: &(impl ToString + ?Sized)) -> Reply {
    Reply::Answer(status, "", body.to_string())
}

async fn serve(mut stream: TcpStream, connection: usize, script: Arc<Script>) -> Option<()> {
    loop {
        let mut text = Vec::new();
        let (head, length) = loop {
            if stream.read_buf(&mut text).await.ok()? == 0 {
                return None;
            }
            let all = String::from_utf8_lossy(&text).into_owned();
            if let Some((head, _)) = all.split_once("\r\n\r\n") {
                let request = Request { connection, head: head.to_owned(), body: String::new() };
                let length: usize = request.header("content-length")?.parse().ok()?;
                break (head.to_owned(), length);
            }
        };
        while text.len() < head.len() + 4 + length {
            stream.read_buf(&mut text).await.ok()?;
        }
        let body = String::from_utf8_lossy(&text[head.len() + 4..]).into_owned();
        script.requests.send_modify(|all| all.push(Request { connection, head, body }));
        let reply = script.replies.lock().expect("not poisoned").pop_front();
        match reply.unwrap_or(Reply::Hang) {
            Reply::Answer(status, headers, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}");
                stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.ok()?;
            }
            Reply::Late(gate) => {
                gate.notified().await;
                stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await.ok()?;
            }
            Reply::Cut => {
                stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{}").await.ok()?;
                return None;
            }
            Reply::Hang => {
                let _ = stream.read(&mut [0]).await;
                script.given_up.send_modify(|ended| *ended += 1);
                return None;
            }
        }
    }
}

fn handler(settings: Value) -> Http {
    Http::new(serde_json::from_value(settings).expect("settings")).expect("a handler")
}

fn at(server: &Server) -> Http {
    handler(json!({ "url": server.url }))
}

fn step() -> TestStep {
    TestStep::new(json!({ "n": 1 })).with_token("abcdefghij")
}

#[tokio::test]
async fn a_service_is_sent_the_step_and_its_answer_is_the_outcome() {
    let server = Server::answering(200, &json!({ "outputs": { "score": 0.5 } })).await;
    let handler =
        handler(json!({ "url": format!("{}?a=b", server.url), "headers": { "x-team": "ml" } }));
    let done = step().run(&handler).await.expect("success");
    assert_eq!(done.outputs().and_then(|outputs| outputs.get("score")), Some("0.5"));
    let request = &server.requests()[0];
    assert!(request.head.starts_with("POST /run?a=b HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("x-team"), Some("ml"));
    assert_eq!(request.header("callbackd-signature"), None);
    let given = request.json();
    assert_eq!(
        (&given["token"], &given["attempt"], &given["arguments"]),
        (&json!("abcdefghij"), &json!(1), &json!({ "n": 1 }))
    );
    assert!(given["fence"].is_u64() && given["pipelineExecutionArn"].is_string(), "{given}");
    assert_eq!((given.get("checkpoint"), given.get("stopReason")), (None, None));
    let trace = (request.header("x-amzn-trace-id"), request.header("traceparent"));
    assert_eq!(trace, (None, None));
}

#[tokio::test]
async fn a_service_is_sent_the_trace_of_the_step_in_both_forms() {
    const HEADER: &str =
        "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let server = Server::answering(204, "").await;
    step().with_trace(HEADER).run(&at(&server)).await.expect("success");
    let request = &server.requests()[0];
    assert_eq!(request.header("x-amzn-trace-id"), Some(HEADER));
    let parent = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
    assert_eq!(request.header("traceparent"), Some(parent));
}

#[tokio::test]
async fn a_checkpoint_comes_back_and_each_piece_of_work_has_one_key() {
    let again = |job| ok(200, &json!({ "again": "30s", "checkpoint": { "job": job } }));
    let server = Server::start([
        ok(503, ""),
        again(7),
        ok(429, &json!({ "checkpoint": "late" })),
        ok(200, &json!({ "again": "1s" })),
        ok(200, ""),
        ok(204, ""),
    ])
    .await;
    let (handler, step) = (
        handler(json!({ "url": server.url, "cleanup_url": server.url.replace("run", "end") })),
        step(),
    );
    assert!(!step.run(&handler).await.expect_err("busy").is_permanent());
    assert_eq!(
        step.run(&handler).await.expect("not done"),
        Completion::Again(Duration::from_secs(30))
    );
    step.run(&handler).await.expect_err("busy");
    step.run(&handler).await.expect("not done");
    step.run(&handler).await.expect("done");
    step.clean_up(&handler, StopReason::TimeLimit).await.expect("cleaned");
    let requests = server.requests();
    let given: Vec<Value> =
        requests.iter().map(|request| request.json()["checkpoint"].clone()).collect();
    let none = Value::Null;
    let job = json!({ "job": 7 });
    let late = json!("late");
    assert_eq!(given, [none.clone(), none, job, late.clone(), late.clone(), late]);
    let keys: Vec<&str> =
        requests.iter().map(|request| request.header("idempotency-key").expect("a key")).collect();
    assert!(keys[0] == keys[1] && keys[2] == keys[3], "tried again: {keys:?}");
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), 4, "two polls, the end and the cleanup are other work: {keys:?}");
    assert!(requests[5].head.starts_with("POST /end "));
    assert_eq!(requests[5].json()["stopReason"], "time_limit");
}

#[tokio::test]
async fn a_service_that_is_down_is_no_attempt_and_one_whose_answer_is_lost_is_one() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = gone.local_addr().expect("an address");
    drop(gone);
    let handler = handler(json!({ "url": format!("http://{address}/run?key=hunter2") }));
    let step = step();
    let error = step.run(&handler).await.expect_err("nothing listens");
    assert_eq!((error.host_trouble(), step.attempt()), (Some("service"), 1));
    let told = error.message();
    assert!(told.contains(&format!("http://{address}/run cannot be reached")), "{told}");
    assert!(told.contains("refused") && !told.contains("hunter2"), "{told}");

    let server = Server::start([Reply::Cut]).await;
    let error = step.run(&at(&server)).await.expect_err("half an answer");
    assert_eq!((error.host_trouble(), error.is_permanent(), step.attempt()), (None, false, 2));
    assert!(error.message().contains("was lost"), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_tried_again() {
    let server = Server::start([]).await;
    let handler = handler(json!({ "url": server.url, "timeout": "1s" }));
    let error = step().run(&handler).await.expect_err("silence");
    assert!(!error.is_permanent() && error.host_trouble().is_none(), "{error:?}");
    assert!(error.message().contains("did not answer within 1s (`timeout`)"), "{error}");
}

#[tokio::test]
async fn a_retry_waits_as_long_as_the_service_says() {
    let server = Server::start([Reply::Answer(429, "retry-after: 100\r\n", String::new())]).await;
    let error = step().run(&at(&server)).await.expect_err("busy");
    let delay = error.delay().expect("a delay").as_secs_f64();
    assert!((100.0..=110.0).contains(&delay), "{delay}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let to = Reply::Answer(302, "location: /elsewhere\r\n", String::new());
    let server = Server::start([to, ok(200, "")]).await;
    let error = step().run(&at(&server)).await.expect_err("a redirect");
    assert!(error.is_permanent() && error.message().contains("/elsewhere"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_bound() {
    let body = |length| format!("{{\"checkpoint\": \"{}\"}}", "x".repeat(length));
    let server = Server::start([ok(200, &body(2 << 20)), ok(422, &body(2 << 20))]).await;
    let (handler, step) = (at(&server), step());
    for wants in ["larger than 1048576", "HTTP 422 Unprocessable Entity: {\"checkpoint\""] {
        let error = step.run(&handler).await.expect_err("large");
        assert!(error.is_permanent() && error.message().contains(wants), "{error}");
        assert!(error.message().len() < 3000, "all of it is logged");
    }
}

#[tokio::test]
async fn a_key_in_an_answer_that_defers_or_asks_again_is_kept() {
    let replies =
        [ok(200, r#"{"again": "1s", "key": "ORDER-17"}"#), ok(202, r#"{"key": "ORDER-18"}"#)];
    let server = Server::start(replies).await;
    let (handler, step) = (at(&server), step());
    for key in ["ORDER-17", "ORDER-18"] {
        step.run(&handler).await.expect("it goes on");
        assert_eq!(step.key().as_deref(), Some(key));
    }
}

#[tokio::test]
async fn a_stop_closes_the_connection_and_a_cleanup_is_asked_for() {
    let mut server = Server::start([Reply::Hang, ok(202, "whatever")]).await;
    let handler = Arc::new(handler(json!({ "url": server.url, "cleanup_url": server.url })));
    let step = step();
    let run = step.start(handler.clone());
    server.was_asked(1).await;
    run.stop(StopReason::PipelineStopped);
    let error = run.end().await.expect("it ends").expect_err("no outcome");
    assert!(!error.is_permanent(), "{error}");
    server.given_up.wait_for(|ended| *ended == 1).await.expect("it serves");
    step.clean_up(&handler, StopReason::PipelineStopped).await.expect("cleaned");
    assert_eq!(server.requests()[1].json()["stopReason"], "pipeline_stopped");
}

#[tokio::test]
async fn an_answer_that_comes_in_the_grace_of_a_shutdown_is_kept() {
    let gate = Arc::new(Notify::new());
    let mut server = Server::start([Reply::Late(gate.clone())]).await;
    let run = step().start(at(&server));
    server.was_asked(1).await;
    run.stop(StopReason::Shutdown);
    gate.notify_one();
    let done = run.end().await.expect("it ends within the grace").expect("success");
    assert_eq!(done, Completion::from(()));
}

#[tokio::test]
async fn at_a_shutdown_the_answer_is_waited_for_no_longer_than_the_grace() {
    let mut server = Server::start([]).await;
    let handler = Arc::new(at(&server));
    let step = step().with_stop_grace(Duration::from_millis(500));
    let run = step.start(handler.clone());
    server.was_asked(1).await;
    run.stop(StopReason::Shutdown);
    drop(run.end().await);
    server.given_up.wait_for(|ended| *ended == 1).await.expect("it serves");
}

#[tokio::test]
async fn a_cleanup_that_is_refused_names_the_status_and_one_that_is_put_off_is_repeated() {
    let server = Server::start([ok(404, &json!({ "reason": "no such job" }))]).await;
    let of = |server: &Server| {
        handler(json!({ "url": "http://127.0.0.1:1", "cleanup_url": server.url }))
    };
    let refused = step().clean_up(&of(&server), StopReason::TimeLimit).await;
    let error = refused.expect_err("refused");
    assert_eq!(error.message(), "HTTP 404 Not Found: no such job");
    let server = Server::start([ok(503, ""), Reply::Cut, ok(200, "")]).await;
    step().clean_up(&of(&server), StopReason::TimeLimit).await.expect("cleaned in the end");
    let server = Server::start([ok(503, ""), ok(503, ""), ok(503, "")]).await;
    let error = step().clean_up(&of(&server), StopReason::TimeLimit).await.expect_err("never");
    assert!(error.message().contains("503") && error.host_trouble().is_none(), "{error}");
    let without = handler(json!({ "url": server.url }));
    step().clean_up(&without, StopReason::TimeLimit).await.expect("there is nothing to do");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Server::start([ok(200, "{}"), ok(422, "no"), ok(202, "")]).await;
    let handler = at(&server);
    for _ in 0..3 {
        let _ = step().run(&handler).await;
    }
    let connections: Vec<usize> =
        server.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 0]);
}

#[tokio::test]
async fn a_request_is_signed_with_what_the_file_holds_at_that_moment() {
    let server = Server::start([ok(200, "{}"), ok(200, "{}"), ok(200, "{}")]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    let set = |text: &str| std::fs::write(&path, text).expect("writable");
    let token = folder.path().join("token");
    std::fs::write(&token, "Bearer abc\n").expect("writable");
    let handler = handler(json!({
        "url": server.url, "secret_file": path, "header_files": { "Authorization": token },
    }));
    let step = step();
    let error = step.run(&handler).await.expect_err("no such file");
    assert_eq!((error.host_trouble(), step.attempt()), (Some("secret"), 1), "{error}");
    assert!(error.message().contains(&path.display().to_string()), "{error}");
    for secret in ["the first secret", "a second secret!\n"] {
        set(secret);
        step.run(&handler).await.expect("success");
        let request = server.requests().pop().expect("a request");
        let signature = request.header("callbackd-signature").expect("signed").to_owned();
        let (seconds, _) = signature["t=".len()..].split_once(',').expect("two parts");
        let at = Timestamp::from_second(seconds.parse().expect("a number")).expect("a time");
        let key = secret.trim_end().as_bytes();
        assert_eq!(signature, signature::of(key, at, "POST", "/run", request.body.as_bytes()));
        assert!(Timestamp::now().duration_since(at).as_secs() < 60);
        assert_eq!(request.header("authorization"), Some("Bearer abc"));
    }
    set("short");
    let error = step.run(&handler).await.expect_err("too short");
    assert!(error.message().contains("5 bytes") && !error.message().contains("short\""), "{error}");
}

#[test]
fn remarks_tell_what_is_open_unencrypted_or_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    let handler = handler(json!({
        "url": "http://service.example/run?key=hunter2", "secret_file": path,
        "headers": { "Authorization": "Bearer hunter2", "x-team": "ml" },
    }));
    let told = |severity| {
        let remarks = handler.remarks(Path::new("/nowhere"));
        let of = remarks.into_iter().filter(|remark| remark.severity == severity);
        of.map(|remark| remark.text).collect::<Vec<_>>()
    };
    let errors = told(Severity::Error);
    assert!(errors.len() == 1 && errors[0].contains("cannot be read"), "{errors:?}");
    std::fs::write(&path, "0123456789abcdef").expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("ours");
    assert_eq!(told(Severity::Error), Vec::<String>::new());
    let warnings = told(Severity::Warning);
    assert!(
        warnings.len() == 2
            && warnings[0].contains("`authorization`")
            && warnings[1].contains("not encrypted"),
        "{warnings:?}"
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let warnings = told(Severity::Warning);
    assert!(warnings.iter().any(|text| text.contains("chmod o=")), "{warnings:?}");
    assert!(!warnings.concat().contains("hunter2"), "{warnings:?}");
}

#[test]
fn settings_that_can_never_work_are_refused_all_at_once_without_their_secrets() {
    let refused = |settings: Value| {
        let settings: Settings = serde_json::from_value(settings).expect("settings");
        Http::new(settings).expect_err("refused").to_string()
    };
    for (settings, wants) in [
        (json!({ "url": "service:hunter2" }), "`url` is not a URL of HTTP; write https://"),
        (json!({ "url": "hunter2" }), "`url` is not a URL (relative URL without a base)"),
        (json!({ "url": "https://u:hunter2@a" }), "`url` contains a user or a password"),
        (json!({ "url": "https://a", "cleanup_url": "ftp://a" }), "`cleanup_url` is not a URL of"),
        (
            json!({ "url": "https://a", "timeout": "10ms" }),
            "`timeout`: 10ms is not allowed; 1s to 12h",
        ),
        (json!({ "url": "https://a", "headers": { "a b": "x" } }), "\"a b\" cannot be the name"),
        (json!({ "url": "https://a", "headers": { "a": "hunter2\n" } }), "\"a\" has a value that"),
        (
            json!({ "url": "https://a", "headers": { "Host": "x" } }),
            "\"Host\" is a header that callbackd",
        ),
        (
            json!({ "url": "https://a", "headers": { "a": "x" }, "header_files": { "A": "/x" } }),
            "`header_files`: \"A\" is set twice",
        ),
    ] {
        let told = refused(settings);
        assert!(told.contains(wants) && !told.contains("hunter2"), "{told}");
    }
    let told = refused(json!({ "url": "x", "timeout": "0s", "headers": { "te": "x" } }));
    assert_eq!(told.matches("; and ").count(), 2, "{told}");
}
