//! The settings of the ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Range;

/// `[ledger]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite`, `dynamodb` or `memory`.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The file, for `sqlite`, on a disk that outlives the process.
    pub path: PathBuf,
    /// The table, for `dynamodb`, in `aws.region`.
    pub table: String,
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
    /// A table, shared by a fleet of workers.
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
        if self.kind == Kind::Dynamodb && !cfg!(feature = "dynamodb") {
            let what = "\"dynamodb\" is not in this binary: build it with the feature `dynamodb`";
            mistakes.push(("type", what.to_owned()));
        }
        if !is_table(&self.table) {
            let what = "is not the name of a table: 3 to 255 letters, digits, `_`, `-` and `.`";
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

impl Config {
    /// Whether this is the default path, and would be another one in a shell.
    #[must_use]
    pub fn is_by_service_manager(path: &Path) -> bool {
        *path == Self::default().path && *path != default_path(None)
    }

    /// Whether it is in the state directory of an instance, such as `callbackd@etl.service`.
    #[must_use]
    pub fn is_of_instance(path: &Path) -> bool {
        let directory = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        directory.is_some_and(|name| name.starts_with("callbackd-"))
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
            table: "callbackd".to_owned(),
            lease: Duration::from_mins(1),
            retention: Duration::from_hours(14 * 24),
        }
    }
}

/// The names that DynamoDB allows.
fn is_table(name: &str) -> bool {
    (3..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
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
    fn a_table_has_a_name_that_dynamodb_allows() {
        for (name, wants) in [
            ("callbackd", true),
            ("a.B-9_c", true),
            ("ab", false),
            ("arn:aws:dynamodb:us-east-1:123456789012:table/steps", false),
            (&"x".repeat(256), false),
        ] {
            let config = Config { table: name.to_owned(), ..Config::default() };
            assert_eq!(config.mistakes().is_empty(), wants, "{name}");
        }
    }

    #[test]
    fn the_ledger_lies_where_systemd_says() {
        assert_eq!(
            default_path(Some("/var/lib/a:/var/lib/b")),
            PathBuf::from("/var/lib/a/ledger.db")
        );
        assert_eq!(default_path(None), PathBuf::from("/var/lib/callbackd/ledger.db"));
    }
}
