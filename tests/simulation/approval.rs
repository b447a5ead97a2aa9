//! Someone answers a deferred step through the ledger, as `callbackd complete` does.

use std::sync::Arc;
use std::time::Duration;

use callbackd::clock::Clock;
use callbackd::ledger::{Commit, Ledger, Memory, Store, Written};
use callbackd::lifecycle::{Completed, Unanswerable, WorkerId, complete};
use callbackd::outcome::{Outcome, Outputs, Reason};
use tokio::time::sleep;

use crate::clocks::Machine;
use crate::dates::Service;
use crate::judge::Seen;
use crate::world::World;

/// A person who was asked too early tries again this often, after this pause.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(30);

/// An answer that someone gives.
pub struct Approval {
    pub world: Arc<World>,
    pub held: Memory,
    /// Which ledger it is.
    pub ledger: u8,
    pub token: String,
}

/// The ledger as a command opens it, beside its workers.
pub fn ledger_of_a_command(world: &Arc<World>, held: &Memory) -> Ledger {
    let clock = if held.workers().is_some() {
        Service::opened(world, 0).clock()
    } else {
        Clock::of(Box::new(Machine(world.clone())))
    };
    let (store, me) = (Arc::new(held.clone()), WorkerId("command".into()));
    Ledger::new(store, me, Duration::from_mins(1), clock, Arc::new(()))
}

impl Approval {
    /// Gives the answer, unless the step takes none any more.
    pub async fn give(self, success: bool) {
        let ledger = ledger_of_a_command(&self.world, &self.held);
        for _ in 0..TRIES {
            if self.is_given(&ledger, success).await {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether there is nothing more to do.
    async fn is_given(&self, ledger: &Ledger, success: bool) -> bool {
        let token = self.token.parse().expect("a token");
        let Some(record) = ledger.load(&token).await.expect("memory works") else { return false };
        let answer = if success {
            Outcome::Success(Outputs::of([("x", 1)]).expect("an output"))
        } else {
            Outcome::Failure(Reason::new("rejected"))
        };
        match complete(&record, answer, ledger.now()) {
            Ok(Completed::Now(record)) => {
                let written = ledger.write(*record, Commit::Now).await.expect("memory works");
                // A command reads and writes within one moment here.
                assert!(matches!(written, Written::Done(_)), "{written:?}");
                self.world.count("path: answered through the ledger");
                self.world.see(&Seen::Concluded { ledger: self.ledger, token: self.token.clone() });
                ledger.announce(&token).await.expect("memory works");
                true
            }
            Err(Unanswerable::NotDeferred(_)) => false,
            Ok(Completed::Before) | Err(_) => {
                self.world.count("path: an answer through the ledger is refused");
                true
            }
        }
    }
}
