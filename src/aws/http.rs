//! The connections below all clients.
//!
//! Calls of different kinds share none: [`Connections`] says why.
//!
//! The SDK's own default cannot be told when to close idle connections, and lets a timed-out call
//! leave behind an HTTP/2 connection on which the next one hangs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_http_client::ConnectorBuilder;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::roots;

/// NAT gateways and VPC endpoints silently drop a connection after 350 s without traffic; the next
/// request on it would hang. No request here is silent for longer than a poll's 30 s, so keep-alive
/// probes would add nothing.
const IDLE: Duration = Duration::from_mins(1);

/// A connection pool for each kind of call, so that none waits for another kind.
///
/// Over HTTP/2, and through some proxies, all calls of a pool to one host share a connection and
/// its limit of concurrent streams. Over HTTP/1.1 each pending call has its own connection, and the
/// call that has waited longest gets the next free one. Polls are silent for 20 s at a time, and
/// steps that end together produce reports by the thousand: in one pool with them, heartbeats would
/// come too late and their messages would become visible again.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Long polls.
    pub(super) polls: SharedHttpClient,
    /// Calls that keep, delete and copy messages.
    pub(super) keeping: SharedHttpClient,
    /// Reports and questions to SageMaker.
    pub(super) answers: SharedHttpClient,
    /// Single items of the ledger's table: leases are renewed by them.
    #[cfg_attr(not(feature = "dynamodb"), expect(dead_code, reason = "there is no such ledger"))]
    pub(super) ledger: SharedHttpClient,
    /// Roles and credential providers, which all other calls depend on.
    pub(super) others: SharedHttpClient,
    /// Services on this machine or container, never through a proxy: a proxy would answer for its
    /// own machine.
    pub(super) metadata: SharedHttpClient,
}

impl Default for Connections {
    fn default() -> Self {
        let own = || {
            SharedHttpClient::new(Https { through: ProxyConfig::from_env, pools: Mutex::default() })
        };
        let metadata = SharedHttpClient::new(Https {
            through: ProxyConfig::disabled,
            pools: Mutex::default(),
        });
        Self {
            polls: own(),
            keeping: own(),
            answers: own(),
            ledger: own(),
            others: own(),
            metadata,
        }
    }
}

/// One client for all kinds: a simulated network has no connections to share.
impl From<SharedHttpClient> for Connections {
    fn from(http: SharedHttpClient) -> Self {
        let again = || http.clone();
        Self {
            polls: again(),
            keeping: again(),
            answers: again(),
            ledger: again(),
            others: again(),
            metadata: http,
        }
    }
}

/// HTTP/1.1 and 2 over TLS (rustls; see `roots`), through the proxies that `HTTPS_PROXY`,
/// `HTTP_PROXY` and `NO_PROXY` name, if any.
#[derive(Debug)]
struct Https {
    through: fn() -> ProxyConfig,
    // One pool for each pair of timeouts: the credential providers use two or three.
    pools: Mutex<BTreeMap<Timeouts, SharedHttpConnector>>,
}

/// Timeouts of the connection and of the first byte of an answer.
type Timeouts = (Option<Duration>, Option<Duration>);

impl HttpClient for Https {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        parts: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.entry(timeouts).or_insert_with(|| pool((self.through)(), settings, parts)).clone()
    }
}

fn pool(
    through: ProxyConfig,
    settings: &HttpConnectorSettings,
    parts: &RuntimeComponents,
) -> SharedHttpConnector {
    let mut builder = ConnectorBuilder::default()
        .connector_settings(settings.clone())
        .pool_idle_timeout(IDLE)
        .proxy_config(through);
    builder.set_sleep_impl(parts.sleep_impl());
    let mut builder = builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    if let Some(context) = roots::context() {
        builder = builder.tls_context(context);
    }
    let connector = builder.build();
    SharedHttpConnector::new(Guarded(SharedHttpConnector::new(connector)))
}

/// Closes the connection of a call that is dropped before it is answered, whatever dropped it.
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

    /// Connects at once; answers at once or never.
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
