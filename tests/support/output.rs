//! What a command printed.

use std::process::Output;

/// Its standard output and its standard error, one after the other.
pub fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
