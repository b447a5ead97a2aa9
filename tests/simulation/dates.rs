//! What the service that keeps a shared ledger dates its answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::clock::{Clock, ServiceClock};
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

use crate::clocks::Machine;
use crate::world::World;

/// The service as one process hears it.
#[derive(Clone)]
pub struct Service {
    world: Arc<World>,
    heard: ServiceClock,
    chance: Arc<Mutex<Chance>>,
}

struct Chance {
    random: Rng,
    was_odd: bool,
}

/// One date in so many is wrong; never two on end.
const ODD: u32 = 20;
/// By how many seconds at most.
const OFF: i64 = 48 * 3_600;

impl Service {
    /// A process has opened the ledger, which takes some calls.
    pub fn opened(world: &Arc<World>, seed: u64) -> Self {
        let heard = ServiceClock::on(Box::new(Machine(world.clone())));
        let chance = Chance { random: Rng::with_seed(seed), was_odd: false };
        let service = Self { world: world.clone(), heard, chance: Arc::new(Mutex::new(chance)) };
        for _ in 0..2 {
            service.answers(service.date(), world.passed());
        }
        service
    }

    pub fn clock(&self) -> Clock {
        Clock::of(Box::new(self.heard.clone()))
    }

    /// What an answer is dated that is given now.
    pub fn date(&self) -> Timestamp {
        let now = self.world.now().as_second();
        let mut chance = self.chance.lock().expect("not poisoned");
        chance.was_odd =
            self.world.has_faults() && !chance.was_odd && chance.random.u32(..ODD) == 0;
        let off = if chance.was_odd { chance.random.i64(-OFF..=OFF) } else { 0 };
        drop(chance);
        if off != 0 {
            self.world.count("fault: an odd date");
        }
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(now + off)
    }

    /// An answer has come.
    pub fn answers(&self, date: Timestamp, asked: Duration) {
        self.heard.hear(date, asked);
    }
}
