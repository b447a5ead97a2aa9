//! Accounts besides a queue's own whose executions are accepted.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::seam::{ExternalId, Role};
use crate::step::is_account;

/// SageMaker accepts a report only from the execution's own account, so each account needs
/// credentials of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Accounts {
    /// Answered with the queue's own credentials.
    Listed(Vec<String>),
    /// Each answered with its own role.
    Roles(BTreeMap<String, AccountRole>),
}

/// The role for the pipelines of one account: its ARN, or a table if its trust policy asks for an
/// external id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AccountRole {
    Arn(String),
    WithId(RoleWithId),
}

/// A role whose trust policy may ask for an external id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleWithId {
    pub role_arn: String,
    /// 2 to 1224 letters, digits and characters of `_+=,.@:/-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub external_id: Option<ExternalId>,
}

impl AccountRole {
    #[must_use]
    pub fn role(&self) -> Role<'_> {
        match self {
            Self::Arn(arn) => Role { arn, external_id: None },
            Self::WithId(role) => role.role(),
        }
    }
}

impl RoleWithId {
    #[must_use]
    pub fn role(&self) -> Role<'_> {
        Role { arn: &self.role_arn, external_id: self.external_id.as_ref() }
    }
}

impl From<Role<'_>> for RoleWithId {
    fn from(role: Role<'_>) -> Self {
        Self { role_arn: role.arn.to_owned(), external_id: role.external_id.cloned() }
    }
}

impl Accounts {
    /// Each account, and its role if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<Role<'_>>)> {
        let (listed, roles) = match self {
            Self::Listed(listed) => (Some(listed), None),
            Self::Roles(roles) => (None, Some(roles)),
        };
        let listed = listed.into_iter().flatten().map(|account| (account.as_str(), None));
        listed.chain(
            roles
                .into_iter()
                .flatten()
                .map(|(account, role)| (account.as_str(), Some(role.role()))),
        )
    }

    #[must_use]
    pub fn allow(&self, account: &str) -> bool {
        self.iter().any(|(allowed, _)| allowed == account)
    }

    /// What is wrong on a queue with this role: pairs of a key and the reason.
    #[must_use]
    pub fn mistakes(&self, role_arn: Option<&str>) -> Vec<(String, String)> {
        const NO_ROLE: &str = "is not arn:aws:iam::ACCOUNT:role/NAME";
        let own = role_arn.and_then(account_of_role);
        let mut mistakes = Vec::new();
        if role_arn.is_some() && own.is_none() {
            mistakes.push(("role_arn".to_owned(), NO_ROLE.to_owned()));
        }
        for (index, (account, role)) in self.iter().enumerate() {
            let what = match (role, role.map(|role| account_of_role(role.arn))) {
                _ if !is_account(account) => "is not the twelve digits of an account".to_owned(),
                (Some(_), Some(None)) => NO_ROLE.to_owned(),
                (Some(_), Some(Some(of))) if of != account => {
                    format!(
                        "the role is of the account {of}, but SageMaker accepts answers only from \
                         {account}"
                    )
                }
                (None, _) if own.is_some_and(|own| own != account) => {
                    "its steps could not be answered: `role_arn` is of another account; write \
                     accounts = { ACCOUNT = \"ROLE ARN\" }"
                        .to_owned()
                }
                _ => continue,
            };
            let key = if role.is_some() {
                format!("accounts.{account}")
            } else {
                format!("accounts[{index}]")
            };
            mistakes.push((key, what));
        }
        mistakes
    }
}

/// `arn:PARTITION:iam::ACCOUNT:role/NAME`
fn account_of_role(arn: &str) -> Option<&str> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", partition, "iam", "", account, role]
            if partition.starts_with("aws")
                && is_account(account)
                && role.strip_prefix("role/").is_some_and(|name| !name.is_empty()) =>
        {
            Some(account)
        }
        _ => None,
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Accounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Accounts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence of accounts, or a table of account = role")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut accounts: A) -> Result<Accounts, A::Error> {
                let mut listed = Vec::new();
                while let Some(account) = accounts.next_element()? {
                    listed.push(account);
                }
                Ok(Accounts::Listed(listed))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut accounts: A) -> Result<Accounts, A::Error> {
                let mut roles = BTreeMap::new();
                while let Some((account, role)) = accounts.next_entry()? {
                    roles.insert(account, role);
                }
                Ok(Accounts::Roles(roles))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for AccountRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = AccountRole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a role ARN, or a table with role_arn and external_id")
            }

            fn visit_str<E: de::Error>(self, arn: &str) -> Result<AccountRole, E> {
                Ok(AccountRole::Arn(arn.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, role: A) -> Result<AccountRole, A::Error> {
                let role = RoleWithId::deserialize(MapAccessDeserializer::new(role))?;
                Ok(AccountRole::WithId(role))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
