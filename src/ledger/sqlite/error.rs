//! Why a file cannot be used as a ledger, and what to do about it.

use std::io::ErrorKind;
use std::path::Path;

use rusqlite::ErrorCode;

use super::place;

/// A file cannot be used as a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger {path}: {problem}")]
pub struct OpenError {
    path: String,
    problem: String,
    kind: Kind,
}

/// What is wrong with the file, as far as that matters to who opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    InUse,
    Newer,
    Older,
    Damaged,
    Other,
}

impl OpenError {
    pub(super) fn new(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: path.display().to_string(), problem: problem.into(), kind: Kind::Other }
    }

    pub(super) fn held(path: &Path, who: &str) -> Self {
        let problem = format!(
            "another callbackd ({who}) has it open: stop that one, or give each worker a \
             ledger.path of its own"
        );
        Self::in_use(path, problem)
    }

    /// The name of the condition, which has a code.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self.kind {
            Kind::InUse => "ledger_in_use",
            Kind::Newer => "ledger_newer",
            Kind::Older => "ledger_older",
            Kind::Damaged => "ledger_damaged",
            Kind::Other => "ledger_unusable",
        }
    }

    /// It is damaged, or not a ledger.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.kind == Kind::Damaged
    }

    /// The file is intact, but a newer one was in its place.
    #[must_use]
    pub fn is_older(&self) -> bool {
        self.kind == Kind::Older
    }

    /// The file is intact, and another process uses it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.kind == Kind::InUse
    }

    pub(in crate::ledger) fn not_here() -> Self {
        Self {
            path: "in DynamoDB".to_owned(),
            problem: "is opened by the daemon, in a build with the feature `dynamodb`".to_owned(),
            kind: Kind::Other,
        }
    }

    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        if is_busy(error) {
            let holders = place::holders(path);
            let who = if holders.is_empty() {
                "another process".to_owned()
            } else {
                holders.join(" and ")
            };
            let problem = format!(
                "it is locked by {who} ({error}): end that use of it (a shell, a backup), and start \
                 again"
            );
            return Self::new(path, problem);
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::damaged(path, &error.to_string())
            }
            Some(ErrorCode::DiskFull) => {
                Self::new(path, format!("its disk is full ({error}): free some space"))
            }
            Some(ErrorCode::ReadOnly) => Self::new(
                path,
                format!(
                    "it is read-only ({error}): fix its permissions or its file system, or set \
                     ledger.path"
                ),
            ),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => Self::new(
                path,
                format!(
                    "it cannot be opened ({error}): fix its permissions and those of its directory"
                ),
            ),
            _ => Self::new(path, format!("{error}: check the disk that it is on")),
        }
    }

    pub(super) fn in_use(path: &Path, problem: impl Into<String>) -> Self {
        Self { kind: Kind::InUse, ..Self::new(path, problem) }
    }

    pub(super) fn newer(path: &Path, problem: impl Into<String>) -> Self {
        Self { kind: Kind::Newer, ..Self::new(path, problem) }
    }

    pub(super) fn older(path: &Path, problem: impl Into<String>) -> Self {
        Self { kind: Kind::Older, ..Self::new(path, problem) }
    }

    pub(super) fn damaged(path: &Path, detail: &str) -> Self {
        let problem = format!(
            "it is damaged or not a ledger ({detail}): restore it, or move it away to begin with \
             an empty one; running steps then start again from their messages"
        );
        Self { kind: Kind::Damaged, ..Self::new(path, problem) }
    }
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

pub(super) fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => "make its file system writable, or set ledger.path",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        ErrorKind::InvalidFilename => "give it a shorter name: set ledger.path",
        _ => "fix its permissions and those of its directory, or set ledger.path",
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_comes_with_what_to_do_about_it() {
        for (code, wants) in [
            (ffi::SQLITE_CORRUPT, "restore it, or move it away"),
            (ffi::SQLITE_NOTADB, "restore it, or move it away"),
            (ffi::SQLITE_FULL, "free some space"),
            (ffi::SQLITE_READONLY, "fix its permissions or its file system"),
            (ffi::SQLITE_CANTOPEN, "fix its permissions and those of its directory"),
            (ffi::SQLITE_PERM, "fix its permissions and those of its directory"),
            (ffi::SQLITE_IOERR, "check the disk"),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let text = OpenError::of(Path::new("/l/ledger.db"), &error).to_string();
            assert!(
                text.starts_with("the ledger /l/ledger.db: ") && text.contains(wants),
                "{code}: {text}"
            );
        }
        for (kind, wants) in [
            (ErrorKind::ReadOnlyFilesystem, "make its file system writable"),
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::QuotaExceeded, "free some space"),
            (ErrorKind::PermissionDenied, "fix its permissions"),
        ] {
            assert!(remedy(&kind.into()).starts_with(wants), "{kind}");
        }
    }
}
