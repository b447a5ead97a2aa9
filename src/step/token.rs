//! The token that a callback step is answered with.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::quoted::Quoted;

/// The token by which SageMaker knows a waiting callback step: exactly ten of `[a-zA-Z0-9]`
/// (SageMaker's service model).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallbackToken([u8; LENGTH]);

const LENGTH: usize = 10;

impl CallbackToken {
    /// The ten characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Letters and digits, as they were parsed.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallbackToken").field(&self.as_str()).finish()
    }
}

impl fmt::Display for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a callback token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a callback token is ten characters of a-z, A-Z, 0-9, not {0}")]
pub struct InvalidToken(pub(super) Quoted);

impl std::str::FromStr for CallbackToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        match text.as_bytes().try_into() {
            Ok(bytes) if text.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(Self(bytes)),
            _ => Err(InvalidToken(Quoted::new(text))),
        }
    }
}

impl Serialize for CallbackToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CallbackToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_reads_as_it_is_written() {
        assert_eq!(
            "abcdefghij".parse::<CallbackToken>().map(|token| token.to_string()),
            Ok("abcdefghij".into())
        );
    }

    proptest! {
        #[test]
        fn a_token_is_ten_letters_and_digits_and_nothing_else(text in "[a-zA-Z0-9]{9,11}|\\PC{10}") {
            let fits = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
            prop_assert_eq!(text.parse::<CallbackToken>().is_ok(), fits);
        }
    }
}
