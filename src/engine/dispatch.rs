//! The way to a step: an input goes to the step's driver, which is started if there is none.

use std::sync::{Arc, Weak};

use tokio::sync::OwnedSemaphorePermit;

use super::driver::{self, Origin};
use super::gates::{Grants, Permit, Slot};
use super::inbox::{Absent, Input, Turn};
use super::shared::Shared;
use crate::step::CallbackToken;

/// Sends an input to a step. If the step is not in hand, its driver is started from `origin`.
pub(crate) fn send_or_start(
    shared: &Arc<Shared>,
    token: &CallbackToken,
    input: Input,
    origin: Origin,
) {
    if let Some(start) = shared.steps.send(token, input, Absent::Start) {
        driver::spawn(shared, token.clone(), start, origin, None);
    }
}

/// Sends an input to a step in the ledger, once there is a permit to wake it.
pub(crate) async fn wake(
    shared: &Arc<Shared>,
    token: &CallbackToken,
    input: Input,
    absent: Absent,
) {
    let waking = leave_to_wake(shared).await;
    if let Some(start) = shared.steps.send(token, input, absent) {
        driver::spawn(shared, token.clone(), start, Origin::Ledger, waking);
    }
}

/// Sends an input to a step in hand; otherwise does nothing.
pub(crate) fn tell(shared: &Arc<Shared>, token: &CallbackToken, input: Input) {
    if let Some(start) = shared.steps.send(token, input, Absent::Skip) {
        driver::spawn(shared, token.clone(), start, Origin::Ledger, None);
    }
}

/// Bounds how many steps read their records at once, even if a hundred thousand are due together.
async fn leave_to_wake(shared: &Arc<Shared>) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed.
    shared.waking.clone().acquire_owned().await.ok()
}

/// Tells a step that its turn has come.
pub(crate) struct Turns {
    shared: Weak<Shared>,
    turn: Turn,
}

impl Turns {
    pub(crate) fn new(shared: &Arc<Shared>, turn: Turn) -> Self {
        Self { shared: Arc::downgrade(shared), turn }
    }
}

impl Grants<Permit> for Turns {
    fn granted(&self, token: CallbackToken, permit: Permit) {
        if let Some(shared) = self.shared.upgrade() {
            tell(&shared, &token, Input::Turn(self.turn, permit));
        }
    }
}

/// Tells a step that it has been given a free slot.
pub(crate) struct FreeSlots(Weak<Shared>);

impl FreeSlots {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

impl Grants<Slot> for FreeSlots {
    fn granted(&self, token: CallbackToken, slot: Slot) {
        if let Some(shared) = self.0.upgrade() {
            tell(&shared, &token, Input::Slot(slot));
        }
    }
}
