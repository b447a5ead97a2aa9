//! Rules that cross the sections of a configuration: names that refer to nothing, queues that are
//! the same. What a section can judge by itself is judged by its own type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::Config;
use super::mistake::{Mistake, Mistakes};
use super::source::Source;
use crate::builtin::exec;
use crate::duration::text;
use crate::engine::config::{HandlerConfig, QueueConfig};
use crate::handler::{BuildError, DynHandler, Registry, Remark, Severity};
use crate::ledger::{self, Kind};

/// Collects mistakes about keys.
struct Judge<'a> {
    source: &'a Source,
    mistakes: &'a mut Mistakes,
}

impl Judge<'_> {
    fn wrong(&mut self, key: impl Into<String>, what: impl Into<String>) {
        let key = key.into();
        self.mistakes.add(Mistake { source: self.source.origin(&key), key, what: what.into() });
    }

    fn all_wrong<K: AsRef<str>>(
        &mut self,
        section: &str,
        mistakes: impl IntoIterator<Item = (K, String)>,
    ) {
        for (key, what) in mistakes {
            self.wrong(format!("{section}.{}", key.as_ref()), what);
        }
    }
}

pub(super) fn check(
    config: &Config,
    source: &Source,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) {
    let mut judge = Judge { source, mistakes };
    judge.all_wrong("worker", config.worker.mistakes());
    judge.all_wrong("ledger", config.ledger.mistakes());
    judge.all_wrong("log", config.log.mistakes());
    #[cfg(feature = "aws")]
    judge.all_wrong("aws", config.aws.mistakes());
    if config.queues.is_empty() && !judge.mistakes.knows("queues") {
        judge.wrong(
            "queues",
            "no queue is configured; add at least one [[queues]] with a url and a handler",
        );
    }
    for (index, queue) in config.queues.iter().enumerate() {
        judge.all_wrong(&format!("queues[{index}]"), queue.mistakes());
        check_references(&format!("queues[{index}]"), queue, config, &mut judge);
        let url = format!("queues[{index}].url");
        // A missing or wrong one has been replaced by a placeholder.
        let is_known = |place: usize| !judge.mistakes.knows(&format!("queues[{place}].url"));
        let same = |other: &QueueConfig| other.url.is_same_queue(&queue.url);
        let twin = (0..index).find(|place| is_known(*place) && same(&config.queues[*place]));
        if let Some(twin) = twin.filter(|_| is_known(index)) {
            let spelt =
                if config.queues[twin].url == queue.url { "" } else { " in another spelling" };
            judge.wrong(url, format!("the same queue as queues[{twin}]{spelt}; list each once"));
        }
    }
    for (name, handler) in &config.handlers {
        let key = format!("handlers.{name}");
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            judge
                .wrong(&key, "a handler's name consists of lower-case letters, digits and hyphens");
        }
        judge.all_wrong(&key, handler.mistakes());
    }
    check_place(config, &mut judge, warnings);
    warn(config, warnings);
}

/// A ledger whose place only the service manager knows. Commands about an instance would read and
/// change the ledger of the main service.
fn check_place(config: &Config, judge: &mut Judge<'_>, warnings: &mut Vec<String>) {
    let path = &config.ledger.path;
    if config.ledger.kind != Kind::Sqlite
        || judge.source.is_in_file("ledger", "path")
        || !ledger::Config::is_by_service_manager(path)
    {
        return;
    }
    let what = place_told(path, judge.source.is_from_environment("ledger.path"));
    if ledger::Config::is_of_instance(path) {
        judge.wrong("ledger.path", what);
    } else {
        warnings.push(format!("ledger.path: {what}"));
    }
}

fn place_told(path: &Path, by_variable: bool) -> String {
    let who = if by_variable {
        "the variable CALLBACKD_LEDGER__PATH says so: remove it, and"
    } else {
        "the service manager says so (STATE_DIRECTORY);"
    };
    format!(
        "is {} because {who} set it in the file, because commands in a shell look elsewhere",
        path.display()
    )
}

/// The handlers that a queue and its routes name.
fn check_references(key: &str, queue: &QueueConfig, config: &Config, judge: &mut Judge<'_>) {
    let routes = queue.routes.iter().enumerate();
    let routes =
        routes.map(|(index, route)| (format!("{key}.routes[{index}].handler"), &route.handler));
    for (key, name) in
        queue.handler.iter().map(|name| (format!("{key}.handler"), name)).chain(routes)
    {
        check_reference(key, name, config, judge);
    }
}

fn check_reference(key: String, name: &str, config: &Config, judge: &mut Judge<'_>) {
    if !name.is_empty() && !config.handlers.contains_key(name) {
        let have: Vec<&str> = config.handlers.keys().map(String::as_str).collect();
        let have = if have.is_empty() {
            "no handlers are configured".to_owned()
        } else {
            format!("there are: {}", have.join(", "))
        };
        judge.wrong(key, format!("there is no [handlers.{name}]; {have}"));
    }
}

/// Builds each handler, which checks its settings.
pub(super) fn build_handlers(
    config: &Config,
    source: &Source,
    registry: &Registry,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, DynHandler> {
    let mut judge = Judge { source, mistakes };
    let mut handlers = BTreeMap::new();
    for (name, handler) in &config.handlers {
        if handler.kind.is_empty() {
            continue;
        }
        let Some(settings) = settings(handler) else {
            let key = format!("handlers.{name}.inherit");
            judge.wrong(key, "is also in the handler's settings; write it once");
            continue;
        };
        match registry.build(&handler.kind, settings) {
            Ok(built) => drop(handlers.insert(name.clone(), built)),
            Err(error @ BuildError::Unknown { .. }) => {
                judge.wrong(format!("handlers.{name}.type"), error.to_string());
            }
            Err(BuildError::Settings { path, message })
                if path == "inherit" && handler.inherit.is_some() =>
            {
                judge.wrong(format!("handlers.{name}.inherit"), message);
            }
            Err(BuildError::Settings { path, message }) => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                judge.wrong(format!("handlers.{name}.settings{dot}{path}"), message);
            }
        }
    }
    handlers
}

/// The settings for the handler's type, with what may be written beside them; `None` if that is in
/// them too.
fn settings(handler: &HandlerConfig) -> Option<Value> {
    let Some(group) = &handler.inherit else { return Some(handler.settings.clone()) };
    let mut settings = handler.settings.as_object().cloned().unwrap_or_default();
    let before = settings.insert("inherit".to_owned(), group.as_str().into());
    before.is_none().then_some(Value::Object(settings))
}

/// The handlers' remarks about this machine. They examine it, so this is called once.
pub(super) fn remarks(
    handlers: &BTreeMap<String, DynHandler>,
    work_dir: &Path,
) -> Vec<(String, Remark)> {
    let of_one = |(name, handler): (&String, &DynHandler)| {
        let name = name.clone();
        handler.remarks(work_dir).into_iter().map(move |remark| (name.clone(), remark))
    };
    handlers.iter().flat_map(of_one).collect()
}

/// What this machine lacks for the handlers.
pub(super) fn lacking(remarks: &[(String, Remark)], source: &Source) -> Mistakes {
    let mut lacking = Mistakes::default();
    let mut judge = Judge { source, mistakes: &mut lacking };
    for (name, remark) in remarks.iter().filter(|(_, remark)| remark.severity == Severity::Error) {
        judge.wrong(format!("handlers.{name}.settings"), &remark.text);
    }
    lacking
}

fn warn(config: &Config, warnings: &mut Vec<String>) {
    let queues = config.queues.iter();
    let used: BTreeSet<&String> = queues
        .flat_map(|queue| {
            queue.handler.iter().chain(queue.routes.iter().map(|route| &route.handler))
        })
        .collect();
    for name in config.handlers.keys().filter(|name| !used.contains(name)) {
        warnings.push(format!("handlers.{name}: no queue or route uses it"));
    }
    for (index, queue) in config.queues.iter().enumerate() {
        if queue.stop_takeover_after <= queue.visibility_timeout {
            warnings.push(format!(
                "queues[{index}].stop_takeover_after: {} is not more than the visibility_timeout; \
                 this worker may answer a stop while the worker that runs the step is still \
                 cleaning up",
                text(queue.stop_takeover_after)
            ));
        }
        if queue.stop_watch.is_zero() {
            warnings.push(format!(
                "queues[{index}].stop_watch: is off; a stop whose message is lost \
                               hangs its pipeline"
            ));
        }
    }
    for (index, queue) in config.queues.iter().enumerate() {
        if !queue.exclusive && config.ledger.kind != Kind::Dynamodb {
            warn_of_second_starts(index, queue, config, warnings);
        }
    }
    if config.ledger.kind == Kind::Memory {
        warnings.push(
            "ledger.type: \"memory\" loses everything when the process ends; only for experiments"
                .to_owned(),
        );
    }
}

/// Workers with ledgers of their own know a step only by its message: while one of them has the
/// step, the others may start it too if they receive a copy.
fn warn_of_second_starts(
    index: usize,
    queue: &QueueConfig,
    config: &Config,
    warnings: &mut Vec<String>,
) {
    let names = queue.handler.iter().chain(queue.routes.iter().map(|route| &route.handler));
    for name in names.collect::<BTreeSet<_>>() {
        let Some(handler) = config.handlers.get(name) else { continue };
        if handler.time_limit > queue.repost_after {
            warnings.push(format!(
                "queues[{index}].exclusive: is false, and the time_limit of handlers.{name}, {}, \
                 exceeds repost_after, {}: the copy of the message that is sent then may reach \
                 another worker, which starts the step again; lower the time_limit, or let one \
                 worker read the queue",
                text(handler.time_limit),
                text(queue.repost_after)
            ));
        }
        if let Some(interval) = poll_interval(handler) {
            warnings.push(format!(
                "queues[{index}].exclusive: is false, and handlers.{name} may poll its jobs \
                 (poll_interval, {interval}): if this worker stops or dies meanwhile, another \
                 worker receives the step without its checkpoint and starts a second job; let one \
                 worker read the queue, or make the job's name a function of STEP_TOKEN"
            ));
        }
    }
}

/// How often the handler looks after its jobs, if it can: each program may, by its exit status.
fn poll_interval(handler: &HandlerConfig) -> Option<String> {
    let written = handler.settings.get("poll_interval").and_then(Value::as_str);
    let program = || (handler.kind == "exec").then(|| text(exec::Settings::POLL_INTERVAL));
    written.map(str::to_owned).or_else(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decides_the_place_of_an_instances_ledger_is_told_as_it_is() {
        let path = Path::new("/var/lib/callbackd-etl/ledger.db");
        let (service, variable) = (place_told(path, false), place_told(path, true));
        assert!(service.contains("the service manager says so (STATE_DIRECTORY); set it in"));
        assert!(
            variable.contains("the variable CALLBACKD_LEDGER__PATH says so: remove it, and set")
        );
        assert!(
            [service, variable].iter().all(|told| told.starts_with("is /var/lib/callbackd-etl"))
        );
    }
}
