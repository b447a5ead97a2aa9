//! Writes text from anywhere so that it stays within its place in a line.

use std::fmt::Write as _;

/// The maximum size of one value in a line in bytes, including escapes.
const MAX_VALUE: usize = 16 * 1024;
/// Values are cut so that a line stays near this size. journald's `LineMax` is 48 KiB by default:
/// the rest would become a second line, whose beginning the value's author could choose.
const MAX_LINE: usize = 32 * 1024;

/// Text that needs no quotes to be distinguished from what surrounds it.
pub(super) fn is_one_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:+@*%#~".contains(&byte))
}

/// Writes a JSON string.
pub(super) fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text, Escape::Json);
    out.push('"');
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// Characters that would break the line or reach the terminal.
    Controls,
    /// Those, and characters that would end a JSON string.
    Json,
}

pub(super) fn push_escaped(out: &mut String, text: &str, escape: Escape) {
    let end = out.len() + MAX_VALUE.min(MAX_LINE.saturating_sub(out.len()));
    for (at, c) in text.char_indices() {
        if out.len() >= end {
            let _ = write!(out, "… ({} bytes more)", text.len() - at);
            return;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' if escape == Escape::Json => out.extend(['\\', c]),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// C0, DEL and C1; line and paragraph separators; and characters that change the writing direction,
/// so that a line would read differently than it is written. All have four hexadecimal digits.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
