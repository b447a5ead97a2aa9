//! Where a ledger's file really is, and whether it will stay there together with its log.
//!
//! SQLite keeps the log beside the file, under the file's name, and shares the log's index through
//! memory. So a file needs a single name, a directory that lasts as long as the file, and a local
//! file system.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;

use super::error::OpenError;

/// A ledger's file as the kernel knows it; it may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Without symbolic links.
    pub(super) path: PathBuf,
    /// The kind of network file system that it is on, if any: there the file is opened by a single
    /// process, which shares no memory.
    pub(super) network: Option<&'static str>,
}

/// The maximum number of symbolic links on the path; the kernel's own limit.
const LINKS: usize = 40;

impl Place {
    /// Follows `path` to the file, and refuses one whose log would not stay with it.
    ///
    /// # Errors
    /// [`OpenError`] that says what to do.
    pub(super) fn find(path: &Path) -> Result<Self, OpenError> {
        let real = real(path)?;
        let file = match fs::metadata(&real) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(OpenError::new(
                    path,
                    format!("it cannot be examined ({error}): fix its permissions"),
                ));
            }
        };
        if let Some(file) = file {
            if !file.is_file() {
                return Err(OpenError::new(
                    path,
                    "it is not a file: set ledger.path to a file of callbackd's own",
                ));
            }
            if file.nlink() > 1 {
                let problem = format!(
                    "the file has {} names (hard links), but its log belongs to one of them: \
                     remove the others, or copy the file",
                    file.nlink()
                );
                return Err(OpenError::new(path, problem));
            }
        }
        if is_mount_point(&real, &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) {
            let problem = "the file is mounted by itself, and its log beside it would be lost with \
                           this container: mount its directory";
            return Err(OpenError::new(path, problem));
        }
        let network =
            statfs(directory(&real)).ok().and_then(|found| network(found.filesystem_type().0));
        Ok(Self { path: real, network })
    }
}

/// The directory of a file.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn real(path: &Path) -> Result<PathBuf, OpenError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&at) {
            Ok(target) => at = directory(&at).join(target),
            Err(_) => {
                let name = at.file_name().ok_or_else(|| {
                    OpenError::new(path, "it is not a file: set ledger.path to a file")
                })?;
                return match fs::canonicalize(directory(&at)) {
                    Ok(directory) => Ok(directory.join(name)),
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        let problem = format!(
                            "its directory does not exist: create {} for the user that callbackd \
                             runs as, or set ledger.path",
                            directory(&at).display()
                        );
                        Err(OpenError::new(path, problem))
                    }
                    Err(error) => {
                        let problem = format!(
                            "its directory cannot be reached ({error}): fix its permissions"
                        );
                        Err(OpenError::new(path, problem))
                    }
                };
            }
        }
    }
    Err(OpenError::new(path, "its symbolic links lead nowhere: set ledger.path to the file"))
}

/// Whether something is mounted exactly at this path. `mounts` is in the form of
/// `/proc/self/mountinfo` (proc(5)): the fifth field of a line is the mount point, with white space
/// and backslashes as octal numbers.
fn is_mount_point(path: &Path, mounts: &str) -> bool {
    let escaped = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    };
    let path: Vec<u8> = path.as_os_str().as_bytes().iter().flat_map(escaped).collect();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| point.as_bytes() == path))
}

/// The name of a file system whose files other machines may have open, by its magic number
/// (statfs(2), `linux/magic.h`).
fn network(magic: i64) -> Option<&'static str> {
    // The numbers have 32 bits, and some are sign-extended.
    Some(match magic & 0xffff_ffff {
        0x6969 => "NFS (EFS is one)",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x0bd0_0bd0 => "Lustre",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x1983_0326 => "BeeGFS",
        0x4750_4653 => "GPFS",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        _ => return None,
    })
}

/// Which processes, except this one, hold locks on the file or on its log's index, as the kernel
/// lists them (proc(5)).
pub(super) fn holders(path: &Path) -> Vec<String> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        fs::metadata(PathBuf::from(name)).map(|file| file.ino()).ok()
    };
    let inodes: Vec<u64> = ["", "-shm", "-wal"].into_iter().filter_map(beside).collect();
    let mut pids = pids(&fs::read_to_string("/proc/locks").unwrap_or_default(), &inodes);
    pids.retain(|pid| *pid != std::process::id());
    let named = |pid: u32| match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    };
    pids.into_iter().map(named).collect()
}

/// `1: POSIX  ADVISORY  WRITE 1234 08:01:131 0 EOF`
fn pids(locks: &str, inodes: &[u64]) -> Vec<u32> {
    let of_line = |line: &str| -> Option<u32> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // A waiting lock has an arrow before its kind.
        let at = fields.iter().position(|field| *field == "READ" || *field == "WRITE")?;
        let inode: u64 = fields.get(at + 2)?.rsplit(':').next()?.parse().ok()?;
        let is_held = !fields.contains(&"->");
        let pid = fields.get(at + 1)?.parse().ok()?;
        (is_held && inodes.contains(&inode)).then_some(pid)
    };
    let mut pids: Vec<u32> = locks.lines().filter_map(of_line).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn told(path: &Path) -> String {
        Place::find(path).expect_err("refused").to_string()
    }

    #[test]
    fn every_way_to_a_file_leads_to_one_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        fs::create_dir(root.join("data")).expect("made");
        symlink("data", root.join("link")).expect("made");
        symlink(root.join("link/ledger.db"), root.join("other.db")).expect("made");
        let file = root.join("data/ledger.db");
        for there in [false, true] {
            for path in ["data/ledger.db", "link/ledger.db", "link/../data/./ledger.db", "other.db"]
            {
                let place = Place::find(&root.join(path)).expect("a place");
                assert_eq!(
                    place,
                    Place { path: file.clone(), network: None },
                    "{path}, there: {there}"
                );
            }
            fs::write(&file, "").expect("made");
        }
        symlink("round.db", root.join("round.db")).expect("made");
        assert!(told(&root.join("round.db")).contains("lead nowhere"));
        assert!(told(&root.join("no/ledger.db")).contains("its directory does not exist"));
        assert!(told(&root.join("data")).contains("it is not a file"));
    }

    #[test]
    fn a_file_with_two_names_is_refused_under_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one.db"), folder.path().join("other.db"));
        fs::write(&one, "").expect("made");
        fs::hard_link(&one, &other).expect("linked");
        for path in [&one, &other] {
            assert!(told(path).contains("has 2 names (hard links)"), "{}", told(path));
        }
        fs::remove_file(other).expect("removed");
        assert!(Place::find(&one).is_ok());
    }

    #[test]
    fn a_file_that_is_mounted_by_itself_is_told_from_one_in_a_mounted_directory() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      40 22 8:1 /host/ledger.db /var/lib/callbackd/ledger.db rw - ext4 /dev/sda1 \
                      rw\n\
                      41 22 8:1 /data /srv/a\\040b rw - ext4 /dev/sda1 rw\n";
        for (path, wants) in [
            ("/var/lib/callbackd/ledger.db", true),
            ("/var/lib/callbackd", false),
            ("/var/lib/callbackd/ledger.db-wal", false),
            ("/srv/a b", true),
            ("/srv/a b/ledger.db", false),
        ] {
            assert_eq!(is_mount_point(Path::new(path), mounts), wants, "{path}");
        }
    }

    #[test]
    fn file_systems_that_other_machines_share_are_known() {
        for (magic, wants) in [
            (0x6969, Some("NFS (EFS is one)")),
            (0xff53_4d42, Some("SMB")),
            (i64::from(0xff53_4d42_u32.cast_signed()), Some("SMB")),
            (0xef53, None),
            (0x0102_1994, None),
            (0x794c_7630, None),
        ] {
            assert_eq!(network(magic), wants, "{magic:x}");
        }
    }

    #[test]
    fn those_who_hold_a_lock_are_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 812 08:01:131 1073741824 1073742335\n\
                     2: POSIX  ADVISORY  READ  77 00:1f:132 128 128\n\
                     2: -> POSIX  ADVISORY  WRITE 99 00:1f:132 128 128\n\
                     3: FLOCK  ADVISORY  WRITE 5 08:01:200 0 EOF\n\
                     4: POSIX  ADVISORY  READ 812 08:01:132 128 128\n";
        assert_eq!(pids(locks, &[131, 132]), [77, 812]);
        assert_eq!(pids(locks, &[7]), [0; 0]);
    }
}
