//! Secrets in files. They are read for each request, so that a key is rotated without a restart.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reqwest::header::{HeaderName, HeaderValue};

use crate::handler::Remark;

/// The files of one handler.
#[derive(Debug)]
pub(super) struct Files {
    /// The key of signatures.
    pub(super) secret: Option<PathBuf>,
    /// The values of headers.
    pub(super) headers: Vec<(HeaderName, PathBuf)>,
}

/// What the files held.
pub(super) struct Secrets {
    pub(super) key: Option<Vec<u8>>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// A file whose content cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}, which `{setting}` names, {why}")]
pub(super) struct Unusable {
    setting: &'static str,
    path: String,
    why: String,
}

/// A shorter key can be guessed.
const SHORTEST: usize = 16;
/// More than any key or token has: the file is another one.
const LONGEST: u64 = 16 << 10;

impl Files {
    /// The contents as they are now.
    pub(super) fn read(&self) -> Result<Secrets, Unusable> {
        let key = self.secret.as_deref().map(key).transpose()?;
        let header = |(name, path): &(HeaderName, PathBuf)| Ok((name.clone(), header(path)?));
        Ok(Secrets { key, headers: self.headers.iter().map(header).collect::<Result<_, _>>()? })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.secret.iter().chain(self.headers.iter().map(|(_, path)| path))
    }

    /// What operators should know about the files.
    pub(super) fn remarks(&self) -> Vec<Remark> {
        let unusable = self.read().err().map(|error| Remark::error(error.to_string()));
        let open = self.paths().filter_map(|path| {
            let mode = fs::metadata(path).ok()?.permissions().mode();
            (mode & 0o007 != 0).then(|| {
                Remark::warning(format!(
                    "{} holds a secret and is open to every user of this machine: chmod o= it",
                    path.display()
                ))
            })
        });
        unusable.into_iter().chain(open).collect()
    }
}

fn key(path: &Path) -> Result<Vec<u8>, Unusable> {
    let unusable = |why| Unusable { setting: "secret_file", path: path.display().to_string(), why };
    let key = content(path).map_err(|error| unusable(unreadable(&error)))?;
    if key.len() < SHORTEST {
        let why = format!(
            "has {} bytes; a secret has at least {SHORTEST}, such as what `openssl rand -hex 32` \
             prints",
            key.len()
        );
        return Err(unusable(why));
    }
    Ok(key)
}

fn header(path: &Path) -> Result<HeaderValue, Unusable> {
    let unusable =
        |why| Unusable { setting: "header_files", path: path.display().to_string(), why };
    let text = content(path).map_err(|error| unusable(unreadable(&error)))?;
    let value = HeaderValue::from_bytes(&text).ok().filter(|value| !value.is_empty());
    let mut value = value.ok_or_else(|| unusable("is not one line of text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// The content without the end of its last line, which editors and `echo` add.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is larger than {LONGEST} bytes")));
    }
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    Ok(bytes)
}
