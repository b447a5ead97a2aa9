//! What every line of a log in JSON must have.

use serde_json::Value;

/// The lines at `info` and worse without an `event`, and those that warn without a `code`. What is
/// no JSON is no line of the log: the last words of a process, or half a line of a killed one.
pub fn nameless(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| {
        let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
        let warns = match line["level"].as_str() {
            Some("INFO") => false,
            Some("WARN" | "ERROR") => true,
            Some("DEBUG" | "TRACE") => return false,
            _ => return true,
        };
        let is_code = |code: &str| code.starts_with("CBD") && code.len() == 6;
        !line["event"].is_string() || line["code"].as_str().is_some_and(is_code) != warns
    })
}

#[test]
fn a_line_without_an_event_and_a_warning_without_a_code_are_found() {
    let good = r#"{"level":"INFO","event":"a"}
{"level":"ERROR","event":"a","code":"CBD101"}
{"level":"DEBUG"}
callbackd: no line of the log [CBD520]
{"level":"INFO","eve"#;
    assert_eq!(nameless(good).count(), 0);
    for bad in [
        r#"{"level":"INFO"}"#,
        r#"{"event":"a"}"#,
        r#"{"level":"INFO","event":"a","code":"CBD101"}"#,
        r#"{"level":"WARN","event":"a"}"#,
        r#"{"level":"WARN","event":"a","code":"101"}"#,
        r#"{"level":"ERROR","code":"CBD101"}"#,
    ] {
        assert_eq!(nameless(bad).collect::<Vec<_>>(), [bad]);
    }
}
