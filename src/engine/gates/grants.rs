//! How a permit reaches the step that has waited for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{OnceLock, Weak};

use crate::step::CallbackToken;

/// Takes the permits that waiting steps are granted.
///
/// Expected flow: a permit is given back; its gate takes the head of its line and calls
/// [`granted`](Grants::granted) for it, on the thread that gave back, before that thread goes on.
///
/// Guarantees: the gate's own lock is not held, so the gate may be called from within; a token is
/// granted once for each time that it was queued; a permit that is dropped within goes to the next
/// in line, without recursion.
///
/// Assumptions: whoever drops a permit, or takes a token out of a line, holds no lock that
/// `granted` takes.
///
/// Caveats: a step may leave the line in the moment in which it is granted: the permit of a step
/// that no longer waits is dropped. Where nobody takes permits (any more), whoever waits is passed
/// over.
///
/// Errors: a panic is caught and logged; the next in line is served.
pub(crate) trait Grants<P>: Send + Sync {
    fn granted(&self, token: CallbackToken, permit: P);
}

/// Where a gate's permits go, once it is known.
pub(super) struct Hook<P>(OnceLock<Weak<dyn Grants<P>>>);

impl<P> Hook<P> {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Set once; a second one is ignored.
    pub(super) fn set(&self, grants: Weak<dyn Grants<P>>) {
        if self.0.set(grants).is_err() {
            tracing::error!(
                "internal error: permits already go somewhere; this is a bug in callbackd, please \
                 report it"
            );
        }
    }

    pub(super) fn give(&self, token: CallbackToken, permit: P) {
        let Some(grants) = self.0.get().and_then(Weak::upgrade) else { return };
        let name = token.clone();
        // Permits are also given back while a panic unwinds; a second one would abort the process.
        if catch_unwind(AssertUnwindSafe(|| grants.granted(token, permit))).is_err() {
            tracing::error!(token = %name, "internal error: a step's turn was lost; this is a bug \
                                            in callbackd, please report it");
        }
    }
}
