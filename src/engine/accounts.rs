//! Accounts besides a queue's own whose executions are worked on.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// SageMaker takes a report from the execution's own account alone, so each account needs credentials that are its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Accounts {
    /// Answered with the queue's own credentials.
    Listed(Vec<String>),
    /// Answered with a role each.
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
        listed.chain(roles.into_iter().flatten().map(|(account, role)| (account.as_str(), Some(role.as_str()))))
    }

    #[must_use]
    pub fn allow(&self, account: &str) -> bool {
        self.iter().any(|(allowed, _)| allowed == account)
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
