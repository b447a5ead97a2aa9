//! What a daemon takes of its machine, looked at now and then.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::daemon::Daemon;

/// What is looked at, and its unit.
pub const COLUMNS: [(&str, &str); 7] = [
    ("resident memory", "KiB"),
    ("anonymous memory", "KiB"),
    ("file descriptors", ""),
    ("threads", ""),
    ("programs", ""),
    ("metric series", ""),
    ("ledger", "KiB"),
];

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Duration,
    pub values: [f64; COLUMNS.len()],
}

#[derive(Default)]
pub struct Samples([Vec<Sample>; 2]);

impl Sample {
    /// None while the daemon does not answer: it is only just starting.
    pub async fn of(daemon: &Daemon, folder: &Path, at: Duration) -> Option<Self> {
        let pid = daemon.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        let (_, metrics) = daemon.status("/metrics").await?;
        let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
        let files = fs::read_dir(folder.join("ledger")).ok()?.flatten();
        let bytes: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        let values = [
            number("VmRSS")?,
            number("RssAnon")?,
            count(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()),
            number("Threads")?,
            count(programs_of(pid)),
            count(series),
            count(usize::try_from(bytes / 1024).ok()?),
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
        for (name, unit) in COLUMNS {
            let _ = write!(text, ",{name} {unit}");
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

/// How many processes have this one for their parent.
pub fn programs_of(pid: u32) -> usize {
    let parent = |entry: fs::DirEntry| -> Option<u32> {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    fs::read_dir("/proc").expect("Linux").flatten().filter_map(parent).filter(|parent| *parent == pid).count()
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
    let both: f64 = samples.iter().map(|sample| (hours(sample) - middle) * (sample.values[column] - level)).sum();
    let spread: f64 = samples.iter().map(|sample| (hours(sample) - middle).powi(2)).sum();
    if spread > 0.0 { both / spread } else { 0.0 }
}
