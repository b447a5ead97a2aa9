//! Obeys the orders that commands of this machine leave in files: pauses and resumes queues and
//! handlers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::engine::Intake;
use crate::orders::{About, Kind, OrderError, Orders, Reading};
use crate::step::QueueUrl;

/// How often the files are read: an order is obeyed soon enough, and an idle daemon hardly wakes.
const EVERY: Duration = Duration::from_secs(2);

/// The orders, and which of them are known.
pub(super) struct Obedience {
    orders: Orders,
    /// What was resumed, and when: an order to resume is obeyed once.
    resumed: BTreeSet<(String, Timestamp)>,
    unreadable: BTreeSet<PathBuf>,
    failing: bool,
}

impl Obedience {
    /// Reads the orders that were given before the daemon was started, and returns what is paused.
    /// The disk is one that the daemon needs anyway.
    pub(super) async fn begin(orders: Orders) -> (Self, Paused) {
        let (resumed, unreadable) = (BTreeSet::new(), BTreeSet::new());
        let mut obedience = Self { orders, resumed, unreadable, failing: false };
        let reading = obedience.read().await;
        let reading = reading.unwrap_or_default();
        obedience.newly_resumed(&reading);
        let paused = paused(&reading);
        (obedience, paused)
    }

    /// Obeys until `until` is cancelled. Orders that cannot be read leave everything as it is.
    pub(super) async fn obey(mut self, intake: Intake, until: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while until.run_until_cancelled(ticks.tick()).await.is_some() {
            // A disk that hangs holds up nothing else.
            let Some(reading) = until.run_until_cancelled(self.read()).await else { return };
            let Some(reading) = reading else { continue };
            let Paused { queues, handlers } = paused(&reading);
            intake.pause_only(&queues);
            intake.hold_only(&handlers);
            for about in self.newly_resumed(&reading) {
                match about {
                    About::Queue(queue) => intake.close_breakers(&queue),
                    About::Handler(handler) => intake.close_breaker(&handler),
                }
            }
        }
    }

    async fn read(&mut self) -> Option<Reading> {
        let orders = self.orders.clone();
        let read = spawn_blocking(move || orders.read()).await;
        match read.ok()? {
            Ok(reading) => {
                self.failing = false;
                self.complain(&reading);
                Some(reading)
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn fail(&mut self, error: &OrderError) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                event = "orders_unreadable",
                %error,
                "orders to pause or resume queues and handlers cannot be read; those that were \
                 read before stay in force, and after a start nothing is paused: give the \
                 directory to the user of the daemon"
            );
        }
    }

    /// Each file is told once, until it is read again.
    fn complain(&mut self, reading: &Reading) {
        let is_one = |path: &PathBuf| reading.unreadable.iter().any(|(other, _)| other == path);
        self.unreadable.retain(is_one);
        for (path, why) in &reading.unreadable {
            if self.unreadable.insert(path.clone()) {
                tracing::error!(
                    event = "order_unreadable",
                    path = %path.display(),
                    why,
                    "an order to pause or resume something cannot be read and has no effect; give \
                     it again"
                );
            }
        }
    }

    /// What was ordered to be resumed since the last call.
    fn newly_resumed(&mut self, reading: &Reading) -> Vec<About> {
        let mut news = Vec::new();
        let mut resumed = BTreeSet::new();
        for order in reading.orders.iter().filter(|order| order.order == Kind::Resume) {
            let name = match &order.about {
                About::Queue(queue) => queue.as_str(),
                About::Handler(name) => name,
            };
            let known = (name.to_owned(), order.at);
            if !self.resumed.contains(&known) {
                news.push(order.about.clone());
            }
            resumed.insert(known);
        }
        self.resumed = resumed;
        news
    }
}

/// What is paused by order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Paused {
    pub(super) queues: Vec<QueueUrl>,
    pub(super) handlers: Vec<String>,
}

fn paused(reading: &Reading) -> Paused {
    let mut paused = Paused::default();
    for (about, _) in reading.paused() {
        match about {
            About::Queue(queue) => paused.queues.push(queue.clone()),
            About::Handler(name) => paused.handlers.push(name.clone()),
        }
    }
    paused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::Order;

    #[tokio::test]
    async fn an_order_to_resume_is_obeyed_once_and_not_again_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let orders = Orders::beside(&folder.path().join("ledger.db"));
        let queue: QueueUrl =
            "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a URL");
        let give = |kind, second| {
            let at = Timestamp::from_second(second).expect("a time");
            for about in [About::Queue(queue.clone()), About::Handler("h".to_owned())] {
                orders.give(&Order { about, order: kind, at }).expect("it is ours");
            }
        };
        let both = [About::Handler("h".to_owned()), About::Queue(queue.clone())];
        let resumed = |obedience: &mut Obedience, reading: &Reading| {
            let mut news = obedience.newly_resumed(reading);
            news.sort_by_key(|about| matches!(about, About::Queue(_)));
            news
        };
        give(Kind::Pause, 1);
        let (mut obedience, paused) = Obedience::begin(orders.clone()).await;
        let all = Paused { queues: vec![queue.clone()], handlers: vec!["h".to_owned()] };
        assert_eq!(paused, all);
        give(Kind::Resume, 2);
        let reading = obedience.read().await.expect("it is ours");
        assert_eq!(resumed(&mut obedience, &reading), both);
        assert!(obedience.newly_resumed(&reading).is_empty());
        let (mut next, paused) = Obedience::begin(orders.clone()).await;
        assert!(paused == Paused::default() && next.newly_resumed(&reading).is_empty());
        give(Kind::Resume, 3);
        let reading = next.read().await.expect("it is ours");
        assert_eq!(resumed(&mut next, &reading), both);
    }

    #[tokio::test]
    async fn orders_that_cannot_be_read_change_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("orders");
        std::fs::write(&file, "").expect("it is ours");
        let (mut obedience, paused) = Obedience::begin(Orders::beside(&file)).await;
        assert!(
            paused == Paused::default() && obedience.failing && obedience.read().await.is_none()
        );
        std::fs::remove_file(file).expect("it is ours");
        assert!(obedience.read().await.is_some() && !obedience.failing);
    }
}
