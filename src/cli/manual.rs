//! `callbackd completions` and `callbackd man`: what packages install beside the binary, generated
//! from the definition of the commands.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Failure, say};

#[derive(Args)]
pub(super) struct Completions {
    /// The shell that reads them.
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Man {
    /// The directory for the pages, which must exist.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub(super) fn completions(arguments: &Completions) -> Result<ExitCode, Failure> {
    // Into memory first: the generator panics if its output cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "callbackd", &mut script);
    say(String::from_utf8(script).map_err(Failure::runtime)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Writes `callbackd.1`, and `callbackd-COMMAND.1` for each command that the help lists.
pub(super) fn man(arguments: &Man) -> Result<ExitCode, Failure> {
    let directory = &arguments.directory;
    clap_mangen::generate_to(command(), directory).map_err(|error| {
        Failure::Runtime(format!(
            "the man pages could not be written to {}: {error}; name an existing, writable \
             directory",
            directory.display()
        ))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn command() -> clap::Command {
    super::Arguments::command()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The name of each listed command's page, with the command.
    fn listed(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
        let below = command.get_subcommands().filter(|below| !below.is_hide_set());
        let below = below.flat_map(|below| listed(below, &format!("{name}-{}", below.get_name())));
        [(name.to_owned(), command.clone())].into_iter().chain(below).collect()
    }

    #[test]
    fn every_command_has_a_page_with_its_text_and_options() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(man(&Man { directory: folder.path().to_owned() }).is_ok());
        let written: BTreeSet<String> = std::fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("it is read").file_name().into_string().expect("UTF-8"))
            .collect();
        let listed = listed(&command(), "callbackd");
        let expected: BTreeSet<String> =
            listed.iter().map(|(name, _)| format!("{name}.1")).collect();
        assert_eq!(written, expected);
        assert!(expected.contains("callbackd-run.1") && !expected.contains("callbackd-man.1"));
        for (name, _) in listed {
            let page = std::fs::read_to_string(folder.path().join(format!("{name}.1")));
            let page = page.expect("UTF-8");
            for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
                let text = page.split_once(section).unwrap_or_else(|| panic!("{name}: {section}"));
                let text = text.1.split(".SH").next().unwrap_or_default();
                assert!(text.trim().len() > 10, "{name}: {section} says nothing");
            }
        }
    }

    #[test]
    fn no_command_and_no_argument_is_without_help() {
        for (name, command) in listed(&command(), "callbackd") {
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.trim().is_empty(), "{name}: {}", argument.get_id());
            }
        }
    }

    #[test]
    fn pages_that_cannot_be_written_are_an_error_that_names_the_directory() {
        let missing = PathBuf::from("/nonexistent/man1");
        match man(&Man { directory: missing }) {
            Err(Failure::Runtime(text)) => assert!(text.contains("/nonexistent/man1"), "{text}"),
            _ => panic!("there is no such directory"),
        }
    }
}
