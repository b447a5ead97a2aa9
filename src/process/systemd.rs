//! Notifies systemd: the daemon is ready, its status, it is stopping, it is alive.
//!
//! The protocol is that of `sd_notify(3)`: datagrams of `KEY=value` lines to the socket named by
//! `$NOTIFY_SOCKET`. Outside systemd nothing here does anything. It is our own code rather than the
//! `sd-notify` crate because a send must not block: that crate's socket does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long a datagram may wait for a slow manager: at most a watchdog notification is lost, and
/// the daemon is never blocked.
const PATIENCE: Duration = Duration::from_secs(2);
/// `systemctl status` shows one line.
const MAX_STATUS: usize = 200;

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Manager {
    socket: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that started this process, by `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and
    /// `$WATCHDOG_PID`. A variable that cannot be parsed is logged and ignored.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| {
            address(&name)
                .inspect_err(|error| {
                    tracing::warn!(
                        event = "systemd_unavailable",
                        socket = ?name,
                        %error,
                        "systemd cannot be notified"
                    );
                })
                .ok()
        });
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // Meant for the main process; a child that inherited it must not send notifications in its
        // place.
        let meant_for_us = variable("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(std::process::id().into());
        let watchdog = number("WATCHDOG_USEC")
            .filter(|usec| *usec > 0 && meant_for_us)
            .map(Duration::from_micros);
        Self { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// Whether a manager wants to be notified.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// The daemon is up. `status` is one line for `systemctl status`.
    pub async fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\n{}", status_line(status))).await;
    }

    /// The daemon reads its configuration again, until [`reloaded`](Self::reloaded).
    pub async fn reloading(&self) {
        self.tell("RELOADING=1").await;
    }

    /// The daemon works with the configuration that it has now.
    pub async fn reloaded(&self) {
        self.tell("READY=1").await;
    }

    /// The daemon's state in one line for `systemctl status`.
    pub async fn status(&self, status: &str) {
        self.tell(&status_line(status)).await;
    }

    /// The daemon is stopping, requested or not.
    pub async fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\n{}", status_line(status))).await;
    }

    /// Requests at least `more` from now, beyond `TimeoutStartSec` or `TimeoutStopSec`.
    pub async fn extend_timeout(&self, more: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", more.as_micros())).await;
    }

    /// Requests more time to stop, as long as it is polled: half a minute every ten seconds, but
    /// only while `progress` returns `true`. So the unit's `TimeoutStopSec` bounds a daemon that
    /// hangs, not one that drains.
    pub async fn keep_extending(&self, progress: impl Fn() -> bool) {
        let message = format!("EXTEND_TIMEOUT_USEC={}", Duration::from_secs(30).as_micros());
        self.beat(Duration::from_secs(10), &message, progress).await;
    }

    /// Sends watchdog notifications, as long as it is polled, twice per `WatchdogSec`, but only
    /// while `progress` returns `true`: a process that exists but makes no progress should be
    /// restarted. Never returns; without a watchdog it waits indefinitely.
    pub async fn watchdog(&self, progress: impl Fn() -> bool) {
        match self.watchdog {
            Some(limit) => self.beat(limit / 2, "WATCHDOG=1", progress).await,
            None => std::future::pending().await,
        }
    }

    async fn beat(&self, every: Duration, message: &str, progress: impl Fn() -> bool) {
        if self.socket.is_none() {
            return std::future::pending().await;
        }
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = true;
        loop {
            ticks.tick().await;
            let was_alive = std::mem::replace(&mut alive, progress());
            match (was_alive, alive) {
                (true, false) => {
                    tracing::error!(
                        event = "watchdog_withheld",
                        withheld = message,
                        "the engine makes no progress: no watchdog notifications are sent"
                    );
                }
                (false, true) => {
                    tracing::info!(event = "watchdog_resumed", "the engine makes progress again");
                }
                _ => {}
            }
            if alive {
                self.tell(message).await;
            }
        }
    }

    async fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = timeout(PATIENCE, send(socket, message))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = sent {
            tracing::warn!(
                event = "systemd_not_notified",
                %error,
                datagram = message,
                "systemd could not be notified"
            );
        }
    }
}

/// A path, or `@` and a name in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// A new socket for each datagram, as in `sd_notify(3)`: the manager may have recreated its own.
async fn send(to: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(to)?;
    UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(drop)
}

/// One line, so that no text in it can pass for another assignment.
fn status_line(status: &str) -> String {
    let safe = status.chars().map(|c| if c.is_control() { ' ' } else { c });
    format!("STATUS={}", safe.take(MAX_STATUS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Plays systemd: its own abstract socket, and the environment that names it.
    fn manager(variables: &[(&str, &str)]) -> (UnixDatagram, Manager) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "callbackd-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = StdDatagram::bind_addr(&address).expect("nobody else has the name");
        socket.set_nonblocking(true).expect("it is a socket");
        let name = format!("@{name}");
        let manager = Manager::of(|asked| {
            let found = variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| *value);
            found.or((asked == "NOTIFY_SOCKET").then_some(name.as_str())).map(OsString::from)
        });
        (UnixDatagram::from_std(socket).expect("within a runtime"), manager)
    }

    async fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).await.expect("a datagram");
        String::from_utf8(buffer[..length].to_vec()).expect("UTF-8")
    }

    #[tokio::test]
    async fn ready_status_stopping_and_more_time_are_told_as_the_protocol_has_them() {
        let (socket, manager) = manager(&[]);
        manager.ready("polling 2 queues").await;
        assert_eq!(told(&socket).await, "READY=1\nSTATUS=polling 2 queues");
        manager.reloading().await;
        assert_eq!(told(&socket).await, "RELOADING=1");
        manager.reloaded().await;
        assert_eq!(told(&socket).await, "READY=1");
        manager.status("3 steps running").await;
        assert_eq!(told(&socket).await, "STATUS=3 steps running");
        manager.stopping("draining").await;
        assert_eq!(told(&socket).await, "STOPPING=1\nSTATUS=draining");
        manager.extend_timeout(Duration::from_millis(1500)).await;
        assert_eq!(told(&socket).await, "EXTEND_TIMEOUT_USEC=1500000");
    }

    #[tokio::test]
    async fn a_socket_that_is_a_path_is_told_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a free path");
        let manager =
            Manager::of(|name| (name == "NOTIFY_SOCKET").then(|| path.clone().into_os_string()));
        manager.status("x").await;
        assert_eq!(told(&socket).await, "STATUS=x");
    }

    #[tokio::test]
    async fn a_status_can_smuggle_in_no_other_assignment_and_stays_short() {
        let (socket, manager) = manager(&[]);
        manager.status(&format!("a\nMAINPID=1\r{}", "é".repeat(1000))).await;
        let told = told(&socket).await;
        assert!(told.starts_with("STATUS=a MAINPID=1 é") && !told.contains('\n'), "{told}");
        assert_eq!(told.chars().count(), "STATUS=".len() + MAX_STATUS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_at_half_its_time_only_while_there_is_progress() {
        let (socket, manager) = manager(&[("WATCHDOG_USEC", "20000000")]);
        // Progress is seen at notifications 1, 2 and 5.
        let asked = AtomicU32::new(0);
        let progress = || [1, 2, 5].contains(&(asked.fetch_add(1, Ordering::Relaxed) + 1));
        let started = tokio::time::Instant::now();
        let mut beats = Vec::new();
        tokio::select! {
            () = manager.watchdog(progress) => unreachable!("it beats for ever"),
            () = async {
                for _ in 0..3 {
                    assert_eq!(told(&socket).await, "WATCHDOG=1");
                    beats.push(started.elapsed().as_secs());
                }
            } => {}
        }
        assert_eq!(beats, [0, 10, 40]);
    }

    #[tokio::test(start_paused = true)]
    async fn more_time_is_asked_for_again_before_what_was_given_is_over() {
        let (socket, manager) = manager(&[]);
        let started = tokio::time::Instant::now();
        tokio::select! {
            () = manager.keep_extending(|| true) => unreachable!("it asks for ever"),
            () = async { for _ in 0..3 { assert_eq!(told(&socket).await, "EXTEND_TIMEOUT_USEC=30000000"); } } => {}
        }
        assert_eq!(started.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn outside_systemd_nothing_is_told_and_nothing_ends() {
        let manager = Manager::of(|name| (name == "WATCHDOG_USEC").then(|| "20000000".into()));
        assert!(!manager.is_there());
        manager.ready("x").await;
        manager.stopping("x").await;
        timeout(Duration::from_hours(1), manager.watchdog(|| unreachable!("nobody asks")))
            .await
            .expect_err("it waits");
        timeout(Duration::from_hours(1), manager.keep_extending(|| true))
            .await
            .expect_err("it waits");
    }

    #[test]
    fn a_watchdog_meant_for_another_process_is_not_fed() {
        let usec = ("WATCHDOG_USEC", "20000000");
        let ours = std::process::id().to_string();
        let watchdog = |variables: &[(&str, &str)]| {
            Manager::of(|asked| match asked {
                "NOTIFY_SOCKET" => Some("/run/notify".into()),
                _ => variables
                    .iter()
                    .find(|(name, _)| *name == asked)
                    .map(|(_, value)| OsString::from(value)),
            })
            .watchdog
        };
        assert_eq!(watchdog(&[usec, ("WATCHDOG_PID", &ours)]), Some(Duration::from_secs(20)));
        assert_eq!(watchdog(&[usec, ("WATCHDOG_PID", "1")]), None);
        for odd in ["0", "soon", "-1", ""] {
            assert_eq!(watchdog(&[("WATCHDOG_USEC", odd)]), None, "{odd}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_gone_or_odd_harms_nothing() {
        for odd in ["/nonexistent/notify", "vsock:2:1234", "", "@"] {
            Manager::of(|name| (name == "NOTIFY_SOCKET").then(|| odd.into())).ready("x").await;
        }
    }
}
