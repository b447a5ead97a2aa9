//! Bounds the work of one queue, and decides what may start beside what. A waiting step is a token
//! in a line, not a task: a free permit is handed to it by a call.

mod gate;
mod grants;
mod line;
mod slots;
mod trial;

pub(crate) use gate::{Gate, Permit};
pub(crate) use grants::Grants;
pub(crate) use slots::{AHEAD, Reservation, Slot, Slots};
pub(crate) use trial::{Leave, Trials};
