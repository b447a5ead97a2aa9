//! Writes one event as one line of the log, whatever the event contains.
//!
//! Much of what is logged comes from others: handlers' output, messages, reasons, ARNs. So nothing
//! in a value can end a line, begin one that looks like ours, or reach a terminal as a control
//! sequence; and no value can make a line so long that the journal would split it. The formatters
//! of `tracing-subscriber` bound nothing, and a writer behind them sees only the finished line, in
//! which our text and theirs can no longer be told apart.

mod escape;
mod fields;
mod screen;

use std::fmt::Write as _;

use jiff::Timestamp;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::observe::events::{Code, OTHER_CRATE, code_of};
use escape::{Escape, is_one_word, push_escaped, push_quoted};
use fields::{Fields, Value};
pub use screen::Screen;

/// How a line is written.
#[derive(Clone, Debug)]
pub enum Form {
    /// For a person at a terminal.
    Screen(Screen),
    /// Text for a file or a pipe.
    Text,
    Json,
}

/// Writes each event as one line: the time (RFC 3339, UTC), the level, the target, the message, the
/// fields of the enclosing spans from the outermost in, and its own fields. If a name occurs twice,
/// the innermost value is written. A [`Screen`] shows less.
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
pub(super) fn gap(form: &Form, dropped: u64) -> String {
    let mut own = Fields::default();
    own.set("dropped", Value::Plain(dropped.to_string()));
    let text = "lines of the log were dropped here: they were written faster than stderr is read";
    Line {
        at: Timestamp::now(),
        level: Level::WARN,
        target: module_path!().to_owned(),
        event: Some("log_lines_dropped".to_owned()),
        message: text.to_owned(),
        of_spans: Fields::default(),
        own,
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
        let mut of_spans = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                of_spans.extend(of_span);
            }
        }
        let mut own = Fields::of_event();
        event.record(&mut own);
        let level = *event.metadata().level();
        // Events from the `log` crate have their own.
        let target = own.take("log.target").unwrap_or_else(|| event.metadata().target().to_owned());
        // Other crates may have a field of this name, and spans too, which stays one.
        let event = if is_ours(&target) { own.take("event") } else { Some(OTHER_CRATE.to_owned()) };
        let message = own.take_text();
        let line = Line { at: Timestamp::now(), level, target, event, message, of_spans, own };
        self.out.put(&line.written(&self.form), level);
    }
}

fn is_ours(target: &str) -> bool {
    target.split("::").next() == module_path!().split("::").next()
}

struct Line {
    at: Timestamp,
    level: Level,
    target: String,
    /// Its stable name; a line of ours below `info` may have none.
    event: Option<String>,
    message: String,
    of_spans: Fields,
    own: Fields,
}

impl Line {
    /// What to look it up by, if it warns of something.
    fn code(&self) -> Option<Code> {
        code_of(self.event.as_deref()?).filter(|_| self.level <= Level::WARN)
    }

    /// All fields: those of spans first, each with its innermost value.
    fn fields(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let of_spans =
            self.of_spans.iter().map(|(name, value)| (name, self.own.get(name).unwrap_or(value)));
        of_spans.chain(self.own.iter().filter(|(name, _)| self.of_spans.get(name).is_none()))
    }

    fn written(&self, form: &Form) -> String {
        let mut out = String::with_capacity(256);
        match form {
            Form::Json => self.json(&mut out),
            Form::Text => self.text(&mut out),
            Form::Screen(screen) => screen.show(self, &mut out),
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
        for (name, value) in self.fields() {
            out.push(',');
            if matches!(name, "timestamp" | "level" | "target" | "event" | "code") {
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

    fn text(&self, out: &mut String) {
        let _ = write!(out, "{:.6} {:>5} ", self.at, self.level);
        push_escaped(out, &self.target, Escape::Controls);
        out.push_str(": ");
        push_escaped(out, &self.message, Escape::Controls);
        if let Some(code) = self.code() {
            let _ = write!(out, " [{code}]");
        }
        for (name, value) in self.fields() {
            out.push(' ');
            push_escaped(out, name, Escape::Controls);
            out.push('=');
            push_value(out, value);
        }
    }
}

/// Text that is more than a word is quoted.
fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Plain(text) => out.push_str(text),
        Value::Text(text) if is_one_word(text) => push_escaped(out, text, Escape::Controls),
        Value::Text(text) => push_quoted(out, text),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::json;
    use tracing::{Dispatch, dispatcher, error_span, info};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::escape::is_unsafe;
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<String>>);

    impl Out for Sink {
        fn put(&self, line: &str, _: Level) {
            self.0.lock().expect("not poisoned").push_str(line);
        }
    }

    pub(super) fn logged(form: Form, act: impl FnOnce()) -> String {
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

    const TEXT: Form = Form::Text;

    fn screen() -> Form {
        Form::Screen(Screen::new(false))
    }

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
        let line: serde_json::Value = serde_json::from_str(&gap(&Form::Json, 7)).expect("JSON");
        assert_eq!((&line["level"], &line["dropped"]), (&json!("WARN"), &json!(7)));
        assert!(gap(&TEXT, 7).ends_with(" dropped=7\n"));
    }

    #[test]
    fn terminal_escapes_reach_no_line() {
        let evil = "a\u{1b}[2J\u{9b}31m\u{7}\u{7f}\r\n\u{2028}\u{202e}b\0";
        for form in [Form::Json, TEXT, screen()] {
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
        let form = Form::Screen(Screen::new(true));
        let line = logged(form, || info!(x = "\u{1b}[31m", "\u{1b}[31m"));
        assert_eq!(line.matches("\u{1b}[31m").count(), 0, "{line:?}");
        assert_eq!(line.matches("\u{1b}[32m").count(), 1, "{line:?}");
    }

    #[test]
    fn a_line_stays_below_what_the_journal_would_break_and_keeps_its_token() {
        let long = "\u{1b}".repeat(1 << 20);
        for form in [Form::Json, TEXT, screen()] {
            let is_json = matches!(form, Form::Json);
            let line = logged(form, || {
                let _in = error_span!("step", token = "abcdefghij").entered();
                info!(a = long, b = long, c = long, "{long}");
            });
            assert!(line.len() < 48 * 1024, "{}", line.len());
            assert!(line.contains("abcdefghij") && line.contains("bytes more)"));
            assert_eq!(is_json, serde_json::from_str::<serde_json::Value>(&line).is_ok());
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
    fn an_event_is_named_by_its_own_line_and_by_no_span_around_it() {
        let line = json_line(|| {
            let _in = error_span!("step", event = "panicked", code = "CBD906").entered();
            tracing::warn!("m");
        });
        assert_eq!((line.get("event"), line.get("code")), (None, None));
        assert_eq!(
            (&line["field_event"], &line["field_code"]),
            (&json!("panicked"), &json!("CBD906"))
        );
        let line = json_line(|| {
            let _in = error_span!("step", event = "panicked").entered();
            tracing::warn!(event = "queue_poll_failed", "m");
        });
        assert_eq!(
            (&line["event"], &line["code"]),
            (&json!("queue_poll_failed"), &json!("CBD101"))
        );
        assert_eq!(line["field_event"], "panicked");
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
            for form in [TEXT, screen()] {
                let line = logged(form, || info!(value = text, "{text}"));
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert!(line.trim_end_matches('\n').chars().all(|c| !is_unsafe(c)));
            }
        }
    }
}
