//! The connections under all clients: one pool for SQS, SageMaker, STS and the credential providers.
//!
//! The SDK's own default cannot be told when to close idle connections, and lets a call that timed out leave an HTTP/2 connection
//! for the next one to hang on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_http_client::ConnectorBuilder;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// NAT gateways and VPC endpoints forget a connection after 350 s without a word and say nothing; the next
/// request on it would hang. No request here is silent for longer than a poll's 30 s, so that keep-alive probes would add nothing.
const IDLE: Duration = Duration::from_mins(1);

/// HTTP/1.1 and 2 over TLS (rustls, the system's roots), through the proxies that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name.
#[derive(Debug, Default)]
pub(super) struct Https {
    // One pool for each pair of time-outs; services share theirs, and credential providers have two or three.
    pools: Mutex<BTreeMap<Timeouts, SharedHttpConnector>>,
}

/// To connect, and to the first byte of an answer.
type Timeouts = (Option<Duration>, Option<Duration>);

impl HttpClient for Https {
    fn http_connector(&self, settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.entry(timeouts).or_insert_with(|| pool(settings, parts)).clone()
    }
}

fn pool(settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
    let mut builder = ConnectorBuilder::default()
        .connector_settings(settings.clone())
        .pool_idle_timeout(IDLE)
        .proxy_config(ProxyConfig::from_env());
    builder.set_sleep_impl(parts.sleep_impl());
    let connector = builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build();
    SharedHttpConnector::new(Guarded(SharedHttpConnector::new(connector)))
}

/// Gives up the connection of a call that is dropped before it is answered, whatever dropped it.
#[derive(Debug)]
struct Guarded(SharedHttpConnector);

impl HttpConnector for Guarded {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let guard = Guard(request.extension::<CaptureSmithyConnection>().cloned());
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            guard.answered();
            answer
        })
    }
}

struct Guard(Option<CaptureSmithyConnection>);

impl Guard {
    fn answered(mut self) {
        self.0.take();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(connection) = self.0.as_ref().and_then(CaptureSmithyConnection::get) {
            connection.poison();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use aws_smithy_runtime_api::client::connection::ConnectionMetadata;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    /// Connected at once; answers at once or never.
    #[derive(Clone, Debug, Default)]
    struct Line {
        silent: bool,
        given_up: Arc<AtomicBool>,
    }

    impl HttpConnector for Line {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let given_up = self.given_up.clone();
            let capture = request.extension::<CaptureSmithyConnection>().expect("captured");
            capture.set_connection_retriever(move || {
                let given_up = given_up.clone();
                let poison = move || given_up.store(true, Ordering::SeqCst);
                Some(ConnectionMetadata::builder().proxied(false).poison_fn(poison).build())
            });
            if self.silent {
                return HttpConnectorFuture::new(std::future::pending());
            }
            let ok = 200.try_into().expect("a status");
            HttpConnectorFuture::ready(Ok(HttpResponse::new(ok, SdkBody::empty())))
        }
    }

    fn request() -> HttpRequest {
        let mut request = HttpRequest::get("http://host/").expect("a request");
        request.add_extension(CaptureSmithyConnection::new());
        request
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_of_a_call_that_timed_out_is_given_up() {
        let line = Line { silent: true, ..Line::default() };
        let call = Guarded(SharedHttpConnector::new(line.clone())).call(request());
        tokio::time::timeout(Duration::from_secs(1), call).await.expect_err("silence");
        assert!(line.given_up.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn the_connection_of_a_call_that_was_answered_is_kept() {
        let line = Line::default();
        let answer = Guarded(SharedHttpConnector::new(line.clone())).call(request()).await;
        assert!(answer.is_ok() && !line.given_up.load(Ordering::SeqCst));
    }
}
