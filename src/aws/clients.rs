//! One set of clients for each region and role, made when it is first asked for and cloned from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::region::DefaultRegionChain;
use aws_config::{Region, SdkConfig};
use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::account::{Account, behavior};
use super::calls::Calls;
use super::config::Config;
use super::credentials::{Kept, Provider};
use super::outside::Outside;
use super::role::{Role, session_name};
use super::sagemaker::SageMaker;
use super::sqs::Sqs;
use crate::seam::Observer;
use crate::step::QueueUrl;

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
    outside: Outside,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    /// Who we are without a role, the same in every region.
    own: Option<Arc<Kept>>,
    accounts: BTreeMap<(String, Option<String>), Account>,
}

impl Clients {
    /// Makes nothing yet and calls nobody. `worker` names the sessions of assumed roles.
    #[must_use]
    pub fn new(config: Config, worker: &str, observer: Arc<dyn Observer>) -> Self {
        Self::within(Outside::default(), config, worker, observer)
    }

    /// The same, with another outside than the real one.
    #[must_use]
    pub fn within(outside: Outside, config: Config, worker: &str, observer: Arc<dyn Observer>) -> Self {
        Self { config, session: session_name(worker), observer, outside, made: Mutex::default() }
    }

    /// The queue with this URL. Its region is `region`, else the one in the URL, else `aws.region`, else what the SDK's chain
    /// finds; the role is assumed with the first call.
    ///
    /// # Errors
    /// [`NoRegion`] where none of them names one.
    pub async fn queue(&self, url: &QueueUrl, region: Option<&str>, role_arn: Option<&str>) -> Result<Sqs, NoRegion> {
        let region = self.region(region.or_else(|| url.region()), url.as_str()).await?;
        Ok(Sqs::new(&self.account(region, role_arn).await, url.clone()))
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
        let mut account = self.made_of(sdk, &key.0, own);
        if let Some(role_arn) = role_arn {
            let role = Role::new(account.sts.clone(), account.calls("sts"), role_arn, &self.session);
            let kept = Arc::new(Kept::timed_by(self.outside.time.clone(), SharedCredentialsProvider::new(role)));
            account = self.made_of(account.sdk, &key.0, kept);
        }
        made.accounts.insert(key, account.clone());
        account
    }

    fn made_of(&self, sdk: SdkConfig, region: &str, credentials: Arc<Kept>) -> Account {
        Account::new(sdk, region, credentials, &self.outside.http, self.observer.clone())
    }

    /// What the environment, the profile and our configuration say together, and who we are without a role.
    async fn load(&self, region: &str, own: Option<Arc<Kept>>) -> (SdkConfig, Arc<Kept>) {
        let mut loader = aws_config::defaults(behavior())
            .region(Region::new(region.to_owned()))
            .http_client(self.outside.http.others.clone())
            .time_source(self.outside.time.clone());
        if let Some(profile) = &self.config.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &self.config.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(own) = &own {
            loader = loader.credentials_provider(Provider(own.clone()));
        }
        if let (None, Some(given)) = (&own, &self.outside.credentials) {
            loader = loader.credentials_provider(given.clone());
        }
        let sdk = loader.load().await;
        let own = own.unwrap_or_else(|| {
            let none = || async { Err(CredentialsError::not_loaded_no_source()) };
            let chain = sdk.credentials_provider();
            let source = chain.unwrap_or_else(|| SharedCredentialsProvider::new(provide_credentials_fn(none)));
            Arc::new(Kept::timed_by(self.outside.time.clone(), source))
        });
        (sdk, own)
    }
}

#[cfg(test)]
impl Clients {
    /// Clients of one account and no other, whatever the environment says.
    pub(super) async fn of(account: Account) -> Self {
        let clients = Self::new(Config::default(), "worker", account.observer.clone());
        clients.made.lock().await.accounts.insert((account.region.clone(), None), account);
        clients
    }
}

#[cfg(test)]
mod tests;
