//! Logs a problem once, and then only how often it happened again.

use std::time::Duration;

use tokio::time::Instant;

use super::answers::{Notice, What};
use crate::seam::FaultKind;

/// The same kind of notice is logged at most this often.
const EVERY: Duration = Duration::from_secs(30);

/// What was logged about one queue's messages. There are few kinds.
#[derive(Default)]
pub(super) struct Complaints(Vec<Kind>);

struct Kind {
    what: What,
    fault: Option<FaultKind>,
    said_at: Instant,
    unsaid: Unsaid,
}

/// What happened since the last line of its kind, and was not logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsaid {
    pub(super) calls: usize,
    pub(super) messages: usize,
}

impl Complaints {
    /// Whether a notice is to be logged now, and what was not logged before it.
    pub(super) fn take(&mut self, notice: &Notice, now: Instant) -> Option<Unsaid> {
        let fault = notice.fault.as_ref().map(|fault| fault.kind);
        let Some(kind) =
            self.0.iter_mut().find(|kind| kind.what == notice.what && kind.fault == fault)
        else {
            self.0.push(Kind { what: notice.what, fault, said_at: now, unsaid: Unsaid::default() });
            return Some(Unsaid::default());
        };
        if now < kind.said_at + EVERY {
            kind.unsaid.calls += 1;
            kind.unsaid.messages += notice.messages;
            return None;
        }
        kind.said_at = now;
        Some(std::mem::take(&mut kind.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::Fault;

    fn notice(what: What, kind: FaultKind, messages: usize) -> Notice {
        Notice {
            what,
            fault: Some(Fault::new(kind, "made to fail")),
            messages,
            example: "m".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_repeats_is_said_once_and_then_counted() {
        let (mut complaints, began) = (Complaints::default(), Instant::now());
        let mut said = Vec::new();
        for tenth in 0..600 {
            let now = began + Duration::from_millis(100) * tenth;
            said.extend(complaints.take(&notice(What::NotKept, FaultKind::Transient, 10), now));
        }
        assert_eq!(said, [Unsaid::default(), Unsaid { calls: 299, messages: 2990 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_different_kinds_do_not_hide_each_other() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        for what in [What::NotKept, What::NotDeleted] {
            for kind in [FaultKind::Transient, FaultKind::Denied] {
                assert_eq!(complaints.take(&notice(what, kind, 1), now), Some(Unsaid::default()));
                assert_eq!(complaints.take(&notice(what, kind, 1), now), None);
            }
        }
    }
}
