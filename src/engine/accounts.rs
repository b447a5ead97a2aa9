//! Accounts besides a queue's own whose executions are accepted.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::step::is_account;

/// SageMaker accepts a report only from the execution's own account, so each account needs
/// credentials of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Accounts {
    /// Answered with the queue's own credentials.
    Listed(Vec<String>),
    /// Each answered with its own role.
    Roles(BTreeMap<String, String>),
}

impl Accounts {
    /// Each account, and its role if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let (listed, roles) = match self {
            Self::Listed(listed) => (Some(listed), None),
            Self::Roles(roles) => (None, Some(roles)),
        };
        let listed = listed.into_iter().flatten().map(|account| (account.as_str(), None));
        listed.chain(
            roles
                .into_iter()
                .flatten()
                .map(|(account, role)| (account.as_str(), Some(role.as_str()))),
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
            let what = match (role, role.map(account_of_role)) {
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
                f.write_str("a sequence of accounts, or a table of account = role ARN")
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
