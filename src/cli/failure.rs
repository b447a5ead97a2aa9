//! How a command ends that does not succeed.

use std::fmt::Display;

use crate::aws::NoEndpoint;
#[cfg(feature = "dynamodb")]
use crate::aws::Unusable;
use crate::config::Mistakes;
use crate::daemon::DaemonError;
use crate::ledger::{CopyError, LedgerError, OpenError, StoreError};
use crate::observe::events::coded;
use crate::seam::Fault;

/// How a command ends. A text ends with the code of its condition, if that is a known one.
pub(super) enum Failure {
    /// Exit code 1.
    Runtime(String),
    /// Exit code 1; the log has the reason.
    Logged,
    /// Exit code 2.
    Usage(String),
    /// Exit code 78, as in sysexits.h.
    Configuration(String),
}

impl Failure {
    pub(super) fn runtime(error: impl Display) -> Self {
        Self::Runtime(error.to_string())
    }

    /// A call to AWS that has failed for good; `text` tells it.
    pub(super) fn call(fault: &Fault, text: impl Display) -> Self {
        Self::Runtime(match fault.event() {
            Some(event) => coded(text, event),
            // What the service refuses, it says itself.
            None => text.to_string(),
        })
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::Configuration(coded(mistakes, "config_invalid"))
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Broken(_) => Self::Logged,
            error => Self::Runtime(coded(&error, error.event())),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Runtime(coded(&error, error.event()))
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Ledger(error) => error.into(),
            error @ CopyError::Copy { .. } => Self::Runtime(coded(error, "copy_not_written")),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Runtime(coded(error, "ledger_read_failed"))
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let event = match error {
            LedgerError::Store(_) => "ledger_read_failed",
            LedgerError::Damaged(_) => "record_unreadable",
        };
        Self::Runtime(coded(error, event))
    }
}

impl From<NoEndpoint> for Failure {
    fn from(error: NoEndpoint) -> Self {
        Self::Runtime(coded(&error, error.event()))
    }
}

#[cfg(feature = "dynamodb")]
impl From<Unusable> for Failure {
    fn from(error: Unusable) -> Self {
        Self::Runtime(coded(error, "table_unusable"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::FaultKind;

    fn text(failure: Failure) -> String {
        match failure {
            Failure::Runtime(text) => text,
            Failure::Logged | Failure::Usage(_) | Failure::Configuration(_) => {
                panic!("not a failure of a run")
            }
        }
    }

    #[test]
    fn a_call_that_failed_ends_with_the_code_of_what_to_do_about_it() {
        for (kind, wanted) in [
            (FaultKind::Denied, "it failed: x [CBD018]"),
            (FaultKind::Misconfigured, "it failed: x [CBD019]"),
            (FaultKind::Transient, "it failed: x [CBD020]"),
            (FaultKind::Refused, "it failed: x"),
        ] {
            let fault = Fault::new(kind, "x");
            assert_eq!(text(Failure::call(&fault, format_args!("it failed: {fault}"))), wanted);
        }
        let fault = Fault::without_credentials("no AWS credentials");
        assert_eq!(text(Failure::call(&fault, &fault)), "no AWS credentials [CBD021]");
    }

    #[test]
    fn what_a_ledger_says_ends_with_a_code() {
        let store = || StoreError("timed out".to_owned());
        assert_eq!(text(store().into()), "timed out [CBD502]");
        assert_eq!(
            text(LedgerError::from(store()).into()),
            "the ledger failed: timed out [CBD502]"
        );
        let copy = CopyError::Copy { path: "/c".into(), problem: "it exists".to_owned() };
        assert_eq!(text(copy.into()), "the copy /c: it exists [CBD526]");
    }

    #[test]
    fn what_broke_the_worker_is_said_by_its_log_alone() {
        let broken = DaemonError::Broken("the sweep has ended".to_owned());
        assert!(matches!(broken.into(), Failure::Logged));
    }
}
