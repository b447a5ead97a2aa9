//! One set of clients for each region and role, made when it is first asked for and cloned from then on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::region::DefaultRegionChain;
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::sdk_ua_metadata::FrameworkMetadata;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::calls::{Calls, Limit};
use super::config::Config;
use super::credentials::{Kept, Provider};
use super::http::Https;
use super::region;
use super::role::{Role, session_name};
use super::sagemaker::SageMaker;
use super::sqs::Sqs;
use crate::seam::Observer;

/// Nothing says which region it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no AWS region for {for_what}: set `region` of the queue, `aws.region`, or AWS_REGION, or name a profile that has one"
)]
pub struct NoRegion {
    pub for_what: String,
}

/// Makes the clients of all accounts and regions that a worker has to do with.
pub struct Clients {
    config: Config,
    session: String,
    observer: Arc<dyn Observer>,
    http: SharedHttpClient,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    /// Who we are without a role, the same in every region.
    own: Option<Arc<Kept>>,
    accounts: HashMap<(String, Option<String>), Account>,
}

/// The clients of one account in one region. Cheap to clone.
#[derive(Clone)]
pub(super) struct Account {
    pub sdk: SdkConfig,
    pub region: String,
    pub credentials: Arc<Kept>,
    /// Two of SQS, since a client's time-out is fixed when it is made and an override would be built anew for every call.
    pub poll: aws_sdk_sqs::Client,
    pub quick: aws_sdk_sqs::Client,
    pub sagemaker: aws_sdk_sagemaker::Client,
    pub sts: aws_sdk_sts::Client,
    pub observer: Arc<dyn Observer>,
}

impl Clients {
    /// Makes nothing yet and calls nobody. `worker` names the sessions of assumed roles.
    #[must_use]
    pub fn new(config: Config, worker: &str, observer: Arc<dyn Observer>) -> Self {
        Self {
            config,
            session: session_name(worker),
            observer,
            http: SharedHttpClient::new(Https::default()),
            made: Mutex::default(),
        }
    }

    /// The queue with this URL. Its region is `region`, else the one in the URL, else `aws.region`, else what the SDK's chain
    /// finds; the role is assumed with the first call.
    ///
    /// # Errors
    /// [`NoRegion`] where none of them names one.
    pub async fn queue(&self, url: &str, region: Option<&str>, role_arn: Option<&str>) -> Result<Sqs, NoRegion> {
        let region = self.region(region.or_else(|| region::of_queue(url)), url).await?;
        Ok(Sqs::new(&self.account(region, role_arn).await, url))
    }

    /// SageMaker in this region and account; regions as for [`queue`](Self::queue).
    ///
    /// # Errors
    /// [`NoRegion`] where nothing names one.
    pub async fn pipelines(&self, region: Option<&str>, role_arn: Option<&str>) -> Result<SageMaker, NoRegion> {
        let region = self.region(region, "SageMaker").await?;
        Ok(SageMaker::new(&self.account(region, role_arn).await))
    }

    pub(super) async fn sts(
        &self,
        region: Option<&str>,
        role_arn: Option<&str>,
    ) -> Result<(aws_sdk_sts::Client, Calls), NoRegion> {
        let region = self.region(region, "STS").await?;
        let account = self.account(region, role_arn).await;
        let calls = account.calls("sts");
        Ok((account.sts, calls))
    }

    /// Renews all credentials ahead of time, for as long as it is polled; it never ends. Without it they are renewed by the
    /// calls that need them, in their last seconds.
    pub async fn keep_credentials(&self) {
        /// A tenth of the time that is left when renewal begins.
        const EVERY: Duration = Duration::from_secs(30);
        loop {
            sleep(EVERY).await;
            let made = self.made.lock().await;
            let of_roles = made.accounts.values().map(|account| account.credentials.clone());
            let all: Vec<Arc<Kept>> = made.own.iter().cloned().chain(of_roles).collect();
            drop(made);
            // Again for each region that shares them: it is not due any more then.
            for kept in all {
                kept.renew().await;
            }
        }
    }

    async fn region(&self, named: Option<&str>, for_what: &str) -> Result<String, NoRegion> {
        if let Some(region) = named.or(self.config.region.as_deref()) {
            return Ok(region.to_owned());
        }
        let mut chain = DefaultRegionChain::builder();
        if let Some(profile) = &self.config.profile {
            chain = chain.profile_name(profile);
        }
        let found = chain.build().region().await;
        found.map(|region| region.to_string()).ok_or_else(|| NoRegion { for_what: for_what.to_owned() })
    }

    async fn account(&self, region: String, role_arn: Option<&str>) -> Account {
        let mut made = self.made.lock().await;
        let key = (region, role_arn.map(str::to_owned));
        if let Some(account) = made.accounts.get(&key) {
            return account.clone();
        }
        let (sdk, own) = self.load(&key.0, made.own.clone()).await;
        made.own = Some(own.clone());
        let mut account = Account::new(sdk, &key.0, own, self.observer.clone());
        if let Some(role_arn) = role_arn {
            let role = Role::new(account.sts.clone(), account.calls("sts"), role_arn, &self.session);
            let kept = Arc::new(Kept::new(SharedCredentialsProvider::new(role)));
            account = Account::new(account.sdk, &key.0, kept, self.observer.clone());
        }
        made.accounts.insert(key, account.clone());
        account
    }

    /// What the environment, the profile and our configuration say together, and who we are without a role.
    async fn load(&self, region: &str, own: Option<Arc<Kept>>) -> (SdkConfig, Arc<Kept>) {
        let mut loader =
            aws_config::defaults(behavior()).region(Region::new(region.to_owned())).http_client(self.http.clone());
        if let Some(profile) = &self.config.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &self.config.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(own) = &own {
            loader = loader.credentials_provider(Provider(own.clone()));
        }
        let sdk = loader.load().await;
        let own = own.unwrap_or_else(|| {
            let none = || async { Err(CredentialsError::not_loaded_no_source()) };
            let chain = sdk.credentials_provider();
            Arc::new(Kept::new(chain.unwrap_or_else(|| SharedCredentialsProvider::new(provide_credentials_fn(none)))))
        });
        (sdk, own)
    }
}

impl Account {
    /// `sdk` says everything but who we are.
    pub(super) fn new(sdk: SdkConfig, region: &str, credentials: Arc<Kept>, observer: Arc<dyn Observer>) -> Self {
        let mut builder = sdk
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(Provider(credentials.clone())))
            // `Kept` is the cache.
            .identity_cache(IdentityCache::no_cache())
            // See `calls`.
            .retry_config(RetryConfig::disabled())
            // It cuts off a body that stands still for seconds. A long poll does nothing else, and every call has its time-out.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        // `app/callbackd lib/callbackd/VERSION` in the user agent: in the account's trail it is seen who called.
        builder.set_app_name(AppName::new("callbackd").ok());
        builder.set_framework_metadata(FrameworkMetadata::new("callbackd", Some(env!("CARGO_PKG_VERSION"))).ok());
        let sdk = builder.build();
        let sqs = |limit: Limit| {
            let config = aws_sdk_sqs::config::Builder::from(&sdk).timeout_config(limit.of_the_sdk());
            aws_sdk_sqs::Client::from_conf(config.build())
        };
        let answer = Limit::ANSWER.of_the_sdk();
        let sagemaker = aws_sdk_sagemaker::config::Builder::from(&sdk).timeout_config(answer.clone()).build();
        let sts = aws_sdk_sts::config::Builder::from(&sdk).timeout_config(answer).build();
        Self {
            region: region.to_owned(),
            credentials,
            poll: sqs(Limit::POLL),
            quick: sqs(Limit::QUICK),
            sagemaker: aws_sdk_sagemaker::Client::from_conf(sagemaker),
            sts: aws_sdk_sts::Client::from_conf(sts),
            observer,
            sdk,
        }
    }

    pub(super) fn calls(&self, service: &'static str) -> Calls {
        Calls::new(service, self.credentials.clone(), self.observer.clone())
    }
}

/// Dated, so that a newer SDK changes nothing about time-outs, retries or connections until somebody has looked.
pub(super) fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}
