//! `callbackd explain`: what a code, an event of the log or an alert means, and what to do.

mod runbook;

use std::process::ExitCode;

use clap::Args;

use super::{Failure, plain, say};
use runbook::{Entry, entries};

#[derive(Args)]
pub(super) struct Arguments {
    /// A code (CBD101), an event of the log or an alert; without it, all are listed.
    #[arg(value_name = "CODE|EVENT|ALERT")]
    what: Option<String>,
    /// Print JSON: an object, or an array of all.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let entries = entries();
    let Some(what) = &arguments.what else {
        if arguments.json {
            say(serde_json::to_string_pretty(&entries).map_err(Failure::runtime)?);
        } else {
            for entry in &entries {
                say(line(entry));
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let entry = entries
        .iter()
        .find(|entry| entry.is_called(what))
        .ok_or_else(|| Failure::Usage(unknown(what, &entries)))?;
    if arguments.json {
        say(serde_json::to_string_pretty(entry).map_err(Failure::runtime)?);
    } else {
        say(text(entry));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(entry: &Entry) -> String {
    let code = entry.code.as_deref().unwrap_or("-");
    format!("{code:<6} {}: {}", entry.name, entry.summary().replace('\n', " "))
}

fn text(entry: &Entry) -> String {
    let mut out = entry.names().collect::<Vec<_>>().join(" ");
    if let Some(level) = &entry.level {
        out += &format!(" ({level})");
    }
    if let Some(message) = &entry.message {
        out += &format!("\nMessage: {message}");
    }
    if !entry.fields.is_empty() {
        out += &format!("\nFields: {}", entry.fields.join(", "));
    }
    if !entry.text.is_empty() {
        out += &format!("\n\n{}", entry.text);
    }
    out
}

/// How many similar names a mistyped one is answered with.
const SIMILAR: usize = 3;

fn unknown(what: &str, entries: &[Entry]) -> String {
    let lower = what.to_lowercase();
    let mut names: Vec<(usize, &str)> = entries
        .iter()
        .flat_map(Entry::names)
        .map(|name| (strsim::osa_distance(&lower, &name.to_lowercase()), name))
        .collect();
    names.sort_by_key(|(distance, _)| *distance);
    let near: Vec<&str> = names.iter().take(SIMILAR).map(|(_, name)| *name).collect();
    let what = plain(what);
    format!(
        "there is no code, event or alert {what:?}; the nearest are {}; `callbackd explain` lists \
         all",
        near.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(what: &str) -> String {
        let entries = entries();
        text(entries.iter().find(|entry| entry.is_called(what)).expect(what))
    }

    #[test]
    fn a_code_and_its_event_are_explained_alike_in_any_case() {
        let text = explained("cbd101");
        assert_eq!(text, explained("Queue_Poll_Failed"));
        assert_eq!(explained("cbd12"), explained("[CBD012]"));
        assert!(text.starts_with("CBD101 queue_poll_failed (warn)\nMessage: the queue could not"));
        for part in ["Fields: again_in, error,", "- Look at: ", "- Do: "] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn an_event_without_a_code_and_an_alert_are_explained() {
        assert!(explained("step_ended").contains("Message: the step has ended\nFields: outcome"));
        assert!(explained("CallbackdLedgerFailing").contains("The ledger fails.\n\n- Look at: "));
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest() {
        let failed = run(&Arguments { what: Some("queue_pol_failed".to_owned()), json: false });
        let Err(Failure::Usage(text)) = failed else { panic!("it is unknown") };
        assert!(text.contains("the nearest are queue_poll_failed, "), "{text}");
    }
}
