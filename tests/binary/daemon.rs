//! One process of the built binary.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use toml::Table;

use crate::http;

/// A configuration for tests: the shortest allowed times, and a handler `job` made of two scripts.
#[derive(Clone)]
pub struct Config(Table);

impl Config {
    /// `folder` holds the ledger and the scripts.
    pub fn new(folder: &Path, queue_url: &str) -> Self {
        let folder = folder.display();
        let text = format!(
            r#"
            worker = {{ id = "outside" }}
            http = {{ listen = "off" }}
            log = {{ format = "json", level = "info" }}
            ledger = {{ path = "{folder}/ledger/ledger.db" }}
            [[queues]]
            url = "{queue_url}"
            handler = "job"
            visibility_timeout = "10s"
            stop_watch = "1s"
            stop_takeover_after = "5s"
            [handlers.job]
            type = "exec"
            retry_delay = "1s"
            retry_delay_max = "1s"
            stop_grace = "1s"
            settings = {{ command = ["{folder}/run"], cleanup = ["{folder}/cleanup"] }}
            "#
        );
        Self(text.parse().expect("TOML"))
    }

    /// Sets one key, named by its path: `queues.0.concurrency`, `handlers.job.max_attempts`.
    pub fn with(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        let (parent, key) = path.rsplit_once('.').expect("a section and a key");
        self.table(parent).insert(key.to_owned(), value.into());
        self
    }

    fn table(&mut self, path: &str) -> &mut Table {
        let mut place = self
            .0
            .get_mut(path.split('.').next().expect("a section"))
            .expect("a section that is there");
        for part in path.split('.').skip(1) {
            let next = match part.parse::<usize>() {
                Ok(at) => place.get_mut(at),
                Err(_) => place.get_mut(part),
            };
            place = next.unwrap_or_else(|| panic!("{path} has no {part}"));
        }
        place.as_table_mut().expect("a table")
    }

    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// What is set there.
    pub fn value(&self, path: &str) -> toml::Value {
        let (parent, key) = path.rsplit_once('.').expect("a section and a key");
        self.clone().table(parent)[key].clone()
    }

    /// Takes one key out.
    pub fn without(mut self, path: &str) -> Self {
        let (parent, key) = path.rsplit_once('.').expect("a section and a key");
        self.table(parent).remove(key);
        self
    }

    /// With a second queue that is set like the first.
    pub fn beside(mut self, queue_url: &str) -> Self {
        let queues = self.0["queues"].as_array_mut().expect("an array of tables");
        let mut other = queues[0].clone();
        other.as_table_mut().expect("a table").insert("url".to_owned(), queue_url.into());
        queues.push(other);
        self
    }

    /// Serves its status on any free port.
    pub fn listening(self) -> Self {
        self.with("http.listen", "127.0.0.1:0")
    }
}

/// The log line before the first one of each process: it may do much before it reports that it is
/// up.
pub const BEGINS: &str = "a process is started";

/// What a process of the binary is started with besides its configuration.
#[derive(Clone)]
pub struct Environment {
    /// What the command line begins with.
    pub prefix: Vec<String>,
    pub folder: PathBuf,
    pub sqs: String,
    pub sagemaker: String,
}

/// A running daemon, killed when dropped, and also when this process is.
pub struct Daemon {
    child: Child,
    /// A shell that kills the daemon when the pipe to it is closed, however this process ends.
    guard: Child,
    log: PathBuf,
    /// Where its own lines begin: daemons with the same name share a log.
    log_begins: u64,
    status: OnceLock<SocketAddr>,
}

impl Environment {
    pub fn start(&self, config: &Config, name: &str) -> Daemon {
        self.start_in(config, name, &[])
    }

    /// With more variables.
    pub fn start_in(&self, config: &Config, name: &str, variables: &[(&str, &str)]) -> Daemon {
        let log = self.folder.join(format!("{name}.log"));
        let mut stderr = File::options().create(true).append(true).open(&log).expect("a log file");
        // The previous one may have been killed in the middle of a line.
        let end = if stderr.metadata().expect("it is open").len() > 0 { "\n" } else { "" };
        let begin = json!({
            "timestamp": Timestamp::now().to_string(),
            "level": "INFO",
            "event": "process_started",
            "message": BEGINS,
        });
        writeln!(stderr, "{end}{begin}").expect("the folder is writable");
        let log_begins = stderr.metadata().expect("it is open").len();
        let mut command = self.command(config, &["run"]);
        command.envs(variables.iter().copied());
        Self::spawn(command, stderr, log, log_begins)
    }

    /// With an stderr that is not a file: its log can be read only there.
    pub fn start_on(&self, config: &Config, stderr: impl Into<Stdio>) -> Daemon {
        Self::spawn(self.command(config, &["run"]), stderr, PathBuf::from("/dev/null"), 0)
    }

    fn spawn(
        mut command: Command,
        stderr: impl Into<Stdio>,
        log: PathBuf,
        log_begins: u64,
    ) -> Daemon {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        let mut guard = Command::new("/bin/sh");
        guard.arg("-c").arg(format!("read line; kill -9 {}", child.id())).stdin(Stdio::piped());
        let guard = guard.spawn().expect("a shell");
        Daemon { child, guard, log, log_begins, status: OnceLock::new() }
    }

    /// Runs a command of the binary to its end.
    pub fn run(&self, config: &Config, arguments: &[&str]) -> Output {
        self.command(config, arguments).output().expect("it starts")
    }

    /// Starts a command of the binary, whose output is read while it goes on.
    pub fn begin(&self, config: &Config, arguments: &[&str]) -> Child {
        let mut command = self.command(config, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    }

    /// The same, with its standard output there.
    pub fn run_onto(
        &self,
        config: &Config,
        arguments: &[&str],
        stdout: impl Into<Stdio>,
    ) -> Output {
        let child = self
            .command(config, arguments)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.wait_with_output().expect("it ends")
    }

    /// One for each configuration: a command must not replace the file that a daemon is about to
    /// read.
    fn file(&self, config: &Config) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        config.text().hash(&mut hasher);
        self.folder.join(format!("config-{:x}", hasher.finish())).join("callbackd.toml")
    }

    /// Puts this text into the file with which a daemon was started.
    pub fn rewrite(&self, config: &Config, text: &str) {
        fs::write(self.file(config), text).expect("the folder is writable");
    }

    fn command(&self, config: &Config, arguments: &[&str]) -> Command {
        let file = self.file(config);
        if !file.exists() {
            fs::create_dir_all(file.parent().expect("a folder")).expect("the folder is writable");
            self.rewrite(config, &config.text());
        }
        let scratch = self.folder.join("tmp");
        fs::create_dir_all(&scratch).expect("the folder is writable");
        let line: Vec<&str> = self
            .prefix
            .iter()
            .map(String::as_str)
            .chain([env!("CARGO_BIN_EXE_callbackd")])
            .collect();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).arg("--config").arg(file).args(arguments).env_clear();
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.folder)
            .env("TMPDIR", scratch);
        command
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
            .env("AWS_ENDPOINT_URL_SQS", &self.sqs)
            .env("AWS_ENDPOINT_URL_SAGEMAKER", &self.sagemaker);
        command
    }
}

impl Daemon {
    /// The address of its status server, if its log does not contain it.
    pub fn listens_at(&self, address: SocketAddr) {
        self.status.set(address).expect("nobody has found out");
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process id"));
        kill(pid, signal).expect("it is alive, or not yet waited for");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is readable")
    }

    /// Whether it has logged that it is up.
    pub fn is_up(&self) -> bool {
        self.said("callbackd is up").is_some()
    }

    /// The first line of its own log with this message.
    fn said(&self, message: &str) -> Option<Value> {
        let mut log = File::open(&self.log).expect("the log is readable");
        log.seek(SeekFrom::Start(self.log_begins)).expect("it is a file");
        let lines = BufReader::new(log).lines().map_while(Result::ok);
        lines
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find(|line| line["message"] == message)
    }

    /// What its status server answers; `None` while it does not.
    pub async fn status(&self, path: &str) -> Option<http::HttpAnswer> {
        if self.status.get().is_none() {
            let address =
                self.said("the status server listens")?["address"].as_str()?.parse().ok()?;
            let _ = self.status.set(address);
        }
        http::get(*self.status.get()?, path).await.ok()
    }

    /// The value of one line of `/metrics`, named with its labels.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.status("/metrics").await?;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The sum of a metric over all its labels; `None` if it has no series.
    pub async fn sum(&self, name: &str) -> Option<f64> {
        let (_, text) = self.status("/metrics").await?;
        let of_it =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values: Vec<f64> = text
            .lines()
            .filter(of_it)
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The lines of its own log at this level or worse that contain `part`.
    pub fn complaints(&self, levels: &[&str], part: &str) -> Vec<Value> {
        let mut log = File::open(&self.log).expect("the log is readable");
        log.seek(SeekFrom::Start(self.log_begins)).expect("it is a file");
        let lines =
            BufReader::new(log).lines().map_while(Result::ok).filter(|line| line.contains(part));
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        lines.filter(|line| levels.contains(&line["level"].as_str().unwrap_or_default())).collect()
    }

    /// A figure in kilobytes of `/proc/PID/status`: `VmRSS`, or `VmHWM`, its peak.
    pub fn memory(&self, figure: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it is alive");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)).expect("such a line");
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
    }

    /// The peak begins anew at what is resident now.
    pub fn forget_the_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("it is ours");
    }

    pub async fn steps(&self) -> Option<Value> {
        serde_json::from_str(&self.status("/steps").await?.1).ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The guard first: the daemon's pid is not reused before the daemon is waited for.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
