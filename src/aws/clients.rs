//! One set of clients for each region and role, made when it is first asked for and cloned from then on.

use std::collections::BTreeMap;
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
use aws_types::sdk_ua_metadata::FrameworkMetadata;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::calls::{Calls, Limit};
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
        let mut account = Account::new(sdk, &key.0, own, self.observer.clone());
        if let Some(role_arn) = role_arn {
            let role = Role::new(account.sts.clone(), account.calls("sts"), role_arn, &self.session);
            let kept = Arc::new(Kept::timed_by(self.outside.time.clone(), SharedCredentialsProvider::new(role)));
            account = Account::new(account.sdk, &key.0, kept, self.observer.clone());
        }
        made.accounts.insert(key, account.clone());
        account
    }

    /// What the environment, the profile and our configuration say together, and who we are without a role.
    async fn load(&self, region: &str, own: Option<Arc<Kept>>) -> (SdkConfig, Arc<Kept>) {
        let mut loader = aws_config::defaults(behavior())
            .region(Region::new(region.to_owned()))
            .http_client(self.outside.http.clone())
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
mod tests {
    use std::process::Stdio;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::{ProvideCredentials, future};
    use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource, TimeSource};
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::server::{Reply, Server};
    use crate::seam::{Pipelines, Queue};

    const URL: &str = "http://127.0.0.1:1/123456789012/q";
    const ARN: &str = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc";
    const ROLE: &str = "arn:aws:iam::123456789012:role/worker";
    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "OWNKEY"), ("AWS_SECRET_ACCESS_KEY", "secret")];

    /// What a worker does that has nothing but this environment and this configuration: one receive, one question. An environment
    /// belongs to a process, so this is one of its own.
    async fn worker(setup: &Value, environment: &[(&str, &str)]) -> Value {
        let home = tempfile::tempdir().expect("a folder");
        let output = tokio::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "aws::clients::tests::worker_process", "--ignored", "--nocapture"])
            .env_clear()
            .env("HOME", home.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("SETUP", setup.to_string())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .await
            .expect("a process");
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text.lines().find_map(|line| line.split_once("RESULT "));
        let (_, result) = result.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_str(result).expect("JSON")
    }

    #[tokio::test]
    #[ignore = "the other tests run it, in a process of its own"]
    async fn worker_process() {
        let Ok(setup) = std::env::var("SETUP") else { return };
        let setup: Value = serde_json::from_str(&setup).expect("JSON");
        let text = |key: &str| setup[key].as_str();
        let config = serde_json::from_value(setup["config"].clone()).unwrap_or_default();
        let clients = Clients::new(config, "w 1", Arc::new(()));
        let url: QueueUrl = text("url").unwrap_or(URL).parse().expect("a URL");
        let result = match clients.queue(&url, text("region"), text("role")).await {
            Err(no_region) => json!({ "no_region": no_region.to_string() }),
            Ok(queue) => {
                let received = queue.receive(1, Duration::ZERO, Duration::from_secs(30)).await;
                let pipelines = clients.pipelines(text("region").or(url.region()), text("role")).await;
                let standing = pipelines.expect("a region").execution(&ARN.parse().expect("an ARN")).await;
                json!({
                    "sqs": received.map_err(|fault| format!("{:?} {fault}", fault.kind)).map(|messages| messages.len()),
                    "sagemaker": standing.map_err(|fault| format!("{:?} {fault}", fault.kind)).map(|standing| format!("{standing:?}")),
                })
            }
        };
        println!("RESULT {result}");
    }

    fn fine() -> Value {
        json!({ "sqs": { "Ok": 0 }, "sagemaker": { "Ok": "Executing" } })
    }

    fn empty() -> Reply {
        Reply::Json(200, json!({}))
    }

    async fn server(replies: usize) -> Server {
        Server::start((0..replies).map(|_| empty())).await
    }

    fn targets(server: &Server) -> Vec<String> {
        server.requests().iter().map(|request| request.target().to_owned()).collect()
    }

    /// `KEY/REGION/SERVICE` that a request was signed for.
    fn signed(server: &Server, place: usize) -> String {
        let requests = server.requests();
        let header = requests[place].header("authorization").expect("a signature").to_owned();
        let scope = header.split_once("Credential=").expect("a credential").1;
        let parts: Vec<&str> = scope.split('/').collect();
        format!("{}/{}/{}", parts[0], parts[2], parts[3])
    }

    #[tokio::test]
    async fn one_endpoint_of_the_environment_serves_both_services() {
        let server = server(2).await;
        let environment = [KEYS[0], KEYS[1], ("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL", &server.url)];
        assert_eq!(worker(&json!({}), &environment).await, fine());
        assert_eq!(targets(&server), ["ReceiveMessage", "DescribePipelineExecution"]);
        assert_eq!(signed(&server, 0), "OWNKEY/eu-west-1/sqs");
        assert_eq!(signed(&server, 1), "OWNKEY/eu-west-1/sagemaker");
        assert_eq!(server.requests()[0].json()["QueueUrl"], URL);
    }

    #[tokio::test]
    async fn a_service_may_have_an_endpoint_of_its_own() {
        let (sqs, sagemaker) = (server(1).await, server(1).await);
        let environment = [
            KEYS[0],
            KEYS[1],
            ("AWS_ENDPOINT_URL_SQS", sqs.url.as_str()),
            ("AWS_ENDPOINT_URL_SAGEMAKER", &sagemaker.url),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ];
        assert_eq!(worker(&json!({ "config": { "region": "us-west-2" } }), &environment).await, fine());
        assert_eq!(targets(&sqs), ["ReceiveMessage"]);
        assert_eq!(targets(&sagemaker), ["DescribePipelineExecution"]);
    }

    #[tokio::test]
    async fn our_own_endpoint_goes_before_those_of_the_environment() {
        let server = server(2).await;
        let environment = [
            KEYS[0],
            KEYS[1],
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1"),
            ("AWS_REGION", "eu-west-1"),
        ];
        let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" } });
        assert_eq!(worker(&setup, &environment).await, fine());
        assert_eq!(signed(&server, 0), "OWNKEY/us-west-2/sqs");
    }

    #[tokio::test]
    async fn a_profile_brings_its_keys_region_and_endpoint() {
        let server = server(2).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
        let profile = format!(
            "[profile team]\nregion = ap-south-1\nendpoint_url = {}\naws_access_key_id = TEAMKEY\naws_secret_access_key = s\n",
            server.url
        );
        std::fs::write(&file, profile).expect("a file");
        let environment = [("AWS_CONFIG_FILE", file.to_str().expect("text"))];
        assert_eq!(worker(&json!({ "config": { "profile": "team" } }), &environment).await, fine());
        assert_eq!(signed(&server, 0), "TEAMKEY/ap-south-1/sqs");
    }

    #[tokio::test]
    async fn the_queues_region_goes_before_the_one_in_its_url_and_that_before_ours() {
        let url = "https://sqs.eu-central-1.amazonaws.com/123456789012/q";
        for (region, url, wants) in [
            (json!("us-gov-west-1"), url, "us-gov-west-1"),
            (Value::Null, url, "eu-central-1"),
            (Value::Null, URL, "us-west-2"),
        ] {
            let server = server(2).await;
            let config = json!({ "endpoint_url": server.url, "region": "us-west-2" });
            let setup = json!({ "config": config, "url": url, "region": region });
            assert_eq!(worker(&setup, &[KEYS[0], KEYS[1], ("AWS_REGION", "sa-east-1")]).await, fine());
            assert_eq!(signed(&server, 0), format!("OWNKEY/{wants}/sqs"));
            assert_eq!(signed(&server, 1), format!("OWNKEY/{wants}/sagemaker"));
        }
    }

    #[tokio::test]
    async fn a_lacking_region_is_an_error_that_says_what_to_set() {
        let result = worker(&json!({}), &KEYS).await;
        let text = result["no_region"].as_str().expect("an error");
        assert!(text.contains(URL) && text.contains("`aws.region`") && text.contains("AWS_REGION"), "{text}");
    }

    #[tokio::test]
    async fn without_credentials_nothing_is_sent_and_it_may_work_later() {
        let server = server(2).await;
        let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" } });
        let result = worker(&setup, &[]).await;
        for service in ["sqs", "sagemaker"] {
            let fault = result[service]["Err"].as_str().expect("a fault");
            assert!(fault.starts_with("Transient no AWS credentials: "), "{fault}");
        }
        assert_eq!(server.requests(), []);
    }

    #[tokio::test]
    async fn a_role_is_assumed_once_for_the_queue_and_its_pipelines() {
        let given = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ROLEKEY</AccessKeyId>\
                     <SecretAccessKey>s</SecretAccessKey><SessionToken>session</SessionToken>\
                     <Expiration>2199-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
        let server = Server::start([Reply::Raw(200, "content-type: text/xml\r\n", given), empty(), empty()]).await;
        let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" }, "role": ROLE });
        assert_eq!(worker(&setup, &KEYS).await, fine());
        let requests = server.requests();
        assert_eq!(requests.len(), 3);
        assert!(
            requests[0].body.contains("Action=AssumeRole")
                && requests[0].body.contains("RoleSessionName=callbackd-w-1")
        );
        assert_eq!(signed(&server, 0), "OWNKEY/us-west-2/sts");
        assert_eq!(signed(&server, 1), "ROLEKEY/us-west-2/sqs");
        assert_eq!(requests[1].header("x-amz-security-token"), Some("session"));
        assert_eq!(signed(&server, 2), "ROLEKEY/us-west-2/sagemaker");
    }

    #[tokio::test]
    async fn a_role_that_is_denied_is_a_denial_and_a_broken_sts_is_late() {
        let denied = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
        let xml = "content-type: text/xml\r\n";
        let server = Server::start([Reply::Raw(403, xml, denied), Reply::Raw(503, xml, "")]).await;
        let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" }, "role": ROLE });
        let result = worker(&setup, &KEYS).await;
        assert_eq!(result["sqs"]["Err"], "Denied AssumeRole: AccessDenied: no");
        let late = result["sagemaker"]["Err"].as_str().expect("a fault");
        assert!(late.starts_with("Transient AssumeRole: HTTP 503"), "{late}");
    }

    #[tokio::test]
    async fn a_proxy_and_fips_endpoints_are_honoured() {
        let proxy = Server::start((0..2).map(|_| Reply::Raw(502, "", ""))).await;
        let environment = [
            KEYS[0],
            KEYS[1],
            ("HTTPS_PROXY", proxy.url.as_str()),
            ("AWS_USE_FIPS_ENDPOINT", "true"),
            ("AWS_REGION", "us-east-1"),
        ];
        let result = worker(&json!({}), &environment).await;
        let fault = result["sqs"]["Err"].as_str().expect("a fault");
        assert!(fault.starts_with("Transient "), "{fault}");
        let asked: Vec<String> =
            proxy.requests().iter().map(|request| request.head.lines().next().unwrap_or_default().to_owned()).collect();
        assert!(asked[0].starts_with("CONNECT sqs-fips.us-east-1.amazonaws.com:443"), "{asked:?}");
        assert!(asked[1].contains("sagemaker") && asked[1].contains("fips"), "{asked:?}");
    }

    /// Credentials that are due for renewal as soon as they are given.
    #[derive(Debug, Default)]
    struct ShortLived(Arc<AtomicUsize>);

    impl ProvideCredentials for ShortLived {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.0.fetch_add(1, Ordering::SeqCst);
            let end = SystemTimeSource::new().now() + Duration::from_mins(1);
            future::ProvideCredentials::ready(Ok(Credentials::new("id", "secret", None, Some(end), "test")))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_kept_fresh_beside_the_calls() {
        let asked = Arc::new(AtomicUsize::new(0));
        let kept = Arc::new(Kept::timed_by(
            SharedTimeSource::default(),
            SharedCredentialsProvider::new(ShortLived(asked.clone())),
        ));
        kept.provide_credentials().await.expect("credentials");
        let sdk = SdkConfig::builder().behavior_version(behavior()).build();
        let clients = Clients::of(Account::new(sdk, "us-east-1", kept, Arc::new(()))).await;
        let hour = tokio::time::timeout(Duration::from_hours(1), clients.keep_credentials()).await;
        assert!(hour.is_err(), "it ended");
        // Once at first, and then every half minute of the hour.
        let asked = asked.load(Ordering::SeqCst);
        assert!((119..=121).contains(&asked), "{asked}");
    }

    #[tokio::test]
    async fn clients_are_made_once_for_a_region_and_role() {
        let clients = Clients::new(Config::default(), "w", Arc::new(()));
        let a = clients.account("us-east-1".to_owned(), None).await;
        let b = clients.account("us-east-1".to_owned(), None).await;
        let elsewhere = clients.account("us-east-2".to_owned(), None).await;
        let role = clients.account("us-east-1".to_owned(), Some(ROLE)).await;
        assert!(Arc::ptr_eq(&a.credentials, &b.credentials));
        assert!(Arc::ptr_eq(&a.credentials, &elsewhere.credentials), "who we are is the same in every region");
        assert!(!Arc::ptr_eq(&a.credentials, &role.credentials));
        assert_eq!(clients.made.lock().await.accounts.len(), 3);
    }
}
