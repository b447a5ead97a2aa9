//! The lines of the demo: when, who, what.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::super::{plain, say};
use crate::local::EventKind;
use crate::step::Message;

/// Prints what happens.
pub(super) struct Show {
    began: Instant,
    colours: bool,
    /// Steps' names by their tokens.
    names: Mutex<BTreeMap<String, String>>,
    lines: Mutex<Vec<String>>,
    spoke: Notify,
}

/// Who did it.
#[derive(Clone, Copy)]
enum Who {
    Pipeline,
    Queue,
    Worker,
    Program,
}

impl Show {
    pub(super) fn new() -> Self {
        let colours = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            began: Instant::now(),
            colours,
            names: Mutex::default(),
            lines: Mutex::default(),
            spoke: Notify::new(),
        }
    }

    /// From now on a token is shown as the name of its step.
    pub(super) fn name(&self, token: &str, step: &str) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.to_owned(), step.to_owned());
    }

    /// Waits until a program has printed `text` this many times.
    pub(super) async fn heard(&self, text: &str, times: usize) {
        loop {
            let spoke = self.spoke.notified();
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if lines.iter().filter(|line| line.contains(text)).count() >= times {
                return;
            }
            tokio::select! {
                () = spoke => {}
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    pub(super) fn event(&self, event: &EventKind) {
        let (who, what) = match event {
            EventKind::ExecutionStarted { pipeline, .. } => {
                (Who::Pipeline, format!("{pipeline} is started"))
            }
            EventKind::StepStarted { step, token, .. } => {
                (Who::Pipeline, format!("{step} waits for an answer with the token {token}"))
            }
            EventKind::MessageSent { body, .. } => {
                (Who::Queue, format!("{} message for {}", status(body), self.step_in(body)))
            }
            EventKind::MessageReceived { receives, .. } => (
                Who::Queue,
                match *receives {
                    1 => "received by the worker".to_owned(),
                    times => format!("received by the worker, {times} times by now"),
                },
            ),
            EventKind::MessageDeleted { .. } => (Who::Queue, "message deleted".to_owned()),
            EventKind::AnswerAccepted { token, operation, repeated, .. } => {
                let again = if *repeated { ", once more" } else { "" };
                let kind = if operation.ends_with("Success") { "success" } else { "failure" };
                (Who::Pipeline, format!("{}: {kind} accepted{again}", self.step(token)))
            }
            EventKind::AnswerRefused { token, code, message, .. } => {
                (Who::Pipeline, format!("{}: answer refused: {code} {message}", self.step(token)))
            }
            EventKind::StepEnded { step, status, outputs, reason, .. } => {
                let outputs: Vec<String> =
                    outputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let detail = reason.clone().unwrap_or_else(|| outputs.join(" "));
                (Who::Pipeline, format!("{step} {status}: {detail}"))
            }
            EventKind::ExecutionStopping { .. } => {
                (Who::Pipeline, "someone stops the execution".to_owned())
            }
            EventKind::ExecutionEnded { status, .. } => {
                (Who::Pipeline, format!("the execution is {status}"))
            }
            _ => return,
        };
        self.line(who, &what);
    }

    fn line(&self, who: Who, what: &str) {
        let (name, colour) = match who {
            Who::Pipeline => ("pipeline", "35"),
            Who::Queue => ("queue", "33"),
            Who::Worker => ("worker", "36"),
            Who::Program => ("program", "32"),
        };
        let seconds = self.began.elapsed().as_secs_f64();
        let what = plain(what);
        let name = format!("{name:<9}");
        let name = if self.colours { format!("\x1b[{colour}m{name}\x1b[0m") } else { name };
        say(format_args!("{seconds:>5.1}s  {name} {what}"));
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        self.spoke.notify_waiters();
    }

    fn step(&self, token: &str) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(token).cloned().unwrap_or_else(|| token.to_owned())
    }

    fn step_in(&self, body: &str) -> String {
        Message::parse(body)
            .map_or_else(|_| "?".to_owned(), |message| self.step(message.step().token.as_str()))
    }
}

fn status(body: &str) -> &'static str {
    match Message::parse(body) {
        Ok(Message::Work(_)) => "Executing",
        Ok(Message::Stop(_)) => "Stopping",
        Err(_) => "unreadable",
    }
}

/// Also shows what the worker and its programs log.
pub(super) fn install(show: &Arc<Show>) {
    let subscriber = tracing_subscriber::registry().with(Told(show.clone()));
    // This fails only if a subscriber is installed already, which then shows the log.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Told(Arc<Show>);

/// The step's token, kept with its span.
struct Token(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Told {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), Some(token)) = (context.span(id), fields.token) {
            span.extensions_mut().insert(Token(token));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() > Level::INFO
            || !event.metadata().target().starts_with("callbackd")
        {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let token = context.event_scope(event).and_then(|mut spans| {
            spans.find_map(|span| span.extensions().get::<Token>().map(|token| token.0.clone()))
        });
        let step = token.map(|token| format!("{}: ", self.0.step(&token))).unwrap_or_default();
        let who = if event.metadata().target() == "callbackd::program" {
            Who::Program
        } else {
            Who::Worker
        };
        self.0.line(who, &format!("{step}{}{}", fields.message, fields.rest));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    token: Option<String>,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "token" => self.token = Some(format!("{value:?}")),
            name @ ("reason" | "outcome" | "attempt" | "via" | "error" | "why") => {
                // Writing to a String does not fail.
                let _ = write!(self.rest, " {name}={value:?}");
            }
            _ => {}
        }
    }
}
