//! What becomes of the messages that are held for the step.

use std::time::Duration;

use super::super::inbox::Held;
use super::super::messages::Messages;
use super::Driver;
use super::pending::With;
use crate::backoff::Backoff;
use crate::seam::Observation;

/// How long a refused message stays invisible.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_mins(15));

impl Driver {
    /// The step has none of them any more; `how` tells their lanes what becomes of them.
    fn part_with(&mut self, how: impl Fn(&Messages, &Held)) {
        for held in std::mem::take(&mut self.messages) {
            how(&self.shared.lane_at(&held).messages, &held);
        }
    }

    pub(super) fn delete(&mut self) {
        self.part_with(|messages, held| messages.delete([&held.id]));
    }

    pub(super) fn let_go(&mut self) {
        self.part_with(|messages, held| messages.forget([&held.id]));
    }

    /// Replaces those that were received too often.
    pub(super) fn replace(&self) {
        // An unconfirmed stop is left to the queue's redrive policy.
        let stopped = self.state.record.stop_requested.is_some();
        for held in self.messages.iter().filter(|held| stopped || !held.stop) {
            self.shared.lane_at(held).messages.replace([&held.id]);
        }
    }

    /// Replaces all of them, and leaves the copies to another worker.
    pub(super) fn pass_on(&mut self) {
        if let Some(more) = self.lane.said.again("crowded") {
            tracing::info!(
                event = "step_passed_on",
                queue = self.lane.name,
                more,
                "a step has waited long for a slot; a fresh copy of its message is sent, for \
                 another worker of the ledger"
            );
        }
        self.part_with(|messages, held| messages.pass_on([&held.id]));
    }

    pub(super) fn release(&mut self, visible_in: Duration) {
        self.part_with(|messages, held| messages.release([&held.id], visible_in));
    }

    /// Hides the messages of the queue for which SageMaker was asked. Those of other queues are
    /// judged by themselves: hidden too, all would come back, and be refused, together.
    pub(super) fn refuse(&mut self, why: &str) {
        if let Some(more) = self.lane.said.again("not accepted") {
            tracing::warn!(
                event = "step_not_accepted",
                why,
                more,
                "the step is not accepted; its message is kept and left to the queue's redrive \
                 policy"
            );
        }
        self.shared.observer.observe(Observation::Refused { queue: &self.lane.name });
        let (here, hidden) = (self.lane.index, self.lane.config.visibility_timeout);
        let mixed = self.messages.iter().any(|held| held.lane == here);
        self.part_with(|messages, held| {
            let away = if mixed && held.lane != here { Duration::ZERO } else { hidden };
            messages.release([&held.id], away);
        });
    }

    pub(super) fn refuse_delivery(&mut self, why: &str, with: &With) {
        let With::Message(refused) = with else { return };
        self.messages.retain(|held| (held.lane, &held.id) != (refused.lane, &refused.id));
        let lane = self.shared.lane_at(refused);
        self.shared.observer.observe(Observation::Unreadable { queue: &lane.name });
        if lane.complaints.is_new(&refused.id) {
            tracing::warn!(
                event = "message_refused",
                queue = lane.name,
                message_id = %refused.id,
                why,
                "a message is refused; it stays on the queue, for its redrive policy"
            );
        }
        lane.messages.release([&refused.id], REFUSED.after(refused.receives, fastrand::f64()));
    }

    /// Gives back the Stopping messages whose stop is not confirmed.
    pub(super) fn refuse_stops(&mut self, why: &str) {
        if let Some(more) = self.lane.said.again("unconfirmed") {
            tracing::warn!(
                event = "stop_not_confirmed",
                why,
                more,
                "a stop is not confirmed; its message stays on the queue, for its redrive policy"
            );
        }
        self.shared.observer.observe(Observation::Refused { queue: &self.lane.name });
        let away = self.lane.config.visibility_timeout;
        for held in self.messages.extract_if(.., |held| held.stop) {
            self.shared.lane_at(&held).messages.release([&held.id], away);
        }
    }
}
