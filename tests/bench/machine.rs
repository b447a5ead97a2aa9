//! The processes of the comparison: the core of each, and what it used.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// The unit of times in `/proc/*/stat`.
const TICK: Duration = Duration::from_millis(10);

/// Two cores: one for the endpoint and this process, which mostly sleeps; one for the measured
/// process.
pub struct Machine {
    pub others: usize,
    pub measured: usize,
    cores: usize,
    model: String,
}

impl Machine {
    /// Moves this process to the first of its cores.
    pub fn take() -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("there is a /proc");
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .expect("Linux says it");
        let cores: Vec<usize> = allowed.trim().split(',').flat_map(range).collect();
        let (others, measured) = (cores[0], *cores.last().expect("one core"));
        let own = std::process::id().to_string();
        run(Command::new("taskset").args(["--cpu-list", "--pid", &others.to_string(), &own]));
        let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = about
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .unzip()
            .1;
        Self {
            others,
            measured,
            cores: cores.len(),
            model: model.unwrap_or("a processor").to_owned(),
        }
    }
}

/// `3` or `0-7`.
fn range(text: &str) -> std::ops::RangeInclusive<usize> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    first.parse().expect("a core")..=last.parse().expect("a core")
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { others, measured, cores, model } = self;
        write!(
            f,
            "{model}, {cores} cores; the endpoint on core {others}, the measured on core {measured}"
        )?;
        if others == measured {
            write!(
                f,
                "\nthere is only one core: the endpoint's caches and ours are the same, and the \
                 figures less sure"
            )?;
        }
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        if let Some(load) =
            load.split(' ').next().filter(|load| load.parse().is_ok_and(|load: f64| load > 0.5))
        {
            write!(
                f,
                "\nother work is under way (load {load}): trust ratios and counts, not the wall \
                 clock"
            )?;
        }
        Ok(())
    }
}

/// A command that runs on one core, and is killed when this process dies, for whatever reason.
pub fn on_core(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string(), "setpriv", "--pdeathsig", "KILL"]).arg(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent");
    command.env("AWS_ACCESS_KEY_ID", "bench").env("AWS_SECRET_ACCESS_KEY", "bench");
    command.env("AWS_REGION", "us-east-1").env("AWS_DEFAULT_REGION", "us-east-1");
    command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null());
    command
}

/// Another process of this binary.
pub fn this(core: usize, arguments: &[&str]) -> Command {
    let mut command = on_core(core, std::env::current_exe().expect("this binary has a path"));
    command.args(arguments);
    command
}

/// A running process, killed when dropped.
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}")),
        )
    }

    /// With what it prints in a file.
    pub fn start_logging(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("the folder is writable");
        let again = log.try_clone().expect("a file");
        Self::start(command.stdout(log).stderr(again))
    }

    /// Panics where it has ended by itself.
    pub fn must_run(&mut self) {
        let ended = self.0.try_wait().expect("it is our child");
        assert!(ended.is_none(), "a process that is measured has ended: {ended:?}");
    }

    /// Processor time so far, including threads that have ended, and, in ticks, its own ended
    /// children.
    pub fn cpu(&self) -> Duration {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"));
        let own = clock_getcpuclockid(pid)
            .and_then(nix::time::ClockId::now)
            .expect("it is not waited for yet");
        let stat = self.read("stat");
        let (_, behind_name) = stat.rsplit_once(") ").expect("proc(5)");
        // Fields 16 and 17; the first behind the name is the third.
        let ticks = behind_name
            .split(' ')
            .skip(13)
            .take(2)
            .map(|ticks| ticks.parse::<u32>().expect("a number"));
        Duration::from(own) + TICK * ticks.sum::<u32>()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> f64 {
        let status = self.read("status");
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<f64>().ok()).expect("proc(5)") * 1024.0
    }

    /// How often its threads yielded the processor voluntarily: each time is followed by a wake-up.
    pub fn sleeps(&self) -> u64 {
        let tasks =
            fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("it is not waited for yet");
        let statuses =
            tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        let switches = |text: String| {
            text.lines().find_map(|line| {
                line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok()
            })
        };
        statuses.filter_map(switches).sum()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id()))
            .expect("it is not waited for yet")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
