//! The engine as it ships, over a queue, a SageMaker and a disk in memory, under paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

mod answers;
mod bench;
mod daemon_stops;
mod edges;
mod faults;
mod host;
mod intake;
mod limits;
mod outages;
mod progress;
mod retries;
mod steps_run;
mod steps_stop;
mod traces;
mod world;
