//! The credentials of a role that is assumed for a queue and its pipelines.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use super::calls::{Calls, Limit};
use crate::seam::{ExternalId, Fault, FaultKind, Role};

/// A role in the form that a cache of clients can keep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoleKey {
    arn: String,
    external_id: Option<ExternalId>,
}

impl From<Role<'_>> for RoleKey {
    fn from(role: Role<'_>) -> Self {
        Self { arn: role.arn.to_owned(), external_id: role.external_id.cloned() }
    }
}

/// Requests credentials of one role from STS, each time it is called; they last an hour.
#[derive(Debug)]
pub(super) struct RoleProvider {
    sts: aws_sdk_sts::Client,
    calls: Calls,
    role: RoleKey,
    session: String,
}

impl RoleProvider {
    pub(super) fn new(
        sts: aws_sdk_sts::Client,
        calls: Calls,
        role: RoleKey,
        session: &str,
    ) -> Self {
        Self { sts, calls, role, session: session.to_owned() }
    }

    /// # Errors
    /// A fault that names the role: a worker may use many of them.
    async fn assume(&self) -> Result<Credentials, Fault> {
        self.requested().await.map_err(|fault| {
            let RoleKey { arn, external_id } = &self.role;
            let remedy = match (fault.kind, external_id) {
                (FaultKind::Denied, None) => {
                    "; allow sts:AssumeRole on it (deploy/iam/assume-role-policy.json); its trust \
                     policy must allow this caller, and may require an external_id, which is not \
                     configured"
                }
                (FaultKind::Denied, Some(_)) => {
                    "; allow sts:AssumeRole on it (deploy/iam/assume-role-policy.json); its trust \
                     policy must allow this caller and the configured external_id"
                }
                _ => "",
            };
            Fault::new(fault.kind, format!("the role {arn}: {}{remedy}", fault.detail))
        })
    }

    async fn requested(&self) -> Result<Credentials, Fault> {
        let call = self
            .sts
            .assume_role()
            .role_arn(&self.role.arn)
            .set_external_id(self.role.external_id.as_ref().map(|id| id.as_str().to_owned()))
            .role_session_name(&self.session)
            .send();
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

impl ProvideCredentials for RoleProvider {
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
