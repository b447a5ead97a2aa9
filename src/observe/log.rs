//! The log's settings, and the start of logging.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::observe::line::{self, Form, Lines, Out, Screen};
use crate::observe::writer::{Stderr, Writer};

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a line is written.
    pub format: Format,
    /// `trace`, `debug`, `info`, `warn`, `error` or `off`, or a tracing filter:
    /// `info,callbackd::engine=debug`.
    pub level: String,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text if stderr is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people: on a terminal with times since the start, and shortened; elsewhere with all
    /// fields and absolute times.
    Text,
    /// One flat object a line: `timestamp`, `level`, `target`, `message`, then the fields.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::default(), level: "info".to_owned() }
    }
}

impl Config {
    /// Its mistakes: pairs of a key and the reason.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        self.filter().err().map(|what| ("level", what)).into_iter().collect()
    }

    fn filter(&self) -> Result<EnvFilter, String> {
        let help = "write trace, debug, info, warn, error or off, or a filter such as \
                    \"info,callbackd::engine=debug\"";
        // The filter's own grammar takes a bare word that is not a level for a module: `inof` would
        // silence everything except a module of that name.
        let mut words = self.level.split(',');
        // The value is not repeated, like all configuration that cannot be parsed.
        if let Some(at) = words.position(|word| !word.contains(['=', '[']) && !is_level(word)) {
            return Err(format!("word {} of it is not a log level; {help}", at + 1));
        }
        let level = if self.level.contains(['=', '[', ',']) || is_verbose(&self.level) {
            self.level.clone()
        } else {
            format!("{},{QUIET}", self.level)
        };
        EnvFilter::builder().parse(level).map_err(|_| format!("it is not a log filter; {help}"))
    }
}

/// The SDK repeats its warnings with each call; we log the same problems once per cause.
const QUIET: &str = "aws_config=error,aws_runtime=error,aws_credential_types=error,aws_smithy_runtime=error,aws_smithy_http_client=error";

fn is_verbose(level: &str) -> bool {
    level.eq_ignore_ascii_case("debug") || level.eq_ignore_ascii_case("trace")
}

/// The writer of the process's log, once it exists.
static WRITER: OnceLock<Writer> = OnceLock::new();

/// What decides which lines are written, once it exists.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

impl Out for Writer {
    fn put(&self, line: &str, level: Level) {
        Self::put(self, line, level <= Level::WARN);
    }
}

/// Starts logging to stderr for the whole process, including panics. Stdout is left to the
/// commands' output. Logging never waits for the reader of the log; [`end`] does, for a while.
///
/// # Errors
/// A sentence, if the level is wrong or other code in the process has set up logging before.
pub fn init(config: &Config) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(config.filter()?);
    let form = form(config.format, io::stderr().is_terminal());
    let gaps = form.clone();
    let failed = |error: &dyn std::error::Error| format!("logging cannot be started: {error}");
    let writer = Writer::start(Stderr, move |dropped| line::gap(&gaps, dropped))
        .map_err(|error| failed(&error))?;
    tracing_subscriber::registry()
        .with(filter)
        .with(Lines::new(form, writer.clone()))
        .try_init()
        .map_err(|error| failed(&error))?;
    // The first caller has set up logging; for all others the line above has failed.
    let _ = WRITER.set(writer);
    let _ = FILTER.set(handle);
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn form(format: Format, is_terminal: bool) -> Form {
    match (format, is_terminal) {
        (Format::Json, _) | (Format::Auto, false) => Form::Json,
        (Format::Text, false) => Form::Text,
        (Format::Auto | Format::Text, true) => {
            let colour = has_colours(|name| std::env::var_os(name));
            Form::Screen(Screen::new(colour))
        }
    }
}

/// Whether a terminal shows colours and its user wants them (<https://no-color.org>).
fn has_colours(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_plain = variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !is_plain && variable("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Changes the level of the process's log; its format stays.
///
/// # Errors
/// A sentence, if the level is wrong.
pub fn reload(config: &Config) -> Result<(), String> {
    let filter = config.filter()?;
    // Without a log there is nothing to change.
    let Some(handle) = FILTER.get() else { return Ok(()) };
    handle.reload(filter).map_err(|error| format!("the log's level cannot be changed: {error}"))
}

/// Ends the log: writes `last` as it is, without the log's form, and waits until everything is
/// written, at most `within`. Also works if the process does not log (yet). Call it before the
/// process ends.
pub fn end(last: Option<&str>, within: Duration) {
    let fresh = || Writer::start(Stderr, |_| String::new()).ok();
    let Some(writer) = WRITER.get().cloned().or_else(|| last.and_then(|_| fresh())) else {
        // Without a thread it is written only if that does not block.
        if let Some(last) = last.filter(|_| Stderr::has_room()) {
            let _ = writeln!(Stderr, "{last}");
        }
        return;
    };
    if let Some(last) = last {
        writer.put(&format!("{last}\n"), true);
    }
    writer.flush(within);
}

/// The lines of this process's log that were dropped, as a metric.
#[derive(Debug)]
pub(super) struct Dropped;

impl Collector for Dropped {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let counter = ConstCounter::new(WRITER.get().map_or(0, Writer::dropped));
        let help = "Lines of the log that were not written, because stderr was not read or could \
                    not be written";
        counter.encode(encoder.encode_descriptor(
            "log_lines_dropped",
            help,
            None,
            counter.metric_type(),
        )?)
    }
}

/// A panic's message may contain parts of a message, so it must reach stderr only as a line of the
/// log.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string);
    // Only with RUST_BACKTRACE=1.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(event = "panicked", location, backtrace, "panicked: {text}");
}

fn is_level(word: &str) -> bool {
    ["trace", "debug", "info", "warn", "error", "off"]
        .iter()
        .any(|level| level.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(level: &str) -> Config {
        Config { level: level.to_owned(), ..Config::default() }
    }

    #[test]
    fn levels_and_filters_are_accepted() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,callbackd::engine=debug",
            "info,hyper=off",
            "warn,[step{token=\"abcdefghij\"}]=trace",
        ] {
            assert_eq!(level(good).mistakes(), [], "{good}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused_rather_than_taken_for_a_module() {
        for bad in [
            "inof",
            "",
            "info,wran",
            "info,",
            "info, warn",
            "callbackd=loud",
            "callbackd::engine",
            "[",
            "=info,=",
        ] {
            let (_, error) = level(bad).mistakes().pop().expect(bad);
            assert!(error.contains("trace, debug, info"), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_and_an_unknown_format_are_refused() {
        let read = |json: &str| serde_json::from_str::<Config>(json);
        assert_eq!(read("{}").expect("all have defaults"), Config::default());
        assert!(read(r#"{"colour": true}"#).is_err());
        let error = read(r#"{"format": "xml"}"#).expect_err("no such format").to_string();
        assert!(error.contains("`auto`, `text`, `json`"), "{error}");
    }

    #[test]
    fn only_a_terminal_is_written_to_as_one_and_in_colours_only_if_its_user_wants_them() {
        let is_screen = |format, terminal| matches!(form(format, terminal), Form::Screen(_));
        assert!(is_screen(Format::Auto, true) && is_screen(Format::Text, true));
        for format in [Format::Auto, Format::Text, Format::Json] {
            assert!(!is_screen(format, false), "{format:?}");
        }
        assert!(!is_screen(Format::Json, true));
        for (term, no_color, wanted) in [
            (Some("xterm"), None, true),
            (Some("xterm"), Some(""), true),
            (Some("xterm"), Some("0"), false),
            (Some("dumb"), None, false),
            (None, None, false),
        ] {
            let variables = |name: &str| match name {
                "TERM" => term.map(OsString::from),
                _ => no_color.map(OsString::from),
            };
            assert_eq!(has_colours(variables), wanted, "{term:?} {no_color:?}");
        }
    }

    #[test]
    #[ignore = "started by the test below, in a process of its own"]
    fn a_process_that_logs_and_panics() {
        init(&Config::default()).expect("the first to set up logging");
        init(&Config::default()).expect_err("logging is set up once");
        tracing::info!(n = 1, "begins");
        tracing::debug!("is below the level");
        std::thread::spawn(|| panic!("first\nforged {}", 2)).join().expect_err("it panics");
        end(Some("no line of the log"), Duration::from_secs(60));
    }

    #[test]
    fn elsewhere_than_on_a_terminal_all_of_stderr_is_json_lines_panics_included() {
        let this = std::env::current_exe().expect("the test's own path");
        let child = std::process::Command::new(this)
            .args([
                "--exact",
                "observe::log::tests::a_process_that_logs_and_panics",
                "--ignored",
                "--nocapture",
            ])
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("the test binary runs");
        let stderr = String::from_utf8(child.stderr).expect("UTF-8");
        assert!(child.status.success(), "{stderr}");
        let logged = stderr.strip_suffix("no line of the log\n").expect("the last words come last");
        let lines: Vec<serde_json::Value> =
            logged.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let messages: Vec<&str> =
            lines.iter().map(|line| line["message"].as_str().expect("a message")).collect();
        assert_eq!(messages, ["begins", "panicked: first\nforged 2"]);
        assert!(lines[1]["location"].as_str().expect("where").starts_with("src/observe/log.rs:"));
    }
}
