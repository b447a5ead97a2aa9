//! A worker of your own: the stock handlers, and one async function.
//!
//! ```sh
//! cargo run --example hello -- --config examples/hello.toml check
//! ```

use std::process::ExitCode;

use callbackd::{Context, HandlerError, Outputs, Registry};

#[derive(serde::Deserialize)]
struct Args {
    name: String,
}

async fn greet(_cx: Context, args: Args) -> Result<Outputs, HandlerError> {
    Ok(Outputs::of([("greeting", format!("hello, {}", args.name))])?)
}

fn main() -> ExitCode {
    Registry::with_builtins().function("greet", greet).main()
}
