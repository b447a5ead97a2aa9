//! A received message on its way to the driver of its step.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::driver::{Delivery, Driver, Input};
use super::lane::{Lane, Shared};
use super::phase::Phase;
use super::slots::Reservation;
use super::steps::Undelivered;
use crate::backoff::Backoff;
use crate::lifecycle::{Arrival, Record};
use crate::seam::{Observation, Received};
use crate::step::Message;

/// How long a message that cannot be read stays away, by how often it was received.
const UNREADABLE: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_mins(15));

/// Which unreadable messages were already complained of.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<VecDeque<String>>);

impl Complaints {
    /// More than a queue's redrive policy leaves around at once; beyond it a message is merely complained of again.
    const KEPT: usize = 1000;

    fn is_new(&self, id: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|other| other == id) {
            return false;
        }
        if known.len() == Self::KEPT {
            known.pop_front();
        }
        known.push_back(id.to_owned());
        true
    }
}

/// Hands a message to its step's driver, which is started if there is none. From here on the message is held.
pub(crate) async fn deliver(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    received: Received,
    reservation: Option<Reservation>,
) {
    lane.held.hold(&received);
    let message = match Message::parse(&received.body) {
        Ok(message) => message,
        Err(error) => return refuse(shared, lane, &received, &error.to_string()),
    };
    if let Some(why) = lane.foreign(&message.step().execution) {
        return refuse(shared, lane, &received, &why);
    }
    let (arrival, step) = match message {
        Message::Work(step) => (Arrival::Work { redelivered: received.receives > 1 }, step),
        Message::Stop(step) => (Arrival::Stop, step),
    };
    let token = step.token.clone();
    let handler = lane.routes.handler(step.execution.pipeline(), &step.arguments).map(str::to_owned);
    let record = Record::of_message(step, lane.config.url.to_string(), handler, shared.clock.now());
    let mut input = Input::Message(Delivery {
        id: received.id.clone(),
        arrival,
        sent: received.sent,
        trace: received.trace.clone(),
        // A stop needs no slot.
        reservation: reservation.filter(|_| arrival != Arrival::Stop),
    });
    loop {
        input = match shared.steps.send(&token, input) {
            Ok(()) => return,
            Err(Undelivered::Full(input, inbox)) => {
                // Waits for room, not for this message's turn: the driver may be gone by then.
                let _ = inbox.reserve().await;
                input
            }
            Err(Undelivered::Absent(_)) if shared.phase() != Phase::Running => {
                return lane.held.release([received.id], Duration::ZERO);
            }
            Err(Undelivered::Absent(input)) => match Driver::spawn(shared, lane, record.clone(), input) {
                Ok(()) => return,
                Err(input) => input,
            },
        };
    }
}

fn refuse(shared: &Shared, lane: &Lane, received: &Received, why: &str) {
    shared.observer.observe(Observation::Unreadable { queue: &lane.name });
    if lane.unreadable.is_new(&received.id) {
        tracing::warn!(
            queue = lane.name,
            message_id = received.id,
            receives = received.receives,
            why,
            "a message cannot be worked on; it stays on the queue, for its redrive policy"
        );
    }
    let away = UNREADABLE.after(received.receives, fastrand::f64());
    lane.held.release([received.id.clone()], away);
}
