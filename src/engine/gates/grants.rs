//! How a permit reaches the step that has waited for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{OnceLock, Weak};

use crate::step::CallbackToken;

/// Receives the permits that waiting steps are granted.
///
/// Expected flow: a permit is returned; its gate takes the head of its line and calls
/// [`granted`](Grants::granted) for it, on the thread that returned the permit, before that thread
/// continues.
///
/// Guarantees: the gate's own lock is not held, so the gate may be called from within. A token is
/// granted once for each time that it was queued. A permit that is dropped within goes to the next
/// in line, without recursion.
///
/// Assumptions: code that drops a permit, or removes a token from a line, holds no lock that
/// `granted` takes.
///
/// Caveats: a step may leave the line at the moment it is granted; then its permit is dropped. If
/// there is no receiver (any more), waiting steps are skipped.
///
/// Errors: a panic is caught and logged; the next in line is served.
pub(crate) trait Grants<P>: Send + Sync {
    fn granted(&self, token: CallbackToken, permit: P);
}

/// The receiver of a gate's permits, once it is known.
pub(super) struct Hook<P>(OnceLock<Weak<dyn Grants<P>>>);

impl<P> Hook<P> {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Set once; a second call is ignored.
    pub(super) fn set(&self, grants: Weak<dyn Grants<P>>) {
        if self.0.set(grants).is_err() {
            tracing::error!(
                event = "permits_reused",
                "internal error: permits already go somewhere; this is a bug in callbackd, please \
                 report it"
            );
        }
    }

    pub(super) fn give(&self, token: CallbackToken, permit: P) {
        let Some(grants) = self.0.get().and_then(Weak::upgrade) else { return };
        let name = token.clone();
        // Permits are also returned while a panic unwinds; a second panic would abort the process.
        if catch_unwind(AssertUnwindSafe(|| grants.granted(token, permit))).is_err() {
            tracing::error!(
                event = "turn_lost",
                token = %name,
                "internal error: a step's turn was lost; this is a bug in callbackd, please report \
                 it"
            );
        }
    }
}
