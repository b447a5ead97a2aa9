//! Prometheus' standard `process_*` metrics, read from `/proc` at each scrape; absent without
//! `/proc`. They are six numbers, for which the `procfs` crate would parse every field of four
//! files.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The unit of times in `/proc/*/stat`, proc(5): `USER_HZ`, which Linux fixes at 100 for user space
/// on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct ProcessStat {
    /// Seconds since the epoch.
    started: Option<f64>,
}

impl ProcessStat {
    /// `/proc/stat` has a line for each interrupt on large machines, so it is read only once.
    pub(super) fn new() -> Self {
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
        let started = read_stat().map(|stat| stat.started_after_boot);
        Self { started: boot.zip(started).map(|(boot, after)| boot + after) }
    }
}

impl Collector for ProcessStat {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut gauge = |name, help, unit: Option<&Unit>, value: Option<f64>| match value {
            None => Ok(()),
            Some(value) => {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
            }
        };
        let status = fs::read_to_string("/proc/self/status").ok();
        let resident = status.and_then(|text| resident_bytes(&text));
        gauge("process_resident_memory", "Memory in RAM", Some(&Unit::Bytes), resident)?;
        gauge(
            "process_start_time",
            "When the process started, since the epoch",
            Some(&Unit::Seconds),
            self.started,
        )?;
        gauge("process_open_fds", "Open file descriptors", None, open_files())?;
        gauge("process_max_fds", "The limit on open file descriptors", None, max_files())?;
        if let Some(stat) = read_stat() {
            let cpu = ConstCounter::new(stat.cpu);
            let help = "Processor time used, user and system";
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// In seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu: f64,
    started_after_boot: f64,
}

fn read_stat() -> Option<Stat> {
    stat(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Fields 14, 15 and 22. The second, the program's name in parentheses, may contain anything.
fn stat(text: &str) -> Option<Stat> {
    let (_, behind_name) = text.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(11);
    let mut ticks =
        |skip: usize| fields.nth(skip)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    let (user, system) = (ticks(0)?, ticks(0)?);
    Some(Stat { cpu: user + system, started_after_boot: ticks(6)? })
}

fn boot_time(proc_stat: &str) -> Option<f64> {
    proc_stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// `VmRSS:   12345 kB`
fn resident_bytes(status: &str) -> Option<f64> {
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kilobytes.parse::<f64>().ok()? * 1024.0)
}

/// The one in force, which may be raised while the process runs.
fn max_files() -> Option<f64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // No process can open so many that a double does not name their number.
    u32::try_from(soft).map_or(Some(f64::INFINITY), |soft| Some(f64::from(soft)))
}

/// A running program has four, and to list one costs a microsecond: Linux 6.2 and later also tell
/// how many there are.
fn open_files() -> Option<f64> {
    told_files().or_else(listed_files)
}

/// The size of the directory; 0 before Linux 6.2.
fn told_files() -> Option<f64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    u32::try_from(told).ok().filter(|told| *told > 0).map(f64::from)
}

/// The directory that is being read is open itself, and not counted.
fn listed_files() -> Option<f64> {
    let entries = u32::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
    Some(f64::from(entries.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_cannot_shift_the_fields_behind_it() {
        let line =
            "42 (odd) name (x) S 1 42 42 0 -1 4194560 1533 0 0 0 250 50 0 0 20 0 3 0 98765 1 2 3";
        assert_eq!(stat(line), Some(Stat { cpu: 3.0, started_after_boot: 987.65 }));
        assert_eq!(stat("42 (name) S 1 2"), None);
    }

    #[test]
    fn memory_and_boot_time_are_found_among_other_lines() {
        assert_eq!(resident_bytes("VmHWM:\t 9 kB\nVmRSS:\t   2048 kB\n"), Some(2_097_152.0));
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn descriptors_are_as_many_as_there_are_whether_told_or_listed() {
        let open: Vec<_> = (0..300).map(|_| fs::File::open("/dev/null").expect("it is")).collect();
        // Other tests open and close files meanwhile.
        let others = 150.0;
        let listed = listed_files().expect("there is a /proc");
        assert!(listed >= 303.0 && listed <= max_files().expect("there is a limit"), "{listed}");
        if let Some(told) = told_files() {
            assert!((told - listed).abs() < others, "{told} {listed}");
        }
        drop(open);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_read() {
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        let started = ProcessStat::new().started.expect("there is a /proc");
        assert!(started <= now + 1.0 && started > now - 86_400.0, "{started} {now}");
        assert!(open_files().expect("there is a /proc") >= 3.0);
        assert!(read_stat().expect("there is a /proc").cpu >= 0.0);
    }
}
