//! Why a program could not be started, and what that is charged to.

use std::path::Path;
use std::process::Command;

use nix::errno::Errno;

use super::contain::StartError;
use crate::handler::{HandlerError, host_trouble};

/// A program that is missing, or just being replaced, is no fault of the step; a file that the
/// kernel does not accept as a program is.
pub(super) fn of_start(command: &Command, error: &StartError) -> HandlerError {
    let name = command.get_program().to_string_lossy();
    let told = format!("the program {name:?} could not be started: {error}");
    let (cause, what) = match error {
        StartError::Exec(cause) => match error.errno() {
            Some(Errno::ENOEXEC) => {
                return HandlerError::permanent(format_args!(
                    "{name:?} is not a program: it is empty, has no `#!` line, or is built for \
                     another machine"
                ));
            }
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {
                let remedy =
                    "check that it and the interpreter in its first line exist and are executable";
                return HandlerError::host("program", format_args!("{told}; {remedy}"));
            }
            Some(Errno::ETXTBSY) => {
                return HandlerError::host("program", format_args!("{told}; it is being replaced"));
            }
            _ => (Some(cause), None),
        },
        StartError::WorkingDir(cause) => {
            let directory = command.get_current_dir().unwrap_or(Path::new("")).display();
            let what = host_trouble(cause).unwrap_or("working_dir");
            return HandlerError::host(
                what,
                format_args!("the working_dir {directory} cannot be entered: {cause}"),
            );
        }
        StartError::Resources(cause) => (Some(cause), Some("processes")),
        StartError::User(cause) | StartError::Limits(cause) => (Some(cause), None),
        StartError::Slow => (None, Some("io")),
        // It may have begun.
        StartError::Lost => (None, None),
    };
    match cause.and_then(host_trouble).or(what) {
        Some(what) => HandlerError::host(what, told),
        None => HandlerError::retry(told),
    }
}
