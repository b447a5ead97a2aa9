//! Why a run did not come to an end, and whether trying again can help.

use std::fmt;
use std::time::Duration;

/// An error of a handler. It carries the decision: try again later, or fail the step.
///
/// Every [`std::error::Error`] becomes one that is tried again, so that `?` works on anything.
#[derive(Debug)]
pub struct HandlerError {
    message: String,
    retry: Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// After the handler's configured, growing delay.
    Later,
    After(Duration),
    Never,
}

impl HandlerError {
    /// Fails the step with this reason. The whole of it is logged; SageMaker gets its first 256 characters.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::Never }
    }

    /// Counts as an attempt; tried again after the handler's `retry_delay`, doubled with each attempt.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::Later }
    }

    /// Counts as an attempt; tried again after `delay`.
    pub fn retry_after(delay: Duration, message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::After(delay) }
    }

    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.retry == Retry::Never
    }

    /// The delay that the handler asked for itself.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(delay) => Some(delay),
            Retry::Later | Retry::Never => None,
        }
    }

    /// The error and its sources, in one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::retry(message)
    }
}
