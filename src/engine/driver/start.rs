//! Starts a driver: its record is read before anything is decided.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::super::inbox::{Parked, Seat, Start, Wants};
use super::super::lane::Lane;
use super::super::missing::has_begun;
use super::super::shared::Shared;
use super::Driver;
use super::apply::load;
use super::pending::Pending;
use crate::backoff::Failures;
use crate::lifecycle::{Phase, Record, State, Status};
use crate::step::CallbackToken;

/// What is known of a step before its record is read.
pub(crate) enum Origin {
    /// Its message.
    Message(Box<Record>, Arc<Lane>),
    /// That it is in the ledger.
    Ledger,
}

/// Starts a driver in the place that was reserved for it.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    token: CallbackToken,
    start: Start,
    origin: Origin,
    waking: Option<OwnedSemaphorePermit>,
) {
    // Of the highest level, so that no filter removes the token from a line.
    let span = tracing::error_span!(
        "step",
        token = %token,
        execution = tracing::field::Empty,
        queue = tracing::field::Empty,
        handler = tracing::field::Empty,
        attempt = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    let place = Place {
        shared: shared.clone(),
        token,
        seat: start.seat,
        parked: start.parked,
        taken: false,
    };
    let driven = async move {
        if let Some(driver) = place.driver(origin).await {
            drop(waking);
            driver.drive().await;
        }
    };
    shared.tasks.spawn(driven.instrument(span));
}

/// A reserved place without a driver.
struct Place {
    shared: Arc<Shared>,
    token: CallbackToken,
    seat: Arc<Seat>,
    parked: Option<Parked>,
    taken: bool,
}

impl Place {
    /// The driver of the step, once its record is read; `None` if there is nothing to drive.
    async fn driver(mut self, origin: Origin) -> Option<Box<Driver>> {
        let Some(loaded) = load(&self.shared, &self.token).await else {
            self.shared.unseen.store(true, Ordering::SeqCst);
            return None;
        };
        let stored = match loaded {
            Ok(stored) => stored,
            Err(error) => {
                // The ledger has logged it, once.
                tracing::debug!(%error, "the step is skipped");
                return None;
            }
        };
        let (known, received_by) = match origin {
            Origin::Message(record, lane) => (Some(*record), Some(lane)),
            Origin::Ledger => (None, None),
        };
        let said =
            known.as_ref().and_then(|known| Some((known.trace.clone()?, known.execution.clone())));
        let mut record = stored.or(known)?;
        // Its record may be older than traces, or be of a message without one.
        if let Some((trace, execution)) = said
            && execution == record.execution
        {
            record.trace.get_or_insert(trace);
        }
        let lane = self.shared.lane(&record.queue).cloned().or(received_by)?;
        if record.status == Status::Claimed
            && record.owner.as_ref() != Some(&self.shared.ledger.me())
        {
            // First, what its run left behind is killed, and the consequences of the crash are
            // recorded.
            self.shared.reaped.cancelled().await;
        }
        let is_known =
            record.handler.as_ref().is_some_and(|name| self.shared.handlers.contains(name));
        // The configuration has changed since. A new handler does not continue what another one has
        // begun.
        if !is_known && !has_begun(&record) && record.status != Status::Concluded {
            record.handler =
                lane.routes().handler(record.execution.pipeline(), &record.arguments).cloned();
        }
        self.taken = true;
        Some(Box::new(self.seated(record, lane)))
    }

    fn seated(&mut self, record: Record, lane: Arc<Lane>) -> Driver {
        let span = tracing::Span::current();
        span.record("execution", record.execution.as_str());
        span.record("queue", lane.name.as_str());
        span.record("handler", record.handler.as_deref().unwrap_or("none"));
        if let Some(trace) = &record.trace {
            span.record("trace_id", trace.trace_id());
        }
        let parked = self.parked.take();
        let mut driver = Driver {
            policy: self.shared.policy(&lane, record.handler.as_deref()),
            phase: parked.as_ref().map_or_else(|| self.shared.phase(), |_| Phase::Running),
            messages: Vec::new(),
            sent: None,
            wants: Wants::default(),
            wake: None,
            crowded: None,
            weight: None,
            reservation: None,
            slot: None,
            leave: None,
            entering: None,
            trusted: None,
            cleanup: None,
            trial: None,
            berth: None,
            hindrance: None,
            starts: false,
            call: None,
            asked: FuturesUnordered::new(),
            pending: Pending::Nothing,
            backlog: VecDeque::new(),
            unwritten: None,
            failures: Failures::default(),
            grace: None,
            flagged: false,
            read: self.shared.clock.now(),
            claim: None,
            watched: None,
            left: false,
            shared: self.shared.clone(),
            seat: self.seat.clone(),
            lane,
            state: State::new(record),
        };
        if let Some(row) = parked {
            driver.state.local = row.local;
            driver.messages = row.messages;
            (driver.sent, driver.wants, driver.wake) = (row.sent, row.wants, row.wake);
            (driver.crowded, driver.claim) = (row.crowded, row.claim);
            driver.seat.show(|face| face.progress = row.progress);
        }
        driver.show();
        driver
    }
}

/// Without a driver, the inputs of the step are dropped and come back by themselves.
impl Drop for Place {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        for held in self.parked.iter().flat_map(|row| &row.messages) {
            self.shared.lane_at(held).messages.forget([&held.id]);
        }
        self.shared.strike(&self.token, &self.seat);
    }
}
