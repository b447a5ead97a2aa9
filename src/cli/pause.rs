//! `callbackd pause` and `callbackd resume`: orders for the daemon of this machine.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::{Failure, complain, say};
use crate::config::Config;
use crate::ledger;
use crate::orders::{About, Kind, Order, Orders, Sort, Unmeant};

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
    say(&order);
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
        let sort = match (self.queue, self.handler) {
            (true, _) => Some(Sort::Queue),
            (_, true) => Some(Sort::Handler),
            (false, false) => None,
        };
        config.names().meant(&self.name, sort).map_err(|error| {
            Failure::Usage(match error {
                Unmeant::Both(_) => format!("{error}; add --queue or --handler"),
                Unmeant::Unknown { .. } | Unmeant::Several { .. } => error.to_string(),
            })
        })
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
}
