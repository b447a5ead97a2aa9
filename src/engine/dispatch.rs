//! The way to a step: what reaches it goes to its driver, which is started if there is none.

use std::sync::{Arc, Weak};

use tokio::sync::OwnedSemaphorePermit;

use super::driver::{self, Origin};
use super::gates::{Grants, Permit, Slot};
use super::inbox::{Absent, Input, Turn};
use super::shared::Shared;
use crate::step::CallbackToken;

/// Hands an input to a step. If nothing is known of the step here, its driver is started from
/// `origin`.
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

/// Hands an input to a step that is in the ledger, once there is leave to wake it.
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

/// Hands an input to a step that is here; if it is not, nothing becomes of it.
pub(crate) fn tell(shared: &Arc<Shared>, token: &CallbackToken, input: Input) {
    if let Some(start) = shared.steps.send(token, input, Absent::Skip) {
        driver::spawn(shared, token.clone(), start, Origin::Ledger, None);
    }
}

/// Bounds how many steps read their records at once, though a hundred thousand are due together.
async fn leave_to_wake(shared: &Arc<Shared>) -> Option<OwnedSemaphorePermit> {
    // Never closed.
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

/// Tells a step that a work slot is free for it.
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
