//! The two files of a run, `$STEP_OUTPUT` and `$STEP_CHECKPOINT`, in a directory that only it has.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde_json::Value;

use crate::handler::StopReason;
use crate::outcome::{InvalidOutput, Outputs};

/// The directory of one run; removed with everything in it when dropped.
pub(super) struct Workspace {
    directory: PathBuf,
}

/// What a change of a file changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64, u64);

/// What a program wrote for us cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("STEP_OUTPUT: {0}")]
    Invalid(#[from] InvalidOutput),
    #[error("STEP_OUTPUT: line {0} is not name=value: {1:?}")]
    Line(usize, String),
    #[error("STEP_OUTPUT is not a JSON object: {0}")]
    Json(serde_json::Error),
    #[error("{0} is not UTF-8")]
    Encoding(&'static str),
    #[error("{0} is larger than {1} bytes")]
    Large(&'static str, u64),
    #[error("{0} is not a plain file")]
    Kind(&'static str),
    #[error("{0} cannot be read: {1}")]
    Read(&'static str, io::Error),
}

/// All outputs that SageMaker takes, as UTF-8, are well below.
const OUTPUT_MAX: u64 = 1 << 20;
/// A checkpoint says where a job is, not what it has done; it is written to the ledger each time that it changes.
const CHECKPOINT_MAX: u64 = 256 << 10;
/// What the name of every such directory begins with.
const PREFIX: &str = "callbackd-";

impl Workspace {
    /// Makes the directory, and puts the last checkpoint where the program looks for it.
    pub(super) fn new(checkpoint: Option<&str>) -> io::Result<Self> {
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), fastrand::u64(..));
        let directory = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&directory)?;
        let workspace = Self { directory };
        File::create(workspace.output())?;
        fs::write(workspace.checkpoint(), checkpoint.unwrap_or_default())?;
        Ok(workspace)
    }

    /// What [`remove_left_behind`] knows the directory by.
    pub(super) fn name(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn output(&self) -> PathBuf {
        self.directory.join("output")
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.directory.join("checkpoint")
    }

    pub(super) fn stop_file(&self) -> PathBuf {
        self.directory.join("stop")
    }

    /// Leaves the reason where a program looks that wants to know why it is told to end; all of it or nothing is seen there.
    pub(super) fn tell(&self, reason: StopReason) {
        let draft = self.directory.join("stop.draft");
        let told = fs::write(&draft, reason.as_str()).and_then(|()| fs::rename(&draft, self.stop_file()));
        if let Err(error) = told {
            tracing::warn!(%error, "STEP_STOP_FILE could not be written; the program gets the signal alone");
        }
    }

    /// What the program wrote to `$STEP_OUTPUT`.
    pub(super) fn outputs(&self) -> Result<Outputs, FileError> {
        let text = match read(&self.output(), "STEP_OUTPUT", OUTPUT_MAX) {
            Err(FileError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        outputs_of(&text)
    }

    /// What tells a changed checkpoint from the one before.
    pub(super) fn checkpoint_stamp(&self) -> Stamp {
        let stamp =
            |metadata: fs::Metadata| Stamp(metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
        fs::symlink_metadata(self.checkpoint()).map(stamp).unwrap_or_default()
    }

    /// The checkpoint's text; none where there is none.
    pub(super) fn read_checkpoint(&self) -> Result<Option<String>, FileError> {
        match read(&self.checkpoint(), "STEP_CHECKPOINT", CHECKPOINT_MAX) {
            Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            Err(FileError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a program's directory could not be removed");
        }
    }
}

/// Removes the directory of a run whose daemon could not, with all that is in it. A name that is none of ours is left alone.
pub(super) fn remove_left_behind(name: &str) {
    if !name.starts_with(PREFIX) || name.contains('/') {
        return;
    }
    let directory = std::env::temp_dir().join(name);
    match fs::remove_dir_all(&directory) {
        // As a rule: the run removed it itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "what an earlier run left could not be removed");
        }
        Ok(()) => {}
    }
}

/// The outputs in a text as programs write it to `$STEP_OUTPUT`: one JSON object, or lines of `name=value`.
///
/// # Errors
/// [`FileError`] with what cannot be an output, and where.
pub fn outputs_of(text: &str) -> Result<Outputs, FileError> {
    if text.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(text).map_err(FileError::Json)?;
        return Ok(value.try_into()?);
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
fn read(path: &Path, name: &'static str, max: u64) -> Result<String, FileError> {
    // Neither follows a link nor waits for the other end of a pipe.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return Err(FileError::Kind(name));
        }
        file => file.map_err(|error| FileError::Read(name, error))?,
    };
    let metadata = file.metadata().map_err(|error| FileError::Read(name, error))?;
    if !metadata.is_file() {
        return Err(FileError::Kind(name));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| FileError::Read(name, error))?;
    if bytes.len() as u64 > max {
        return Err(FileError::Large(name, max));
    }
    String::from_utf8(bytes).map_err(|_| FileError::Encoding(name))
}
