//! The IAM roles with whose credentials calls are made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A role to assume, as the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role<'a> {
    pub arn: &'a str,
    /// What the trust policy of the role asks for, if the role belongs to someone else.
    pub external_id: Option<&'a ExternalId>,
}

/// STS's `ExternalId`: 2 to 1224 of `[A-Za-z0-9_+=,.@:/-]` (STS's service model).
///
/// It is not a secret, but its owner may not want to read it in logs, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalId(String);

/// A text that STS does not accept as an external id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an external id has 2 to 1224 letters, digits and characters of _+=,.@:/-")]
pub struct NotAnExternalId;

impl ExternalId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExternalId {
    type Error = NotAnExternalId;

    fn try_from(text: String) -> Result<Self, NotAnExternalId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&byte);
        if (2..=1224).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(NotAnExternalId)
        }
    }
}

impl FromStr for ExternalId {
    type Err = NotAnExternalId;

    fn from_str(text: &str) -> Result<Self, NotAnExternalId> {
        text.to_owned().try_into()
    }
}

impl From<ExternalId> for String {
    fn from(id: ExternalId) -> Self {
        id.0
    }
}

impl fmt::Debug for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_id_is_what_sts_accepts() {
        let longest = "x".repeat(1224);
        for good in ["ab", "tenant-7_+=,.@:/", &longest] {
            assert_eq!(good.parse::<ExternalId>().expect(good).as_str(), good);
        }
        let longer = "x".repeat(1225);
        for bad in ["", "a", "a b", "ab\n", "ä1", "a;b", &longer] {
            assert_eq!(bad.parse::<ExternalId>(), Err(NotAnExternalId), "{bad:?}");
        }
    }

    #[test]
    fn an_external_id_is_not_shown_by_accident() {
        let id: ExternalId = "hunter2".parse().expect("valid");
        let role = Role { arn: "arn", external_id: Some(&id) };
        assert!(!format!("{role:?}").contains("hunter2"));
    }
}
