//! The clocks of the machine that the workers run on.

use std::sync::Arc;
use std::time::Duration;

use callbackd::clock::Source;
use jiff::Timestamp;

use crate::world::World;

/// What the kernel tells a process: time that counts suspension, and what the wall clock shows.
pub struct Machine(pub Arc<World>);

impl Source for Machine {
    fn elapsed(&self) -> Duration {
        self.0.passed()
    }

    fn wall(&self) -> Timestamp {
        self.0.shown()
    }
}
