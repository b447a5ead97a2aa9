//! An error with the errors that caused it.

use std::error::Error;
use std::fmt::Write;

/// The error itself, then its causes from the outermost in: at most 16, in case they are circular.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    const DEEPEST: usize = 16;
    std::iter::successors(Some(error), |&error| error.source()).take(DEEPEST)
}

/// The messages of an error and its causes, in one text.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for (number, cause) in causes(error).enumerate() {
        let separator = if number == 0 { "" } else { ": " };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{cause}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: Option<Box<Failed>>,
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = Failed { text: "no route", source: None };
        let outer = Failed { text: "not sent", source: Some(Box::new(inner)) };
        assert_eq!(with_causes(&outer), "not sent: no route");
        assert_eq!(causes(&outer).count(), 2);
    }
}
