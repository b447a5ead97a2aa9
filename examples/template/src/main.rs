//! The worker: the stock handlers and ours. `callbackd.toml` selects between them.

mod export;

use std::process::ExitCode;

use callbackd::Registry;

fn main() -> ExitCode {
    Registry::with_builtins().handler("export", export::Export::new).main()
}
