//! The handlers of the measured worker, as a user's own binary would register them.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs, Registry};
use serde::Deserialize;
use serde_json::Value;

use crate::endpoint::monotonic;

/// What a step does.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Does {
    Nothing,
    /// Asks to be called again in an hour.
    Again,
    /// Defers to someone else.
    Defer,
    /// Runs until it is told to stop.
    Wait,
}

#[derive(Deserialize)]
struct Settings {
    does: Does,
    /// Where to record when each step was started and told to stop: `EVENT TOKEN NANOSECONDS`.
    told: Option<PathBuf>,
}

struct Idle {
    does: Does,
    told: Option<Arc<Mutex<File>>>,
}

impl Handler for Idle {
    type Args = Value;

    async fn run(&self, cx: Context, _: Value) -> HandlerResult {
        match self.does {
            Does::Nothing => Ok(Completion::Success(Outputs::new())),
            Does::Again => Ok(Completion::Again(Duration::from_hours(1))),
            Does::Defer => Ok(Completion::Deferred),
            Does::Wait => {
                self.tell("started", &cx);
                cx.stopping().await;
                self.tell("stopping", &cx);
                Err(HandlerError::retry("told to stop"))
            }
        }
    }
}

impl Idle {
    fn tell(&self, event: &str, cx: &Context) {
        let Some(file) = &self.told else { return };
        let line = format!("{event} {} {}\n", cx.token().as_str(), monotonic());
        file.lock()
            .expect("nobody panics")
            .write_all(line.as_bytes())
            .expect("the folder is writable");
    }
}

pub fn registry() -> Registry {
    let build = |Settings { does, told }: Settings| {
        let file = told.map(|path| File::create(path).expect("the folder is writable"));
        Ok::<_, Infallible>(Idle { does, told: file.map(|file| Arc::new(Mutex::new(file))) })
    };
    Registry::with_builtins().handler("idle", build)
}
