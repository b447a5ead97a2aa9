//! The log as a person reads it while it runs: how long after its start, what happened, and what a
//! line is about.
//!
//! `+1m20.3s  WARN  the attempt failed; … [CBD302] error="…" token=abcdefghij`. Names that are long
//! are shown by the part that tells them apart, which finds them in any other form of the log too.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use tracing::Level;

use super::escape::{Escape, push_escaped};
use super::fields::Value;
use super::{Line, push_value};
use crate::observe::events::OTHER_CRATE;

/// The event whose message is a line that a program has printed.
const OF_PROGRAM: &str = "program_output";
/// The event that tells all about a step, and what other lines then leave out unless they warn.
const OF_START: &str = "step_started";
const SAID_AT_START: [&str; 4] = ["execution", "queue", "attempt", "trace_id"];
/// Room for the time: `+23h59m59s`, `+99d23h59m`.
const TIME: usize = 10;
/// So many characters of a trace's id find it.
const TRACE: usize = 8;

/// A terminal that lines are written to; clones share their state.
#[derive(Clone, Debug)]
pub struct Screen {
    colour: bool,
    /// The start of the log by [`now`].
    began: Duration,
    /// The last minute, since the epoch, whose first line was written.
    minute: Arc<AtomicI64>,
}

impl Screen {
    /// A terminal whose times count from now.
    #[must_use]
    pub fn new(colour: bool) -> Self {
        Self { colour, began: now(), minute: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    pub(super) fn show(&self, line: &Line, out: &mut String) {
        self.show_at(now().saturating_sub(self.began), line, out);
    }

    fn show_at(&self, since_start: Duration, line: &Line, out: &mut String) {
        let (dim, of_level, plain) =
            if self.colour { ("\x1b[2m", colour_of(line.level), "\x1b[0m") } else { ("", "", "") };
        let time = elapsed(since_start);
        let level = line.level.as_str();
        let _ = write!(out, "{dim}{time:>TIME$}{plain}  {of_level}{level:<5}{plain} ");
        if line.event.as_deref() == Some(OF_PROGRAM) {
            // So that no program writes a line that looks like ours.
            let _ = write!(out, "{dim}|{plain} ");
        }
        push_escaped(out, &line.message, Escape::Controls);
        if let Some(code) = line.code() {
            let _ = write!(out, " {of_level}[{code}]{plain}");
        }
        let before = out.len();
        out.push_str(dim);
        let begin = out.len();
        for (name, value) in fields(line) {
            out.push(' ');
            push_escaped(out, name, Escape::Controls);
            out.push('=');
            push_value(out, &short(name, value));
        }
        if line.event.as_deref().is_none_or(|event| event == OTHER_CRATE) {
            out.push_str(" target=");
            push_escaped(out, &line.target, Escape::Controls);
        }
        if self.begins_a_minute(line.at) {
            let _ = write!(out, " at={:.0}", line.at);
        }
        if out.len() == begin {
            out.truncate(before);
        } else {
            out.push_str(plain);
        }
    }

    /// Whether it is the first line, or the first of its minute: from those the time of all others
    /// can be told.
    fn begins_a_minute(&self, at: Timestamp) -> bool {
        let minute = at.as_second().div_euclid(60);
        self.minute.swap(minute, Ordering::Relaxed) != minute
    }
}

/// The token, by which a reader follows a step, the line's own fields, and what it is about.
fn fields(line: &Line) -> impl Iterator<Item = (&'static str, &Value)> {
    let is_token = |(name, _): &(&'static str, &Value)| *name == "token";
    let shows_all = line.level <= Level::WARN || line.event.as_deref() == Some(OF_START);
    let of_spans = line.of_spans.iter().filter(move |(name, _)| {
        line.own.get(name).is_none() && (shows_all || !SAID_AT_START.contains(name))
    });
    let fields = of_spans.clone().filter(is_token).chain(line.own.iter());
    fields.chain(of_spans.filter(move |field| !is_token(field)))
}

/// The clock that also counts while the machine is suspended.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// `+0.031s`, `+1m20.3s`, `+2h05m12s`, `+3d04h05m`: each to be told from the next line's.
fn elapsed(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..60 => format!("+{seconds}.{millis:03}s"),
        60..3600 => format!("+{minutes}m{:02}.{}s", seconds % 60, millis / 100),
        3600..86400 => format!("+{hours}h{:02}m{:02}s", minutes % 60, seconds % 60),
        _ => format!("+{days}d{:02}h{:02}m", hours % 24, minutes % 60),
    }
}

/// A value as briefly as it can still be searched for.
fn short<'a>(name: &str, value: &'a Value) -> Cow<'a, Value> {
    let Value::Text(text) = value else { return Cow::Borrowed(value) };
    let short = match name {
        "execution" => {
            text.split_once(":pipeline/").map(|(_, name)| name.replacen("/execution/", "/", 1))
        }
        "trace_id" => text.get(..TRACE).map(|begin| format!("{begin}…")),
        _ => short_time(text),
    };
    short.map_or(Cow::Borrowed(value), |text| Cow::Owned(Value::Text(text)))
}

/// Times such as `1.234567891s` with one decimal.
fn short_time(text: &str) -> Option<String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let is_time = number.contains('.') && matches!(unit, "s" | "ms" | "µs");
    let number: f64 = number.parse().ok().filter(|_| is_time)?;
    Some(format!("{number:.1}{unit}"))
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

#[cfg(test)]
mod tests {
    use tracing::{error_span, info, warn};

    use super::super::tests::logged;
    use super::super::{Form, fields::Fields};
    use super::*;

    /// What follows the time.
    fn shown(act: impl FnOnce()) -> String {
        let text = logged(Form::Screen(Screen::new(false)), act);
        text.split_once("s  ").expect("the time comes first").1.to_owned()
    }

    fn line(at: &str) -> Line {
        Line {
            at: at.parse().expect("a time"),
            level: Level::INFO,
            target: module_path!().to_owned(),
            event: Some("step_started".to_owned()),
            message: "the step is started".to_owned(),
            of_spans: Fields::default(),
            own: Fields::default(),
        }
    }

    fn step() -> tracing::span::EnteredSpan {
        let execution = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/x1y2z3";
        let trace_id = "5759e988bd862e3fe1be46a994272793";
        error_span!("step", token = "abcdefghij", execution, handler = "train", trace_id).entered()
    }

    #[test]
    fn a_line_says_what_happened_first_and_then_briefly_which_step_it_is_about() {
        let text = shown(|| {
            let _in = step();
            let again_in = Duration::from_micros(1_999_999);
            warn!(event = "attempt_failed", error = "no licence", ?again_in, "the attempt failed");
        });
        let (text, at) = text.split_once(" at=").expect("the first line has the time");
        assert_eq!(
            text,
            "WARN  the attempt failed [CBD302] token=abcdefghij error=\"no licence\" again_in=2.0s \
             execution=p/x1y2z3 handler=train trace_id=\"5759e988…\""
        );
        assert!(at.trim_end().parse::<Timestamp>().is_ok(), "{at}");
    }

    #[test]
    fn what_a_steps_start_has_said_is_left_out_of_what_follows() {
        let said = |event: &'static str| {
            let _in = step();
            info!(event, outcome = "success", "m");
        };
        for (event, all) in [("step_started", true), ("step_ended", false)] {
            let text = shown(|| said(event));
            let begin = "INFO  m token=abcdefghij outcome=success";
            let rest = text.strip_prefix(begin).expect("the token and its own fields");
            assert!(rest.contains(" handler=train"), "{text}");
            assert_eq!(rest.contains(" execution=p/x1y2z3"), all, "{text}");
        }
    }

    #[test]
    fn levels_and_messages_are_aligned_and_the_first_line_of_each_minute_has_the_time() {
        let screen = Screen::new(false);
        let mut out = String::new();
        for (since, at, level) in [
            (31, "2026-01-02T03:04:05.9Z", Level::INFO),
            (59_999, "2026-01-02T03:04:59.9Z", Level::ERROR),
            (80_360, "2026-01-02T03:05:21Z", Level::WARN),
            (7_512_000, "2026-01-02T05:05:21Z", Level::INFO),
            (273_900_000, "2026-01-05T05:05:21Z", Level::INFO),
        ] {
            let line = Line { level, ..line(at) };
            screen.show_at(Duration::from_millis(since), &line, &mut out);
            out.push('\n');
        }
        let wanted = [
            "   +0.031s  INFO  the step is started at=2026-01-02T03:04:05Z",
            "  +59.999s  ERROR the step is started",
            "  +1m20.3s  WARN  the step is started at=2026-01-02T03:05:21Z",
            " +2h05m12s  INFO  the step is started at=2026-01-02T05:05:21Z",
            " +3d04h05m  INFO  the step is started at=2026-01-05T05:05:21Z",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn colours_mark_the_level_and_its_code_and_all_but_the_message_is_dim() {
        let screen = Screen::new(true);
        screen.begins_a_minute("2026-01-02T03:04:05Z".parse().expect("a time"));
        let mut of_step = Fields::default();
        of_step.set("token", Value::Text("abcdefghij".to_owned()));
        let event = Some("attempt_failed".to_owned());
        let line = Line { level: Level::WARN, event, own: of_step, ..line("2026-01-02T03:04:05Z") };
        let mut out = String::new();
        screen.show_at(Duration::ZERO, &line, &mut out);
        assert_eq!(
            out,
            "\x1b[2m   +0.000s\x1b[0m  \x1b[33mWARN \x1b[0m the step is started \
             \x1b[33m[CBD302]\x1b[0m\x1b[2m token=abcdefghij\x1b[0m"
        );
    }

    #[test]
    fn a_programs_line_is_marked_and_another_crates_has_its_target() {
        let forged = "+1.0s  ERROR the worker cannot continue";
        let text = shown(|| {
            info!(target: "callbackd::program", event = "program_output", stream = "stdout", "{forged}");
        });
        assert!(text.starts_with(&format!("INFO  | {forged} stream=stdout")), "{text}");
        let text = shown(|| warn!(target: "greeter::x", "slow"));
        assert!(text.starts_with("WARN  slow [CBD620] target=greeter::x"), "{text}");
        let text = shown(|| info!("no name yet"));
        assert!(text.starts_with("INFO  no name yet target=callbackd::observe::line"), "{text}");
    }

    #[test]
    fn only_what_is_a_time_is_shortened_as_one() {
        for (given, wanted) in [
            ("350.599933ms", Some("350.6ms")),
            ("12.25µs", Some("12.2µs")),
            ("1s", None),
            ("1.5", None),
            ("1.5sx", None),
            ("1.5.3s", None),
            ("10.0.0.1", None),
            ("v1.25s", None),
            (".s", None),
            ("", None),
        ] {
            assert_eq!(short_time(given).as_deref(), wanted, "{given}");
        }
    }
}
