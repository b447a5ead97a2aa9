//! The signals that ask the daemon to stop.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// `SIGTERM` and `SIGINT`, one after the other. The first asks to drain; what a further one means is the caller's to decide.
///
/// From [`Signals::listen`] on neither ends the process by itself. Two of a kind that come at once may be told of as one: that is how
/// Unix keeps signals.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `SIGTERM`: systemd, ECS, Docker, `kill`.
    Terminate,
    /// `SIGINT`: somebody at a terminal.
    Interrupt,
}

impl Signals {
    /// Starts to catch both; within a Tokio runtime.
    ///
    /// # Errors
    /// Where the system refuses, which it does for no signal of these two.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal. Dropping the future loses none.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            Some(()) = self.terminate.recv() => Asked::Terminate,
            Some(()) = self.interrupt.recv() => Asked::Interrupt,
            // Neither stream ends while the runtime lives.
            else => std::future::pending().await,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Number, raise};

    use super::*;

    #[tokio::test]
    #[ignore = "started by the test below: a signal reaches every listener of a process, other tests' too"]
    async fn a_process_that_signals_itself() {
        let mut signals = Signals::listen().expect("both can be caught");
        for (number, asked) in [
            (Number::SIGTERM, Asked::Terminate),
            (Number::SIGINT, Asked::Interrupt),
            (Number::SIGTERM, Asked::Terminate),
        ] {
            raise(number).expect("a process may signal itself");
            assert_eq!(signals.next().await, asked);
            assert_eq!(asked.to_string(), number.as_str());
        }
    }

    #[test]
    fn each_signal_is_told_of_and_kills_nothing() {
        let this = std::env::current_exe().expect("the test's own path");
        let child = std::process::Command::new(this)
            .args(["--exact", "process::signals::tests::a_process_that_signals_itself", "--ignored"])
            .output()
            .expect("the test binary runs");
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && told.contains("1 passed"), "{told}");
    }
}
