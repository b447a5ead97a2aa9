//! What can be set for the ledger.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// How long a claim holds without renewal where several workers share the ledger; at least 3 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// How long settled steps are kept.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub retention: Duration,
}

/// Where the ledger lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Sqlite,
    /// Not in this version.
    Dynamodb,
    /// Nothing outlives the process; for trials.
    Memory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::Sqlite,
            path: default_path(std::env::var_os("STATE_DIRECTORY").and_then(|dirs| dirs.into_string().ok()).as_deref()),
            table: None,
            lease: Duration::from_mins(1),
            retention: Duration::from_hours(14 * 24),
        }
    }
}

/// Under the first of systemd's state directories, where there is one.
fn default_path(state_directories: Option<&str>) -> PathBuf {
    let first = state_directories.and_then(|dirs| dirs.split(':').next()).filter(|dir| !dir.is_empty());
    PathBuf::from(first.unwrap_or("/var/lib/callbackd")).join("ledger.db")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_lies_where_systemd_says() {
        assert_eq!(default_path(Some("/var/lib/a:/var/lib/b")), PathBuf::from("/var/lib/a/ledger.db"));
        assert_eq!(default_path(None), PathBuf::from("/var/lib/callbackd/ledger.db"));
    }
}
