//! The clients of one account in one region.

use std::sync::Arc;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{AppName, BehaviorVersion, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::sdk_ua_metadata::FrameworkMetadata;
use aws_types::service_config::ServiceConfigKey;

use super::calls::{Calls, Limit};
use super::credentials::{CachedCredentials, Provider};
use super::http::Connections;
use crate::seam::Observer;

/// The clients of one account in one region. Cheap to clone.
#[derive(Clone)]
pub(super) struct Account {
    pub sdk: SdkConfig,
    pub region: String,
    pub credentials: Arc<CachedCredentials>,
    /// There are two SQS clients because a client's timeout and connections are fixed when it is
    /// built, and a per-call override would be built anew for every call.
    pub poll: aws_sdk_sqs::Client,
    pub quick: aws_sdk_sqs::Client,
    pub sagemaker: aws_sdk_sagemaker::Client,
    pub sts: aws_sdk_sts::Client,
    /// Two for the same reason as SQS has two: single items, and tables and lists.
    #[cfg(feature = "dynamodb")]
    pub items: aws_sdk_dynamodb::Client,
    #[cfg(feature = "dynamodb")]
    pub tables: aws_sdk_dynamodb::Client,
    pub observer: Arc<dyn Observer>,
}

impl Account {
    /// `sdk` holds everything except the credentials.
    pub(super) fn new(
        sdk: SdkConfig,
        region: &str,
        credentials: Arc<CachedCredentials>,
        http: &Connections,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let mut builder = sdk
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(Provider(credentials.clone())))
            // `CachedCredentials` is the cache.
            .identity_cache(IdentityCache::no_cache())
            // See `calls`.
            .retry_config(RetryConfig::disabled())
            // Stalled-stream protection cuts off a body that makes no progress for seconds. A long
            // poll never makes progress, and every call has its own timeout.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        // `app/callbackd lib/callbackd/VERSION` in the user agent shows in the account's trail who
        // called.
        builder.set_app_name(AppName::new("callbackd").ok());
        builder.set_framework_metadata(
            FrameworkMetadata::new("callbackd", Some(env!("CARGO_PKG_VERSION"))).ok(),
        );
        let sdk = builder.build();
        let sqs = |limit: Limit, http: &SharedHttpClient| {
            let config =
                aws_sdk_sqs::config::Builder::from(&sdk).timeout_config(limit.of_the_sdk());
            aws_sdk_sqs::Client::from_conf(config.http_client(http.clone()).build())
        };
        let answer = Limit::ANSWER.of_the_sdk();
        let sagemaker = aws_sdk_sagemaker::config::Builder::from(&sdk)
            .timeout_config(answer.clone())
            .http_client(http.answers.clone())
            .build();
        let sts = aws_sdk_sts::config::Builder::from(&sdk)
            .timeout_config(answer)
            .http_client(http.others.clone())
            .build();
        Self {
            region: region.to_owned(),
            credentials,
            poll: sqs(Limit::POLL, &http.polls),
            quick: sqs(Limit::QUICK, &http.keeping),
            sagemaker: aws_sdk_sagemaker::Client::from_conf(sagemaker),
            sts: aws_sdk_sts::Client::from_conf(sts),
            #[cfg(feature = "dynamodb")]
            items: dynamodb(&sdk, Limit::LEDGER, &http.ledger),
            #[cfg(feature = "dynamodb")]
            tables: dynamodb(&sdk, Limit::ANSWER, &http.others),
            observer,
            sdk,
        }
    }

    /// The same account, but with SQS at `endpoint`, unless the configuration, the environment or
    /// the profile names another one.
    pub(super) fn with_sqs_at(self, endpoint: &str) -> Self {
        if self.has_sqs_endpoint() {
            return self;
        }
        let at = |client: &aws_sdk_sqs::Client| {
            // The FIPS and dual-stack flags choose among the service's own hosts, and the SDK
            // refuses them beside any other endpoint.
            let config = client
                .config()
                .to_builder()
                .use_fips(false)
                .use_dual_stack(false)
                .endpoint_url(endpoint);
            aws_sdk_sqs::Client::from_conf(config.build())
        };
        Self { poll: at(&self.poll), quick: at(&self.quick), ..self }
    }

    /// Whether an endpoint is configured for SQS, or for all services.
    pub(super) fn has_sqs_endpoint(&self) -> bool {
        let key = ServiceConfigKey::builder()
            .service_id("SQS")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build();
        let own = self
            .sdk
            .service_config()
            .zip(key.ok())
            .and_then(|(config, key)| config.load_config(key));
        own.is_some() || self.sdk.endpoint_url().is_some()
    }

    pub(super) fn calls(&self, service: &'static str) -> Calls {
        Calls::new(service, self.credentials.clone(), self.observer.clone())
    }
}

/// The SDK gives this service four tries of its own unless its client says otherwise.
#[cfg(feature = "dynamodb")]
fn dynamodb(sdk: &SdkConfig, limit: Limit, http: &SharedHttpClient) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(sdk)
        .retry_config(RetryConfig::disabled())
        .timeout_config(limit.of_the_sdk())
        .http_client(http.clone());
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// Dated, so that a newer SDK changes nothing about timeouts, retries or connections until someone
/// has reviewed it.
pub(super) fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::aws::server::{Reply, Server};

    #[tokio::test]
    async fn heartbeats_and_deletes_share_no_connection_with_polls_or_with_reports() {
        let server = Server::start((0..6).map(|_| Reply::Json(200, json!({})))).await;
        let account = server.account();
        let (url, arn) =
            ("http://q", "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc");
        for _ in 0..2 {
            account.poll.receive_message().queue_url(url).send().await.expect("an answer");
            account.quick.delete_message_batch().queue_url(url).send().await.expect("an answer");
            let ask = account.sagemaker.describe_pipeline_execution().pipeline_execution_arn(arn);
            ask.send().await.expect("an answer");
        }
        let connections: Vec<usize> =
            server.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 1, 2, 0, 1, 2]);
    }
}
