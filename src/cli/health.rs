//! `callbackd health`: asks the daemon on this machine whether it is alive, for the health checks
//! of containers.

use std::path::Path;
use std::process::ExitCode;

use tokio::time::timeout;

use super::status::{PATIENCE, SHORT, ask, reachable};
use super::{Failure, plain, say};
use crate::config::Config;
use crate::observe::server::Listen;

pub(super) async fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let Listen::On(address) = Config::section("http", config, std::env::vars_os())?.http.listen
    else {
        return Err(Failure::Runtime(
            "http.listen is \"off\": the daemon cannot be asked".to_owned(),
        ));
    };
    let address = reachable(address);
    let failed =
        |why: String| Failure::Runtime(format!("no answer from the daemon at {address}: {why}"));
    let late = |_| failed(format!("it took longer than {PATIENCE:?}"));
    let answer = timeout(PATIENCE, ask(address, "/healthz", SHORT))
        .await
        .map_err(late)?
        .map_err(|error| failed(error.to_string()))?;
    say(plain(answer.body.trim_end()));
    Ok(if answer.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
