//! The whole configuration: read from a file and the environment, and checked at once; all mistakes
//! are reported together.

mod checks;
mod decode;
mod dump;
mod expected;
mod mistake;
mod reload;
mod source;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use mistake::{Mistake, Mistakes};
pub use reload::Reloaded;

pub use crate::engine::config::RoleWithId;
use crate::engine::config::{Accounts, HandlerConfig, QueueConfig, WorkerConfig};
use crate::handler::{DynHandler, Registry, Remark};
use crate::orders::Orders;
use crate::step::QueueUrl;
use crate::{ledger, observe};

/// The default path of the configuration file.
pub const DEFAULT_PATH: &str = "/etc/callbackd/callbackd.toml";
/// Every key with its default, unit and range: the reference manual.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// All settings. Each section belongs to the module that it configures.
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
/// Without the AWS clients there are no such settings.
#[cfg(not(feature = "aws"))]
type AwsConfig = BTreeMap<String, String>;

/// A configuration without mistakes, and its handlers.
#[derive(Clone, Debug)]
pub struct CheckedConfig {
    pub config: Config,
    pub handlers: BTreeMap<String, DynHandler>,
    /// Settings that are allowed but probably not intended.
    pub warnings: Vec<String>,
    /// The handlers' remarks about this machine, with their names.
    pub remarks: Vec<(String, Remark)>,
    /// The remarks that say that a handler cannot work at present.
    pub lacking: Mistakes,
}

impl CheckedConfig {
    /// Reads and checks the configuration: the file at `path`, else at `$CALLBACKD_CONFIG`, else at
    /// [`DEFAULT_PATH`], overlaid with the variables `CALLBACKD_<KEY>__<KEY>` of `environment`.
    ///
    /// # Errors
    /// All [`Mistakes`].
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
    /// All [`Mistakes`].
    pub fn from_toml(name: &str, text: &str, registry: &Registry) -> Result<Self, Mistakes> {
        Self::from_source(source::Source::of_text(PathBuf::from(name), text)?, registry)
    }

    fn from_source(mut source: source::Source, registry: &Registry) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let ignored = |name: &String| {
            format!("{name}: is not a setting (CALLBACKD_<KEY>__<KEY>) and is ignored")
        };
        let (mut handlers, mut warnings) =
            (BTreeMap::new(), source.ignored.iter().map(ignored).collect());
        let config = Config::from_source(&mut source, &mut mistakes, &mut warnings);
        let mut remarks = Vec::new();
        if let Some(config) = &config {
            handlers = checks::build_handlers(config, &source, registry, &mut mistakes);
            remarks = checks::remarks(&handlers, &config.work_dir());
        }
        let lacking = checks::lacking(&remarks, &source);
        match config {
            Some(config) if mistakes.is_empty() => {
                Ok(Self { config, handlers, warnings, remarks, lacking })
            }
            // All mistakes at once.
            _ => Err(mistakes.and(lacking)),
        }
    }
}

impl Config {
    /// Where programs have their files while they run: absolute, because programs may run in
    /// another directory than the daemon.
    #[must_use]
    pub fn work_dir(&self) -> PathBuf {
        let directory = match &self.worker.work_dir {
            Some(directory) => directory.clone(),
            // A memory ledger cannot use what is kept for the next life.
            None if self.ledger.kind == ledger::Kind::Memory => {
                std::env::temp_dir().join(format!("callbackd-{}", std::process::id()))
            }
            None => self.ledger.path.parent().unwrap_or(Path::new("")).join("work"),
        };
        std::path::absolute(&directory).unwrap_or(directory)
    }

    /// Where commands leave their orders about queues for the daemon of this machine: beside the
    /// ledger's file, or beside `worker.work_dir` if the ledger is elsewhere. `None` if nothing
    /// outlives the process.
    #[must_use]
    pub fn orders(&self) -> Option<Orders> {
        self.kept().map(|kept| Orders::beside(&kept))
    }

    /// Where commands of this machine reach the daemon while it runs: beside its orders.
    #[must_use]
    pub fn admin_socket(&self) -> Option<PathBuf> {
        let path = self.kept()?.with_file_name("admin.sock");
        Some(std::path::absolute(&path).unwrap_or(path))
    }

    /// What outlives the process on this machine.
    fn kept(&self) -> Option<PathBuf> {
        match self.ledger.kind {
            ledger::Kind::Memory => None,
            ledger::Kind::Sqlite => Some(self.ledger.path.clone()),
            ledger::Kind::Dynamodb => Some(self.work_dir()),
        }
    }

    /// The whole configuration, for a command that runs no handler: the handlers' own settings are
    /// not checked.
    ///
    /// # Errors
    /// All other [`Mistakes`].
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Mistakes> {
        let mut source = source::Source::read(path, environment)?;
        let mut mistakes = Mistakes::default();
        let config = Self::from_source(&mut source, &mut mistakes, &mut Vec::new());
        config.filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }

    /// Decoded and checked, except for the handlers' own settings.
    fn from_source(
        source: &mut source::Source,
        mistakes: &mut Mistakes,
        warnings: &mut Vec<String>,
    ) -> Option<Self> {
        let config: Self = decode::decode(source, mistakes)?;
        checks::check(&config, source, mistakes, warnings);
        Some(config)
    }

    /// The configuration as TOML, every key with its value; possible secrets are hidden.
    #[must_use]
    pub fn to_toml(&self) -> String {
        dump::toml(self)
    }

    /// A single section, for commands that need no more: of the file at `path`, else at
    /// `$CALLBACKD_CONFIG`, else at [`DEFAULT_PATH`] if it exists, overlaid with the environment.
    /// Other sections are not checked.
    ///
    /// # Errors
    /// [`Mistakes`] of that section, or a named file that cannot be read.
    pub fn section(
        name: &str,
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Mistakes> {
        let mut source = source::Source::read_if_there(path, environment)?.keep_only(name);
        let mut mistakes = Mistakes::default();
        match decode::decode::<Self>(&mut source, &mut mistakes) {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(mistakes),
        }
    }

    /// How the pipelines of the configured queues are reached, for commands that run no steps; read
    /// like [`section`](Self::section). Only the keys that decide this are read.
    ///
    /// # Errors
    /// A named file that cannot be read.
    pub fn access(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<Access>, Mistakes> {
        let source = source::Source::read_if_there(path, environment)?;
        Ok(source.tree["queues"].as_array().into_iter().flatten().flat_map(Access::of).collect())
    }

    /// The JSON Schema of the configuration file.
    #[must_use]
    pub fn schema() -> Value {
        let mut schema = schemars::schema_for!(Config).to_value();
        for (section, ranges) in ranges() {
            let place = schema["properties"][section].clone();
            // A table, an array of tables, or a table of tables.
            let reference =
                [&place["$ref"], &place["items"]["$ref"], &place["additionalProperties"]["$ref"]];
            let pointer = reference
                .into_iter()
                .find_map(Value::as_str)
                .unwrap_or_default()
                .trim_start_matches('#');
            for (key, range) in ranges {
                let description =
                    schema.pointer_mut(&format!("{pointer}/properties/{key}/description"));
                if let Some(Value::String(text)) = description {
                    text.push_str(&format!("\n\nAllowed: {range}."));
                }
            }
        }
        schema
    }
}

/// The ranges of all keys that have one, by section.
fn ranges() -> [(&'static str, Vec<(&'static str, String)>); 4] {
    [
        ("worker", WorkerConfig::ranges()),
        ("ledger", ledger::Config::ranges()),
        ("queues", QueueConfig::ranges()),
        ("handlers", HandlerConfig::ranges()),
    ]
}

/// The range of a key such as `queues[0].concurrency`.
fn range_of(key: &str) -> Option<String> {
    let (section, field) = (key.split(['.', '[']).next()?, key.rsplit('.').next()?);
    let depth = key.matches('.').count();
    let (_, ranges) = ranges().into_iter().find(|(name, _)| *name == section)?;
    // `handlers.x.settings.time_limit` belongs to the handler's type.
    let own = depth == if section == "handlers" { 2 } else { 1 };
    ranges.into_iter().find(|(name, _)| own && *name == field).map(|(_, range)| range)
}

/// The role and region with which the pipelines of one account are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The queue's name, if the user has to choose.
    pub queue: String,
    pub account: String,
    /// The account is one of the queue's `accounts`: only who names it means it.
    pub is_further: bool,
    pub region: Option<String>,
    pub role: Option<RoleWithId>,
}

impl Access {
    /// To the account of the queue's role, or its own, and to each of its `accounts`.
    fn of(queue: &Value) -> Vec<Self> {
        let text = |key: &str| queue[key].as_str().map(str::to_owned);
        let Some(url) = text("url").and_then(|url| url.parse::<QueueUrl>().ok()) else {
            return Vec::new();
        };
        let external_id = text("external_id").and_then(|id| id.parse().ok());
        let role = text("role_arn").map(|role_arn| RoleWithId { role_arn, external_id });
        let of_role = role.as_ref().and_then(|role| role.role_arn.split(':').nth(4));
        let own = Self {
            queue: url.name().to_owned(),
            account: of_role.unwrap_or(url.account()).to_owned(),
            is_further: false,
            region: text("region").or_else(|| url.region().map(str::to_owned)),
            role,
        };
        let accounts = Accounts::deserialize(&queue["accounts"]).unwrap_or_default();
        let further = accounts.iter().map(|(account, role)| Self {
            account: account.to_owned(),
            is_further: true,
            role: role.map(RoleWithId::from).or_else(|| own.role.clone()),
            ..own.clone()
        });
        further.chain([own.clone()]).collect()
    }
}

#[cfg(test)]
mod tests;
