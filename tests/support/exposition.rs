//! The text of `/metrics`, held to Prometheus' own tool.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::process::Command;

/// That promtool finds no fault in names, types and texts.
pub fn assert_metrics_are_well(exposition: &str) {
    let mut file = tempfile::tempfile().expect("the temporary directory is writable");
    file.write_all(as_text(exposition).as_bytes()).expect("it is writable");
    file.rewind().expect("it is a file");
    let run = Command::new("promtool").args(["check", "metrics"]).stdin(file).output();
    let run = run.unwrap_or_else(|error| {
        panic!("promtool does not run ({error}): apt-get install prometheus")
    });
    let printed = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && printed.trim().is_empty(), "{printed}\n{exposition}");
}

/// The older text format, which is all that `promtool check metrics` reads: there a family has the
/// name of its samples.
fn as_text(exposition: &str) -> String {
    let kinds: BTreeMap<&str, &str> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut out = String::new();
    for line in exposition.lines() {
        let described =
            ["# HELP ", "# TYPE "].iter().find_map(|it| Some((*it, line.strip_prefix(it)?)));
        if let Some((what, rest)) = described {
            let (family, rest) = rest.split_once(' ').expect("a name and more");
            let (suffix, kind) = match kinds[family] {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            let rest = if what == "# TYPE " { kind } else { rest };
            out += &format!("{what}{family}{suffix} {rest}\n");
        } else if !line.starts_with("# ") {
            out += &format!("{line}\n");
        }
    }
    out
}
