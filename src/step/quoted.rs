//! Text from outside, made safe for a log line.

use std::fmt;

/// Text from outside, escaped and cut so that it fits a log line.
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
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
