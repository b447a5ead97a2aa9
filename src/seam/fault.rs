//! Why a call to a service failed, sorted by what to do about it.

/// Why a call did not do what it was asked to, sorted by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    pub kind: FaultKind,
    /// The service's code and message, or what broke on the way, in one line.
    pub detail: String,
}

/// What to do about a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Throttling, 5xx, time-outs, connections, credentials that are late: the same call may work
    /// soon.
    Transient,
    /// No permission: it works once somebody mends the policy.
    Denied,
    /// Our side is not set up right: keys that are unknown, wrong or switched off, a role that may
    /// not be assumed, an endpoint that cannot be. It works once somebody mends that.
    Misconfigured,
    /// The receipt handle is no longer good: the message is not ours any more.
    Stale,
    /// The service understood the call and will not do it.
    Refused,
}

impl Fault {
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}
