//! `callbackd demo`.

use std::process::ExitCode;

use super::Failure;
use crate::handler::Registry;

pub(super) fn prepare_environment() {}

pub(super) async fn run(_registry: &Registry) -> Result<ExitCode, Failure> {
    Err(Failure::Runtime("not yet".to_owned()))
}
