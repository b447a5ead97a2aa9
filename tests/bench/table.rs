//! Figures, gathered over rounds and shown as a table.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// All that was measured, for `--json`.
#[derive(Default)]
pub struct Figures(Map<String, Value>);

impl Figures {
    pub fn add(&mut self, part: &str, name: &str, values: Value) {
        self.0.entry(part).or_insert_with(|| json!({}))[name] = values;
    }

    pub fn write(&self, file: &Path) {
        let text = serde_json::to_string_pretty(&self.0).expect("JSON");
        fs::write(file, text + "\n").unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[at - 1], values[at]),
        _ => values[at],
    }
}

/// That below which so many of a hundred lie.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// Prints lines under their heads, the first column to the left, the others to the right.
pub fn print(title: &str, heads: &[&str], lines: &[Vec<String>]) {
    let width = |at: usize| {
        let cells = lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count());
        cells.chain([heads[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let row = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).enumerate().map(|(at, (cell, &width))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    println!("\n{title}\n  {}", row(&mut heads.iter().copied()));
    for line in lines {
        println!("  {}", row(&mut line.iter().map(String::as_str)));
    }
}

pub fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1024.0 / 1024.0)
}
