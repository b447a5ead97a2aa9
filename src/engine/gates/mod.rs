//! What bounds the work of one queue, and what may start beside what. A step that waits for its
//! turn is a token in a line, not a task: a permit that comes free is handed to it by a call.

mod gate;
mod grants;
mod line;
mod slots;
mod trial;

pub(crate) use gate::{Gate, Permit};
pub(crate) use grants::Grants;
pub(crate) use slots::{Reservation, Slot, Slots};
pub(crate) use trial::{Leave, Trials};
