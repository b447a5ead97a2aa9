//! The credentials of a role that is assumed for a queue and its pipelines.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use super::calls::{Calls, Limit};
use crate::seam::{Fault, FaultKind};

/// Requests credentials of one role from STS, each time it is called; they last an hour.
#[derive(Debug)]
pub(super) struct Role {
    sts: aws_sdk_sts::Client,
    calls: Calls,
    arn: String,
    session: String,
}

impl Role {
    pub(super) fn new(sts: aws_sdk_sts::Client, calls: Calls, arn: &str, session: &str) -> Self {
        Self { sts, calls, arn: arn.to_owned(), session: session.to_owned() }
    }

    async fn assume(&self) -> Result<Credentials, Fault> {
        let call =
            self.sts.assume_role().role_arn(&self.arn).role_session_name(&self.session).send();
        let answer = self.calls.send("AssumeRole", Limit::ANSWER, call).await?;
        let lacking =
            || Fault::new(FaultKind::Transient, "AssumeRole: the answer has no credentials");
        let given = answer.credentials.ok_or_else(lacking)?;
        let end = given.expiration.try_into().map_err(|_| lacking())?;
        Ok(Credentials::new(
            given.access_key_id,
            given.secret_access_key,
            Some(given.session_token),
            Some(end),
            "role",
        ))
    }
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.assume().await.map_err(CredentialsError::provider_error)
        })
    }
}

/// The name of a worker's sessions in the other account's trail: 2 to 64 of `[A-Za-z0-9_+=,.@-]`
/// (STS's service model).
pub(super) fn session_name(worker: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' };
    format!("callbackd-{worker}").chars().map(plain).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_a_name_that_sts_takes() {
        assert_eq!(session_name("worker-1.eu"), "callbackd-worker-1.eu");
        assert_eq!(session_name("a b/ä"), "callbackd-a-b--");
        assert_eq!(session_name(&"x".repeat(100)).len(), 64);
        assert_eq!(session_name(""), "callbackd-");
    }
}
