//! Writes one event as one line of the log, whatever the event contains.
//!
//! Much of what is logged comes from others: handlers' output, messages, reasons, ARNs. So nothing
//! in a value can end a line, begin one that looks like ours, or reach a terminal as a control
//! sequence; and no value can make a line so long that the journal would split it. The formatters
//! of `tracing-subscriber` bound nothing, and a writer behind them sees only the finished line, in
//! which our text and theirs can no longer be told apart.

use std::error::Error;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::causes::with_causes;
use crate::observe::events::{Code, OTHER_CRATE, code_of};

/// The maximum size of one value in a line in bytes, including escapes.
const MAX_VALUE: usize = 16 * 1024;
/// Values are cut so that a line stays near this size. journald's `LineMax` is 48 KiB by default:
/// the rest would become a second line, whose beginning the value's author could choose.
const MAX_LINE: usize = 32 * 1024;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text { colour: bool },
    Json,
}

/// Writes each event as one line: the time (RFC 3339, UTC), the level, the target, the message, the
/// fields of the enclosing spans from the outermost in, and its own fields. If a name occurs twice,
/// the innermost value is written.
pub struct Lines<O> {
    form: Form,
    out: O,
}

/// Where lines go.
pub trait Out: Send + Sync + 'static {
    /// Takes a line with its line feed, or loses it; it must not block.
    fn put(&self, line: &str, level: Level);
}

impl<O> Lines<O> {
    pub fn new(form: Form, out: O) -> Self {
        Self { form, out }
    }
}

/// The log's own line in place of dropped ones.
pub(super) fn gap(form: Form, dropped: u64) -> String {
    let mut fields = Fields::default();
    fields.set("dropped", Value::Plain(dropped.to_string()));
    let text = "lines of the log were dropped here: they were written faster than stderr is read";
    Line {
        at: Timestamp::now(),
        level: Level::WARN,
        target: module_path!().to_owned(),
        event: Some("log_lines_dropped".to_owned()),
        message: text.to_owned(),
        fields,
    }
    .written(form)
}

impl<S, O: Out> Layer<S> for Lines<O>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.extend(of_span);
            }
        }
        fields.text = Text::Awaited;
        event.record(&mut fields);
        let level = *event.metadata().level();
        // Events from the `log` crate have their own.
        let target =
            fields.take("log.target").unwrap_or_else(|| event.metadata().target().to_owned());
        let line = Line {
            at: Timestamp::now(),
            level,
            event: fields.event(&target),
            target,
            message: fields.text.take(),
            fields,
        };
        self.out.put(&line.written(self.form), level);
    }
}

struct Line {
    at: Timestamp,
    level: Level,
    target: String,
    /// Its stable name; a line of ours below `info` may have none.
    event: Option<String>,
    message: String,
    fields: Fields,
}

impl Line {
    /// What to look it up by, if it warns of something.
    fn code(&self) -> Option<Code> {
        code_of(self.event.as_deref()?).filter(|_| self.level <= Level::WARN)
    }

    fn written(&self, form: Form) -> String {
        let mut out = String::with_capacity(256);
        match form {
            Form::Json => self.json(&mut out),
            Form::Text { colour } => self.text(&mut out, colour),
        }
        out.push('\n');
        out
    }

    fn json(&self, out: &mut String) {
        let _ = write!(
            out,
            "{{\"timestamp\":\"{:.6}\",\"level\":\"{}\",\"target\":",
            self.at, self.level
        );
        push_quoted(out, &self.target);
        if let Some(event) = &self.event {
            out.push_str(",\"event\":");
            push_quoted(out, event);
        }
        if let Some(code) = self.code() {
            let _ = write!(out, ",\"code\":\"{code}\"");
        }
        out.push_str(",\"message\":");
        push_quoted(out, &self.message);
        for (name, value) in &self.fields.all {
            out.push(',');
            if matches!(*name, "timestamp" | "level" | "target" | "event" | "code") {
                push_quoted(out, &format!("field_{name}"));
            } else {
                push_quoted(out, name);
            }
            out.push(':');
            match value {
                Value::Plain(text) => out.push_str(text),
                Value::Text(text) => push_quoted(out, text),
            }
        }
        out.push('}');
    }

    fn text(&self, out: &mut String, colour: bool) {
        let (dim, of_level, plain) =
            if colour { ("\x1b[2m", colour_of(self.level), "\x1b[0m") } else { ("", "", "") };
        let _ = write!(out, "{dim}{:.6}{plain} {of_level}{:>5}{plain} {dim}", self.at, self.level);
        push_escaped(out, &self.target, Escape::Controls);
        let _ = write!(out, ":{plain} ");
        push_escaped(out, &self.message, Escape::Controls);
        if let Some(code) = self.code() {
            let _ = write!(out, " {dim}[{code}]{plain}");
        }
        for (name, value) in &self.fields.all {
            let _ = write!(out, " {dim}");
            push_escaped(out, name, Escape::Controls);
            let _ = write!(out, "={plain}");
            match value {
                Value::Plain(text) => out.push_str(text),
                Value::Text(text) if is_one_word(text) => push_escaped(out, text, Escape::Controls),
                Value::Text(text) => push_quoted(out, text),
            }
        }
    }
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// The fields of a span or an event, in the order in which their names first appeared.
#[derive(Debug, Default)]
struct Fields {
    all: Vec<(&'static str, Value)>,
    text: Text,
}

/// The text of an event is its first field named `message`. Another field of that name is an
/// ordinary value.
#[derive(Debug, Default)]
enum Text {
    #[default]
    None,
    Awaited,
    Said(String),
}

impl Text {
    fn take(&mut self) -> String {
        match std::mem::take(self) {
            Self::Said(text) => text,
            Self::None | Self::Awaited => String::new(),
        }
    }
}

#[derive(Clone, Debug)]
enum Value {
    /// A number or a boolean, as JSON writes it.
    Plain(String),
    Text(String),
}

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        // The bridge from the `log` crate adds source locations; only `log.target` is useful here.
        if matches!(name, "log.module_path" | "log.file" | "log.line") {
            return;
        }
        let name = match (name.strip_prefix("r#").unwrap_or(name), &self.text) {
            ("message", Text::Awaited) => {
                let (Value::Plain(text) | Value::Text(text)) = value;
                self.text = Text::Said(text);
                return;
            }
            ("message", _) => "field_message",
            (name, _) => name,
        };
        match self.all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.all.push((name, value)),
        }
    }

    fn extend(&mut self, others: &Self) {
        for (name, value) in &others.all {
            self.set(name, value.clone());
        }
    }

    /// The event of a line of ours. Other crates may have a field of this name, which stays one.
    fn event(&mut self, target: &str) -> Option<String> {
        let ours = target.split("::").next() == module_path!().split("::").next();
        if ours { self.take("event") } else { Some(OTHER_CRATE.to_owned()) }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.all.iter().position(|(known, _)| *known == name)?;
        let (Value::Plain(text) | Value::Text(text)) = self.all.remove(at).1;
        Some(text)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Plain(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Plain(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has neither infinity nor NaN.
        let text = format!("{value:?}");
        self.set(
            field.name(),
            if value.is_finite() { Value::Plain(text) } else { Value::Text(text) },
        );
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set(field.name(), Value::Text(with_causes(value)));
    }
}

/// Text that needs no quotes to be distinguished from what surrounds it.
fn is_one_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:+@*%#~".contains(&byte))
}

/// Writes a JSON string.
fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text, Escape::Json);
    out.push('"');
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Characters that would break the line or reach the terminal.
    Controls,
    /// Those, and characters that would end a JSON string.
    Json,
}

fn push_escaped(out: &mut String, text: &str, escape: Escape) {
    let end = out.len() + MAX_VALUE.min(MAX_LINE.saturating_sub(out.len()));
    for (at, c) in text.char_indices() {
        if out.len() >= end {
            let _ = write!(out, "… ({} bytes more)", text.len() - at);
            return;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' if escape == Escape::Json => out.extend(['\\', c]),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// C0, DEL and C1; line and paragraph separators; and characters that change the writing direction,
/// so that a line would read differently than it is written. All have four hexadecimal digits.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::json;
    use tracing::{Dispatch, dispatcher, error_span, info};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<String>>);

    impl Out for Sink {
        fn put(&self, line: &str, _: Level) {
            self.0.lock().expect("not poisoned").push_str(line);
        }
    }

    fn logged(form: Form, act: impl FnOnce()) -> String {
        let sink = Sink::default();
        let subscriber = tracing_subscriber::registry().with(Lines::new(form, sink.clone()));
        dispatcher::with_default(&Dispatch::new(subscriber), act);
        sink.0.lock().expect("not poisoned").clone()
    }

    fn json_line(act: impl FnOnce()) -> serde_json::Value {
        let line = logged(Form::Json, act);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        serde_json::from_str(&line).expect("a line is a JSON object")
    }

    const TEXT: Form = Form::Text { colour: false };

    #[test]
    fn a_json_line_is_one_flat_object_with_the_fields_of_its_spans() {
        let line = json_line(|| {
            let worker = error_span!("worker", worker = "a", attempt = 1);
            let step = error_span!(parent: &worker, "step", token = "abcdefghij", handler = tracing::field::Empty, attempt = 2);
            step.record("handler", "features");
            let _in = step.enter();
            info!(took = 1.5, ok = true, r#type = "exec", "Answered the step");
        });
        let mut line = line.as_object().expect("an object").clone();
        let timestamp = line.remove("timestamp").expect("it has the time");
        let timestamp = timestamp.as_str().expect("a string");
        assert!(timestamp.ends_with('Z') && timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
        assert_eq!(
            serde_json::Value::Object(line),
            json!({
                "level": "INFO", "target": module_path!(), "message": "Answered the step",
                "worker": "a", "token": "abcdefghij", "handler": "features", "attempt": 2, "took": 1.5, "ok": true, "type": "exec",
            })
        );
    }

    #[test]
    fn a_text_line_reads_like_a_sentence_with_fields_behind_it() {
        let line = logged(TEXT, || {
            let _in = error_span!("step", token = "abcdefghij").entered();
            info!(reason = "out of memory", n = 3, "Answered the step");
        });
        let (timestamp, rest) = line.split_once(' ').expect("the time comes first");
        assert!(timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
        assert_eq!(
            rest,
            format!(
                " INFO {}: Answered the step token=abcdefghij reason=\"out of memory\" n=3\n",
                module_path!()
            )
        );
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot save")]
        struct Outer(#[from] io::Error);
        let error = Outer(io::Error::other("disk full"));
        let line = json_line(|| info!(error = &error as &dyn Error, "x"));
        assert_eq!(line["error"], "cannot save: disk full");
    }

    #[test]
    fn a_value_can_neither_forge_a_field_nor_end_a_quote() {
        let line =
            logged(TEXT, || info!(reason = "x level=ERROR token=\"abc\" \\", empty = "", "m"));
        assert!(
            line.ends_with("m reason=\"x level=ERROR token=\\\"abc\\\" \\\\\" empty=\"\"\n"),
            "{line}"
        );
    }

    #[test]
    fn a_field_cannot_take_the_place_of_the_lines_own_keys() {
        let line =
            json_line(|| info!(level = "FORGED", timestamp = "FORGED", target = "FORGED", "m"));
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["field_level"], "FORGED");
        assert_eq!(line["target"], module_path!());
    }

    #[test]
    fn a_field_that_is_called_message_cannot_take_the_place_of_the_text() {
        let message = "WATCHDOG=1";
        for line in [
            json_line(|| tracing::warn!(message, "systemd could not be notified")),
            json_line(|| tracing::warn!(message = "WATCHDOG=1", "systemd could not be notified")),
            json_line(|| tracing::warn!(%message, "systemd could not be notified")),
            json_line(|| {
                let _in = error_span!("datagram", message).entered();
                tracing::warn!("systemd could not be notified");
            }),
        ] {
            assert_eq!(line["message"], "systemd could not be notified");
            assert_eq!(line["field_message"], "WATCHDOG=1");
        }
    }

    #[test]
    fn a_gap_is_a_line_like_any_other() {
        let line: serde_json::Value = serde_json::from_str(&gap(Form::Json, 7)).expect("JSON");
        assert_eq!((&line["level"], &line["dropped"]), (&json!("WARN"), &json!(7)));
        assert!(gap(TEXT, 7).ends_with(" dropped=7\n"));
    }

    #[test]
    fn terminal_escapes_reach_no_line() {
        let evil = "a\u{1b}[2J\u{9b}31m\u{7}\u{7f}\r\n\u{2028}\u{202e}b\0";
        for form in [Form::Json, TEXT] {
            let line =
                logged(form, || info!(display = %evil, debug = ?evil, value = evil, "{evil}"));
            let (last, before) = line.as_bytes().split_last().expect("something was written");
            assert_eq!(*last, b'\n');
            let before = std::str::from_utf8(before).expect("UTF-8");
            assert!(before.chars().all(|c| !is_unsafe(c)), "{before:?}");
            assert!(
                before.contains("a\\u001b[2J\\u009b31m\\u0007\\u007f\\r\\n\\u2028\\u202eb\\u0000"),
                "{before}"
            );
        }
    }

    #[test]
    fn colours_are_ours_alone() {
        let line = logged(Form::Text { colour: true }, || info!(x = "\u{1b}[31m", "\u{1b}[31m"));
        assert_eq!(line.matches("\u{1b}[31m").count(), 0, "{line:?}");
        assert_eq!(line.matches("\u{1b}[32m").count(), 1, "{line:?}");
    }

    #[test]
    fn a_line_stays_below_what_the_journal_would_break_and_keeps_its_token() {
        let long = "\u{1b}".repeat(1 << 20);
        for form in [Form::Json, TEXT] {
            let line = logged(form, || {
                let _in = error_span!("step", token = "abcdefghij").entered();
                info!(a = long, b = long, c = long, "{long}");
            });
            assert!(line.len() < 48 * 1024, "{}", line.len());
            assert!(line.contains("abcdefghij") && line.contains("bytes more)"), "{line}");
            assert_eq!(
                form == Form::Json,
                serde_json::from_str::<serde_json::Value>(&line).is_ok()
            );
        }
    }

    #[test]
    fn a_line_has_its_event_and_what_warns_a_code_to_look_up() {
        let act = || tracing::warn!(event = "queue_poll_failed", code = "FORGED", "m");
        let line = logged(Form::Json, act);
        let at = format!(
            "\"target\":\"{}\",\"event\":\"queue_poll_failed\",\"code\":\"CBD101\",\"message\"",
            module_path!()
        );
        assert!(line.contains(&at) && line.contains("\"field_code\":\"FORGED\""), "{line}");
        assert!(logged(TEXT, act).contains(": m [CBD101] code=FORGED"));
        // The same condition, told only for information.
        let line = json_line(|| info!(event = "queue_poll_failed", "m"));
        assert_eq!((line["event"].as_str(), line.get("code")), (Some("queue_poll_failed"), None));
    }

    #[test]
    fn a_line_of_another_crate_says_so_and_keeps_its_own_event() {
        let line = json_line(|| tracing::warn!(target: "greeter::x", event = "panicked", "m"));
        assert_eq!(line["event"], OTHER_CRATE);
        assert_eq!((&line["code"], &line["field_event"]), (&json!("CBD620"), &json!("panicked")));
    }

    #[test]
    fn what_comes_through_the_log_crate_keeps_its_own_target() {
        let line =
            json_line(|| info!("log.target" = "rustls", "log.file" = "a.rs", "log.line" = 3, "m"));
        assert_eq!(line["target"], "rustls");
        assert_eq!((line.get("log.file"), line.get("log.line")), (None, None));
    }

    proptest! {
        #[test]
        fn whatever_a_value_holds_a_json_line_reads_back_as_it_was(text in "\\PC*|(.|\\p{C}){0,40}") {
            let line = json_line(|| info!(value = text, "{text}"));
            prop_assert_eq!(&line["value"], &json!(text));
            prop_assert_eq!(&line["message"], &json!(text));
        }

        #[test]
        fn whatever_a_value_holds_a_text_line_is_one_line_of_safe_characters(text in "(.|\\p{C}|\\s){0,40}") {
            let line = logged(TEXT, || info!(value = text, "{text}"));
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.trim_end_matches('\n').chars().all(|c| !is_unsafe(c)));
        }
    }
}
