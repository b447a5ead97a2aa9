//! Why a call to a service failed, classified by what to do about it.

/// A failed call, classified by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    pub kind: FaultKind,
    /// The service's code and message, or what failed in between, in one line.
    pub detail: String,
    /// Nothing was sent, because there were no credentials to sign with.
    pub unsigned: bool,
}

/// What to do about a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Throttling, 5xx, timeouts, connections, late credentials: the same call may work soon.
    Transient,
    /// No permission: it works once someone fixes the policy.
    Denied,
    /// Our configuration is wrong: unknown, wrong or disabled keys, a role that may not be assumed,
    /// an impossible endpoint. It works once someone fixes that.
    Misconfigured,
    /// The receipt handle has expired: the message is not ours any more.
    Stale,
    /// The service understood the call and refuses it.
    Refused,
}

impl Fault {
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), unsigned: false }
    }

    /// There are no credentials. A file or an instance's metadata may be late, and anything that
    /// gets fixed is read again.
    pub fn without_credentials(detail: impl Into<String>) -> Self {
        Self { unsigned: true, ..Self::new(FaultKind::Transient, detail) }
    }

    /// The name of the condition, which has a code; `None` for what a service refuses, which it
    /// explains itself.
    #[must_use]
    pub fn event(&self) -> Option<&'static str> {
        match self.kind {
            FaultKind::Denied => Some("access_denied"),
            FaultKind::Misconfigured => Some("aws_misconfigured"),
            FaultKind::Transient if self.unsigned => Some("credentials_missing"),
            FaultKind::Transient => Some("aws_unreachable"),
            FaultKind::Refused | FaultKind::Stale => None,
        }
    }
}
