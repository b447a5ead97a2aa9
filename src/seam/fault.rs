//! Why a call to a service failed, classified by what to do about it.

/// A failed call, classified by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    pub kind: FaultKind,
    /// The service's code and message, or what failed in between, in one line.
    pub detail: String,
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
        Self { kind, detail: detail.into() }
    }
}
