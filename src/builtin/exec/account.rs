//! The user that a handler's programs run as.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

use super::contain::look;

/// A user and its groups, as the system knew them when the daemon started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: PathBuf,
    name: String,
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
        "the daemon runs as uid {1} and may not start programs as {0:?}; that needs root, or the \
         capabilities CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_CHOWN and CAP_DAC_OVERRIDE"
    )]
    Forbidden(String, u32),
    #[error(
        "the daemon runs in a user namespace that lacks the user {0:?} or one of its groups, so it \
         cannot start programs as it; under systemd set PrivateUsers=no beside the capabilities"
    )]
    Unmapped(String),
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
        let listed = CString::new(user.name.as_bytes())
            .map_err(|_| AccountError::Unknown(name.to_owned()))?;
        let groups = getgrouplist(&listed, user.gid).map_err(lookup)?;
        let account = Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            home: user.dir,
            name: user.name,
        };
        if !account.is_ours() {
            account.check_change(name)?;
        }
        Ok(account)
    }

    /// Why this process cannot become it.
    fn check_change(&self, name: &str) -> Result<(), AccountError> {
        let map = |kind: &str| fs::read_to_string(format!("/proc/self/{kind}_map"));
        // A kernel without user namespaces has no maps.
        if let (Ok(users), Ok(groups)) = (map("uid"), map("gid"))
            && !self.is_mapped(&users, &groups)
        {
            return Err(AccountError::Unmapped(name.to_owned()));
        }
        if !may_change() {
            return Err(AccountError::Forbidden(name.to_owned(), geteuid().as_raw()));
        }
        Ok(())
    }

    /// Whether its numbers exist in a user namespace with these maps (`user_namespaces(7)`).
    fn is_mapped(&self, users: &str, groups: &str) -> bool {
        has_number(users, self.uid)
            && self.groups.iter().chain([&self.gid]).all(|gid| has_number(groups, *gid))
    }

    /// Whether it is the daemon's own.
    pub(super) fn is_ours(&self) -> bool {
        self.uid == geteuid().as_raw()
    }

    /// Makes it the owner of a directory and the files in it.
    pub(super) fn give(&self, directory: &Path) -> Result<(), String> {
        let told = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| {
                format!("{path} could not be given to the user {}: {error}", self.name)
            }
        };
        // The mode bits are quick to read, and insufficient only with access control lists.
        let may_pass =
            |parent: &Path| parent.metadata().is_ok_and(|metadata| self.may_enter(&metadata));
        if !directory.ancestors().skip(1).all(may_pass)
            && let Some(why) = directory.parent().and_then(|parent| self.bars(parent))
        {
            return Err(why);
        }
        for entry in fs::read_dir(directory).map_err(told(directory))?.flatten() {
            chown(entry.path(), Some(self.uid), Some(self.gid)).map_err(told(&entry.path()))?;
        }
        chown(directory, Some(self.uid), Some(self.gid)).map_err(told(directory))
    }

    /// What keeps the user out of a directory, if anything, and what to do about it. Missing parts
    /// of the path do not count: the daemon creates them so that the user can pass.
    pub(super) fn bars(&self, directory: &Path) -> Option<String> {
        let is_barred = |path: &&Path| look::may_enter(path, Some(self)) == Some(false);
        let there = directory.ancestors().find(|path| path.exists()).filter(is_barred)?;
        let way: Vec<&Path> = there.ancestors().collect();
        let first = way.into_iter().rev().find(is_barred).unwrap_or(there);
        Some(format!(
            "the user {} cannot enter {}, on the way to the files that its programs are given in \
             {}; give it the right to (chmod o+x), or set worker.work_dir",
            self.name,
            first.display(),
            directory.display()
        ))
    }

    /// Whether the mode of a directory lets the user pass.
    fn may_enter(&self, directory: &fs::Metadata) -> bool {
        let shift = if directory.uid() == self.uid {
            6
        } else if self.groups.iter().chain([&self.gid]).any(|gid| directory.gid() == *gid) {
            3
        } else {
            0
        };
        self.uid == 0 || (directory.mode() >> shift) & 0o1 == 0o1
    }
}

/// Whether a map such as `/proc/self/uid_map` has this number. Its lines are the first number
/// inside, the first outside, and how many.
fn has_number(map: &str, number: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(number))
    })
}

/// Whether this process may become another user, kill that user's processes, give it files, and
/// read and remove those files.
fn may_change() -> bool {
    // chown, dac_override, kill, setgid, setuid
    const NEEDED: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    capabilities
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|have| have & NEEDED == NEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_has_the_numbers_of_its_maps_and_no_others() {
        let account = Account {
            uid: 1001,
            gid: 1001,
            groups: vec![1001, 50],
            home: PathBuf::from("/"),
            name: "spark".to_owned(),
        };
        // The machine's own, and those of systemd's PrivateUsers=yes.
        let (all, private) = ("         0          0 4294967295\n", "0 0 1\n999 999 1\n");
        assert!(account.is_mapped(all, all));
        assert!(!account.is_mapped(private, all), "not the user");
        assert!(!account.is_mapped(all, private), "not its groups");
        assert!(!account.is_mapped(all, "0 0 1\n1001 1001 1\n"), "not its other group");
        assert!(!account.is_mapped("", ""));
        for (number, there) in [(998, false), (999, true), (1000, true), (1001, false)] {
            assert_eq!(has_number("0 0 1\n999 5 2\n", number), there, "{number}");
        }
    }
}
