//! The credentials used when no role is assumed: the sources of the SDK's default chain, in its
//! order, each loaded anew with every attempt.
//!
//! The SDK's own chain reads the shared files only once, moves on to the next source if the
//! configured profile does not exist, prefers the environment's keys to that profile, and lists
//! every source that was never set up when it finds nothing.

use std::error::Error;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::{self, credentials::ImdsCredentialsProvider};
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::account::behavior;
use super::faults;
use super::helper::Helper;
use super::outside::Outside;
use super::profile::{self, AssumedRole, Origin};

#[derive(Debug)]
pub(super) struct Chain {
    /// The profile from our own configuration: it is explicit, so nothing takes precedence over it.
    profile: Option<String>,
    region: Option<Region>,
    time: SharedTimeSource,
    services: SharedHttpClient,
    metadata: SharedHttpClient,
    fips: Option<bool>,
    dual_stack: Option<bool>,
}

/// Why each source that is set up gave nothing.
type Tried = Vec<String>;

impl Chain {
    pub(super) fn new(sdk: &SdkConfig, outside: &Outside, profile: Option<&str>) -> Self {
        Self {
            profile: profile.map(str::to_owned),
            region: sdk.region().cloned(),
            time: outside.time.clone(),
            services: outside.http.others.clone(),
            metadata: outside.http.metadata.clone(),
            fips: sdk.use_fips(),
            dual_stack: sdk.use_dual_stack(),
        }
    }

    /// A new one each time: it caches the profile that it has read.
    fn settings(&self, http: &SharedHttpClient) -> ProviderConfig {
        ProviderConfig::without_region()
            .with_region(self.region.clone())
            .with_time_source(self.time.clone())
            .with_http_client(http.clone())
            .with_use_fips(self.fips)
            .with_use_dual_stack(self.dual_stack)
            .with_behavior_version(Some(behavior()))
    }

    async fn load(&self) -> provider::Result {
        let mut tried = Tried::new();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if self.profile.is_none() {
            let found = EnvironmentVariableCredentialsProvider::new().provide_credentials().await;
            if let Some(end) = decided(found, "the environment", &mut tried) {
                return end;
            }
            if !is_set("AWS_ACCESS_KEY_ID") && !is_set("AWS_SECRET_ACCESS_KEY") {
                tried.clear();
            }
        }
        if let Some(end) = self.of_profile(&mut tried).await {
            return end;
        }
        if is_set("AWS_WEB_IDENTITY_TOKEN_FILE") || is_set("AWS_ROLE_ARN") {
            let source = WebIdentityTokenCredentialsProvider::builder()
                .configure(&self.settings(&self.services))
                .build();
            if let Some(end) =
                decided(source.provide_credentials().await, "the web identity token", &mut tried)
            {
                return end;
            }
        }
        let has_endpoint = is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        if has_endpoint
            && let Some(end) = decided(
                self.container().provide_credentials().await,
                "the container endpoint",
                &mut tried,
            )
        {
            return end;
        }
        if std::env::var("AWS_EC2_METADATA_DISABLED")
            .is_ok_and(|value| value.eq_ignore_ascii_case("true"))
        {
            tried.push(
                "the instance metadata: switched off by AWS_EC2_METADATA_DISABLED".to_owned(),
            );
        } else if let Some(end) =
            decided(self.instance().provide_credentials().await, INSTANCE, &mut tried)
        {
            return end;
        }
        Err(CredentialsError::not_loaded(format!(
            "no credentials were found: {}",
            tried.join("; ")
        )))
    }

    /// `None` if the next source is to be tried.
    async fn of_profile(&self, tried: &mut Tried) -> Option<provider::Result> {
        let origin = match profile::origin(self.profile.as_deref()).await {
            Ok(origin) => origin,
            Err(error) => {
                let why =
                    format!("the shared files {} cannot be read: {}", names(), text_of(&error));
                return Some(Err(CredentialsError::provider_error(why)));
            }
        };
        let source =
            ProfileFileCredentialsProvider::builder().configure(&self.settings(&self.services));
        let source = match &self.profile {
            Some(profile) => source.profile_name(profile),
            None => source,
        };
        let source = source
            .with_custom_provider("EcsContainer", self.container())
            .with_custom_provider("Ec2InstanceMetadata", self.instance());
        let found = match origin {
            Origin::Missing { profile } => {
                let why = format!("the profile {profile:?} is not in {}", names());
                if self.profile.is_some() {
                    return Some(Err(CredentialsError::provider_error(format!(
                        "{why}: add it there, or correct aws.profile"
                    ))));
                }
                tried.push(why);
                return None;
            }
            Origin::Program { command, account, roles } => {
                self.by_program(Helper::new(command, account), &roles).await
            }
            Origin::Sso { profile } => source
                .build()
                .provide_credentials()
                .await
                .map_err(|error| session_over(&profile, error)),
            Origin::Other => source.build().provide_credentials().await,
        };
        let name = self
            .profile
            .as_deref()
            .map_or_else(|| "the profile".to_owned(), |name| format!("the profile {name:?}"));
        decided(found, &name, tried)
    }

    async fn by_program(&self, helper: Helper, roles: &[AssumedRole]) -> provider::Result {
        if roles.is_empty() {
            return helper.provide_credentials().await;
        }
        let (files, selected) = profile::rewritten(roles);
        let source =
            ProfileFileCredentialsProvider::builder().configure(&self.settings(&self.services));
        let source = source
            .profile_files(files)
            .profile_name(selected)
            .with_custom_provider(profile::PROGRAM, helper);
        source.build().provide_credentials().await
    }

    fn container(&self) -> EcsCredentialsProvider {
        EcsCredentialsProvider::builder().configure(&self.settings(&self.metadata)).build()
    }

    fn instance(&self) -> ImdsCredentialsProvider {
        let settings = self.settings(&self.metadata);
        // Each attempt has one second to connect and one to be answered; a service that is silent
        // twice is taken to be absent.
        let client = imds::Client::builder().configure(&settings).max_attempts(2).build();
        ImdsCredentialsProvider::builder().configure(&settings).imds_client(client).build()
    }
}

/// Containers are one network hop further away than instance metadata answers by default.
const INSTANCE: &str = "the instance metadata (in a container it needs a hop limit of 2)";

/// What ends the search: credentials, or a source that is set up but fails. A source that is not
/// set up is only noted.
fn decided(found: provider::Result, source: &str, tried: &mut Tried) -> Option<provider::Result> {
    match found {
        Ok(credentials) => Some(Ok(credentials)),
        Err(error @ CredentialsError::CredentialsNotLoaded(_)) => {
            tried.push(format!("{source}: {}", text_of(&error)));
            None
        }
        Err(error) => Some(Err(CredentialsError::provider_error(Failed {
            source_name: source.to_owned(),
            error,
        }))),
    }
}

/// A source that is set up but failed.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}")]
struct Failed {
    source_name: String,
    #[source]
    error: CredentialsError,
}

fn session_over(profile: &str, error: CredentialsError) -> CredentialsError {
    let text = text_of(&error);
    if text.contains("dispatch failure") {
        return error;
    }
    CredentialsError::provider_error(format!(
        "its SSO session has expired or was never started: run `aws sso login --profile {profile}` \
         as the user that callbackd runs as ({text})"
    ))
}

fn names() -> String {
    let files: Vec<String> =
        profile::files().iter().map(|file| file.display().to_string()).collect();
    files.join(" or ")
}

/// Long enough for the cause, and short enough for five of them in one line.
fn text_of(error: &(dyn Error + 'static)) -> String {
    faults::chain(error).chars().take(250).collect()
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}
