//! The whole configuration: read from a file and the environment, checked at once, every mistake told.

mod checks;
mod decode;
mod dump;
mod mistake;
mod source;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use mistake::{Mistake, Mistakes};

use crate::engine::config::{HandlerConfig, QueueConfig, WorkerConfig};
use crate::handler::{DynHandler, Registry};
use crate::{ledger, observe};

/// Where the configuration lies unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/callbackd/callbackd.toml";
/// Every key with its default, unit and range: the reference manual.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// All that can be set. Each part belongs to the module that it is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub worker: WorkerConfig,
    pub aws: AwsConfig,
    pub ledger: ledger::Config,
    pub http: observe::server::Config,
    pub log: observe::log::Config,
    /// At least one.
    pub queues: Vec<QueueConfig>,
    /// By name: lower-case letters, digits and hyphens.
    pub handlers: BTreeMap<String, HandlerConfig>,
}

#[cfg(feature = "aws")]
type AwsConfig = crate::aws::Config;
/// A build without the AWS clients has nothing to set for them.
#[cfg(not(feature = "aws"))]
type AwsConfig = BTreeMap<String, String>;

/// A configuration without mistakes, and its handlers, built.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub handlers: BTreeMap<String, DynHandler>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Reads and checks the configuration: the file at `path`, else at `$CALLBACKD_CONFIG`, else at [`DEFAULT_PATH`], overlaid with the
    /// variables `CALLBACKD_<KEY>__<KEY>` of `environment`.
    ///
    /// # Errors
    /// [`Mistakes`], all that there are.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        registry: &Registry,
    ) -> Result<Self, Mistakes> {
        let source = source::Source::read(path, environment)?;
        Self::from_source(source, registry)
    }

    /// The same for a text, as if it were a file of this name, without the environment.
    ///
    /// # Errors
    /// [`Mistakes`], all that there are.
    pub fn from_toml(name: &str, text: &str, registry: &Registry) -> Result<Self, Mistakes> {
        Self::from_source(source::Source::of_text(PathBuf::from(name), text)?, registry)
    }

    fn from_source(mut source: source::Source, registry: &Registry) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let config: Option<Config> = decode::decode(&mut source, &mut mistakes);
        let ignored = |name: &String| format!("{name}: is no setting (CALLBACKD_<KEY>__<KEY>) and is ignored");
        let (mut handlers, mut warnings) = (BTreeMap::new(), source.ignored.iter().map(ignored).collect());
        if let Some(config) = &config {
            checks::check(config, &source, &mut mistakes, &mut warnings);
            handlers = checks::build_handlers(config, &source, registry, &mut mistakes);
        }
        match config {
            Some(config) if mistakes.is_empty() => Ok(Self { config, handlers, warnings }),
            _ => Err(mistakes),
        }
    }
}

impl Config {
    /// The configuration as TOML, every key with its value; what may be a secret is hidden.
    #[must_use]
    pub fn to_toml(&self) -> String {
        dump::toml(self)
    }

    /// The `[aws]` section alone, for commands that need no queue: of the file at `path`, else at `$CALLBACKD_CONFIG`, else at
    /// [`DEFAULT_PATH`] if it is there; other sections are not judged.
    ///
    /// # Errors
    /// [`Mistakes`] of that section, and a named file that cannot be read.
    #[cfg(feature = "aws")]
    pub fn aws_section(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<crate::aws::Config, Mistakes> {
        let environment: Vec<_> = environment.into_iter().collect();
        let named = path.is_some() || environment.iter().any(|(name, _)| name == source::PATH_VARIABLE);
        if !named && !Path::new(DEFAULT_PATH).exists() {
            return Ok(crate::aws::Config::default());
        }
        let mut source = source::Source::read(path, environment)?.keep_only("aws");
        let mut mistakes = Mistakes::default();
        match decode::decode::<Self>(&mut source, &mut mistakes) {
            Some(config) if mistakes.is_empty() => Ok(config.aws),
            _ => Err(mistakes),
        }
    }

    /// The JSON Schema of the configuration file.
    #[must_use]
    pub fn schema() -> Value {
        schemars::schema_for!(Config).to_value()
    }
}

#[cfg(test)]
mod tests;
