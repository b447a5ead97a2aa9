//! Whether the open files are still those that a next process would open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::beside_it;
use crate::ledger::store::StoreError;

/// The ledger's file and its log, as they were when they were opened.
pub(super) struct Files {
    path: PathBuf,
    known: Vec<(PathBuf, Identity)>,
}

/// Identifies a file independently of its name.
type Identity = (u64, u64);

impl Files {
    /// Those of the open ledger at `path`.
    pub(super) fn at(path: &Path) -> Self {
        let known = |path: PathBuf| Some((path.clone(), identity(&path).ok()?));
        let known = [path.to_owned(), beside_it(path, "-wal")].into_iter().filter_map(known);
        Self { path: path.to_owned(), known: known.collect() }
    }

    /// The ledger's file itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn are_there(&self) -> Result<(), StoreError> {
        for (path, known) in &self.known {
            let what = match identity(path) {
                Ok(found) if found == *known => continue,
                Ok(_) => "was replaced".to_owned(),
                Err(error) => format!("does not exist any more ({error})"),
            };
            return Err(StoreError(format!("{} {what}", path.display())));
        }
        Ok(())
    }
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}
