//! Which settings a running worker takes over from a changed configuration.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Config;
use super::decode::{Step, join};
use crate::engine::config::{HandlerConfig, QueueConfig};

/// What becomes of a changed configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Reloaded {
    /// The one in force, with what could be taken over.
    pub config: Config,
    /// The keys that were taken over, dotted.
    pub changed: Vec<String>,
    /// The keys that differ and take effect at the next start.
    pub needs_restart: Vec<String>,
}

impl Config {
    /// Takes over from `new` what may change while the worker works: the log's level, the queues'
    /// `concurrency`, `handler` and `routes`, and the handlers' keys but for `type`, `settings`,
    /// `inherit` and `answers`. Routes to a handler that is new are not taken over. Both
    /// configurations are without mistakes.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Reloaded {
        let mut config = self.clone();
        config.log.level.clone_from(&new.log.level);
        for queue in &mut config.queues {
            if let Some(new) = new.queues.iter().find(|new| new.url == queue.url) {
                take_over(queue, new, &self.handlers);
            }
        }
        for (name, handler) in &mut config.handlers {
            if let Some(new) = new.handlers.get(name) {
                let HandlerConfig { kind, settings, inherit, answers, .. } = handler.clone();
                *handler = HandlerConfig { kind, settings, inherit, answers, ..new.clone() };
            }
        }
        Reloaded {
            changed: differences(self, &config),
            needs_restart: differences(&config, new),
            config,
        }
    }
}

fn take_over(
    queue: &mut QueueConfig,
    new: &QueueConfig,
    handlers: &BTreeMap<String, HandlerConfig>,
) {
    queue.concurrency = new.concurrency;
    if new.handlers().all(|handler| handlers.contains_key(handler)) {
        queue.handler.clone_from(&new.handler);
        queue.routes.clone_from(&new.routes);
    }
}

/// The keys whose values differ.
fn differences(one: &Config, other: &Config) -> Vec<String> {
    let tree = |config| serde_json::to_value(config).unwrap_or_default();
    let mut found = Vec::new();
    compare(&mut Vec::new(), &tree(one), &tree(other), &mut found);
    found
}

fn compare(path: &mut Vec<Step>, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        _ if one == other => {}
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            for field in keys {
                let of = |tree: &Map<String, Value>| tree.get(field).cloned().unwrap_or_default();
                path.push(Step::Field(field.clone()));
                compare(path, &of(one), &of(other), found);
                path.pop();
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                path.push(Step::Index(at));
                compare(path, one, other, found);
                path.pop();
            }
        }
        _ => found.push(join(path, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckedConfig;
    use crate::handler::{Registry, handler_fn};

    const BEFORE: &str = r#"
        [[queues]]
        url = "https://sqs.us-east-1.amazonaws.com/123456789012/a"
        handler = "x"
        [[queues]]
        url = "https://sqs.us-east-1.amazonaws.com/123456789012/b"
        handler = "y"
        [handlers.x]
        type = "t"
        [handlers.y]
        type = "t"
        max_running = 2
    "#;

    fn config(text: &str) -> Config {
        let registry = Registry::new().handler("t", || handler_fn(async |_, _: Value| Ok(())));
        CheckedConfig::from_toml("test", text, &registry).expect("no mistakes").config
    }

    #[test]
    fn what_may_change_is_taken_over_and_the_rest_waits_for_a_restart() {
        let after = r#"
            [log]
            level = "debug"
            format = "json"
            [worker]
            drain_timeout = "7s"
            [[queues]]
            url = "https://sqs.us-east-1.amazonaws.com/123456789012/a"
            handler = "x"
            concurrency = 3
            visibility_timeout = "1m"
            [[queues.routes]]
            pipeline = "p-*"
            handler = "y"
            [[queues]]
            url = "https://sqs.us-east-1.amazonaws.com/123456789012/b"
            handler = "z"
            [handlers.x]
            type = "t"
            answers = "handler"
            rate = "1/1s"
            max_attempts = 9
            [handlers.y]
            type = "t"
            [handlers.z]
            type = "t"
        "#;
        let (before, after) = (config(BEFORE), config(after));
        let Reloaded { config, changed, needs_restart } = before.reloaded(&after);
        assert_eq!(
            changed,
            [
                "handlers.x.max_attempts",
                "handlers.x.rate",
                "handlers.y.max_running",
                "log.level",
                "queues[0].concurrency",
                "queues[0].routes",
            ]
        );
        assert_eq!(
            needs_restart,
            [
                "handlers.x.answers",
                "handlers.z",
                "log.format",
                "queues[0].visibility_timeout",
                "queues[1].handler",
                "worker.drain_timeout",
            ]
        );
        assert_eq!(config.queues[0].concurrency, 3);
        assert_eq!(config.queues[1].handler.as_deref(), Some("y"), "z does not run yet");
        assert_eq!(config.handlers["y"].max_running, None);
        let again = config.reloaded(&after);
        assert_eq!((again.changed, again.needs_restart), (Vec::new(), needs_restart));
    }

    #[test]
    fn queues_that_come_go_or_move_need_a_restart() {
        let before = config(BEFORE);
        let mut after = before.clone();
        after.queues.swap(0, 1);
        after.queues[0].concurrency = 5;
        let reloaded = before.reloaded(&after);
        assert_eq!(reloaded.changed, ["queues[1].concurrency"], "it is known by its URL");
        after.queues.pop();
        assert_eq!(before.reloaded(&after).needs_restart, ["queues"]);
    }
}
