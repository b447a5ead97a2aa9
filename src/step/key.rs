//! The key under which a system outside knows a step.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::quoted::Quoted;

/// A name that a handler gives its step, such as the number of an order or a ticket: 1 to 256
/// characters in one line, without white space at either end. Steps may share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct StepKey(Arc<str>);

/// A text that is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 1 to {max} characters in one line, without white space at either end, not \
         {0}", max = StepKey::MAX)]
pub struct InvalidKey(Quoted);

impl StepKey {
    /// How many characters a key may have.
    pub const MAX: usize = 256;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For people: what is not seen, or turns text around, is escaped.
impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quoted::within(Self::MAX, &self.0).fmt(f)
    }
}

impl std::str::FromStr for StepKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let fits = !text.is_empty()
            && text.trim().len() == text.len()
            && text.chars().count() <= Self::MAX
            && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.into())) } else { Err(InvalidKey(Quoted::new(text))) }
    }
}

impl<'de> Deserialize<'de> for StepKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_one_bounded_line() {
        let longest = "ä".repeat(StepKey::MAX);
        for text in ["ORDER-17", "order 17 of Müller & Söhne", &longest] {
            assert_eq!(text.parse::<StepKey>().expect(text).as_str(), text);
        }
        let turned = "ORDER\u{202e}17".parse::<StepKey>().expect("a key");
        assert_eq!(
            (turned.as_str(), &*turned.to_string()),
            ("ORDER\u{202e}17", "ORDER\\u{202e}17")
        );
        let long = format!("{longest}x");
        for text in ["", " ", " ORDER-17", "ORDER-17\n", "ORDER\n17", "\u{1b}[2J", &long] {
            let error = text.parse::<StepKey>().expect_err(text).to_string();
            assert!(error.contains("1 to 256 characters") && error.len() < 700, "{error}");
            assert!(!error.contains(['\n', '\u{1b}']), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_key_reads_as_it_is_written(text in "\\PC{0,300}") {
            let Ok(key) = text.parse::<StepKey>() else { return Ok(()) };
            let json = serde_json::to_string(&key).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<StepKey>(&json).expect("a key"), key);
        }
    }
}
