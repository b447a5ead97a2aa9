//! A worker on the library, as a process, with its configuration and its metrics.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::account::{Account, until};
use crate::machine::{self, Machine, Process};

/// What a worker is started with.
#[derive(Clone)]
pub struct Setup {
    pub ledger: Ledger,
    pub concurrency: usize,
    /// The handler's `type` and `settings`, as TOML.
    pub handler: String,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Ledger {
    Memory,
    Sqlite,
    /// One that holds records already: a copy of this file.
    Filled(PathBuf),
}

impl Setup {
    /// A handler of [`handlers`](crate::handlers) by what it does.
    pub fn new(ledger: Ledger, concurrency: usize, does: &str) -> Self {
        Self {
            ledger,
            concurrency,
            handler: format!("type = \"idle\"\nsettings = {{ does = \"{does}\" }}"),
        }
    }

    pub fn telling(self, file: &Path) -> Self {
        let handler = self.handler.replace(" }", &format!(", told = \"{}\" }}", file.display()));
        Self { handler, ..self }
    }
}

pub struct Worker {
    pub process: Process,
    /// When it was started.
    pub begun: Instant,
    /// Where the status server listens.
    pub status: SocketAddr,
    _folder: TempDir,
}

/// A directory on the project's disk: a ledger in a memory file system would flush for free.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable")
}

impl Worker {
    pub fn start(machine: &Machine, account: &Account, setup: &Setup) -> Self {
        let folder = folder();
        let ledger = folder.path().join("ledger.db");
        if let Ledger::Filled(from) = &setup.ledger {
            fs::copy(from, &ledger).expect("a filled ledger");
            // Must not be flushed during the measurement.
            fs::File::open(&ledger)
                .and_then(|file| file.sync_all())
                .expect("the target folder is writable");
        }
        let kind = if setup.ledger == Ledger::Memory { "memory" } else { "sqlite" };
        let status = free_address();
        let Setup { concurrency, handler, .. } = setup;
        let (endpoint, queue, ledger) = (account.url(), &account.queue, ledger.display());
        let text = format!(
            r#"
            aws = {{ endpoint_url = "{endpoint}", region = "us-east-1" }}
            ledger = {{ type = "{kind}", path = "{ledger}" }}
            http = {{ listen = "{status}" }}
            log = {{ level = "warn" }}
            [[queues]]
            url = "{queue}"
            handler = "h"
            concurrency = {concurrency}
            [handlers.h]
            {handler}
            "#
        );
        let config = folder.path().join("callbackd.toml");
        fs::write(&config, text).expect("the target folder is writable");
        let mut command = machine::this(machine.measured, &["run", "--config"]);
        command.arg(config);
        let log = folder.path().join("log");
        let begun = Instant::now();
        let process = Process::start_logging(&mut command, &log);
        Self { process, begun, status, _folder: folder }
    }

    /// The sum of a metric in `/metrics` over all labels; `None` while it does not answer.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(self.status).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let values = answer.lines().filter_map(|line| {
            let labels = line.strip_prefix(name)?;
            let ours = labels.starts_with(' ') || labels.starts_with('{');
            labels.rsplit(' ').next()?.parse::<f64>().ok().filter(|_| ours)
        });
        values.reduce(|sum, value| sum + value)
    }

    /// Waits until a metric has a value.
    pub fn wait_for(&mut self, name: &str, value: f64) {
        let is = |worker: &Self| worker.metric(name).is_some_and(|now| (now - value).abs() < 0.5);
        let begun = Instant::now();
        while !is(self) {
            self.process.must_run();
            assert!(
                begun.elapsed() < Duration::from_mins(20),
                "{name} is {:?}, not {value}",
                self.metric(name)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until it polls.
    pub fn wait_for_poll(&mut self, account: &Account) {
        let polled = || account.calls()["ReceiveMessage"] > 0;
        until("the first poll", Duration::from_millis(1), &mut self.process, polled);
    }
}

/// A port that is free now; the worker binds it at once.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}
