//! Takes a received message to its step.

use std::sync::Arc;
use std::time::Duration;

use super::dispatch::send_or_start;
use super::driver::Origin;
use super::gates::Reservation;
use super::inbox::{Delivery, Held, Input};
use super::lane::Lane;
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::lifecycle::{Arrival, Phase, Record};
use crate::seam::{Observation, Received};
use crate::step::{CallbackToken, Message, TraceHeader};

/// How long an unreadable message stays invisible, by how often it was received.
const UNREADABLE: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_mins(15));

/// Passes a message to its step. From here on the message is held.
pub(crate) fn deliver(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    received: Received,
    reservation: Option<Reservation>,
) {
    let message = match Message::parse(&received.body) {
        Ok(message) => message,
        Err(error) => return refuse(shared, lane, &received, &error.to_string()),
    };
    if let Some(why) = lane.foreign(&message.step().execution) {
        return refuse(shared, lane, &received, &why);
    }
    let is_stop = matches!(message, Message::Stop(_));
    lane.messages.hold(&received, true, Some((message.step().token.clone(), is_stop)));
    if shared.phase() != Phase::Running {
        return lane.messages.release([&received.id], Duration::ZERO);
    }
    let in_hand = shared.steps.contains(&message.step().token);
    if lane.pause.is_on() && !is_stop && !in_hand {
        // A poll that was open when the queue was paused has brought it. Others may be open still,
        // and would bring it again and again.
        return lane.messages.release([&received.id], lane.config.poll_wait);
    }
    let weight = shared.bodies.weigh(lane.index, received.body.len());
    let (Message::Work(step) | Message::Stop(step)) = message;
    let token = step.token.clone();
    let handler = lane.routes().handler(step.execution.pipeline(), &step.arguments).cloned();
    let execution = step.execution.clone();
    shared.orphans.found(&token, &execution);
    let mut record = Record::of_message(step, lane.config.url.clone(), handler, shared.clock.now());
    record.trace = received.trace.as_deref().and_then(|header| trace(&token, header));
    let arrival = if is_stop {
        Arrival::Stop
    } else {
        Arrival::Work {
            receives: received.receives,
            sent: received.sent,
            arguments: record.arguments.clone(),
        }
    };
    let delivery = Delivery {
        held: Held {
            lane: lane.index,
            id: received.id.into(),
            stop: is_stop,
            receives: received.receives,
        },
        execution,
        arrival,
        sent: received.sent,
        // A stop needs no slot.
        reservation: reservation.filter(|_| !is_stop),
        weight,
    };
    send_or_start(
        shared,
        &token,
        Input::Message(Box::new(delivery)),
        Origin::Message(Box::new(record), lane.clone()),
    );
}

/// A header that cannot be read costs the step its trace, and nothing else.
fn trace(token: &CallbackToken, header: &str) -> Option<TraceHeader> {
    let parsed = header.parse();
    if let Err(error) = &parsed {
        tracing::debug!(%token, %error, "the message's trace header is ignored");
    }
    parsed.ok()
}

fn refuse(shared: &Shared, lane: &Lane, received: &Received, why: &str) {
    lane.messages.hold(received, false, None);
    shared.observer.observe(Observation::Unreadable { queue: &lane.name });
    if lane.complaints.is_new(&received.id) {
        tracing::warn!(
            event = "message_not_accepted",
            queue = lane.name,
            message_id = received.id,
            receives = received.receives,
            why,
            "a message is not accepted; it stays on the queue, for its redrive policy"
        );
    }
    lane.messages.release([&received.id], UNREADABLE.after(received.receives, fastrand::f64()));
}
