//! Connections: accepted, bounded, read, answered, and broken if a fault rule says so.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::control;
use super::service::{Dropped, Service};

/// Concurrent connections: every long poll of every worker of a drill has one, and each costs a few
/// kilobytes.
const MAX_CONNECTIONS: usize = 1_024;

/// The maximum size of a body: a pipeline definition or a batch of messages is 1 MiB, and JSON can
/// escape each byte as six.
const MAX_BODY: usize = 8 << 20;

/// How long connections have to finish at shutdown. Calls take milliseconds, and long polls end at
/// once.
const GRACE: Duration = Duration::from_secs(3);

/// How long to wait after `accept` failed, usually for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until it is stopped, and then until all of them are closed.
pub(super) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stopping: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(Ok(slot)) = stopping.run_until_cancelled(slots.clone().acquire_owned()).await {
        match stopping.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => {
                let connection = connection(stream, service.clone(), stopping.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Some(Err(error)) => {
                tracing::warn!(
                    event = "endpoint_accept_failed",
                    %error,
                    "the local endpoint could not accept a connection"
                );
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while let Some(ended) = connections.try_join_next() {
            tell(ended);
        }
    }
    drop(listener);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            tell(ended);
        }
    };
    if timeout(GRACE, all).await.is_err() {
        connections.shutdown().await;
    }
}

fn tell(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(
            event = "endpoint_connection_broke",
            %error,
            "a connection of the local endpoint broke"
        );
    }
}

async fn connection(stream: TcpStream, service: Arc<Service>, stopping: CancellationToken) {
    // Answers are small and awaited. A failure only costs time.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| answer(service.clone(), request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let served = if let Some(served) = stopping.run_until_cancelled(&mut connection).await {
        served
    } else {
        Pin::new(&mut connection).graceful_shutdown();
        (&mut connection).await
    };
    let dropped = served
        .as_ref()
        .err()
        .and_then(Error::source)
        .and_then(<dyn Error>::downcast_ref::<Dropped>);
    if dropped.is_some_and(|dropped| dropped.reset) {
        // With lingering disabled, closing a socket resets the connection.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let (head, body) = request.into_parts();
    if head.headers.contains_key("origin") {
        // A web page in the user's browser: without authentication only this keeps it out.
        return Ok(plain(StatusCode::FORBIDDEN, "the local endpoint serves no web pages"));
    }
    let too_long =
        || plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than any request can be");
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Ok(too_long());
    }
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Ok(too_long()),
        Err(_) => return Ok(plain(StatusCode::BAD_REQUEST, "the body broke off")),
    };
    if let Some(path) = head.uri.path().strip_prefix(control::PATH) {
        return Ok(control::answer(&service, &head.method, path, &body));
    }
    if head.method != Method::POST {
        return Ok(plain(
            StatusCode::OK,
            "callbackd's local endpoint: SQS and SageMaker Pipelines by the AWS JSON protocols\n",
        ));
    }
    service.answer(&head.headers, &body).await
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::super::faults::{Fault, Rule};
    use super::super::{Endpoint, Options};
    use serde_json::{Value, json};
    use std::io::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An endpoint with a queue `q`, for requests byte by byte.
    struct Bench {
        endpoint: Endpoint,
        queue: Value,
    }

    impl Bench {
        async fn new() -> Self {
            let loopback = "127.0.0.1:0".parse().expect("an address");
            let endpoint =
                Endpoint::start(loopback, Options::default()).await.expect("a free port");
            let bench = Self { endpoint, queue: Value::Null };
            let queue =
                bench.sqs("CreateQueue", json!({"QueueName": "q"})).await["QueueUrl"].clone();
            Self { queue, ..bench }
        }

        /// A connection on which one request was sent.
        async fn request(&self, head: &str, body: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.endpoint.addr()).await.expect("it listens");
            let head = format!("{head}host: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).await.expect("sent");
            stream
        }

        async fn ask(&self, operation: &str, body: &Value) -> TcpStream {
            let head = format!(
                "POST / HTTP/1.1\r\nx-amz-target: AmazonSQS.{operation}\r\nconnection: close\r\n"
            );
            self.request(&head, body.to_string().as_bytes()).await
        }

        async fn sqs(&self, operation: &str, body: Value) -> Value {
            let answer = all(self.ask(operation, &body).await).await.expect("an answer");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            serde_json::from_str(body).unwrap_or_default()
        }

        fn fault(&self, operation: &str, fault: Fault) {
            self.endpoint
                .set_faults(vec![Rule::new(operation, fault).times(1)])
                .expect("a rule that can be");
        }

        async fn visible(&self) -> usize {
            let ask =
                json!({"QueueUrl": self.queue, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0});
            self.sqs("ReceiveMessage", ask).await["Messages"].as_array().map_or(0, Vec::len)
        }

        fn message(&self) -> Value {
            json!({"QueueUrl": self.queue, "MessageBody": "hello"})
        }
    }

    async fn all(mut stream: TcpStream) -> std::io::Result<String> {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    }

    #[tokio::test]
    async fn a_connection_is_closed_without_a_byte_before_the_call_acts_or_after() {
        let bench = Bench::new().await;
        for (acted, visible) in [(false, 0), (true, 1)] {
            bench.fault("SendMessage", Fault::Disconnect { acted, reset: false });
            let answer = all(bench.ask("SendMessage", &bench.message()).await).await;
            assert_eq!(answer.expect("an orderly close"), "");
            assert_eq!(bench.visible().await, visible);
        }
    }

    #[tokio::test]
    async fn a_connection_is_reset_where_the_rule_says_so() {
        let bench = Bench::new().await;
        bench.fault("SendMessage", Fault::Disconnect { acted: true, reset: true });
        let answer = all(bench.ask("SendMessage", &bench.message()).await).await;
        assert_eq!(answer.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        assert_eq!(bench.visible().await, 1);
    }

    #[tokio::test]
    async fn a_long_poll_whose_client_is_gone_takes_no_message() {
        let bench = Bench::new().await;
        let mut poll = bench
            .ask("ReceiveMessage", &json!({"QueueUrl": bench.queue, "WaitTimeSeconds": 20}))
            .await;
        poll.shutdown().await.expect("half closed");
        assert_eq!(all(poll).await.expect("closed by the endpoint too"), "");
        bench.sqs("SendMessage", bench.message()).await;
        assert_eq!(bench.visible().await, 1);
    }

    #[tokio::test]
    async fn a_shutdown_answers_long_polls_and_closes_idle_connections() {
        let bench = Bench::new().await;
        let mut events = bench.endpoint.events();
        let idle = TcpStream::connect(bench.endpoint.addr()).await.expect("it listens");
        // The latency's event shows that the poll has reached the endpoint.
        bench.fault("ReceiveMessage", Fault::Latency { millis: 3_600_000, acted: false });
        let poll = bench
            .ask("ReceiveMessage", &json!({"QueueUrl": bench.queue, "WaitTimeSeconds": 20}))
            .await;
        events.recv().await.expect("the fault");
        bench.endpoint.shutdown().await;
        assert!(all(poll).await.expect("an answer").starts_with("HTTP/1.1 200"));
        assert_eq!(all(idle).await.expect("an orderly close"), "");
    }

    #[tokio::test]
    async fn a_body_longer_than_any_request_is_refused_unread() {
        let bench = Bench::new().await;
        let mut stream = TcpStream::connect(bench.endpoint.addr()).await.expect("it listens");
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
            MAX_BODY + 1
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 413");
    }

    #[tokio::test]
    async fn a_web_page_is_kept_out_of_the_services_and_of_the_control_api() {
        let bench = Bench::new().await;
        for path in ["/", "/_local/faults"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\norigin: https://example.com\r\nconnection: close\r\n"
            );
            let answer = all(bench.request(&head, b"{}").await).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_request_that_names_no_operation_is_told_what_is_served() {
        let bench = Bench::new().await;
        let old = b"Action=ListQueues&Version=2012-11-05";
        let answer = all(bench.request("POST / HTTP/1.1\r\nconnection: close\r\n", old).await)
            .await
            .expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("AWS JSON protocols only"),
            "{answer}"
        );
    }
}
