//! An operator who does not wait for the next attempts of steps, as `callbackd retry` does.

use std::sync::Arc;
use std::time::Duration;

use callbackd::engine::Retries;
use callbackd::ledger::{Filter, Memory};
use callbackd::lifecycle::{Record, Status};
use fastrand::Rng;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::approval::ledger_of_a_command;
use crate::life::Life;

/// Asks one process, as long as it lives.
pub struct Impatience {
    pub life: Arc<Life>,
    pub held: Memory,
    pub random: Rng,
}

impl Impatience {
    pub async fn insist(self, retries: oneshot::Receiver<Retries>) {
        let life = self.life.clone();
        let asking = async {
            if let Ok(retries) = retries.await {
                self.ask(retries).await;
            }
        };
        tokio::select! {
            biased;
            () = life.ended() => {}
            () = asking => {}
        }
    }

    async fn ask(mut self, retries: Retries) {
        let ledger = ledger_of_a_command(&self.life.world, &self.held);
        loop {
            sleep(Duration::from_secs(self.random.u64(20..900))).await;
            let statuses = [Status::Waiting, Status::Claimed, Status::Deferred];
            let page = ledger.page(Filter::of(&statuses)).await.expect("memory works");
            let steps: Vec<Record> = page.found.into_iter().flatten().collect();
            if steps.is_empty() {
                continue;
            }
            let step = &steps[self.random.usize(..steps.len())];
            let asked = retries.retry(&step.token).await;
            let how = if asked.is_ok() { "tried again at once" } else { "a retry is refused" };
            self.life.world.count(&format!("path: {how}"));
            self.life.world.note(&format!("{} is to be tried again: {asked:?}", step.token));
        }
    }
}
