//! `callbackd check`: the configuration, what this machine has for it, and with `--online` what it
//! refers to in AWS. It changes nothing.

mod host;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::{Failure, plain, say};
use crate::aws::Clients;
use crate::aws::doctor::{self, Finding, Level, Subject};
use crate::config::CheckedConfig;
use crate::daemon;
use crate::handler::Severity;
#[cfg(feature = "dynamodb")]
use crate::ledger::Kind;
use crate::observe::events::coded;

#[derive(Args)]
pub(super) struct Arguments {
    /// Also check in AWS that every queue and dead-letter queue exists, that retention and
    /// visibility are sane, that the ledger's table is one, that permissions are sufficient, and
    /// that the clock is right. Anything this machine lacks then counts as an error. Changes
    /// nothing.
    #[arg(long)]
    online: bool,
}

pub(super) async fn run(
    loaded: &CheckedConfig,
    arguments: &Arguments,
) -> Result<ExitCode, Failure> {
    if !loaded.lacking.is_empty() {
        return Err(loaded.lacking.clone().into());
    }
    for warning in &loaded.warnings {
        say(format_args!("warning  {warning}"));
    }
    let (queues, handlers) = (loaded.config.queues.len(), loaded.handlers.len());
    say(format_args!("ok       the configuration: {queues} queue(s), {handlers} handler(s)"));
    let of_handlers = daemon::remarks(loaded).into_iter().map(|(text, (severity, names))| {
        let level = if severity == Severity::Note { Level::Ok } else { Level::Warn };
        Finding {
            level,
            subject: format!("handler {}", names.join(", ")),
            text: text.to_owned(),
            remedy: None,
            event: None,
        }
    });
    let mut failed = false;
    for finding in of_handlers.chain(host::look(loaded).await) {
        // A configuration may be checked on another machine than the one that it is for.
        let level = if arguments.online { finding.level } else { finding.level.min(Level::Warn) };
        failed |= level == Level::Error;
        show(&Finding { level, ..finding });
    }
    if !arguments.online {
        return Ok(ExitCode::SUCCESS);
    }
    if std::env::var_os("ECS_AGENT_URI").is_some() {
        show(&doctor::unprotected());
    }
    let clients = Clients::new(loaded.config.aws.clone(), "check", Arc::new(()));
    #[cfg(feature = "dynamodb")]
    if loaded.config.ledger.kind == Kind::Dynamodb {
        let ledger = &loaded.config.ledger;
        for finding in doctor::examine_table(&clients, &ledger.table, ledger.retention).await {
            failed |= finding.level == Level::Error;
            show(&finding);
        }
    }
    for queue in &loaded.config.queues {
        let subject = Subject {
            url: &queue.url,
            region: queue.region.as_deref().or_else(|| queue.url.region()),
            role: queue.role(),
            accounts: queue.accounts.iter().collect(),
            visibility_timeout: queue.visibility_timeout,
        };
        for finding in doctor::examine(&clients, &subject).await {
            failed |= finding.level == Level::Error;
            show(&finding);
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(finding: &Finding) {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warn => "warning",
        Level::Error => "error",
    };
    let remedy = finding.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
    let text = format!("{level:<8} {}: {}{remedy}", finding.subject, finding.text);
    say(plain(&finding.event.map_or_else(|| text.clone(), |event| coded(&text, event))));
}
