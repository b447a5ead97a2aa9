//! Durations as configuration writes them: text with units, `"90s"`, `"11h30m"`, `"14d"`. For `#[serde(with = "crate::duration")]`.

use std::fmt;
use std::time::Duration;

use serde::{Deserializer, Serializer, de};

/// Writes the [`text`].
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*duration))
}

/// Reads what [`parse`] does.
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

/// Reads a duration with units.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("{text:?} is not a duration; write a number with a unit, as in \"90s\", \"5m\", \"11h30m\", \"14d\"")
    })
}

/// The shortest text that [`parse`] reads back, without spaces.
#[must_use]
pub fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_back_as_it_was_written() {
        for (written, seconds) in [("90s", 90), ("11h30m", 41_400), ("14d", 1_209_600), ("0s", 0)] {
            let read = parse(written).expect(written);
            assert_eq!(read.as_secs(), seconds);
            assert_eq!(parse(&text(read)), Ok(read));
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused_with_a_remedy() {
        let error = parse("90").expect_err("no unit");
        assert!(error.contains("\"90s\""), "{error}");
    }
}
