//! What a program says, line by line into the log, and the end of it kept.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Longer lines are logged in pieces.
const LINE: usize = 8 * 1024;
/// Enough for any reason; a step's reason has room for 256 characters of it.
const TAIL: usize = 8 * 1024;

/// Logs a stream to its end, whatever its size and encoding, and returns the end of what it said.
pub(super) async fn log(stream: impl AsyncRead + Unpin, name: &'static str, tail: &mut VecDeque<u8>) {
    let mut reader = BufReader::with_capacity(LINE, stream);
    let mut line: Vec<u8> = Vec::new();
    // A stream that cannot be read has nothing more to say.
    while let Ok(chunk) = reader.fill_buf().await {
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
            tell(name, &line);
            line.clear();
        }
    }
    if !line.is_empty() {
        tell(name, &line);
    }
}

fn tell(stream: &'static str, line: &[u8]) {
    let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    tracing::info!(target: "callbackd::program", stream, "{line}");
}

fn keep(tail: &mut VecDeque<u8>, bytes: &[u8]) {
    tail.extend(bytes);
    tail.drain(..tail.len().saturating_sub(TAIL));
}

/// The end of a stream as text; a character cut in half at its beginning is dropped.
pub(super) fn text(tail: VecDeque<u8>) -> String {
    let bytes = Vec::from(tail);
    let begin = bytes.iter().position(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
    String::from_utf8_lossy(&bytes[begin..]).into_owned()
}
