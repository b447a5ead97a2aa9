//! The files of a run, `$STEP_OUTPUT` and `$STEP_CHECKPOINT` among them, in a directory of its own
//! below `worker.work_dir`.
//!
//! ```text
//! work_dir/TOKEN-NUMBER/run      how its processes can be identified: ours alone
//! work_dir/TOKEN-NUMBER/files/   what the program reads and writes: it may remove that
//! ```
//! The directory is removed with the run, unless it holds a checkpoint that the ledger does not, or
//! a process of the run may be alive: the next run of the step deals with that (`earlier`). What a
//! killed worker left of a settled step is removed later (`abandoned`).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate};
use nix::sys::statvfs::statvfs;

use super::abandoned;
use super::account::Account;
use super::contain::Remains;
use super::content::Content;
use super::earlier::Run;
use crate::handler::{StopReason, host_trouble};
use crate::outcome::{InvalidOutput, Outputs};

/// The directory of one run.
pub(super) struct Workspace {
    directory: PathBuf,
    /// Identifies the processes of the run, once it may have some.
    processes: Option<Remains>,
    /// A hash of the checkpoint that the ledger has.
    kept: AtomicU64,
    /// Tells all workers that the directory is in use.
    _in_use: Option<Flock<File>>,
}

/// The metadata that changes whenever a file does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

/// The state of a checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Missing,
    Empty,
    Content(Content),
}

/// What a program wrote for us cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum FileError {
    #[error("STEP_OUTPUT: {0}")]
    Invalid(#[from] InvalidOutput),
    #[error("STEP_OUTPUT: line {0} is not name=value: {1:?}")]
    Line(usize, String),
    #[error("{0} is not UTF-8")]
    Encoding(&'static str),
    #[error("{0} is larger than {1} bytes")]
    Large(&'static str, u64),
    #[error("{0} is not a plain file")]
    Kind(&'static str),
    #[error("{0} is gone")]
    Gone(&'static str),
    #[error("{0} cannot be read: {1}")]
    Read(&'static str, io::Error),
}

/// All outputs that SageMaker accepts, in UTF-8, are far smaller.
const MAX_OUTPUT: u64 = 1 << 20;
/// A checkpoint says where a job is, not what it has done; it is written to the ledger at every
/// change.
const MAX_CHECKPOINT: u64 = 256 << 10;
/// A few lines; only the last one counts.
const MAX_PROGRESS: u64 = 16 << 10;
/// The name of `$STEP_PROGRESS` in its directory.
pub(super) const PROGRESS: &str = "progress";
/// A key has up to 256 characters; only the last line counts.
const MAX_KEY: u64 = 16 << 10;
/// The name of `$STEP_KEY` in its directory.
pub(super) const KEY: &str = "key";
/// A line of the log has room for no more, and SageMaker takes far less.
const MAX_REASON: u64 = 16 << 10;
/// The name of the directory of the program's files in the run's.
pub(super) const FILES: &str = "files";
/// The name of `$STEP_CHECKPOINT` in its directory.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// A disk counts as full if less than this fraction of its space is left.
const FULL: u64 = 100;
/// Space reserved for `$STEP_OUTPUT`, so that a disk that fills up during the run does not prevent
/// outputs of usual size.
const RESERVED: i64 = 16 << 10;
/// A program that failed with less free space than this may have failed because of it. It is
/// usually more than what other runs that end at the same moment free, and what a program frees by
/// removing its unfinished file.
const SCARCE: i64 = 1 << 20;

impl Workspace {
    /// Creates the directories, and puts the last checkpoint where the program looks for it.
    pub(super) fn new(
        work_dir: &Path,
        token: &str,
        checkpoint: Option<&Content>,
    ) -> io::Result<Self> {
        make(work_dir)?;
        let directory = work_dir.join(abandoned::name(token, fastrand::u64(..)));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let in_use = abandoned::lock(&directory, FlockArg::LockSharedNonblock);
        let kept = AtomicU64::new(name_of(checkpoint));
        let workspace = Self { directory, processes: None, kept, _in_use: in_use };
        DirBuilder::new().mode(0o700).create(workspace.files())?;
        reserve(&File::create(workspace.output())?, RESERVED)?;
        fs::write(workspace.checkpoint(), checkpoint.map_or(&[][..], |content| &content.0))?;
        Ok(workspace)
    }

    /// The name by which the ledger knows the run.
    pub(super) fn name(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The directory of all files of the program.
    pub(super) fn files(&self) -> PathBuf {
        self.directory.join(FILES)
    }

    pub(super) fn output(&self) -> PathBuf {
        self.files().join("output")
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.files().join(CHECKPOINT)
    }

    pub(super) fn reason_file(&self) -> PathBuf {
        self.files().join("reason")
    }

    pub(super) fn progress_file(&self) -> PathBuf {
        self.files().join(PROGRESS)
    }

    pub(super) fn key_file(&self) -> PathBuf {
        self.files().join(KEY)
    }

    pub(super) fn stop_file(&self) -> PathBuf {
        self.files().join("stop")
    }

    /// Makes another user the owner of the program's files.
    pub(super) fn give_to(&self, account: &Account) -> Result<(), String> {
        fs::set_permissions(&self.directory, Permissions::from_mode(0o711)).map_err(|error| {
            format!("{} could not be opened to other users: {error}", self.directory.display())
        })?;
        account.give(&self.files())
    }

    /// Has the next life of the daemon know the run, should this one be killed.
    pub(super) fn is_of(&mut self, run: Run) -> io::Result<()> {
        run.write(&self.directory)?;
        self.processes = Some(run.processes);
        Ok(())
    }

    /// Writes the reason to the file where a program can read why it is told to end; the file
    /// appears complete or not at all.
    pub(super) fn tell(&self, reason: StopReason) {
        let draft = self.files().join("stop.draft");
        let told =
            fs::write(&draft, reason.as_str()).and_then(|()| fs::rename(&draft, self.stop_file()));
        if let Err(error) = told {
            tracing::warn!(
                event = "stop_file_not_written",
                %error,
                "STEP_STOP_FILE could not be written; the program gets only the signal"
            );
        }
    }

    /// What the program wrote to `$STEP_OUTPUT`.
    pub(super) fn outputs(&self) -> Result<Outputs, FileError> {
        let name = "STEP_OUTPUT";
        let text = String::from_utf8(read(&self.output(), name, MAX_OUTPUT)?);
        outputs_of(&text.map_err(|_| FileError::Encoding(name))?)
    }

    /// Why it failed, in the program's own words, if it wrote any to `$STEP_REASON`.
    pub(super) fn reason(&self) -> Option<String> {
        let name = "STEP_REASON";
        let mut text = Vec::new();
        let read = open(&self.reason_file(), name).and_then(|file| {
            let mut beginning = file.take(MAX_REASON);
            beginning.read_to_end(&mut text).map_err(|error| FileError::Read(name, error))
        });
        match read {
            Ok(_) => {
                let text = String::from_utf8_lossy(&text);
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            }
            Err(FileError::Gone(_)) => None,
            Err(error) => {
                tracing::warn!(
                    event = "reason_unreadable",
                    %error,
                    "the program's reason is unknown; the end of its stderr is used"
                );
                None
            }
        }
    }

    /// What the program wrote to `$STEP_PROGRESS`, if that can be read.
    pub(super) fn progress(&self) -> Option<String> {
        let bytes = read(&self.progress_file(), "STEP_PROGRESS", MAX_PROGRESS).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last line of `$STEP_KEY` that is not blank, if there is one.
    pub(super) fn key(&self) -> Result<Option<String>, FileError> {
        let name = "STEP_KEY";
        let bytes = match read(&self.key_file(), name, MAX_KEY) {
            Err(FileError::Gone(_)) => return Ok(None),
            bytes => bytes?,
        };
        let text = String::from_utf8(bytes).map_err(|_| FileError::Encoding(name))?;
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        Ok(line.map(str::to_owned))
    }

    /// What tells a changed checkpoint from the one before.
    pub(super) fn checkpoint_stamp(&self) -> Stamp {
        let stamp = |metadata: fs::Metadata| Stamp {
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        };
        fs::symlink_metadata(self.checkpoint()).map(stamp).unwrap_or_default()
    }

    pub(super) fn read_checkpoint(&self) -> Result<Found, FileError> {
        checkpoint_in(&self.files())
    }

    /// The ledger has this checkpoint.
    pub(super) fn is_kept(&self, checkpoint: Option<&Content>) {
        self.kept.store(name_of(checkpoint), Ordering::Relaxed);
    }

    /// What prevents files from being written here, if anything still does after everything that
    /// the run itself wrote is gone.
    pub(super) fn ails(self, work_dir: &Path, token: &str) -> Option<io::Error> {
        let trouble = |error: &io::Error| host_trouble(error).is_some();
        File::create(self.directory.join("probe"))
            .and_then(|file| reserve(&file, SCARCE))
            .err()
            .filter(trouble)?;
        drop(self);
        // The space that was reserved for this run is no sign of free space.
        let is_full = statvfs(work_dir).is_ok_and(|disk| {
            let reserved = RESERVED.unsigned_abs() / disk.fragment_size().max(1);
            disk.blocks_available() < disk.blocks() / FULL + reserved
        });
        let full = || is_full.then(|| Errno::ENOSPC.into());
        Self::new(work_dir, token, None).err().filter(trouble).or_else(full)
    }

    /// Removes it with its content, even if the checkpoint in it is not saved.
    pub(super) fn discard(self) {
        // Dropping it removes the rest.
        let _ = fs::remove_dir_all(self.files());
    }

    /// It holds a checkpoint that the ledger does not have, or may not have.
    fn is_needed(&self) -> bool {
        match self.read_checkpoint() {
            Ok(Found::Content(content)) => {
                name_of(Some(&content)) != self.kept.load(Ordering::Relaxed)
            }
            Ok(Found::Missing | Found::Empty) => false,
            Err(error) => error.trouble().is_some(),
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.is_needed() {
            tracing::warn!(
                event = "checkpoint_left",
                directory = %self.directory.display(),
                "the run's last checkpoint is not in the ledger; it is kept in its directory for \
                 the next"
            );
            return;
        }
        if !self.processes.as_ref().is_some_and(Remains::is_let_go) {
            remove(&self.directory);
        }
    }
}

impl FileError {
    /// The machine's fault, if that is why the file could not be read.
    pub(super) fn trouble(&self) -> Option<&'static str> {
        match self {
            Self::Read(_, error) => host_trouble(error),
            _ => None,
        }
    }
}

/// Removes the directory of a run.
pub(super) fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let directory = directory.display();
            tracing::warn!(
                event = "workspace_not_removed",
                %directory,
                %error,
                "a program's directory could not be removed"
            );
        }
    }
}

/// The checkpoint in a directory of a program's files.
pub(super) fn checkpoint_in(files: &Path) -> Result<Found, FileError> {
    match read(&files.join(CHECKPOINT), "STEP_CHECKPOINT", MAX_CHECKPOINT) {
        Ok(bytes) if bytes.is_empty() => Ok(Found::Empty),
        Ok(bytes) => Ok(Found::Content(Content(bytes))),
        Err(FileError::Gone(_)) => Ok(Found::Missing),
        Err(error) => Err(error),
    }
}

/// Creates the parent directory of all runs. A handler's user passes through it to the run's own,
/// and cannot list it.
fn make(work_dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o711).create(work_dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o711).recursive(true).create(work_dir)?;
        }
        Err(error) => return Err(error),
    }
    // Independent of the daemon's umask.
    fs::set_permissions(work_dir, Permissions::from_mode(0o711))
}

/// Reserves space for a file that is written later. Not every file system can.
fn reserve(file: &File, bytes: i64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes) {
        Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EIO)) => Err(errno.into()),
        _ => Ok(()),
    }
}

fn name_of(checkpoint: Option<&Content>) -> u64 {
    let mut hasher = DefaultHasher::new();
    checkpoint.hash(&mut hasher);
    hasher.finish()
}

/// Parses a text as programs write it to `$STEP_OUTPUT`: one JSON object, or lines of `name=value`.
///
/// # Errors
/// [`FileError`] with the line or value that cannot be an output.
pub fn outputs_of(text: &str) -> Result<Outputs, FileError> {
    if text.trim_start().starts_with('{') {
        return Ok(Outputs::from_json(text)?);
    }
    let mut outputs = Outputs::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.split_once('=') {
            Some((name, value)) => outputs.insert(name.trim(), value)?,
            None => return Err(FileError::Line(number + 1, line.chars().take(80).collect())),
        }
    }
    Ok(outputs)
}

/// Reads a file that a program may have replaced by anything.
pub(super) fn read(path: &Path, name: &'static str, max: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let mut file = open(path, name)?.take(max + 1);
    file.read_to_end(&mut bytes).map_err(|error| FileError::Read(name, error))?;
    if bytes.len() as u64 > max {
        return Err(FileError::Large(name, max));
    }
    Ok(bytes)
}

fn open(path: &Path, name: &'static str) -> Result<File, FileError> {
    // Neither follows a link nor waits for the other end of a pipe.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return Err(FileError::Kind(name));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FileError::Gone(name)),
        file => file.map_err(|error| FileError::Read(name, error))?,
    };
    let metadata = file.metadata().map_err(|error| FileError::Read(name, error))?;
    if metadata.is_file() { Ok(file) } else { Err(FileError::Kind(name)) }
}
