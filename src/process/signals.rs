//! Signals: those that ask the daemon to stop, and what it may have inherited from its parent.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::sys::signal::{SigHandler, SigSet, Signal as Number, signal as set};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// `SIGTERM`, `SIGINT`, `SIGQUIT` and `SIGHUP`, one after another. The first that does not request
/// a reload requests a drain; the caller decides what a further one means.
///
/// From [`Signals::listen`] on none of them ends the process by itself, nor do signals that others
/// send for their own reasons, such as log rotators and timers: those are ignored with a line in
/// the log. Two signals of a kind that arrive together may be reported as one, because Unix merges
/// them.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    ignored: Vec<(Number, Signal)>,
}

/// Signals that would end the process and request nothing that it does. A signal that the kernel
/// sends because of an error of the process, or a limit on its CPU time, still ends it.
const IGNORED: [Number; 8] = [
    Number::SIGUSR1,
    Number::SIGUSR2,
    Number::SIGALRM,
    Number::SIGVTALRM,
    Number::SIGPROF,
    Number::SIGIO,
    Number::SIGPWR,
    Number::SIGXFSZ,
];

/// Which signal asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `SIGTERM`: systemd, ECS, Docker, `kill`.
    Terminate,
    /// `SIGINT`: someone at a terminal.
    Interrupt,
    /// `SIGQUIT`: someone at a terminal, or an image with this stop signal.
    Quit,
    /// `SIGHUP`: the configuration is to be read again.
    Reload,
}

/// Resets what a parent may have left: blocked signals, and an ignored `SIGCHLD`, with which no
/// exit status is kept. Call it before threads exist, because they inherit it.
#[expect(unsafe_code, reason = "the default effect runs no code of ours")]
pub fn reset() {
    // Neither can fail for these signals.
    let _ = SigSet::all().thread_unblock();
    let _ = unsafe { set(Number::SIGCHLD, SigHandler::SigDfl) };
}

impl Signals {
    /// Starts to catch them; call it within a Tokio runtime.
    ///
    /// # Errors
    /// If the system refuses, which it never does for these signals.
    pub fn listen() -> io::Result<Self> {
        let caught = |number: Number| Ok((number, signal(SignalKind::from_raw(number as i32))?));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            ignored: IGNORED.into_iter().map(caught).collect::<io::Result<_>>()?,
        })
    }

    /// The next signal that does not request a reload: for what has nothing to reload. Dropping the
    /// future loses none.
    pub async fn next_end(&mut self) -> Asked {
        loop {
            match self.next().await {
                Asked::Reload => tracing::info!(
                    event = "reload_ignored",
                    "SIGHUP is ignored: there is nothing to reload"
                ),
                asked => return asked,
            }
        }
    }

    /// The next signal. Dropping the future loses none.
    pub async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => return Asked::Terminate,
                Some(()) = self.interrupt.recv() => return Asked::Interrupt,
                Some(()) = self.quit.recv() => return Asked::Quit,
                Some(()) = self.hangup.recv() => return Asked::Reload,
                number = any(&mut self.ignored) => tracing::info!(
                    event = "signal_ignored",
                    "{number} is ignored; SIGTERM ends the worker"
                ),
            }
        }
    }
}

/// The next signal of any of these. Dropping the future loses none.
async fn any(signals: &mut [(Number, Signal)]) -> Number {
    poll_fn(|cx| {
        let come = signals.iter_mut().find_map(|(number, signal)| match signal.poll_recv(cx) {
            Poll::Ready(Some(())) => Some(*number),
            // No stream ends while the runtime lives.
            Poll::Ready(None) | Poll::Pending => None,
        });
        come.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Reload => "SIGHUP",
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[tokio::test]
    #[ignore = "started by the test below: a signal reaches every listener of a process, other \
                tests' too"]
    async fn a_process_that_signals_itself() {
        let mut signals = Signals::listen().expect("both can be caught");
        for (number, asked) in [
            (Number::SIGTERM, Asked::Terminate),
            (Number::SIGINT, Asked::Interrupt),
            (Number::SIGQUIT, Asked::Quit),
            (Number::SIGHUP, Asked::Reload),
            (Number::SIGTERM, Asked::Terminate),
        ] {
            for ignored in IGNORED {
                raise(ignored).expect("a process may signal itself");
            }
            raise(number).expect("a process may signal itself");
            assert_eq!(signals.next().await, asked);
            assert_eq!(asked.to_string(), number.as_str());
        }
    }

    #[test]
    fn each_signal_is_told_of_and_kills_nothing() {
        let this = std::env::current_exe().expect("the test's own path");
        let child = std::process::Command::new(this)
            .args([
                "--exact",
                "process::signals::tests::a_process_that_signals_itself",
                "--ignored",
            ])
            .output()
            .expect("the test binary runs");
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && told.contains("1 passed"), "{told}");
    }
}
