//! The settings of the ledger.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Range;

/// `[ledger]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite` or `memory`; `dynamodb` comes with a later version.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The file, for `sqlite`, on a disk that outlives the process.
    pub path: PathBuf,
    /// The table, for `dynamodb`.
    pub table: Option<String>,
    /// How long a worker's claims are valid without the worker renewing its lease, if several
    /// workers share the ledger.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// How long settled steps are kept.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub retention: Duration,
}

/// Where the ledger is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Sqlite,
    /// Not in this version.
    Dynamodb,
    /// Nothing outlives the process; for experiments.
    Memory,
}

impl Config {
    pub const LEASE: Range = Range::new(Duration::from_secs(3), Duration::from_hours(12));
    pub const RETENTION: Range = Range::new(Duration::from_secs(1), Duration::from_hours(365 * 24));

    /// The ranges of its keys.
    #[must_use]
    pub fn ranges() -> Vec<(&'static str, String)> {
        vec![("lease", Self::LEASE.to_string()), ("retention", Self::RETENTION.to_string())]
    }

    /// Its mistakes: pairs of a key and the reason.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if self.kind == Kind::Dynamodb {
            let what =
                "\"dynamodb\" comes with a later version; this one has \"sqlite\" and \"memory\"";
            mistakes.push(("type", what.to_owned()));
        } else if self.table.is_some() {
            let what = "is for type = \"dynamodb\", which comes with a later version; leave it out";
            mistakes.push(("table", what.to_owned()));
        }
        if self.path.as_os_str().is_empty() {
            mistakes.push(("path", "is empty; name the ledger's file".to_owned()));
        }
        mistakes.extend(Self::LEASE.refusal(self.lease).map(|what| ("lease", what)));
        mistakes.extend(Self::RETENTION.refusal(self.retention).map(|what| ("retention", what)));
        mistakes
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::Sqlite,
            path: default_path(
                std::env::var_os("STATE_DIRECTORY")
                    .and_then(|dirs| dirs.into_string().ok())
                    .as_deref(),
            ),
            table: None,
            lease: Duration::from_mins(1),
            retention: Duration::from_hours(14 * 24),
        }
    }
}

/// In the first of systemd's state directories, if there is one.
fn default_path(state_directories: Option<&str>) -> PathBuf {
    let first =
        state_directories.and_then(|dirs| dirs.split(':').next()).filter(|dir| !dir.is_empty());
    PathBuf::from(first.unwrap_or("/var/lib/callbackd")).join("ledger.db")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_lies_where_systemd_says() {
        assert_eq!(
            default_path(Some("/var/lib/a:/var/lib/b")),
            PathBuf::from("/var/lib/a/ledger.db")
        );
        assert_eq!(default_path(None), PathBuf::from("/var/lib/callbackd/ledger.db"));
    }
}
