//! One set of clients for each region and role, created when it is first needed and cloned from
//! then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::{self, region::ImdsRegionProvider};
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use futures_util::future::join_all;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::sleep;

use super::account::{Account, behavior};
use super::calls::Calls;
use super::chain::Chain;
use super::config::Config;
use super::credentials::CachedCredentials;
#[cfg(feature = "dynamodb")]
use super::dynamodb::DynamoDb;
use super::outside::Outside;
use super::profile;
use super::role::{RoleKey, RoleProvider, session_name};
use super::roots::{self, NoBundle};
use super::sagemaker::SageMaker;
use super::spot::SpotNotices;
use super::sqs::Sqs;
use crate::seam::{Observer, Role};
use crate::step::QueueUrl;

/// The endpoint to call is unknown, or must not be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error(
        "no AWS region for {for_what}: set `region` of the queue, `aws.region`, or AWS_REGION, or \
         name a profile that has one"
    )]
    Region { for_what: String },
    #[error(
        "FIPS endpoints are required (AWS_USE_FIPS_ENDPOINT, or use_fips_endpoint of the profile), \
         but the host of the queue {url} is not one: use a URL with an sqs-fips host, or do not \
         require FIPS"
    )]
    Fips { url: QueueUrl },
    #[error(transparent)]
    Bundle(#[from] NoBundle),
}

impl NoEndpoint {
    /// The name of the condition, which has a code.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            Self::Region { .. } => "region_missing",
            Self::Fips { .. } => "fips_host_missing",
            Self::Bundle(_) => "ca_bundle_unusable",
        }
    }
}

/// Creates the clients for all accounts and regions that a worker uses.
pub struct Clients {
    config: Config,
    session: String,
    observer: Arc<dyn Observer>,
    outside: Outside,
    /// The region that the environment, the profile or the instance names, looked up once.
    region: OnceCell<Option<String>>,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    /// Our own credentials, used without a role; the same in every region.
    own: Option<Arc<CachedCredentials>>,
    accounts: BTreeMap<(String, Option<RoleKey>), Account>,
}

impl Clients {
    /// Creates no client yet and calls nothing. `worker` names the sessions of assumed roles.
    #[must_use]
    pub fn new(config: Config, worker: &str, observer: Arc<dyn Observer>) -> Self {
        Self::within(Outside::default(), config, worker, observer)
    }

    /// The same, with `outside` in place of the real network, clock and credentials.
    #[must_use]
    pub fn within(
        outside: Outside,
        config: Config,
        worker: &str,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            config,
            session: session_name(worker),
            observer,
            outside,
            region: OnceCell::new(),
            made: Mutex::default(),
        }
    }

    /// The queue with this URL. Its region is `region`, else the one in the URL, else `aws.region`,
    /// else what the SDK's chain finds. The role is assumed with the first call. Calls go to the
    /// endpoint that is configured for SQS, else to the URL's host.
    ///
    /// # Errors
    /// [`NoEndpoint`] if no region is known, or the host must not be called.
    pub async fn queue(
        &self,
        url: &QueueUrl,
        region: Option<&str>,
        role: Option<Role<'_>>,
    ) -> Result<Sqs, NoEndpoint> {
        let region = self.region(region.or_else(|| url.region()), url.as_str()).await?;
        let account = self.account(region, role).await;
        let account = match url.endpoint() {
            Some(host)
                if account.sdk.use_fips() == Some(true)
                    && !host.contains("fips")
                    && !account.has_sqs_endpoint() =>
            {
                return Err(NoEndpoint::Fips { url: url.clone() });
            }
            Some(host) => account.with_sqs_at(host),
            None => account,
        };
        Ok(Sqs::new(&account, url.clone()))
    }

    /// SageMaker in this region and account; the region is chosen as for [`queue`](Self::queue).
    ///
    /// # Errors
    /// [`NoEndpoint`] if no region is known.
    pub async fn pipelines(
        &self,
        region: Option<&str>,
        role: Option<Role<'_>>,
    ) -> Result<SageMaker, NoEndpoint> {
        let region = self.region(region, "SageMaker").await?;
        Ok(SageMaker::new(&self.account(region, role).await))
    }

    /// The ledger's table of this name, in `aws.region`, else the region that the SDK's chain
    /// finds. Its settled steps are removed after `retention`.
    ///
    /// # Errors
    /// [`NoEndpoint`] if no region is known.
    #[cfg(feature = "dynamodb")]
    pub async fn table(&self, name: &str, retention: Duration) -> Result<DynamoDb, NoEndpoint> {
        let region = self.region(None, "the ledger's table").await?;
        Ok(DynamoDb::new(&self.account(region, None).await, name, retention))
    }

    /// Our own account, without a role, in the region that is chosen as for the ledger's table.
    pub(super) async fn own(&self) -> Result<Account, NoEndpoint> {
        let region = self.region(None, "the probe").await?;
        Ok(self.account(region, None).await)
    }

    pub(super) async fn sts(
        &self,
        region: Option<&str>,
        role: Option<Role<'_>>,
    ) -> Result<(aws_sdk_sts::Client, Calls), NoEndpoint> {
        let region = self.region(region, "STS").await?;
        let account = self.account(region, role).await;
        let calls = account.calls("sts");
        Ok((account.sts, calls))
    }

    /// Renews all credentials ahead of time, as long as it is polled; it never returns. Without it
    /// they are renewed by the calls that need them, in their last seconds.
    pub async fn keep_credentials(&self) {
        const EVERY: Duration = Duration::from_secs(30);
        loop {
            sleep(EVERY).await;
            let made = self.made.lock().await;
            let own = made.own.as_ref();
            let of_roles = made.accounts.values().map(|account| &account.credentials);
            let of_roles = of_roles.filter(|kept| own.is_none_or(|own| !Arc::ptr_eq(own, kept)));
            let all: Vec<Arc<CachedCredentials>> =
                own.into_iter().chain(of_roles).cloned().collect();
            drop(made);
            // Side by side: a source that hangs must not delay the renewal of the others.
            join_all(all.iter().map(|kept| kept.renew())).await;
        }
    }

    async fn region(&self, named: Option<&str>, for_what: &str) -> Result<String, NoEndpoint> {
        roots::check()?;
        if let Some(region) = named.or(self.config.region.as_deref()) {
            return Ok(region.to_owned());
        }
        let found = self.region.get_or_init(|| self.surroundings()).await;
        found.clone().ok_or_else(|| NoEndpoint::Region { for_what: for_what.to_owned() })
    }

    /// The metadata of the EC2 instance that this machine may be, as far as it announces its end.
    #[must_use]
    pub fn spot_notices(&self) -> SpotNotices {
        let settings =
            ProviderConfig::without_region().with_http_client(self.outside.http.metadata.clone());
        // Asked again soon anyway.
        SpotNotices::new(imds::Client::builder().configure(&settings).max_attempts(1).build())
    }

    async fn surroundings(&self) -> Option<String> {
        let settings =
            ProviderConfig::without_region().with_http_client(self.outside.http.metadata.clone());
        let mut of_profile = ProfileFileRegionProvider::builder().configure(&settings);
        if let Some(profile) = &self.config.profile {
            of_profile = of_profile.profile_name(profile);
        }
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(of_profile.build())
            .or_else(ImdsRegionProvider::builder().configure(&settings).build());
        chain.region().await.map(|region| region.to_string())
    }

    async fn account(&self, region: String, role: Option<Role<'_>>) -> Account {
        let mut made = self.made.lock().await;
        let key = (region, role.map(RoleKey::from));
        if let Some(account) = made.accounts.get(&key) {
            return account.clone();
        }
        let (sdk, own) = self.load(&key.0, made.own.clone()).await;
        made.own = Some(own.clone());
        let mut account = self.made_of(sdk, &key.0, own);
        if let Some(role) = key.1.clone() {
            let (sts, calls) = (account.sts.clone(), account.calls("sts"));
            let role = RoleProvider::new(sts, calls, role, &self.session);
            let kept = Arc::new(CachedCredentials::timed_by(
                self.outside.time.clone(),
                SharedCredentialsProvider::new(role),
            ));
            account = self.made_of(account.sdk, &key.0, kept);
        }
        made.accounts.insert(key, account.clone());
        account
    }

    fn made_of(
        &self,
        sdk: SdkConfig,
        region: &str,
        credentials: Arc<CachedCredentials>,
    ) -> Account {
        Account::new(sdk, region, credentials, &self.outside.http, self.observer.clone())
    }

    /// The combined settings of the environment, the profile and our configuration, and our own
    /// credentials.
    async fn load(
        &self,
        region: &str,
        own: Option<Arc<CachedCredentials>>,
    ) -> (SdkConfig, Arc<CachedCredentials>) {
        let mut loader = aws_config::defaults(behavior())
            .region(Region::new(region.to_owned()))
            .http_client(self.outside.http.others.clone())
            .time_source(self.outside.time.clone())
            .no_credentials();
        if let Some(profile) = &self.config.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &self.config.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let sdk = loader.load().await;
        let own = own.unwrap_or_else(|| {
            let time = self.outside.time.clone();
            Arc::new(match &self.outside.credentials {
                Some(given) => CachedCredentials::timed_by(time, given.clone()),
                None => {
                    let chain = Chain::new(&sdk, &self.outside, self.config.profile.as_deref());
                    CachedCredentials::timed_by(time, SharedCredentialsProvider::new(chain))
                        .reading(profile::files())
                }
            })
        });
        (sdk, own)
    }
}

#[cfg(test)]
impl Clients {
    /// Clients of this one account, whatever the environment says.
    pub(super) async fn of(account: Account) -> Self {
        let clients = Self::new(Config::default(), "worker", account.observer.clone());
        clients.made.lock().await.accounts.insert((account.region.clone(), None), account);
        clients
    }
}

#[cfg(test)]
mod tests;
