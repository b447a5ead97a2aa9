//! `callbackd pause` and `callbackd resume`: orders for the daemon of this machine.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::{Failure, complain, say};
use crate::config::Config;
use crate::ledger;
use crate::orders::{About, Kind, Order, Orders};
use crate::step::QueueUrl;

#[derive(Args)]
pub(super) struct Arguments {
    /// A configured queue, by its name or URL, or a configured handler.
    #[arg(value_name = "QUEUE|HANDLER")]
    name: String,
    /// The name is a queue's, if a handler has it too.
    #[arg(long, conflicts_with = "handler")]
    queue: bool,
    /// The name is a handler's, if a queue has it too.
    #[arg(long)]
    handler: bool,
}

pub(super) fn run(
    arguments: &Arguments,
    kind: Kind,
    file: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let config = Config::load(file, std::env::vars_os())?;
    let about = arguments.meant(&config)?;
    let Some(orders) = config.orders() else {
        return Err(Failure::Runtime(
            "the ledger is in the worker's memory, and so nothing is kept of an order: stop the \
             worker, or use another ledger"
                .to_owned(),
        ));
    };
    let order = Order { about, order: kind, at: Timestamp::now() };
    orders.give(&order).map_err(|error| {
        Failure::Runtime(format!(
            "the order could not be written to {error}; run the command on the worker's machine, \
             as its user or as root"
        ))
    })?;
    say(obeyed(&order));
    if let (About::Queue(url), Kind::Pause) = (&order.about, kind)
        && config.queues.iter().any(|queue| queue.url == *url && queue.stop_watch.is_zero())
    {
        say("Its stop_watch is off: until then their stops are not noticed.");
    }
    if config.ledger.kind == ledger::Kind::Dynamodb {
        say("This is for the worker of this machine only; tell each worker of the fleet.");
    }
    Ok(ExitCode::SUCCESS)
}

/// What follows from the order.
fn obeyed(order: &Order) -> String {
    let name = order.about.name();
    match (&order.about, order.order) {
        (About::Queue(_), Kind::Pause) => format!(
            "{name} is paused: a running worker receives nothing more from it after 2 s, nor does \
             one that is started, until `callbackd resume {name}`. Steps in hand go on."
        ),
        (About::Queue(_), Kind::Resume) => format!(
            "{name} is resumed: a running worker polls it within 2 s, and starts its handlers \
             again if their steps had failed."
        ),
        (About::Handler(_), Kind::Pause) => format!(
            "the handler {name} is paused: a running worker starts no run of it after 2 s, nor \
             does one that is started, until `callbackd resume {name}`. What runs goes on."
        ),
        (About::Handler(_), Kind::Resume) => format!(
            "the handler {name} is resumed: a running worker starts it within 2 s, also if its \
             steps had failed."
        ),
    }
}

/// Tells what is paused; there may be no orders.
pub(super) fn mention(orders: Option<Orders>) {
    match orders.map(|orders| orders.read()) {
        None => {}
        Some(Ok(reading)) => {
            for (about, at) in reading.paused() {
                let what = if matches!(about, About::Handler(_)) { "the handler " } else { "" };
                let name = about.name();
                complain(format_args!(
                    "{what}{name} is paused since {at}; `callbackd resume {name}`"
                ));
            }
        }
        Some(Err(error)) => complain(format_args!("what is paused cannot be told: {error}")),
    }
}

impl Arguments {
    fn meant(&self, config: &Config) -> Result<About, Failure> {
        let is_handler = config.handlers.contains_key(&self.name);
        let urls: Vec<&QueueUrl> = config.queues.iter().map(|queue| &queue.url).collect();
        let is_queue = urls.iter().any(|url| url.is_meant_by(&self.name));
        if is_handler && is_queue && !self.handler && !self.queue {
            return Err(Failure::Usage(format!(
                "both a queue and a handler are named {:?}; add --queue or --handler",
                self.name
            )));
        }
        if is_handler && !self.queue {
            return Ok(About::Handler(self.name.clone()));
        }
        if self.handler {
            let known: Vec<&str> = config.handlers.keys().map(String::as_str).collect();
            return Err(Failure::Usage(format!(
                "no handler {:?} is configured; there are: {}",
                self.name,
                known.join(", ")
            )));
        }
        if !is_queue && !self.queue {
            let handlers = config.handlers.keys().map(String::as_str);
            let known: Vec<&str> = urls.iter().map(|url| url.as_str()).chain(handlers).collect();
            return Err(Failure::Usage(format!(
                "no queue or handler {:?} is configured; there are: {}",
                self.name,
                known.join(", ")
            )));
        }
        Ok(About::Queue(urls[named(&self.name, &urls)?].clone()))
    }
}

/// The position of the queue with this name or URL.
fn named(wanted: &str, queues: &[&QueueUrl]) -> Result<usize, Failure> {
    let is_it = |at: &usize| queues[*at].is_meant_by(wanted);
    let found: Vec<usize> = (0..queues.len()).filter(is_it).collect();
    match found[..] {
        [at] => Ok(at),
        [] => {
            let known: Vec<&str> = queues.iter().map(|queue| queue.as_str()).collect();
            let known = known.join(", ");
            Err(Failure::Usage(format!("no queue {wanted:?} is configured; there are: {known}")))
        }
        _ => {
            let these: Vec<&str> = found.iter().map(|at| queues[*at].as_str()).collect();
            let these = these.join(", ");
            Err(Failure::Usage(format!("several queues are named {wanted:?}; give one of {these}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_both_a_queue_and_a_handler_needs_to_be_told_apart() {
        let url = |name: &str| format!("https://sqs.us-east-1.amazonaws.com/123456789012/{name}");
        let config = serde_json::json!({
            "queues": [{"url": url("both"), "handler": "both"}, {"url": url("q"), "handler": "h"}],
            "handlers": {"both": {"type": "exec"}, "h": {"type": "exec"}},
        });
        let config: Config = serde_json::from_value(config).expect("a configuration");
        let meant = |name: &str, queue, handler| {
            Arguments { name: name.to_owned(), queue, handler }.meant(&config)
        };
        let queue = |name: &str| About::Queue(url(name).parse().expect("a URL"));
        let handler = |name: &str| About::Handler(name.to_owned());
        for (name, of_queue, of_handler, wants) in [
            ("q", false, false, queue("q")),
            ("h", false, false, handler("h")),
            ("both", true, false, queue("both")),
            ("both", false, true, handler("both")),
            (&url("both"), false, false, queue("both")),
        ] {
            assert_eq!(meant(name, of_queue, of_handler).ok(), Some(wants), "{name}");
        }
        for (name, of_queue, of_handler, told) in [
            ("both", false, false, "--queue or --handler"),
            ("h", true, false, "no queue"),
            ("q", false, true, "there are: both, h"),
            ("no", false, false, "no queue or handler"),
        ] {
            let Err(Failure::Usage(text)) = meant(name, of_queue, of_handler) else {
                panic!("{name} is refused")
            };
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn a_queue_is_named_by_its_name_unless_that_is_ambiguous_or_by_any_url_of_it() {
        let queues: Vec<QueueUrl> = ["us-east-1", "eu-west-1"]
            .into_iter()
            .flat_map(|region| ["a", "b"].map(|name| (region, name)))
            .filter(|at| *at != ("eu-west-1", "b"))
            .map(|(region, name)| {
                let url = format!("https://sqs.{region}.amazonaws.com/123456789012/{name}");
                url.parse().expect("a URL")
            })
            .collect();
        let found = |wanted: &str| named(wanted, &queues.iter().collect::<Vec<_>>());
        assert_eq!(found("b").ok(), Some(1));
        let fips = "https://sqs-fips.eu-west-1.amazonaws.com/123456789012/a";
        assert_eq!(found(fips).ok(), Some(2));
        for (wanted, told) in [("a", "several"), ("c", "/123456789012/b"), ("", "no queue")] {
            let Err(Failure::Usage(text)) = found(wanted) else { panic!("{wanted} is refused") };
            assert!(text.contains(told), "{text}");
        }
    }
}
