//! A daemon's use of its machine, sampled regularly.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::daemon::Daemon;

/// One measured quantity.
pub struct Column {
    pub name: &'static str,
    pub unit: &'static str,
    /// How much it may grow in an hour.
    pub growth: f64,
    /// How much more of it there may be at the end than at the start; `None` if it need not go
    /// back.
    pub left: Option<f64>,
}

/// An hour has some 4,500 steps of one queue. What is there for steps in hand comes and goes with
/// the weather, so that only what every tenth step left behind would show in its slope; what any
/// five did shows when all is done.
const OF_TEN: f64 = 450.0;

/// In the order of a sample's values.
pub const COLUMNS: [Column; 12] = [
    // Less than half a KiB a step: an allocator's arenas get a little more ragged for hours. What
    // is not anonymous is the program itself, page by page as it is first used.
    column("resident memory", "KiB", 2048.0, None),
    column("anonymous memory", "KiB", 2048.0, None),
    // Some for each connection and each program. A worker at rest polls on one, and gives back what
    // it cannot read on another or two.
    column("file descriptors", "", OF_TEN, Some(4.0)),
    // Those that work, write the ledger and start programs; what blocks has one for a while, and
    // one more in ten minutes is 13 an hour.
    column("threads", "", 20.0, Some(2.0)),
    // One or two for each connection and each step in hand.
    column("tasks", "", OF_TEN, Some(4.0)),
    column("programs", "", OF_TEN, Some(0.0)),
    column("steps running", "", OF_TEN, Some(0.0)),
    column("messages held", "", OF_TEN, Some(0.0)),
    // Each error of each operation makes one when it first comes. There are some sixty, and rare
    // ones come late.
    column("metric series", "", 100.0, None),
    // As many as are settled in a retention, and up to a tenth more until the next purge.
    column("records", "", OF_TEN, None),
    // Freed pages are used again: it is as large as the most records that there ever were.
    column("ledger", "KiB", 256.0, None),
    // Written from the beginning again after 4 MiB; a reader lets it grow by some commits more.
    column("ledger's log", "KiB", 256.0, None),
];

const fn column(name: &'static str, unit: &'static str, growth: f64, left: Option<f64>) -> Column {
    Column { name, unit, growth, left }
}

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Duration,
    pub values: [f64; COLUMNS.len()],
}

#[derive(Default)]
pub struct Samples([Vec<Sample>; 2]);

impl Column {
    /// Whether no more of it is left than may be, `leeway` times that where idle connections are
    /// not waited for.
    pub fn is_back(&self, before: f64, after: f64, leeway: f64) -> bool {
        self.left.is_none_or(|left| after <= before + left * leeway)
    }
}

impl Sample {
    /// `ledger` is the file, and `records` how many it holds. None while the daemon does not
    /// answer: it is only just starting.
    pub async fn of(daemon: &Daemon, ledger: &Path, records: usize, at: Duration) -> Option<Self> {
        let pid = daemon.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        let (_, metrics) = daemon.status("/metrics").await?;
        let series: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        let sum = |name: &str| -> f64 {
            let value =
                |line: &&str| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<f64>().ok();
            series.iter().filter_map(value).sum()
        };
        let size = |suffix: &str| {
            let path = format!("{}{suffix}", ledger.display());
            fs::metadata(path)
                .map_or(0.0, |file| count(usize::try_from(file.len() / 1024).unwrap_or(usize::MAX)))
        };
        let values = [
            number("VmRSS")?,
            number("RssAnon")?,
            count(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()),
            number("Threads")?,
            sum("callbackd_tasks "),
            count(programs_of(pid)),
            sum("callbackd_steps_running{"),
            sum("callbackd_messages_held{"),
            count(series.len()),
            count(records),
            size(""),
            size("-wal"),
        ];
        Some(Self { at, values })
    }
}

impl Samples {
    pub fn add(&mut self, daemon: usize, sample: Sample) {
        self.0[daemon].push(sample);
    }

    pub fn of(&self, daemon: usize) -> &[Sample] {
        &self.0[daemon]
    }

    pub fn csv(&self) -> String {
        let mut text = "daemon,seconds".to_owned();
        for Column { name, unit, .. } in COLUMNS {
            let _ = write!(text, ",{}", format!("{name} {unit}").trim_end());
        }
        for (number, samples) in self.0.iter().enumerate() {
            for Sample { at, values } in samples {
                let _ = write!(text, "\n{},{}", ["steady", "battered"][number], at.as_secs());
                for value in values {
                    let _ = write!(text, ",{value}");
                }
            }
        }
        text + "\n"
    }
}

/// How many runs of programs a daemon has: each has a process under the one that starts them all.
pub fn programs_of(pid: u32) -> usize {
    let process = |entry: fs::DirEntry| -> Option<(u32, u32)> {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, parent))
    };
    let all: Vec<_> = fs::read_dir("/proc").expect("Linux").flatten().filter_map(process).collect();
    let of = |parent: u32| {
        all.iter().filter(move |(_, other)| *other == parent).map(|(child, _)| *child)
    };
    of(pid).flat_map(of).count()
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The slope of a column per hour, by least squares.
pub fn per_hour(samples: &[Sample], column: usize) -> f64 {
    let number = count(samples.len());
    let hours = |sample: &Sample| sample.at.as_secs_f64() / 3600.0;
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>() / number;
    let (middle, level) = (mean(&hours), mean(&|sample| sample.values[column]));
    let both: f64 = samples
        .iter()
        .map(|sample| (hours(sample) - middle) * (sample.values[column] - level))
        .sum();
    let spread: f64 = samples.iter().map(|sample| (hours(sample) - middle).powi(2)).sum();
    if spread > 0.0 { both / spread } else { 0.0 }
}
