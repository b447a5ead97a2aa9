//! `callbackd retry`: has a step tried again now that waits for its next attempt.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::admin::Socket;
use super::{Failure, say};
use crate::step::CallbackToken;

#[derive(Args)]
pub(super) struct Arguments {
    /// The callback token of the step.
    token: CallbackToken,
    #[command(flatten)]
    socket: Socket,
}

pub(super) async fn run(arguments: &Arguments, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let token = &arguments.token;
    let asked = arguments.socket.post(&format!("/steps/{token}/retry"), file).await?;
    if asked.status() != 200 {
        let why = asked.refusal().await?;
        return Err(Failure::Runtime(format!("the step {token} is not tried again: {why}")));
    }
    say(format_args!("the step {token} does not wait any more: it goes on once it has a slot"));
    Ok(ExitCode::SUCCESS)
}
