//! The connections under all clients: one pool for SQS, SageMaker, STS and the credential providers.
//!
//! The SDK's own default cannot be told when to close idle connections.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_http_client::ConnectorBuilder;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// NAT gateways, VPC endpoints and load balancers forget a connection after 350 s without a word and say nothing; the next
/// request on it would hang. No request here is silent for longer than a poll's 30 s, so that keep-alive probes would add nothing.
const IDLE: Duration = Duration::from_secs(60);

/// HTTP/1.1 and 2 over TLS (rustls, the system's roots), through the proxies that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name.
#[derive(Debug, Default)]
pub(super) struct Https {
    // One pool for each pair of time-outs; services share theirs, and credential providers have two or three.
    pools: Mutex<HashMap<Timeouts, SharedHttpConnector>>,
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
    SharedHttpConnector::new(builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build())
}
