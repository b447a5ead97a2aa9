//! Why a run did not complete, and whether trying again can help.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::host::trouble_in;
use super::{CheckpointError, KeyError};
use crate::causes::{causes, with_causes};
use crate::outcome::InvalidOutput;

/// An error of a handler. It carries the decision: try again later, or fail the step.
///
/// `?` works on any [`std::error::Error`], on `anyhow::Error`, `String` and `&str`. The step is
/// then tried again, with these exceptions: an [`InvalidOutput`], a [`CheckpointError::Unfit`] and
/// a [`KeyError::Invalid`] fail the step, because the same work would produce the same again; any
/// other [`CheckpointError`] or [`KeyError`], and an [`io::Error`](std::io::Error) that says that
/// space, descriptors or memory have run out, are [`host`](Self::host) errors. They are found among
/// the causes of an error too. An `anyhow::Error` without a context hides which error it was made
/// from; with `.context(…)` it shows it.
///
/// ```
/// use callbackd::HandlerError;
///
/// fn job_id(answer: &str) -> Result<u64, HandlerError> {
///     let id = answer.strip_prefix("job-").ok_or("the cluster answered without a job id")?;
///     Ok(id.parse()?)
/// }
///
/// assert_eq!(job_id("job-7").unwrap(), 7);
/// assert!(!job_id("busy").unwrap_err().is_permanent());
/// ```
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
    /// Once the machine works again.
    Host(&'static str),
}

impl HandlerError {
    /// Fails the step with this reason. All of it is logged; SageMaker gets its first 256
    /// characters.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::Never }
    }

    /// Counts as an attempt; tried again after the handler's `retry_delay`, doubled with each
    /// attempt.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::Later }
    }

    /// Counts as an attempt; tried again after `delay`.
    pub fn retry_after(delay: Duration, message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::After(delay) }
    }

    /// The machine is at fault, not the step: no space, no descriptors, a missing program. It
    /// counts as no attempt. The step waits, a queue that has no other working handler is polled
    /// rarely, and `/readyz` and `callbackd_impaired{what}` show it, until a run of the handler
    /// makes progress. The time limit continues to run.
    pub fn host(what: &'static str, message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), retry: Retry::Host(what) }
    }

    /// What is wrong with the machine, if that is the error.
    #[must_use]
    pub fn host_trouble(&self) -> Option<&'static str> {
        match self.retry {
            Retry::Host(what) => Some(what),
            Retry::Later | Retry::After(_) | Retry::Never => None,
        }
    }

    /// Whether it fails the step.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.retry == Retry::Never
    }

    /// The delay that the handler asked for.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(delay) => Some(delay),
            Retry::Later | Retry::Never | Retry::Host(_) => None,
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

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error: Box<dyn Error + Send + Sync> = error.into();
        let message = with_causes(&*error);
        let is_permanent = |cause: &(dyn Error + 'static)| {
            cause.is::<InvalidOutput>()
                || matches!(cause.downcast_ref(), Some(CheckpointError::Unfit(_)))
                || matches!(cause.downcast_ref(), Some(KeyError::Invalid(_)))
        };
        if causes(&*error).any(is_permanent) {
            return Self::permanent(message);
        }
        match trouble_in(&*error) {
            Some(what) => Self::host(what, message),
            None => Self::retry(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::errno::Errno;

    use super::*;
    use crate::outcome::Outputs;

    #[test]
    fn anyhow_hides_the_kind_of_an_error_unless_it_has_a_context() {
        let full = || io::Error::from(Errno::ENOSPC);
        let output = || Outputs::of([("", 1)]).expect_err("no name");
        let bare = HandlerError::from(anyhow::Error::from(full()));
        assert!(bare.host_trouble().is_none() && !bare.is_permanent());
        let told = HandlerError::from(anyhow::Error::from(full()).context("writing the input"));
        assert_eq!(told.host_trouble(), Some("space"));
        assert!(told.message().starts_with("writing the input: No space left"), "{told}");
        let bare = HandlerError::from(anyhow::Error::from(output()));
        assert!(!bare.is_permanent());
        let told = HandlerError::from(anyhow::Error::from(output()).context("the score"));
        assert!(told.is_permanent());
    }

    #[test]
    fn what_the_machine_has_run_out_of_is_no_attempt_and_all_else_is() {
        let of = |errno: Errno| HandlerError::from(io::Error::from(errno));
        assert_eq!(of(Errno::ENOSPC).host_trouble(), Some("space"));
        assert_eq!(of(Errno::EMFILE).host_trouble(), Some("descriptors"));
        assert_eq!(of(Errno::ENOMEM).host_trouble(), Some("memory"));
        assert_eq!(
            HandlerError::from(CheckpointError::Failed("locked".into())).host_trouble(),
            Some("ledger")
        );
        let unfit = HandlerError::from(CheckpointError::Unfit("too large".into()));
        assert!(unfit.host_trouble().is_none() && unfit.is_permanent(), "{unfit:?}");
        // For a socket it means that there is nothing to read, for a file of the handler's own that
        // this file is bad.
        for errno in [Errno::EAGAIN, Errno::EIO, Errno::ENOENT, Errno::ECONNREFUSED] {
            let error = of(errno);
            assert!(error.host_trouble().is_none() && !error.is_permanent(), "{errno}");
        }
    }

    #[test]
    fn a_text_is_tried_again_and_an_output_that_would_be_refused_is_not() {
        let text = HandlerError::from("busy");
        assert_eq!((text.message(), text.is_permanent()), ("busy", false));
        assert_eq!(HandlerError::from(String::from("busy")).message(), "busy");
        let invalid = crate::Outputs::of([("x", "y".repeat(2000))]).expect_err("too long");
        assert!(HandlerError::from(invalid).is_permanent());
    }
}
