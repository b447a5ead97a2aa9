//! A program's output: logged and kept line by line, and its end.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::time::{Instant, sleep_until};

/// Longer lines are logged in pieces.
const LINE: usize = 8 * 1024;
/// Enough for any reason; a step's failure reason takes 256 characters of it.
const TAIL: usize = 8 * 1024;
/// What a step may log per second: more than anyone reads, and with a hundred noisy programs at
/// once still less than a disk can take.
const BUDGET: usize = 256 * 1024;
const WINDOW: Duration = Duration::from_secs(1);
/// The size of a line's time, token and other fields in the log, however short the line is.
const FRAME: usize = 256;

/// How much more of one run's output is logged in this second, whichever stream it comes from.
pub(super) struct Budget(Mutex<Window>);

struct Window {
    until: Instant,
    left: usize,
    /// What was not logged and not reported yet: lines, and their bytes.
    unlogged: (u64, u64),
}

impl Budget {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Window { until: Instant::now() + WINDOW, left: BUDGET, unlogged: (0, 0) }))
    }

    /// Whether a line of this many bytes is logged. If not, it is counted.
    fn take(&self, bytes: usize) -> bool {
        self.turn();
        let mut window = self.lock();
        match window.left.checked_sub(bytes + FRAME) {
            Some(left) => {
                window.left = left;
                true
            }
            None => {
                window.left = 0;
                window.unlogged.0 += 1;
                window.unlogged.1 += bytes as u64;
                false
            }
        }
    }

    /// Begins a new window if the last is over.
    fn turn(&self) {
        let now = Instant::now();
        let mut window = self.lock();
        if window.until <= now {
            let last = std::mem::replace(
                &mut *window,
                Window { until: now + WINDOW, left: BUDGET, unlogged: (0, 0) },
            );
            drop(window);
            say(last.unlogged);
        }
    }

    /// Resolves at the end of a window in which not everything was logged. Cancel safe.
    async fn over(&self) {
        let until = {
            let window = self.lock();
            (window.unlogged != (0, 0)).then_some(window.until)
        };
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports what was not logged in the last second.
impl Drop for Budget {
    fn drop(&mut self) {
        say(std::mem::take(&mut self.lock().unlogged));
    }
}

fn say((lines, bytes): (u64, u64)) {
    if lines > 0 {
        tracing::warn!(
            event = "output_cut",
            lines,
            bytes,
            "the program writes more than {} KiB a second; the rest of this second is not logged",
            BUDGET / 1024
        );
    }
}

/// Logs a stream to its end, whatever its size and encoding, within the budget, and returns the end
/// of the stream. Each line is also passed to `kept`.
pub(super) async fn log(
    stream: impl AsyncRead + Unpin,
    name: &'static str,
    tail: &mut VecDeque<u8>,
    budget: &Budget,
    kept: &impl Fn(&'static str, &str),
) {
    let mut reader = BufReader::with_capacity(LINE, stream);
    let mut line: Vec<u8> = Vec::new();
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = reader.fill_buf() => chunk,
            () = budget.over() => {
                budget.turn();
                continue;
            }
        };
        // A stream that cannot be read is over.
        let Ok(chunk) = chunk else { break };
        if chunk.is_empty() {
            break;
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let taken = part.len().min(LINE - line.len());
        line.extend_from_slice(&part[..taken]);
        let whole = end.is_some() && taken == part.len();
        keep(tail, &chunk[..taken + usize::from(whole)]);
        reader.consume(taken + usize::from(whole));
        if whole || line.len() == LINE {
            tell(name, &line, budget, kept);
            line.clear();
        }
    }
    if !line.is_empty() {
        tell(name, &line, budget, kept);
    }
}

fn tell(stream: &'static str, line: &[u8], budget: &Budget, kept: &impl Fn(&'static str, &str)) {
    let bytes = line.len();
    let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    // The last lines are what a person looks for, whether they were logged or not.
    kept(stream, &line);
    if budget.take(bytes) {
        tracing::info!(target: "callbackd::program", event = "program_output", stream, "{line}");
    }
}

fn keep(tail: &mut VecDeque<u8>, bytes: &[u8]) {
    tail.extend(bytes);
    tail.drain(..tail.len().saturating_sub(TAIL));
}

/// The end of a stream as text; a character cut in half at the beginning is dropped.
pub(super) fn text(tail: VecDeque<u8>) -> String {
    let bytes = Vec::from(tail);
    let begin = bytes.iter().position(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
    String::from_utf8_lossy(&bytes[begin..]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_of_output_is_logged_as_far_as_its_budget_goes_and_the_rest_is_counted() {
        let budget = Budget::new();
        let logged = (0..100_000).filter(|_| budget.take(1)).count();
        assert_eq!(logged, BUDGET / (1 + FRAME));
        let unlogged = 100_000 - logged as u64;
        assert_eq!(budget.lock().unlogged, (unlogged, unlogged));
        budget.over().await;
        assert!(budget.take(LINE), "a new second has begun");
        assert_eq!(budget.lock().unlogged, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_what_was_said_is_kept_whether_it_was_logged_or_not() {
        let said = (0..100_000).map(|n| format!("{n}\n")).collect::<Vec<_>>().concat();
        let mut tail = VecDeque::new();
        let budget = Budget::new();
        let last = Cell::new(String::new());
        let kept = |_, line: &str| last.set(line.to_owned());
        log(said.as_bytes(), "stderr", &mut tail, &budget, &kept).await;
        assert_eq!(last.into_inner(), "99999");
        assert!(budget.lock().unlogged.0 > 0 && text(tail).ends_with("\n99998\n99999\n"));
    }
}
