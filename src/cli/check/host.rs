//! What this machine has for the configuration: the ledger's location, the temporary directory,
//! descriptors, the address.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};
use tokio::net::TcpSocket;

use crate::aws::doctor::{Finding, Level};
use crate::cli::status;
use crate::config::CheckedConfig;
use crate::ledger::{Kind, Sqlite};
use crate::observe::listen::Listen;
use crate::orders::About;

/// Descriptors of a running program: its three pipes, its process, its files.
const OF_A_RUN: u64 = 8;
/// Descriptors of everything else: connections to AWS, the ledger, the log, the status server.
const OF_THE_REST: u64 = 256;

/// Checks all of it and changes nothing.
pub(super) async fn look(loaded: &CheckedConfig) -> Vec<Finding> {
    let (ledger, runs) = ledger(loaded);
    let address = match loaded.config.http.listen {
        Listen::Off => None,
        Listen::On(address) => Some(listen(address, runs).await),
    };
    let temporary = directory(
        "the temporary directory",
        &std::env::temp_dir(),
        "set TMPDIR to a directory that is",
    );
    let work_dir = work_dir(&loaded.config.work_dir());
    let rest = [work_dir, temporary, descriptors(loaded)].into_iter().chain(address);
    ledger.into_iter().chain(rest).chain(pauses(loaded)).collect()
}

/// The queues that are not polled by order, the handlers that are not started, and orders that have
/// no effect.
fn pauses(loaded: &CheckedConfig) -> Vec<Finding> {
    let Some(orders) = loaded.config.orders() else { return Vec::new() };
    let reading = match orders.read() {
        Ok(reading) => reading,
        Err(error) => {
            let remedy = "make it a directory that the worker's user can read";
            return vec![finding(Level::Error, "orders", error.to_string(), Some(remedy))];
        }
    };
    let config = &loaded.config;
    let paused = reading.paused().filter_map(|(about, at)| {
        let name = about.name();
        let (kind, is_ours, ends) = match about {
            About::Queue(url) => {
                let same = config.queues.iter().any(|queue| queue.url.is_same_queue(url));
                ("queue", same, "polled")
            }
            About::Handler(name) => ("handler", config.handlers.contains_key(name), "started"),
        };
        let remedy = format!("`callbackd resume {name}` has it {ends}");
        let text = format!("is paused since {at}");
        is_ours.then(|| finding(Level::Warn, format!("{kind} {name}"), text, Some(&remedy)))
    });
    let unreadable = reading.unreadable.iter().map(|(path, why)| {
        let subject = format!("the order {}", path.display());
        finding(Level::Warn, subject, why.clone(), Some("it has no effect; give it again"))
    });
    paused.chain(unreadable).collect()
}

/// Where programs have their files. The daemon creates missing directories, so they belong to the
/// daemon.
fn work_dir(path: &Path) -> Finding {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let found = directory("programs' files", nearest, "set worker.work_dir to a directory that is");
    Finding { subject: format!("programs' files in {}", path.display()), ..found }
}

fn finding(
    level: Level,
    subject: impl Into<String>,
    text: impl Into<String>,
    remedy: Option<&str>,
) -> Finding {
    let (subject, remedy) = (subject.into(), remedy.map(str::to_owned));
    Finding { level, subject, text: text.into(), remedy, event: None }
}

/// The findings about the ledger, and whether a worker is using it.
fn ledger(loaded: &CheckedConfig) -> (Vec<Finding>, bool) {
    let config = &loaded.config.ledger;
    if config.kind == Kind::Dynamodb {
        let text = "in DynamoDB; `check --online` examines it";
        let subject = format!("the ledger's table {}", config.table);
        return (vec![finding(Level::Ok, subject, text, None)], false);
    }
    if config.kind != Kind::Sqlite {
        let remedy = "use it only for experiments";
        return (
            vec![finding(Level::Warn, "the ledger", "is lost when the process ends", Some(remedy))],
            false,
        );
    }
    let subject = format!("the ledger {}", config.path.display());
    match Sqlite::look(&config.path) {
        Ok(look) => {
            let mut findings = vec![finding(Level::Ok, subject.clone(), look.text, None)];
            findings.extend(
                look.doubts
                    .into_iter()
                    .map(|doubt| finding(Level::Warn, subject.clone(), doubt, None)),
            );
            (findings, look.in_use)
        }
        Err(error) => {
            let text = error.to_string();
            // The message begins with the same words.
            let text = text.strip_prefix(&format!("{subject}: ")).unwrap_or(&text).to_owned();
            (vec![finding(Level::Error, subject, text, None)], false)
        }
    }
}

fn directory(name: &str, path: &Path, remedy: &str) -> Finding {
    let subject = format!("{name} {}", path.display());
    let usable = path.is_dir() && access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    if usable {
        finding(Level::Ok, subject, "can be written", None)
    } else {
        finding(
            Level::Error,
            subject,
            "does not exist or cannot be written by this user",
            Some(remedy),
        )
    }
}

fn descriptors(loaded: &CheckedConfig) -> Finding {
    let subject = "open files";
    let at_once: usize = loaded.config.queues.iter().map(|queue| queue.concurrency).sum();
    let needed = u64::try_from(at_once)
        .unwrap_or(u64::MAX)
        .saturating_mul(OF_A_RUN)
        .saturating_add(OF_THE_REST);
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < needed => {
            let text =
                format!("{at_once} concurrent steps need about {needed}; the hard limit is {hard}");
            finding(
                Level::Warn,
                subject,
                text,
                Some("raise it (LimitNOFILE=, ulimit -n, ulimits), or lower concurrency"),
            )
        }
        // The soft limit is raised at start.
        Ok((_, hard)) => finding(
            Level::Ok,
            subject,
            format!("{hard} are enough for {at_once} concurrent steps"),
            None,
        ),
        Err(error) => {
            finding(Level::Warn, subject, format!("the limit is unknown: {}", error.desc()), None)
        }
    }
}

/// Binds the address without listening on it, so that a daemon that starts meanwhile is not
/// disturbed.
async fn listen(address: SocketAddr, runs: bool) -> Finding {
    let subject = format!("http.listen {address}");
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)
    };
    match bound() {
        Ok(()) => finding(Level::Ok, subject, "is free", None),
        Err(_) if runs => {
            finding(Level::Ok, subject, "is in use, while a worker runs on this ledger", None)
        }
        // With a memory ledger, this is the only sign of a running worker.
        Err(_) if status::is_callbackd(address).await => finding(
            Level::Warn,
            subject,
            "is in use by a callbackd",
            Some("if that is not this worker, set http.listen"),
        ),
        Err(error) => finding(
            Level::Error,
            subject,
            format!("cannot be listened on: {error}"),
            Some("stop the process that uses it, or set http.listen"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_unless_a_worker_runs() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = other.local_addr().expect("an address");
        let answering = std::thread::spawn(move || {
            // One that sends nothing, then a callbackd.
            for text in ["", "HTTP/1.1 200 OK\r\n\r\n<title>callbackd</title>"] {
                let (mut stream, _) = other.accept().expect("asked");
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
                std::io::Write::write_all(&mut stream, text.as_bytes()).expect("told");
            }
        });
        assert_eq!(listen(address, true).await.level, Level::Ok);
        assert_eq!(listen(address, false).await.level, Level::Error);
        assert_eq!(listen(address, false).await.level, Level::Warn);
        answering.join().expect("it has answered");
        assert_eq!(listen(address, false).await.level, Level::Ok);
        assert!(std::net::TcpListener::bind(address).is_ok(), "nothing of it is left");
    }

    #[test]
    fn a_directory_that_is_not_there_or_no_directory_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("made");
        for (path, level) in [
            (folder.path(), Level::Ok),
            (&folder.path().join("no"), Level::Error),
            (&file, Level::Error),
        ] {
            assert_eq!(directory("x", path, "y").level, level, "{}", path.display());
        }
    }
}
