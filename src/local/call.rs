//! What every operation gets beside its input: the time, names, switches, and the receiver of
//! events.

use super::clock::Time;
use super::events::{EventKind, Events};
use super::faults::{Misbehaviour, Plan};
use super::ids::Ids;
use super::undocumented::Undocumented;

/// The context of one operation.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub now: Time,
    pub ids: &'a mut Ids,
    pub undocumented: &'a Undocumented,
    pub events: &'a Events,
    /// The faults of this call.
    pub misbehaviour: &'a Misbehaviour,
    /// For the messages that the call makes a pipeline send.
    pub plan: &'a mut Plan,
}

impl Call<'_> {
    pub(super) fn tell(&self, kind: impl FnOnce() -> EventKind) {
        self.events.tell(self.now, kind);
    }
}
