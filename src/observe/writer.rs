//! Writes the log without ever making the logging code wait for the log's reader.
//!
//! stderr may be a pipe whose reader stalls for hours: a container's blocking log driver, a frozen
//! terminal, a pager. So lines wait in a buffer, and a separate thread writes them. Lines that do
//! not fit are dropped and counted, and the log says so in their place.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Maximum size of the waiting lines, beside as many that are being written: some 7,000 lines,
/// which take milliseconds to write unless the reader has stalled.
const ROOM: usize = 2 << 20;
/// The part that is reserved for warnings and errors: programs may log a lot.
const SPARED: usize = ROOM / 4;
/// A buffer that has grown beyond this is freed.
const KEPT: usize = 64 << 10;

/// Accepts lines. Cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    news: Condvar,
    /// Everything is written.
    rest: Condvar,
    /// The line in place of this many dropped ones.
    gap: Box<dyn Fn(u64) -> String + Send + Sync>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread is writing; it looks here again when it is done.
    busy: bool,
    /// Lines dropped in total.
    dropped: u64,
    /// Those not reported yet.
    unsaid: u64,
}

impl Writer {
    /// Starts the thread that writes to `out`. It is not joined: it may hang in a write that never
    /// returns, and ends with the process.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        mut out: impl Write + Send + 'static,
        gap: impl Fn(u64) -> String + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            news: Condvar::new(),
            rest: Condvar::new(),
            gap: Box::new(gap),
        });
        let work = shared.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || work.write(&mut out))?;
        Ok(Self(shared))
    }

    /// Accepts a line with its line feed, or drops it; returns at once. `urgent` lines find room
    /// for longer.
    pub fn put(&self, line: &str, urgent: bool) {
        let room = if urgent { ROOM } else { ROOM - SPARED };
        let mut state = self.0.lock();
        if state.waiting.len() + line.len() > room {
            state.dropped += 1;
            state.unsaid += 1;
            return;
        }
        self.0.say_gap(&mut state);
        state.waiting.extend_from_slice(line.as_bytes());
        if !state.busy {
            self.0.news.notify_one();
        }
    }

    /// How many lines were dropped, or could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Waits until everything is written, at most `within`; returns whether it is.
    pub fn flush(&self, within: Duration) -> bool {
        let state = self.0.lock();
        let waits = |state: &mut State| state.busy || !state.waiting.is_empty();
        let (_state, result) = self
            .0
            .rest
            .wait_timeout_while(state, within, waits)
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }
}

impl Shared {
    fn write(&self, out: &mut impl Write) {
        let mut lines = Vec::new();
        let mut in_line = false;
        loop {
            let mut state = self.lock();
            state.busy = false;
            self.say_gap(&mut state);
            if state.waiting.is_empty() {
                self.rest.notify_all();
                state = self
                    .news
                    .wait_while(state, |state| state.waiting.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.busy = true;
            std::mem::swap(&mut state.waiting, &mut lines);
            drop(state);

            let written = write_all(out, &lines, in_line);
            in_line = written.in_line;
            if written.lost > 0 {
                // Not reported: a log that cannot be written has no place for it.
                self.lock().dropped += written.lost;
            }
            lines.clear();
            lines.shrink_to(KEPT);
        }
    }

    /// Reports how many lines were dropped before the next one.
    fn say_gap(&self, state: &mut State) {
        if state.unsaid > 0 {
            let line = (self.gap)(std::mem::take(&mut state.unsaid));
            state.waiting.extend_from_slice(line.as_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Written {
    /// Lines that are missing or incomplete.
    lost: u64,
    /// It ended in the middle of a line.
    in_line: bool,
}

/// Writes lines as far as possible. After an incomplete line the next one begins on its own line.
fn write_all(out: &mut impl Write, lines: &[u8], in_line: bool) -> Written {
    if in_line && write_whole(out, b"\n").is_err() {
        return Written { lost: count(lines), in_line };
    }
    match write_whole(out, lines) {
        Ok(()) => Written { lost: 0, in_line: false },
        Err(done) => {
            let in_line = done > 0 && lines[done - 1] != b'\n';
            Written { lost: count(&lines[done..]), in_line }
        }
    }
}

/// How much was written, if not everything.
fn write_whole(out: &mut impl Write, bytes: &[u8]) -> Result<(), usize> {
    let mut done = 0;
    while done < bytes.len() {
        match out.write(&bytes[done..]) {
            Ok(0) => return Err(done),
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(done),
        }
    }
    Ok(())
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').map(|_| 1).sum()
}

/// stderr without the standard library's lock, which a stalled write would hold. The file
/// description may be shared with another process and must stay blocking, so it is polled.
pub struct Stderr;

impl Stderr {
    /// Whether it accepts something now.
    pub(super) fn has_room() -> bool {
        let stderr = io::stderr();
        poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO)
            .is_ok_and(|ready| ready > 0)
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match nix::unistd::write(&stderr, bytes) {
                Err(Errno::EAGAIN) => {
                    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::NONE)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Far beyond what any of this takes.
    const LONG: Duration = Duration::from_secs(60);

    /// Accepts writes as often as permitted, and this many bytes at a time.
    struct Gate {
        let_in: Receiver<io::Result<usize>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = self.let_in.recv().map_err(io::Error::other)??;
            let taken = bytes.len().min(most);
            self.written.send(bytes[..taken].to_vec()).map_err(io::Error::other)?;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Scene {
        writer: Writer,
        gate: Sender<io::Result<usize>>,
        written: Receiver<Vec<u8>>,
    }

    impl Scene {
        fn new() -> Self {
            let (gate, let_in) = channel();
            let (send, written) = channel();
            let out = Gate { let_in, written: send };
            let writer = Writer::start(out, |lost| format!("{lost} dropped\n")).expect("a thread");
            Self { writer, gate, written }
        }

        fn open(&self, what: io::Result<usize>) {
            self.gate.send(what).expect("the writer lives");
        }

        /// Waits until the writer is stalled in a write of the first lines.
        fn stalled(self) -> Self {
            self.writer.put("first\n", false);
            while !self.writer.0.lock().busy {
                thread::yield_now();
            }
            self
        }

        fn read(&self) -> String {
            String::from_utf8(self.written.recv_timeout(LONG).expect("it is written"))
                .expect("UTF-8")
        }
    }

    #[test]
    fn lines_are_written_in_order_and_together() {
        let scene = Scene::new().stalled();
        scene.writer.put("second\n", false);
        scene.writer.put("third\n", true);
        scene.open(Ok(ROOM));
        scene.open(Ok(ROOM));
        assert_eq!(
            (scene.read(), scene.read()),
            ("first\n".to_owned(), "second\nthird\n".to_owned())
        );
        assert!(scene.writer.flush(LONG));
        assert_eq!(scene.writer.dropped(), 0);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time_and_the_gap_is_said_in_its_place() {
        let scene = Scene::new().stalled();
        let line = format!("{}\n", "x".repeat(999));
        let most = (ROOM - SPARED) / 1000;
        for _ in 0..most + 3 {
            scene.writer.put(&line, false);
        }
        assert_eq!(scene.writer.dropped(), 3);
        assert!(!scene.writer.flush(Duration::from_millis(1)), "it is not written");
        scene.writer.put("an error\n", true);
        scene.open(Ok(ROOM));
        scene.open(Ok(ROOM));
        assert_eq!(scene.read(), "first\n");
        let rest = scene.read();
        assert_eq!(rest.lines().count(), most + 2);
        assert!(rest.ends_with("x\n3 dropped\nan error\n"), "{}", &rest[rest.len() - 60..]);
    }

    #[test]
    fn a_gap_is_said_though_nothing_follows_it() {
        let scene = Scene::new().stalled();
        scene.writer.put(&"x".repeat(ROOM), true);
        scene.writer.put("lost\n", true);
        assert_eq!(scene.writer.dropped(), 1);
        for _ in 0..3 {
            scene.open(Ok(ROOM));
        }
        let all = [scene.read(), scene.read(), scene.read()].concat();
        assert!(all.ends_with("1 dropped\n"));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_half_a_line_is_ended_before_the_next() {
        let scene = Scene::new().stalled();
        scene.writer.put("a\nbcd\ne\n", false);
        scene.open(Ok(ROOM));
        scene.open(Ok(4));
        scene.open(Err(io::ErrorKind::StorageFull.into()));
        assert_eq!((scene.read(), scene.read()), ("first\n".to_owned(), "a\nbc".to_owned()));
        assert!(scene.writer.flush(LONG));
        assert_eq!(scene.writer.dropped(), 2);
        scene.writer.put("f\n", false);
        scene.open(Ok(ROOM));
        scene.open(Ok(ROOM));
        assert_eq!((scene.read(), scene.read()), ("\n".to_owned(), "f\n".to_owned()));
    }
}
