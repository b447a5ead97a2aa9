//! What callbackd costs, compared with a bare loop on the same SDK and with what people use today.
//!
//! ```text
//! cargo bench --bench bench                                  # everything, some 20 minutes
//! cargo bench --bench bench -- cost --rounds 3               # one part of it
//! cargo bench --bench bench -- memory --parked 100000
//! cargo bench --bench bench -- --json figures.json           # also the figures of each run
//! ```
//!
//! Everything runs in one go on this machine: the local endpoint in a process on one core, and on
//! another core, one after another in interleaved rounds, each program that answers the steps of
//! its queue. Compared are the *bare loop* (receive ten, report each, delete ten; no one can do it
//! for less on this SDK), a worker on the library with a handler that does nothing, and boto3. The
//! figures are processor time and counts; the wall-clock time is shown, and depends on the machine.
//! Nothing here fails for being slow; what a build server can verify, calls and commits and
//! allocations per step, is in `tests/cost.rs`.
//!
//! `cargo bench` builds with the settings of `--release`, in the same directory. This binary is
//! also each separate process: the endpoint, the loop, the worker (`Registry::main` with the
//! handlers of [`handlers`], as in a user's own binary).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]

#[path = "../support/venv.rs"]
mod venv;

mod account;
mod bare;
mod contest;
mod endpoint;
mod handlers;
mod http;
mod latency;
mod ledger;
mod machine;
mod memory;
mod options;
mod scrape;
mod start;
mod table;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use machine::Machine;
use options::{Options, Part};
use table::Figures;

/// As the stock worker; the bare loop has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let rest: Vec<&str> = arguments.iter().skip(2).map(String::as_str).collect();
    match arguments.get(1).map(String::as_str) {
        Some("endpoint") => endpoint::run(rest.first().copied()),
        Some("bare") => bare::run(rest[0], rest[1], rest[2].parse().expect("a concurrency")),
        Some("run") => return handlers::registry().main(),
        Some("fill-ledger") => ledger::fill(rest[0].as_ref(), rest[1].parse().expect("a number")),
        Some("ledger-alone") => ledger::alone(rest[0].as_ref(), rest[1].parse().expect("a number")),
        _ => compare(&Options::parse().checked()),
    }
    ExitCode::SUCCESS
}

fn compare(options: &Options) {
    let machine = Machine::take();
    let mut figures = Figures::default();
    println!("{machine}");
    for part in options.parts() {
        match part {
            Part::Cost => contest::cost(&machine, options, &mut figures),
            Part::Exec => contest::exec(&machine, options, &mut figures),
            Part::Ledger => ledger::measure(&machine, options, &mut figures),
            Part::Start => start::first_poll(&machine, options, &mut figures),
            Part::Flat => contest::flat(&machine, options, &mut figures),
            Part::Latency => latency::measure(&machine, options, &mut figures),
            Part::Memory => memory::measure(&machine, options, &mut figures),
            Part::Scrape => scrape::measure(&machine, options, &mut figures),
        }
    }
    if let Some(file) = &options.json {
        figures.write(file);
    }
}
