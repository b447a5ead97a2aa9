//! What a scrape of `/metrics` takes while many steps are in hand.
//!
//! The worker does its usual work meanwhile: it polls, keeps the steps' messages invisible and
//! watches for stops. Its processor time for that is measured before, and taken off. On a busy
//! machine the highest times tell of the other load.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::account::Account;
use crate::http::Http;
use crate::machine::Machine;
use crate::options::Options;
use crate::table::{self, Figures, percentile};
use crate::worker::{Ledger, Setup, Worker};

/// Scrapers come rarely, so that the caches have other things in them.
const PACE: Duration = Duration::from_millis(50);
/// How long it is watched without a scrape.
const USUAL: Duration = Duration::from_secs(10);
/// In milliseconds.
const BUDGET: f64 = 5.0;

pub fn measure(machine: &Machine, options: &Options, figures: &mut Figures) {
    let mut lines = Vec::new();
    for (what, does, concurrency) in [
        ("waiting to be called again", "again", 64),
        ("deferred", "defer", 64),
        ("running", "wait", options.held),
    ] {
        let account = Account::open(machine, None);
        account.count_calls(Duration::ZERO);
        let mut worker =
            Worker::start(machine, &account, &Setup::new(Ledger::Sqlite, concurrency, does));
        worker.wait_for_poll(&account);
        account.start(options.held);
        worker.wait_for("callbackd_pickup_seconds_count", options.held as f64);
        let cpu = || worker.process.cpu();
        let before = cpu();
        std::thread::sleep(USUAL);
        let usual = cpu().saturating_sub(before).as_secs_f64() / USUAL.as_secs_f64();
        let scraper = Http::to(worker.status);
        let bytes = scraper.send("GET", "/metrics", "", "").len();
        let (before, begun) = (cpu(), Instant::now());
        let mut took: Vec<f64> = (0..options.scrapes)
            .map(|_| {
                std::thread::sleep(PACE);
                let begun = Instant::now();
                scraper.send("GET", "/metrics", "", "");
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        let used = cpu().saturating_sub(before).as_secs_f64();
        let used = (used - usual * begun.elapsed().as_secs_f64()) * 1e3 / took.len() as f64;
        let mean = took.iter().sum::<f64>() / took.len() as f64;
        let [half, most] = [50, 99].map(|percent| percentile(&mut took, percent));
        let over = if most > BUDGET { " !" } else { "" };
        lines.push(vec![
            format!("{} {what}", options.held),
            format!("{used:.2} ms"),
            format!("{mean:.2} ms"),
            format!("{half:.2} ms"),
            format!("{most:.2} ms"),
            format!("≤ {BUDGET} ms{over}"),
            format!("{bytes}"),
        ]);
        let all = json!({"cpu": used, "mean": mean, "p50": half, "p99": most, "bytes": bytes});
        figures.add("scrape", what, all);
    }
    let title = format!(
        "A scrape beside steps in hand ({} scrapes, one each {} ms)",
        options.scrapes,
        PACE.as_millis()
    );
    table::print(&title, &["", "processor", "mean", "p50", "p99", "budget, p99", "bytes"], &lines);
}
