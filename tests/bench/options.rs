//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures what callbackd costs, compared with a bare loop on the same SDK and boto3.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// Which parts; all by default.
    parts: Vec<Part>,
    /// How often each contestant runs.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Steps of one run.
    #[arg(long, default_value_t = 3_000)]
    pub steps: usize,
    /// Waiting steps whose memory is measured.
    #[arg(long, default_value_t = 20_000)]
    pub parked: usize,
    /// Running steps whose memory is measured.
    #[arg(long, default_value_t = 2_000)]
    pub running: usize,
    /// Steps in hand during the scrapes.
    #[arg(long, default_value_t = 10_000)]
    pub held: usize,
    /// How often `/metrics` is scraped.
    #[arg(long, default_value_t = 500)]
    pub scrapes: usize,
    /// Settled records of a full ledger.
    #[arg(long, default_value_t = 100_000)]
    pub records: usize,
    /// Also write the figures of each run to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Passed by `cargo bench` to every target.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Processor time, calls and commits of a step that does nothing.
    Cost,
    /// The same where each step is a program.
    Exec,
    /// The ledger alone.
    Ledger,
    /// From the start to the first poll.
    Start,
    /// The cost of a step beside few and many records.
    Flat,
    /// From a message to the handler: pickup, and a stop.
    Latency,
    /// Of an idle worker, a waiting step, a deferred one, a running one.
    Memory,
    /// Of `/metrics`, beside many steps in hand.
    Scrape,
}

impl Options {
    /// Without `cargo bench`, as in `cargo test --benches`, it only shows that everything runs.
    pub fn checked(self) -> Self {
        if self.bench {
            return self;
        }
        let few = Self { parked: 60, running: 30, held: 30, records: 200, ..self };
        Self { rounds: 1, steps: 60, scrapes: 5, ..few }
    }

    pub fn parts(&self) -> &[Part] {
        if self.parts.is_empty() { Part::value_variants() } else { &self.parts }
    }
}
