//! The network below one process's AWS clients, at the SDK's HTTP connector.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use callbackd::aws::Outside;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Response};

use crate::worker::Life;

/// What a call takes, beside what it waits for.
const LATENCY: Duration = Duration::from_millis(20);

/// Everything that a process uses through the AWS SDK.
pub fn outside(life: &Arc<Life>) -> Outside {
    let network = Network(life.clone());
    let connector = SharedHttpConnector::new(network.clone());
    let credentials = Credentials::new("key", "secret", None, None, "world");
    Outside {
        http: http_client_fn(move |_, _| connector.clone()).into(),
        time: SharedTimeSource::new(network),
        credentials: Some(SharedCredentialsProvider::new(credentials)),
    }
}

#[derive(Clone)]
struct Network(Arc<Life>);

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the network")
    }
}

impl TimeSource for Network {
    #[expect(clippy::disallowed_types, reason = "the SDK's own interface; it reads no clock")]
    fn now(&self) -> std::time::SystemTime {
        self.0.world.shown().into()
    }
}

impl HttpConnector for Network {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move { this.answer(request).await })
    }
}

impl Network {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let (life, world) = (&self.0, &self.0.world);
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let (service, operation) = target.split_once('.').expect("a service and an operation");
        let service = service.trim_start_matches("Amazon");
        life.lives().await;
        world.call(&format!("{service} {operation}"));
        life.sleep(LATENCY).await;
        if service == "SageMaker" && world.is_down() {
            return Ok(unavailable());
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", target.parse().expect("a header"));
        let body = request.body().bytes().unwrap_or_default();
        let answered = life.within(world.service().answer(&headers, body)).await;
        world.hear();
        let (head, body) = answered
            .map_err(|_| {
                ConnectorError::io(io::Error::from(io::ErrorKind::ConnectionReset).into())
            })?
            .into_parts();
        let Ok(body) = BodyExt::collect(body).await;
        let body = SdkBody::from(body.to_bytes());
        Ok(HttpResponse::try_from(Response::from_parts(head, body)).expect("a response"))
    }
}

fn unavailable() -> HttpResponse {
    let body = r#"{"__type": "ServiceUnavailable", "message": "the service is down"}"#;
    let mut response = HttpResponse::new(503.try_into().expect("a status"), SdkBody::from(body));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
    response
}
