//! `callbackd pause` and `callbackd resume`: orders for the daemon of this machine.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::{Failure, complain, say};
use crate::config::Config;
use crate::ledger;
use crate::orders::{Kind, Order, Orders};
use crate::step::QueueUrl;

#[derive(Args)]
pub(super) struct Arguments {
    /// A configured queue: its name, or its URL.
    #[arg(value_name = "QUEUE")]
    queue: String,
}

pub(super) fn run(
    arguments: &Arguments,
    kind: Kind,
    file: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let config = Config::load(file, std::env::vars_os())?;
    let urls: Vec<&QueueUrl> = config.queues.iter().map(|queue| &queue.url).collect();
    let queue = &config.queues[named(&arguments.queue, &urls)?];
    let Some(orders) = config.orders() else {
        return Err(Failure::Runtime(
            "the ledger is in the worker's memory, and so nothing is kept of an order: stop the \
             worker, or use another ledger"
                .to_owned(),
        ));
    };
    let order = Order { queue: queue.url.clone(), order: kind, at: Timestamp::now() };
    orders.give(&order).map_err(|error| {
        Failure::Runtime(format!(
            "the order could not be written to {error}; run the command on the worker's machine, \
             as its user or as root"
        ))
    })?;
    let name = queue.url.name();
    match kind {
        Kind::Pause => {
            say(format_args!(
                "{name} is paused: a running worker receives nothing more from it after 2 s, nor \
                 does one that is started, until `callbackd resume {name}`. Steps in hand go on."
            ));
            if queue.stop_watch.is_zero() {
                say("Its stop_watch is off: until then their stops are not noticed.");
            }
        }
        Kind::Resume => say(format_args!(
            "{name} is resumed: a running worker polls it within 2 s, and starts its handlers \
             again if their steps had failed."
        )),
    }
    if config.ledger.kind == ledger::Kind::Dynamodb {
        say("This is for the worker of this machine only; tell each worker of the fleet.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells which queues are paused; there may be no orders.
pub(super) fn mention(orders: Option<Orders>) {
    match orders.map(|orders| orders.read()) {
        None => {}
        Some(Ok(reading)) => {
            for (queue, at) in reading.paused() {
                let name = queue.name();
                complain(format_args!("{name} is paused since {at}; `callbackd resume {name}`"));
            }
        }
        Some(Err(error)) => complain(format_args!("paused queues cannot be told: {error}")),
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
