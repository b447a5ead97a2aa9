//! The daemon's log, as far as a run hears it: its errors.

use std::fmt::{Debug, Write};
use std::io::stderr;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::run::heard;

/// How the daemon reports its own bugs.
pub const BUG: &str = "internal error: this is a bug in callbackd";

/// Listens from now on, on all threads; `aloud`, everything is told as well.
pub fn listen(aloud: bool) {
    let filter =
        || EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("callbackd=info"));
    let teller =
        || tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_writer(stderr);
    let told = aloud.then(|| teller().with_filter(filter()));
    tracing_subscriber::registry().with(Errors.with_filter(LevelFilter::ERROR)).with(told).init();
}

struct Errors;

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            let mut text = Text(String::new());
            event.record(&mut text);
            heard(&text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}: {value:?} ");
    }
}
