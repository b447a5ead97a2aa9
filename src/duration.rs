//! Durations as the configuration writes them: text with units, `"90s"`, `"11h30m"`, `"14d"`.
//!
//! ```
//! use std::time::Duration;
//!
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     #[serde(with = "callbackd::duration")]
//!     poll_interval: Duration,
//! }
//!
//! let settings: Settings = serde_json::from_str(r#"{"poll_interval": "1m30s"}"#)?;
//! assert_eq!(settings.poll_interval, Duration::from_secs(90));
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserializer, Serializer, de};

/// Writes it as [`text`].
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*duration))
}

/// Reads it as [`parse`] does.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with its unit, as in \"90s\", \"5m\", \"11h30m\", \"14d\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text)
}

/// Parses a duration with units.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!(
            "{text:?} is not a duration; write a number with a unit, such as \"90s\", \"5m\", \
             \"11h30m\", \"14d\""
        )
    })
}

/// The shortest text that [`parse`] reads back, without spaces.
#[must_use]
pub fn text(duration: Duration) -> String {
    // A day has 24 hours here; humantime would continue with months and years of fractional length.
    let days = duration.as_secs() / DAY;
    let rest = duration.saturating_sub(Duration::from_secs(days * DAY));
    let rest = if rest.is_zero() && days > 0 {
        String::new()
    } else {
        humantime::format_duration(rest).to_string()
    };
    let days = if days > 0 { format!("{days}d") } else { String::new() };
    days + &rest.replace(' ', "")
}

const DAY: u64 = 24 * 60 * 60;

/// The allowed durations of a setting, both ends included; written `3s to 12h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Range {
    /// From `least` to `most`.
    #[must_use]
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { least, most }
    }

    /// What is wrong with a value that is out of range.
    #[must_use]
    pub fn refusal(&self, value: Duration) -> Option<String> {
        let inside = (self.least..=self.most).contains(&value);
        (!inside).then(|| format!("{} is not allowed; {self} are", text(value)))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", text(self.least), text(self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_it_was_read() {
        for (written, seconds) in
            [("1m30s", 90), ("11h30m", 41_400), ("14d", 1_209_600), ("0s", 0), ("365d", 31_536_000)]
        {
            let read = parse(written).expect(written);
            assert_eq!(read.as_secs(), seconds);
            assert_eq!(text(read), written);
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused_with_a_remedy() {
        let error = parse("90").expect_err("no unit");
        assert!(error.contains("\"90s\""), "{error}");
    }
}
