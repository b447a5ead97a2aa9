//! The settings of an `http` handler.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secrets::Files;
use super::signature;
use crate::duration::Range;

/// `[handlers.NAME.settings]` of the type `http`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where a step is sent to.
    pub url: String,
    /// Where a step is sent to after a stop and after the time limit.
    #[serde(default)]
    pub cleanup_url: Option<String>,
    /// Added to each request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Added to each request, with what the named file holds as the value: for tokens and
    /// passwords.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
    /// How long a request may take, from its start to the end of the answer.
    #[serde(with = "crate::duration", default = "minute")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// The file with the key of the requests' signatures; by default they have none.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
}

/// The settings can never call a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum SettingsError {
    #[error("`{key}` {why}; write https://HOST/PATH")]
    Url { key: &'static str, why: String },
    #[error(
        "`{key}` contains a user or a password, which configurations show; put `Basic …` into a \
         file, and name it in header_files.authorization"
    )]
    UserInfo { key: &'static str },
    #[error("`{key}`: {name:?} {why}")]
    Header { key: &'static str, name: String, why: &'static str },
    #[error("`timeout`: {0}")]
    Timeout(String),
    #[error("no client for HTTPS could be made: {0}")]
    Client(String),
    #[error("{}", told(.0))]
    Several(Vec<SettingsError>),
}

fn told(errors: &[SettingsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and ")
}

/// Settings without mistakes.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) url: Url,
    pub(super) cleanup_url: Option<Url>,
    pub(super) headers: HeaderMap,
    pub(super) files: Files,
    pub(super) timeout: Duration,
}

const TIMEOUT: Range = Range::new(Duration::from_secs(1), Duration::from_hours(12));
/// Headers that the handler sets itself, or that are about the connection.
const OWN: [&str; 13] = [
    signature::HEADER,
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn minute() -> Duration {
    Duration::from_mins(1)
}

impl Settings {
    pub(super) fn checked(self) -> Result<Checked, SettingsError> {
        let mut mistakes = Vec::new();
        let url = noted(parsed("url", &self.url), &mut mistakes);
        let cleanup_url = self.cleanup_url.as_deref();
        let cleanup_url = cleanup_url
            .and_then(|cleanup_url| noted(parsed("cleanup_url", cleanup_url), &mut mistakes));
        let mut taken = HashSet::new();
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let Some(known) = noted(named("headers", name, &mut taken), &mut mistakes) else {
                continue;
            };
            let refused = |_| SettingsError::Header {
                key: "headers",
                name: name.clone(),
                why: "has a value that no header can have: one line of visible text",
            };
            let value = HeaderValue::from_str(value).map_err(refused);
            if let Some(mut value) = noted(value, &mut mistakes) {
                value.set_sensitive(true);
                headers.insert(known, value);
            }
        }
        let mut files = Vec::new();
        for (name, path) in self.header_files {
            if let Some(name) = noted(named("header_files", &name, &mut taken), &mut mistakes) {
                files.push((name, path));
            }
        }
        mistakes.extend(TIMEOUT.refusal(self.timeout).map(SettingsError::Timeout));
        match (url, mistakes.len()) {
            (Some(url), 0) => Ok(Checked {
                url,
                cleanup_url,
                headers,
                files: Files { secret: self.secret_file, headers: files },
                timeout: self.timeout,
            }),
            (_, 1) => Err(mistakes.remove(0)),
            _ => Err(SettingsError::Several(mistakes)),
        }
    }
}

fn noted<T>(result: Result<T, SettingsError>, mistakes: &mut Vec<SettingsError>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}

/// No error shows the text: it may contain a secret.
fn parsed(key: &'static str, text: &str) -> Result<Url, SettingsError> {
    let url = Url::parse(text)
        .map_err(|error| SettingsError::Url { key, why: format!("is not a URL ({error})") })?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(SettingsError::Url { key, why: "is not a URL of HTTP".to_owned() });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SettingsError::UserInfo { key });
    }
    Ok(url)
}

fn named(
    key: &'static str,
    name: &str,
    taken: &mut HashSet<HeaderName>,
) -> Result<HeaderName, SettingsError> {
    let refused = |why| SettingsError::Header { key, name: name.to_owned(), why };
    let known = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| refused("cannot be the name of a header"))?;
    if OWN.contains(&known.as_str()) {
        return Err(refused("is a header that callbackd sets itself"));
    }
    if !taken.insert(known.clone()) {
        return Err(refused("is set twice; the case of a header's name does not matter"));
    }
    Ok(known)
}

impl Checked {
    /// The names of headers that seem to hold secrets in the configuration itself.
    pub(super) fn open_secrets(&self) -> impl Iterator<Item = &str> {
        const SECRETIVE: [&str; 6] = ["auth", "cookie", "key", "password", "secret", "token"];
        let names = self.headers.keys().map(HeaderName::as_str);
        names.filter(|name| SECRETIVE.iter().any(|word| name.contains(word)))
    }
}
