//! One life of a worker's process. When it ends, nothing that it was about to do happens any more.
//!
//! Its tasks stay in the runtime, but every outside call hangs from then on. So a crash is exactly
//! that: an effect that did not happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio_util::sync::CancellationToken;

use crate::judge::{Seen, Worker};
use crate::world::World;

/// Calls that change nothing outside, or only that this worker lives; dying there is dying at any
/// moment, which the plan covers too.
const LOOKS: [&str; 7] =
    ["list", "get", "look", "purge", "probe", "renew", "DescribePipelineExecution"];

pub struct Life {
    pub worker: Worker,
    pub world: Arc<World>,
    over: CancellationToken,
    draining: AtomicBool,
    /// Boundaries of effects that are still to be crossed.
    left: AtomicI64,
    /// How the names of those begin that count.
    counted: &'static str,
}

impl Life {
    /// A life that ends at the n-th boundary of an effect whose name begins with this, if at any.
    pub fn new(world: &Arc<World>, worker: Worker, end: Option<(&'static str, i64)>) -> Arc<Self> {
        let (counted, crossings) = end.unwrap_or(("", i64::MAX));
        let (over, left) = (CancellationToken::new(), AtomicI64::new(crossings));
        let draining = AtomicBool::new(false);
        Arc::new(Self { worker, world: world.clone(), over, draining, left, counted })
    }

    pub fn name(&self) -> String {
        format!("w{}.{}", self.worker.ledger, self.worker.process)
    }

    /// The boundary of an effect: the process may die here.
    pub async fn cross(&self, place: &str) {
        let looks = LOOKS.iter().any(|look| place.starts_with(look));
        let counts = place.starts_with(self.counted) && !looks;
        if !self.is_over()
            && counts
            && self.left.fetch_sub(1, Ordering::SeqCst) <= 1
            && self.world.has_faults()
        {
            self.world.count(&format!("crash: {place}"));
            self.end(place);
        }
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }

    /// The result of `outside`, as long as the process lives.
    pub async fn while_it_lasts<T>(&self, outside: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.over.cancelled() => std::future::pending().await,
            done = outside => done,
        }
    }

    pub fn see(&self, seen: &Seen<String>) {
        if !self.is_over() {
            self.world.see(seen);
        }
    }

    /// It ends here and now.
    pub fn end(&self, place: &str) {
        if !self.is_over() {
            self.world.note(&format!("{} dies: {place}", self.name()));
            self.world.see(&Seen::Died { worker: self.worker });
            self.world.life_ended(self.worker);
            self.over.cancel();
        }
    }

    /// It was told to drain.
    pub fn drains(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.see(&Seen::Draining { worker: self.worker });
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    pub async fn ended(&self) {
        self.over.cancelled().await;
    }
}
