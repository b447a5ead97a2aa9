//! What one program may use.

use nix::libc;
use schemars::JsonSchema;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// `limits = { memory, open_files, processes }`. If each run has a cgroup with the needed
/// controllers, they apply to all processes of a run together; otherwise to each process (`memory`:
/// its address space) or to all processes of the user (`processes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// In bytes: a number, or a text like "512MiB", "2GiB".
    #[serde(default, deserialize_with = "bytes")]
    #[schemars(with = "Option<String>")]
    pub memory: Option<u64>,
    /// Open file descriptors of each process.
    #[serde(default)]
    pub open_files: Option<u64>,
    /// Processes and threads at once: of the run, or of the user if no cgroup is available.
    #[serde(default)]
    pub processes: Option<u64>,
}

/// With less, no program could begin.
const LEAST_MEMORY: u64 = 4 << 20;
/// Its three streams, and one to load a library.
const LEAST_OPEN_FILES: u64 = 4;

impl Limits {
    pub(super) fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// What is wrong with them.
    pub(super) fn mistakes(&self) -> impl Iterator<Item = String> {
        let least = [
            ("memory", self.memory, LEAST_MEMORY),
            ("open_files", self.open_files, LEAST_OPEN_FILES),
            ("processes", self.processes, 1),
        ];
        least.into_iter().filter_map(|(name, value, least)| {
            value
                .filter(|value| *value < least)
                .map(|value| format!("`limits.{name}` is {value}; the least is {least}"))
        })
    }

    /// As resource limits, without those that a cgroup enforces.
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type of these constants differs between C libraries"
    )]
    pub(super) fn resources(&self, memory: bool, processes: bool) -> Vec<(u32, u64, u64)> {
        let limits = [
            (libc::RLIMIT_AS, self.memory.filter(|_| !memory)),
            (libc::RLIMIT_NOFILE, self.open_files),
            (libc::RLIMIT_NPROC, self.processes.filter(|_| !processes)),
        ];
        limits
            .into_iter()
            .filter_map(|(what, limit)| limit.map(|limit| (what as u32, limit, limit)))
            .collect()
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(Bytes).map(Some)
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number of bytes, or a text like \"512MiB\"")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit: u64 = match text[digits.len()..].trim() {
            "" | "B" => 1,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(E::invalid_value(Unexpected::Str(text), &self)),
        };
        let number: u64 =
            digits.trim().parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))?;
        number.checked_mul(unit).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_is_a_number_or_has_a_unit() {
        let read =
            |value: serde_json::Value| serde_json::from_value::<Limits>(json!({ "memory": value }));
        for (value, wants) in [
            (json!(5_000_000), 5_000_000),
            (json!("512MiB"), 512 << 20),
            (json!("2 GiB"), 2 << 30),
            (json!("1GB"), 1_000_000_000),
        ] {
            assert_eq!(read(value.clone()).expect("readable").memory, Some(wants), "{value}");
        }
        for odd in [json!("much"), json!(""), json!("5 lb"), json!(-1), json!("99999999999TiB")] {
            let error = read(odd.clone()).expect_err("refused").to_string();
            assert!(error.contains("a number of bytes"), "{odd}: {error}");
        }
        assert!(Limits { memory: Some(100), ..Limits::default() }.mistakes().next().is_some());
    }

    #[test]
    fn what_a_cgroup_holds_is_no_resource_limit() {
        let limits = Limits { memory: Some(1 << 30), open_files: Some(64), processes: Some(9) };
        assert_eq!(limits.resources(false, false).len(), 3);
        assert_eq!(limits.resources(true, true), limits.resources(false, false)[1..2]);
    }
}
