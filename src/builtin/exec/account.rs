//! The user that a handler's programs run as.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

/// A user and its groups, as the machine knew them when the daemon started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: PathBuf,
    name: String,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) bits: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
}

impl Mode {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { bits: metadata.mode().into(), uid: metadata.uid().into(), gid: metadata.gid().into() }
    }
}

/// Why programs cannot run as a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum AccountError {
    #[error("this machine has no user {0:?}")]
    Unknown(String),
    #[error("the user {0:?} cannot be looked up: {1}")]
    Lookup(String, nix::Error),
    #[error(
        "the daemon runs as uid {1} and may not start programs as {0:?}; that needs root, or the capabilities CAP_SETUID, CAP_SETGID \
         and CAP_KILL"
    )]
    Forbidden(String, u32),
}

impl Account {
    /// The user of this name or number.
    pub(super) fn of(name: &str) -> Result<Self, AccountError> {
        let found = match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        };
        let lookup = |error| AccountError::Lookup(name.to_owned(), error);
        let user = found.map_err(lookup)?.ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
        let listed = CString::new(user.name.as_bytes()).map_err(|_| AccountError::Unknown(name.to_owned()))?;
        let groups = getgrouplist(&listed, user.gid).map_err(lookup)?;
        if user.uid != geteuid() && !may_change() {
            return Err(AccountError::Forbidden(name.to_owned(), geteuid().as_raw()));
        }
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            home: user.dir,
            name: user.name,
        })
    }

    /// Whether it is the daemon's own.
    pub(super) fn is_ours(&self) -> bool {
        self.uid == geteuid().as_raw()
    }

    /// Gives it a directory and the files in there.
    pub(super) fn give(&self, directory: &Path) -> Result<(), String> {
        let told = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| format!("{path} cannot be given to the user {}: {error}", self.name)
        };
        for parent in directory.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if !parent.metadata().is_ok_and(|metadata| self.may_use(Mode::of(&metadata), 0o1)) {
                return Err(format!(
                    "the user {} cannot enter {}, in which the step's files lie; give it the right to (chmod o+x), or set worker.work_dir",
                    self.name,
                    parent.display()
                ));
            }
        }
        for entry in fs::read_dir(directory).map_err(told(directory))?.flatten() {
            chown(entry.path(), Some(self.uid), Some(self.gid)).map_err(told(&entry.path()))?;
        }
        chown(directory, Some(self.uid), Some(self.gid)).map_err(told(directory))
    }

    /// Whether the mode of a file allows it `bits` of rwx.
    pub(super) fn may_use(&self, file: Mode, bits: u64) -> bool {
        let shift = if file.uid == u64::from(self.uid) {
            6
        } else if self.groups.iter().chain([&self.gid]).any(|gid| file.gid == u64::from(*gid)) {
            3
        } else {
            0
        };
        if self.uid == 0 { bits & 0o1 == 0 || file.bits & 0o111 != 0 } else { (file.bits >> shift) & bits == bits }
    }
}

/// Whether this process may become another user, and end what runs as one.
fn may_change() -> bool {
    // kill, setgid, setuid
    const NEEDED: u64 = 1 << 5 | 1 << 6 | 1 << 7;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).is_some_and(|have| have & NEEDED == NEEDED)
}
