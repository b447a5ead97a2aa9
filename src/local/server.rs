//! Connections: they are accepted, bounded, read, answered, and broken where a fault rule says so.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
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
use super::protocol::{self, ApiError, Service as Dialect, Target};
use super::service::Service;

/// Connections at once: every long poll of every worker of a drill has one, and each costs a few kilobytes.
const MAX_CONNECTIONS: usize = 1_024;

/// A body at most: a pipeline definition or a batch of messages is 1 MiB, and JSON can escape each byte as six.
const MAX_BODY: usize = 8 << 20;

/// How long connections have to finish at shutdown. Calls take milliseconds, and long polls end at once.
const GRACE: Duration = Duration::from_secs(3);

/// What to wait after `accept` failed, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends a connection without a response: told to hyper as the service's error.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped, as a fault rule demands")]
struct Dropped {
    reset: bool,
}

/// Serves connections until it is stopped, and then until all of them are closed.
pub async fn serve(listener: TcpListener, service: Arc<Service>, stopping: CancellationToken) {
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
                tracing::warn!(%error, "the local endpoint could not accept a connection");
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
        tracing::error!(%error, "a connection of the local endpoint broke");
    }
}

async fn connection(stream: TcpStream, service: Arc<Service>, stopping: CancellationToken) {
    // Answers are small and waited for. Failure costs time and nothing else.
    let _ = stream.set_nodelay(true);
    let stopped = stopping.clone();
    let answer = service_fn(move |request| answer(service.clone(), stopped.clone(), request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let served = if let Some(served) = stopping.run_until_cancelled(&mut connection).await {
        served
    } else {
        Pin::new(&mut connection).graceful_shutdown();
        (&mut connection).await
    };
    let dropped = served.as_ref().err().and_then(Error::source).and_then(<dyn Error>::downcast_ref::<Dropped>);
    if dropped.is_some_and(|dropped| dropped.reset) {
        // With no lingering, closing a socket resets the connection.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

async fn answer(
    service: Arc<Service>,
    stopping: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let (head, body) = request.into_parts();
    if head.headers.contains_key("origin") {
        // A web page in the user's browser: without authentication this is all that keeps it out.
        return Ok(plain(StatusCode::FORBIDDEN, "the local endpoint serves no web pages"));
    }
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than any request can be"));
        }
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
    match Target::read(&head.headers) {
        Ok(target) => operate(&service, &stopping, &target, &body).await,
        Err(error) => Ok(protocol::respond(Dialect::Sqs, &service.request_id(), &Err(error))),
    }
}

/// Does an operation, with whatever it has to suffer.
async fn operate(
    service: &Service,
    stopping: &CancellationToken,
    target: &Target,
    body: &[u8],
) -> Result<Response<Full<Bytes>>, Dropped> {
    let suffers = service.strike(&target.operation);
    let respond = |answer| Ok(protocol::respond(target.service, &service.request_id(), &answer));
    let error = suffers.error.as_ref().map(|refusal| {
        let error = ApiError::new(refusal.code.clone(), refusal.message.clone());
        (refusal.acted, ApiError { status: refusal.status, ..error })
    });

    stopping.run_until_cancelled(sleep(suffers.before)).await;
    if let Some(disconnect) = suffers.disconnect.filter(|disconnect| !disconnect.acted) {
        return Err(Dropped { reset: disconnect.reset });
    }
    if let Some((false, error)) = error {
        return respond(Err(error));
    }
    let answer = match protocol::body(body) {
        Ok(body) => service.call(target, body, &suffers).await,
        Err(error) => Err(error),
    };
    stopping.run_until_cancelled(sleep(suffers.after)).await;
    if let Some(disconnect) = suffers.disconnect {
        return Err(Dropped { reset: disconnect.reset });
    }
    respond(error.map_or(answer, |(_, error)| Err(error)))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
