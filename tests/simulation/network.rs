//! The network below one process's AWS clients, at the SDK's HTTP connector, and the source of its
//! credentials.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use callbackd::aws::Outside;
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Response};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, civil};
use serde_json::json;
use tokio::time::sleep;

use crate::life::Life;
use crate::weather::{Lot, When};
use crate::world::World;

/// Everything that a process uses through the AWS SDK.
pub fn outside(life: &Arc<Life>, trouble: f64, credentials: Issuing) -> Outside {
    let network = Network { life: Arc::new(Opaque(life.clone())), trouble };
    let connector = SharedHttpConnector::new(network);
    Outside {
        http: http_client_fn(move |_, _| connector.clone()).into(),
        time: SharedTimeSource::new(Shown(Arc::new(Opaque(life.clone())))),
        credentials: Some(SharedCredentialsProvider::new(Issuer {
            life: Arc::new(Opaque(life.clone())),
            issuing: credentials,
        })),
    }
}

/// What the SDK wants to be able to print.
struct Opaque(Arc<Life>);

impl std::fmt::Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.name())
    }
}

/// The wall clock as the process sees it.
#[derive(Debug)]
struct Shown(Arc<Opaque>);

impl TimeSource for Shown {
    #[expect(clippy::disallowed_types, reason = "the SDK's own interface; it reads no clock")]
    fn now(&self) -> std::time::SystemTime {
        self.0.0.world.shown().into()
    }
}

/// How keys are issued.
#[derive(Clone, Copy, Debug)]
pub struct Issuing {
    pub lifetime: Duration,
    /// How likely none is.
    pub trouble: f64,
}

#[derive(Debug)]
struct Issuer {
    life: Arc<Opaque>,
    issuing: Issuing,
}

impl ProvideCredentials for Issuer {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let life = &self.life.0;
            let world = &life.world;
            life.cross("credentials, before").await;
            if world.has_faults() && world.chance(self.issuing.trouble) {
                world.count("fault: no credentials");
                sleep(Duration::from_millis(world.draw(40_000))).await;
                return Err(CredentialsError::provider_error("the credential service is down"));
            }
            let (key, end) = world.issue_key(self.issuing.lifetime);
            world.note(&format!("{} is given {key}", life.name()));
            world.count("path: credentials given");
            Ok(Credentials::new(
                key,
                "secret",
                Some("session".to_owned()),
                Some(end.into()),
                "world",
            ))
        })
    }
}

#[derive(Clone, Debug)]
struct Network {
    life: Arc<Opaque>,
    trouble: f64,
}

impl HttpConnector for Network {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move { this.answer(request).await })
    }
}

impl Network {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let (life, world) = (&self.life.0, &self.life.0.world);
        let target = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.body().bytes().unwrap_or_default().to_vec();
        let key = key(request.headers().get("authorization").unwrap_or_default()).to_owned();
        life.cross(&format!("{operation}, before")).await;
        let lot = Lot::of_spell(world, &operation)
            .unwrap_or_else(|| Lot::draw(world, self.trouble, &operation));
        if let Some(name) = lot.name() {
            world.count(&name);
        }
        // The body and its consequences, but not what the SDK randomises in its headers.
        world.note(&format!("{} {operation} {:016x} {lot:?}", life.name(), hash(&body)));
        world.count(&format!("call: {operation}"));
        match lot {
            Lot::Reset(When::Before) => return Err(reset()),
            Lot::Error(When::Before, status, code) => return Ok(error(status, code)),
            Lot::Gateway(When::Before) => return Ok(gateway()),
            Lot::Empty => return Ok(dated(world, listing_of_none())),
            Lot::Hangs => std::future::pending().await,
            Lot::Slow(When::Before, time) => life.while_it_lasts(sleep(time)).await,
            _ => {}
        }
        if !world.is_good(&key) {
            world.count("path: expired credentials refused");
            return Ok(error(400, "ExpiredTokenException"));
        }
        if !is_timely(world, request.headers().get("x-amz-date").unwrap_or_default()) {
            world.count("path: a signature of another time refused");
            return Ok(dated(world, error(403, "RequestTimeTooSkewed")));
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", target.parse().expect("a header"));
        let answered = life.while_it_lasts(world.service().answer(&headers, &body)).await;
        world.receives(lot == Lot::Calm && !life.is_over());
        let report = format!("{operation} {}", String::from_utf8_lossy(&body));
        world.hear(Some((life.worker, &report)));
        life.cross(&format!("{operation}, after")).await;
        let Ok(answered) = answered else { return Err(reset()) };
        match lot {
            Lot::Reset(When::After) => return Err(reset()),
            Lot::Error(When::After, status, code) => return Ok(error(status, code)),
            Lot::Gateway(When::After) => return Ok(gateway()),
            Lot::Slow(When::After, time) => life.while_it_lasts(sleep(time)).await,
            _ => {}
        }
        let (head, body) = answered.into_parts();
        let body = BodyExt::collect(body)
            .await
            .unwrap_or_else(|never: Infallible| match never {})
            .to_bytes();
        if ["ReceiptHandleIsInvalid", "MessageNotInflight", "parameter ReceiptHandle is invalid"]
            .iter()
            .any(|stale| String::from_utf8_lossy(&body).contains(stale))
        {
            world.count("path: a stale receipt refused");
        }
        let body = match lot {
            Lot::Body(time) => halves(&body, Second::Late(time)),
            Lot::Cut => halves(&body, Second::Never),
            _ => SdkBody::from(body),
        };
        Ok(dated(
            world,
            HttpResponse::try_from(Response::from_parts(head, body)).expect("a response"),
        ))
    }
}

/// What becomes of the second half of a body.
#[derive(Clone, Copy)]
enum Second {
    Late(Option<Duration>),
    Never,
}

fn halves(body: &Bytes, second: Second) -> SdkBody {
    let (first, rest) = (body.slice(..body.len() / 2), body.slice(body.len() / 2..));
    let whole = stream::unfold(0, move |part| {
        let (first, rest) = (first.clone(), rest.clone());
        async move {
            let frame = match (part, second) {
                (0, _) => Ok(Frame::data(first)),
                (1, Second::Never) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                (1, Second::Late(Some(time))) => {
                    sleep(time).await;
                    Ok(Frame::data(rest))
                }
                (1, Second::Late(None)) => std::future::pending().await,
                _ => return None,
            };
            Some((frame, part + 1))
        }
    });
    SdkBody::from_body_1_x(StreamBody::new(Box::pin(whole.fuse())))
}

fn reset() -> ConnectorError {
    ConnectorError::io(io::Error::from(io::ErrorKind::ConnectionReset).into())
}

fn error(status: u16, code: &str) -> HttpResponse {
    let body = json!({"__type": code, "message": "as the weather has it"}).to_string();
    let mut response = HttpResponse::new(status.try_into().expect("a status"), SdkBody::from(body));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
    response
}

fn listing_of_none() -> HttpResponse {
    let body = json!({"PipelineExecutionSteps": []}).to_string();
    let mut response = HttpResponse::new(200.try_into().expect("a status"), SdkBody::from(body));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
    response
}

/// With the service's time, by which a client corrects its own.
fn dated(world: &World, mut response: HttpResponse) -> HttpResponse {
    let now = world.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert("date", now);
    response
}

/// AWS takes a signature for five minutes.
fn is_timely(world: &World, signed: &str) -> bool {
    let signed = civil::DateTime::strptime("%Y%m%dT%H%M%SZ", signed)
        .and_then(|time| time.to_zoned(TimeZone::UTC));
    signed.is_ok_and(|signed| {
        signed.timestamp().duration_since(world.now()).abs() <= SignedDuration::from_mins(5)
    })
}

fn gateway() -> HttpResponse {
    HttpResponse::new(502.try_into().expect("a status"), SdkBody::from("<html>Bad Gateway</html>"))
}

/// The access key that a request is signed with.
fn key(authorization: &str) -> &str {
    authorization
        .split_once("Credential=")
        .and_then(|(_, rest)| rest.split('/').next())
        .unwrap_or_default()
}

fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}
