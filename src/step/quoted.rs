//! Text from outside, made safe for a line of a log or a terminal.

use std::fmt;

use serde_json::Value;

/// Text from outside, escaped and cut so that it fits a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// Long enough to identify the culprit, short enough for a log line.
    const MAX: usize = 80;

    pub(super) fn new(text: &str) -> Self {
        let head: String = text.chars().take(Self::MAX).collect();
        let dots = if head.len() < text.len() { "…" } else { "" };
        Self(format!("{head:?}{dots}"))
    }

    /// A value as JSON.
    #[must_use]
    pub fn json(value: &Value) -> Self {
        Self::within(Self::MAX, &value.to_string())
    }

    /// The first `most` characters, without quotation marks around them.
    #[must_use]
    pub fn within(most: usize, text: &str) -> Self {
        let mut head = String::new();
        for (at, c) in text.chars().enumerate() {
            if at == most {
                head.push('…');
                break;
            }
            if c.is_ascii_graphic() || c == ' ' {
                head.push(c);
            } else {
                head.extend(c.escape_debug());
            }
        }
        Self(head)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_stays_readable_and_what_a_terminal_would_interpret_does_not_reach_it() {
        let value = json!({ "ä": "a\"b\n\u{9b}2J\u{202e}" });
        assert_eq!(Quoted::json(&value).to_string(), r#"{"ä":"a\"b\n\u{9b}2J\u{202e}"}"#);
        let long = Quoted::json(&json!("x".repeat(1000))).to_string();
        assert!(long.chars().count() == 81 && long.ends_with("x…"), "{long}");
        assert_eq!(Quoted::within(3, "abc").to_string(), "abc");
    }
}
