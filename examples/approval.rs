//! A person answers the step: the handler asks, and the worker keeps nothing running while it
//! waits.
//!
//! The request is a file here; put a ticket or a chat message in its place. The person, or the
//! system behind the ticket, approves the model by the name of the request:
//!
//! ```sh
//! callbackd complete --key model-7 --output approved_by=ada
//! callbackd complete --key model-7 --failure "it is biased"
//! ```
//!
//! If the pipeline is stopped before that, the request is withdrawn.
//!
//! ```sh
//! cargo run --example approval -- --config examples/approval.toml check
//! ```

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Registry};
use serde::Deserialize;

fn main() -> ExitCode {
    Registry::with_builtins().handler("approval", Approval::new).main()
}

/// `[handlers.NAME.settings]` with `type = "approval"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where requests are put.
    requests: PathBuf,
}

/// The callback step's arguments.
#[derive(Deserialize)]
struct Args {
    model: String,
}

struct Approval {
    requests: PathBuf,
}

impl Approval {
    fn new(settings: Settings) -> Result<Self, io::Error> {
        std::fs::create_dir_all(&settings.requests)?;
        Ok(Self { requests: settings.requests })
    }

    /// Named by the token, so that a second attempt replaces the request of the first.
    fn request(&self, cx: &Context) -> PathBuf {
        self.requests.join(cx.token().as_str())
    }
}

impl Handler for Approval {
    type Args = Args;

    async fn run(&self, cx: Context, args: Args) -> HandlerResult {
        // First, so that no answer comes too early.
        cx.set_key(&args.model).await?;
        let text = format!("approve {} for {}\ntoken {}\n", args.model, cx.pipeline(), cx.token());
        tokio::fs::write(self.request(&cx), text).await?;
        Ok(Completion::Deferred)
    }

    async fn cleanup(&self, cx: Context, _: Args) -> Result<(), HandlerError> {
        match tokio::fs::remove_file(self.request(&cx)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
