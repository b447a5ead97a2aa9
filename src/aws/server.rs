//! For tests: an HTTP server on loopback that records its requests and answers from a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_config::{Region, SdkConfig};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
#[cfg(feature = "local")]
use {http_body_util::BodyExt, tokio_util::sync::CancellationToken};

use super::account::{Account, behavior};
use super::credentials::CachedCredentials;
use super::http::Connections;
use super::sagemaker::SageMaker;
use crate::seam::{Observation, Observer};

pub(super) enum Reply {
    Json(u16, Value),
    /// Status, extra header lines, body.
    Raw(u16, &'static str, &'static str),
    /// The connection is reset once the request has been read.
    Reset,
    /// No answer; the connection stays open.
    Hang,
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The number of the connection, counted from 0 in order of creation.
    pub connection: usize,
    pub head: String,
    pub body: String,
}

impl Request {
    /// The operation with its prefix: `AmazonSQS.ReceiveMessage`.
    pub(super) fn target(&self) -> &str {
        self.header("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .next()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// Reads requests on any number of connections and answers them in order of arrival. An empty
/// script hangs.
///
/// A request to SageMaker that its published model does not allow fails the test that sent it.
pub(super) struct Server {
    pub url: String,
    pub seen: Arc<Seen>,
    requests: watch::Receiver<Vec<Request>>,
    malformed: Arc<Mutex<Vec<String>>>,
}

struct Script {
    replies: Mutex<VecDeque<Reply>>,
    requests: watch::Sender<Vec<Request>>,
    malformed: Arc<Mutex<Vec<String>>>,
}

/// An observer that records what it saw.
#[derive(Default)]
pub(super) struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn observe(&self, observation: Observation<'_>) {
        self.0.lock().expect("not poisoned").push(match observation {
            Observation::AwsCall { service, operation, result } => {
                format!("{service} {operation} {result}")
            }
            Observation::AwsTimeout { operation } => format!("bound {operation}"),
            other => format!("{other:?}"),
        });
    }
}

impl Seen {
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl Server {
    pub(super) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, requests) = watch::channel(Vec::new());
        let malformed = Arc::<Mutex<_>>::default();
        let replies = Mutex::new(replies.into_iter().collect());
        let script = Arc::new(Script { replies, requests: sender, malformed: malformed.clone() });
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, script.clone()));
            }
        });
        Self { url, seen: Arc::default(), requests, malformed }
    }

    /// A server, and a SageMaker at it.
    pub(super) async fn with_sagemaker(
        replies: impl IntoIterator<Item = Reply>,
    ) -> (Self, SageMaker) {
        let server = Self::start(replies).await;
        let sagemaker = SageMaker::new(&server.account());
        (server, sagemaker)
    }

    /// Clients of this server alone, signed with made-up keys.
    pub(super) fn account(&self) -> Account {
        let sdk = SdkConfig::builder()
            .behavior_version(behavior())
            .region(Region::new("us-east-1"))
            .endpoint_url(&self.url)
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .build();
        Account::new(
            sdk,
            "us-east-1",
            Arc::new(CachedCredentials::nothing()),
            &Connections::default(),
            self.seen.clone(),
        )
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    /// Waits until that many requests have been read.
    pub(super) async fn asked(&self, times: usize) {
        let mut requests = self.requests.clone();
        requests.wait_for(|requests| requests.len() >= times).await.expect("the server lives");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let malformed = self.malformed.lock().expect("not poisoned");
        assert!(std::thread::panicking() || malformed.is_empty(), "{malformed:#?}");
    }
}

/// What the local endpoint objects to in the form of a request to SageMaker; tests/shapes.rs proves
/// that it objects to exactly what the service's published model forbids.
#[cfg(feature = "local")]
async fn malformed(request: &Request) -> Option<String> {
    use crate::local::{Options, Service, clock::Clock};
    let target =
        request.header("x-amz-target").filter(|target| target.starts_with("SageMaker."))?;
    let service = Service::new(
        "http://localhost",
        Options::default(),
        Clock::start(),
        CancellationToken::new(),
    );
    let mut headers = hyper::HeaderMap::new();
    headers.insert("x-amz-target", target.parse().expect("a header"));
    let answer = service.answer(&headers, request.body.as_bytes()).await.expect("no fault");
    let answer = answer.into_body().collect().await.expect("it is there").to_bytes();
    let answer = String::from_utf8_lossy(&answer);
    let is_wrong =
        answer.contains("ValidationException") || answer.contains("SerializationException");
    is_wrong.then(|| format!("{target} {}: {answer}", request.body))
}

#[cfg(not(feature = "local"))]
async fn malformed(_: &Request) -> Option<String> {
    None
}

async fn serve(mut stream: TcpStream, connection: usize, script: Arc<Script>) {
    while let Some(request) = read(&mut stream, connection).await {
        if let Some(malformed) = malformed(&request).await {
            script.malformed.lock().expect("not poisoned").push(malformed);
        }
        let reply = script.replies.lock().expect("not poisoned").pop_front();
        script.requests.send_modify(|requests| requests.push(request));
        let (status, headers, body) = match reply {
            Some(Reply::Json(status, body)) => {
                (status, "content-type: application/x-amz-json-1.1\r\n", body.to_string())
            }
            Some(Reply::Raw(status, headers, body)) => (status, headers, body.to_owned()),
            Some(Reply::Reset) => {
                stream.set_zero_linger().expect("a socket");
                return;
            }
            Some(Reply::Hang) | None => std::future::pending().await,
        };
        let answer =
            format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next request on a connection; `None` at its end.
async fn read(stream: &mut TcpStream, connection: usize) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
        let request = Request { connection, head, body: String::new() };
        let length: usize =
            request.header("content-length").unwrap_or("0").parse().expect("a length");
        if let Some(body) = bytes.get(end + 4..end + 4 + length) {
            return Some(Request {
                body: String::from_utf8(body.to_vec()).expect("text"),
                ..request
            });
        }
    }
}
