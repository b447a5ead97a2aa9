//! Secrets in files. They are read for each request, so that a key is rotated without a restart.

use std::path::{Path, PathBuf};

use reqwest::header::{HeaderName, HeaderValue};

use crate::handler::Remark;
use crate::secret;

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
        let open = self.paths().filter_map(|path| secret::open_to_all(path).map(Remark::warning));
        unusable.into_iter().chain(open).collect()
    }
}

fn key(path: &Path) -> Result<Vec<u8>, Unusable> {
    let unusable = |why| Unusable { setting: "secret_file", path: path.display().to_string(), why };
    secret::key(path).map_err(unusable)
}

fn header(path: &Path) -> Result<HeaderValue, Unusable> {
    let unusable =
        |why| Unusable { setting: "header_files", path: path.display().to_string(), why };
    let text = secret::content(path).map_err(|error| unusable(secret::unreadable(&error)))?;
    let value = HeaderValue::from_bytes(&text).ok().filter(|value| !value.is_empty());
    let mut value = value.ok_or_else(|| unusable("is not one line of text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
