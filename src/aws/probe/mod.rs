//! The calls of `callbackd probe`: what it creates, tries and removes.
//!
//! Everything else in `aws` classifies an error by what to do about it. An experiment asks what the
//! error is, so these calls return it in the service's own words, and none is repeated here: a
//! repetition could be taken for the call that is examined.

mod pipelines;
mod queues;

pub use pipelines::{MadePipeline, StepState};
pub use queues::{Entries, Letter};

use std::fmt;

use aws_types::service_config::ServiceConfigKey;

use super::account::Account;
use super::calls::{Calls, Failed, Limit};
use super::clients::{Clients, NoEndpoint};
use super::faults::Failure;
use crate::seam::{Fault, FaultKind};

/// SageMaker, SQS and STS in our own account. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    account: Account,
    sagemaker: Calls,
    sqs: Calls,
}

/// A call without the answer that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The service refused it: nothing was done.
    Refused(Refusal),
    /// There were too many calls: nothing was done, and the same call may be made later.
    Throttled(String),
    /// No answer, or an internal error: whether it had an effect is unknown.
    Unanswered(String),
}

/// A service's own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As the service spells it.
    pub code: String,
    pub message: String,
    /// Permissions decide before the service does: this says nothing about the service.
    pub is_denial: bool,
}

/// The result of one call.
pub type Tried<T> = Result<T, Unserved>;

/// The tag of everything that is created, beside its name.
const TAG: &str = "callbackd:probe";

impl Services {
    /// In our own account, without a role, and in the region that is configured or that the SDK's
    /// chain finds.
    ///
    /// # Errors
    /// [`NoEndpoint`] if no region is known.
    pub async fn of(clients: &Clients) -> Result<Self, NoEndpoint> {
        let account = clients.own().await?;
        let (sagemaker, sqs) = (account.calls("sagemaker"), account.calls("sqs"));
        Ok(Self { account, sagemaker, sqs })
    }

    #[must_use]
    pub fn region(&self) -> &str {
        &self.account.region
    }

    /// Whether the configuration, the environment or the profile names an endpoint for SageMaker or
    /// SQS, which then need not be AWS's.
    #[must_use]
    pub fn has_own_endpoint(&self) -> bool {
        let sdk = &self.account.sdk;
        let names_one = |service: &str| {
            let key = ServiceConfigKey::builder()
                .service_id(service)
                .env("AWS_ENDPOINT_URL")
                .profile("endpoint_url")
                .build();
            let own = sdk.service_config().zip(key.ok());
            own.is_some_and(|(config, key)| config.load_config(key).is_some())
        };
        sdk.endpoint_url().is_some() || names_one("SageMaker") || names_one("SQS")
    }

    /// The twelve digits of our account.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn account_id(&self) -> Result<String, Fault> {
        let call = self.account.sts.get_caller_identity().send();
        let answer = self.account.calls("sts").send("GetCallerIdentity", Limit::ANSWER, call).await;
        answer?
            .account
            .ok_or_else(|| Fault::new(FaultKind::Transient, "GetCallerIdentity: no account"))
    }
}

impl Unserved {
    fn lacking(operation: &str, what: &str) -> Self {
        Self::Unanswered(format!("{operation}: the answer has no {what}"))
    }
}

impl From<Failed> for Unserved {
    fn from(failed: Failed) -> Self {
        let kind = failed.failure.kind();
        match &failed.failure {
            Failure::Refusal(refusal) if kind != FaultKind::Transient => Self::Refused(Refusal {
                code: refusal.code.clone(),
                message: refusal.message.clone(),
                is_denial: matches!(kind, FaultKind::Denied | FaultKind::Misconfigured),
            }),
            Failure::Refusal(refusal) if is_throttling(&refusal.code, refusal.status) => {
                Self::Throttled(Fault::from(failed).detail)
            }
            _ => Self::Unanswered(Fault::from(failed).detail),
        }
    }
}

fn is_throttling(code: &str, status: u16) -> bool {
    status == 429
        || code.contains("Throttl")
        || ["TooManyRequests", "RequestLimitExceeded", "SlowDown"]
            .iter()
            .any(|name| code.contains(name))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Throttled(detail) | Self::Unanswered(detail) => f.write_str(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::server::{Reply, Server};

    async fn described(reply: Reply) -> Tried<MadePipeline> {
        let server = Server::start([reply]).await;
        let account = server.account();
        let (sagemaker, sqs) = (account.calls("sagemaker"), account.calls("sqs"));
        Services { account, sagemaker, sqs }.describe_pipeline("p").await
    }

    #[tokio::test]
    async fn an_error_keeps_the_services_words_and_says_whether_the_call_may_have_acted() {
        let error =
            |status, code: &str| Reply::Json(status, json!({"__type": code, "message": "why"}));
        let refused = described(error(400, "ConflictException")).await.expect_err("refused");
        assert_eq!(
            refused,
            Unserved::Refused(Refusal {
                code: "ConflictException".to_owned(),
                message: "why".to_owned(),
                is_denial: false,
            })
        );
        let denied = described(error(400, "AccessDeniedException")).await.expect_err("denied");
        assert!(matches!(denied, Unserved::Refused(Refusal { is_denial: true, .. })), "{denied:?}");
        let throttled = described(error(400, "ThrottlingException")).await.expect_err("throttled");
        assert!(matches!(throttled, Unserved::Throttled(_)), "{throttled:?}");
        for reply in [error(500, "InternalFailure"), Reply::Reset, Reply::Json(200, json!({}))] {
            let failed = described(reply).await.expect_err("no answer");
            assert!(matches!(failed, Unserved::Unanswered(_)), "{failed:?}");
        }
    }
}
