//! What must hold between settings that each decode: ranges, contradictions, names that lead nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Config;
use super::mistake::{Mistake, Mistakes};
use super::source::Source;
use crate::duration::text;
use crate::engine::config::{HandlerConfig, QueueConfig};
use crate::handler::{BuildError, DynHandler, Registry};
use crate::ledger::Kind;

/// SQS lets no message be invisible longer.
const SQS_CEILING: Duration = Duration::from_hours(12);
/// Longer than any job; beyond it an overflow is near and a slip of the finger certain.
const FAR: Duration = Duration::from_hours(365 * 24);
/// Steps at once; each holds memory, and SQS lets about 120,000 messages be in flight.
const MOST_STEPS: usize = 100_000;

/// Notes mistakes about keys.
struct Judge<'a> {
    source: &'a Source,
    mistakes: &'a mut Mistakes,
}

impl Judge<'_> {
    fn wrong(&mut self, key: impl Into<String>, what: impl Into<String>) {
        let key = key.into();
        self.mistakes.add(Mistake { source: self.source.origin(&key), key, what: what.into() });
    }

    fn within(&mut self, key: String, value: Duration, least: Duration, most: Duration) {
        if value < least || value > most {
            self.wrong(key, format!("{} is not allowed; {} to {} are", text(value), text(least), text(most)));
        }
    }
}

pub(super) fn check(config: &Config, source: &Source, mistakes: &mut Mistakes, warnings: &mut Vec<String>) {
    let mut judge = Judge { source, mistakes };
    check_worker(config, &mut judge);
    if config.queues.is_empty() && !judge.mistakes.knows("queues") {
        judge.wrong("queues", "there is none; add at least one [[queues]] with a url and a handler");
    }
    for (index, queue) in config.queues.iter().enumerate() {
        check_queue(&format!("queues[{index}]"), queue, config, &mut judge);
        let url = format!("queues[{index}].url");
        // One that is missing or wrong has a stand-in.
        let is_known = |place: usize| !judge.mistakes.knows(&format!("queues[{place}].url"));
        let same = |other: &QueueConfig| other.url.is_same_queue(&queue.url);
        let twin = (0..index).find(|place| is_known(*place) && same(&config.queues[*place]));
        if let Some(twin) = twin.filter(|_| is_known(index)) {
            let spelt = if config.queues[twin].url == queue.url { "" } else { " in another spelling" };
            judge.wrong(url, format!("the same queue as queues[{twin}]{spelt}; list each once"));
        }
    }
    for (name, handler) in &config.handlers {
        check_handler(&format!("handlers.{name}"), name, handler, &mut judge);
    }
    warn(config, warnings);
}

fn check_worker(config: &Config, judge: &mut Judge<'_>) {
    let second = Duration::from_secs(1);
    judge.within(
        "worker.drain_timeout".to_owned(),
        config.worker.drain_timeout,
        Duration::ZERO,
        Duration::from_hours(24),
    );
    if let Some(id) = &config.worker.id
        && (id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
    {
        judge.wrong("worker.id", "1 to 64 letters, digits, hyphens, dots and underscores are allowed");
    }
    if config.worker.work_dir.as_ref().is_some_and(|directory| directory.as_os_str().is_empty()) {
        judge.wrong("worker.work_dir", "is empty; name a directory, or leave it out for one beside the ledger");
    }
    if config.ledger.kind == Kind::Dynamodb {
        judge.wrong("ledger.type", "\"dynamodb\" comes with a later version; this one has \"sqlite\" and \"memory\"");
    }
    if config.ledger.table.is_some() && config.ledger.kind != Kind::Dynamodb {
        judge.wrong("ledger.table", "is for type = \"dynamodb\", which comes with a later version; leave it out");
    }
    if config.ledger.path.as_os_str().is_empty() {
        judge.wrong("ledger.path", "is empty; name the ledger's file");
    }
    judge.within("ledger.lease".to_owned(), config.ledger.lease, 3 * second, Duration::from_hours(12));
    judge.within("ledger.retention".to_owned(), config.ledger.retention, second, FAR);
    if let Err(what) = config.log.check() {
        judge.wrong("log.level", what);
    }
    #[cfg(feature = "aws")]
    for (key, what) in config.aws.mistakes() {
        judge.wrong(format!("aws.{key}"), what);
    }
}

fn check_queue(key: &str, queue: &QueueConfig, config: &Config, judge: &mut Judge<'_>) {
    let of = |field: &str| format!("{key}.{field}");
    if queue.url.is_fifo() {
        judge.wrong(
            of("url"),
            "is a FIFO queue: callback steps send no message group, which such queues require; use a standard queue",
        );
    }
    if !(1..=MOST_STEPS).contains(&queue.concurrency) {
        judge.wrong(of("concurrency"), format!("{} is not allowed; 1 to {MOST_STEPS} are", queue.concurrency));
    }
    judge.within(of("visibility_timeout"), queue.visibility_timeout, Duration::from_secs(10), SQS_CEILING);
    judge.within(of("repost_after"), queue.repost_after, Duration::from_secs(10), SQS_CEILING);
    if queue.visibility_timeout.subsec_nanos() != 0 {
        judge.wrong(of("visibility_timeout"), "whole seconds are allowed: SQS knows no others");
    }
    if queue.repost_after + queue.visibility_timeout > SQS_CEILING {
        judge.wrong(
            of("repost_after"),
            format!(
                "{} and a visibility_timeout of {} are more than the 12h that SQS lets a message be invisible",
                text(queue.repost_after),
                text(queue.visibility_timeout)
            ),
        );
    }
    if !queue.stop_watch.is_zero() {
        judge.within(of("stop_watch"), queue.stop_watch, Duration::from_secs(1), SQS_CEILING);
    }
    judge.within(of("stop_takeover_after"), queue.stop_takeover_after, Duration::from_secs(5), SQS_CEILING);
    judge.within(of("gone_after"), queue.gone_after, Duration::from_mins(1), FAR);
    check_accounts(key, queue, judge);
    if queue.region.as_deref().is_some_and(str::is_empty) {
        judge.wrong(of("region"), "is empty; leave it out to have it taken from the url");
    }
    if let (Some(region), Some(named)) = (queue.region.as_deref(), queue.url.region())
        && !region.is_empty()
        && region != named
    {
        judge.wrong(of("region"), format!("contradicts the url, whose host is in {named}; leave it out"));
    }
    if let Some(name) = &queue.handler {
        check_reference(of("handler"), name, config, judge);
    }
    for (index, route) in queue.routes.iter().enumerate() {
        let route_key = format!("{key}.routes[{index}]");
        check_reference(format!("{route_key}.handler"), &route.handler, config, judge);
        let matches_all =
            |pipeline: Option<&str>| pipeline.is_none_or(|glob| !glob.is_empty() && glob.bytes().all(|b| b == b'*'));
        if route.arguments.is_empty() && matches_all(route.pipeline.as_deref()) && index + 1 < queue.routes.len() {
            judge.wrong(route_key, "matches every step, so that the routes after it never do; move it to the end");
        }
    }
    if queue.handler.is_none() && queue.routes.is_empty() {
        judge.wrong(of("handler"), "is missing, and there are no routes; every step would fail");
    }
}

fn check_accounts(key: &str, queue: &QueueConfig, judge: &mut Judge<'_>) {
    let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(role) = &queue.role_arn
        && account_of_role(role).is_none()
    {
        judge.wrong(format!("{key}.role_arn"), "is not arn:aws:iam::ACCOUNT:role/NAME");
    }
    let own = queue.role_arn.as_deref().and_then(account_of_role);
    for (index, (account, role)) in queue.accounts.iter().enumerate() {
        let at = if role.is_some() { format!("{key}.accounts.{account}") } else { format!("{key}.accounts[{index}]") };
        if !is_account(account) {
            judge.wrong(at, "is not the twelve digits of an account");
        } else if let Some(role) = role {
            match account_of_role(role) {
                None => judge.wrong(at, "is not arn:aws:iam::ACCOUNT:role/NAME"),
                Some(of) if of != account => {
                    judge.wrong(
                        at,
                        format!("the role is of the account {of}, and SageMaker takes answers from {account} alone"),
                    );
                }
                Some(_) => {}
            }
        } else if own.is_some_and(|own| own != account) {
            let what = "its steps could not be answered: `role_arn` is of another account; write accounts = { ACCOUNT = \"ROLE ARN\" }";
            judge.wrong(at, what);
        }
    }
}

/// `arn:PARTITION:iam::ACCOUNT:role/NAME`
fn account_of_role(arn: &str) -> Option<&str> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", partition, "iam", "", account, role]
            if partition.starts_with("aws")
                && account.len() == 12
                && account.bytes().all(|byte| byte.is_ascii_digit())
                && role.strip_prefix("role/").is_some_and(|name| !name.is_empty()) =>
        {
            Some(account)
        }
        _ => None,
    }
}

fn check_reference(key: String, name: &str, config: &Config, judge: &mut Judge<'_>) {
    if !name.is_empty() && !config.handlers.contains_key(name) {
        let have: Vec<&str> = config.handlers.keys().map(String::as_str).collect();
        let have =
            if have.is_empty() { "there are none".to_owned() } else { format!("there are: {}", have.join(", ")) };
        judge.wrong(key, format!("there is no [handlers.{name}]; {have}"));
    }
}

fn check_handler(key: &str, name: &str, handler: &HandlerConfig, judge: &mut Judge<'_>) {
    let of = |field: &str| format!("{key}.{field}");
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        judge.wrong(key, "a handler's name is lower-case letters, digits and hyphens");
    }
    if handler.max_attempts == 0 {
        judge.wrong(of("max_attempts"), "0 is not allowed; at least 1 is");
    }
    let (moment, second, hour) = (Duration::from_millis(1), Duration::from_secs(1), Duration::from_hours(1));
    judge.within(of("time_limit"), handler.time_limit, second, FAR);
    judge.within(of("retry_delay"), handler.retry_delay, moment, SQS_CEILING);
    judge.within(of("retry_delay_max"), handler.retry_delay_max, moment, 2 * SQS_CEILING);
    judge.within(of("stop_grace"), handler.stop_grace, Duration::ZERO, hour);
    judge.within(of("cleanup_limit"), handler.cleanup_limit, moment, SQS_CEILING);
    judge.within(of("deferred_limit"), handler.deferred_limit, second, FAR);
    if handler.retry_delay > handler.retry_delay_max {
        let (delay, most) = (text(handler.retry_delay), text(handler.retry_delay_max));
        judge.wrong(of("retry_delay"), format!("{delay} is more than the retry_delay_max of {most}"));
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
        match registry.build(&handler.kind, handler.settings.clone()) {
            Ok(built) => drop(handlers.insert(name.clone(), built)),
            Err(BuildError::Unknown { have, .. }) if handler.kind == "http" => judge.wrong(
                format!("handlers.{name}.type"),
                format!("\"http\" comes with a later version; this binary has: {have}"),
            ),
            Err(error @ BuildError::Unknown { .. }) => judge.wrong(format!("handlers.{name}.type"), error.to_string()),
            Err(BuildError::Settings { path, message }) => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                judge.wrong(format!("handlers.{name}.settings{dot}{path}"), message);
            }
        }
    }
    handlers
}

fn warn(config: &Config, warnings: &mut Vec<String>) {
    let queues = config.queues.iter();
    let used: BTreeSet<&String> =
        queues.flat_map(|queue| queue.handler.iter().chain(queue.routes.iter().map(|route| &route.handler))).collect();
    for name in config.handlers.keys().filter(|name| !used.contains(name)) {
        warnings.push(format!("handlers.{name}: no queue or route uses it"));
    }
    for (index, queue) in config.queues.iter().enumerate() {
        if queue.stop_takeover_after <= queue.visibility_timeout {
            warnings.push(format!(
                "queues[{index}].stop_takeover_after: {} is not more than the visibility_timeout; a stop may be answered from here while \
                 the worker that runs the step is still cleaning up",
                text(queue.stop_takeover_after)
            ));
        }
        if queue.stop_watch.is_zero() {
            warnings
                .push(format!("queues[{index}].stop_watch: is off; a stop whose message is lost hangs its pipeline"));
        }
    }
    if config.ledger.kind == Kind::Memory {
        warnings.push("ledger.type: \"memory\" forgets everything when the process ends; for trials only".to_owned());
    }
}
